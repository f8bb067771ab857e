"""Rules, conditions and actions of a listener, from TOML to the model."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from fastlb.config.table import Table
from fastlb.config.values import (
    NETWORKS_EXAMPLE,
    did_you_mean,
    got,
    read_choice,
    read_count,
    read_network,
    read_text,
    wrong,
)
from fastlb.model.listener import (
    Action,
    FixedResponse,
    Forward,
    Header,
    QueryPair,
    Redirect,
    Rule,
    WeightedGroup,
)
from fastlb.model.target_group import MOST_WEIGHT

BROKEN: Action = Forward(())
"""Stands in for an action that could not be read."""

ACTIONS = ("forward", "redirect", "fixed_response")
CONDITIONS = ("host", "path", "method", "header", "query", "source_ip")
MOST_PRIORITY = 50000
MOST_BODY = 65536
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
PLACEHOLDERS = ("protocol", "host", "port", "path", "query")
_PLACEHOLDER = re.compile(r"#\{([^}]*)\}?")
_NOT_IN_PATHS = re.compile(r"""[^!"$-~]""")
_METHOD = re.compile(r"[A-Z][A-Z_-]{0,39}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST = re.compile(r"[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\]")
_HOST_PATTERN = re.compile(r"[^\s/:@#]+|\[[^\s/@#]+\]")
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:; ?[\x21-\x7e]+)*")


def read_rule(table: Table) -> Rule:
    rule = Rule(
        priority=table.need(
            "priority",
            lambda raw: read_count(raw, 1, MOST_PRIORITY),
            0,
            f"a whole number from 1 to {MOST_PRIORITY}; the lowest is tried first",
        ),
        action=read_action(table),
        host=table.each("host", '["example.com", "*.example.com"]', _host),
        path=table.each("path", '["/api/*"]', _path),
        method=table.each("method", '["GET", "HEAD"]', _method),
        header=tuple(
            _header(Table(raw, path, table.problems, HEADER_EXAMPLE))
            for path, raw in table.items("header", f"[{HEADER_EXAMPLE}]")
        ),
        query=tuple(
            _query(path, raw, table) for path, raw in table.items("query", '["version=2"]')
        ),
        source_ip=table.each("source_ip", NETWORKS_EXAMPLE, read_network),
    )
    if table.is_table and not any(table.values.get(name) for name in CONDITIONS):
        table.note(table.path, f"expected a condition: {', '.join(CONDITIONS[:-1])} or source_ip")
    table.close()
    return rule


HEADER_EXAMPLE = '{ name = "User-Agent", values = ["*Mobile*"] }'
QUERY_EXAMPLE = '"version=2" or { key = "version", value = "2" }'


def read_action(table: Table) -> Action:
    """The one action among the table's keys."""
    given = [name for name in ACTIONS if table.has(name)]
    if len(given) > 1:
        table.note(table.path, f"expected one action, got {' and '.join(given)}")
    elif not given and table.is_table:
        table.note(
            table.path, f'expected an action: {", ".join(ACTIONS)}; for example forward = "web"'
        )
    action = BROKEN
    for name in given:
        raw = table.values[name]
        path = table.at(name)
        if name == "forward":
            action = _forward(table, raw, path)
        elif name == "redirect":
            action = _redirect(Table(raw, path, table.problems, '{ host = "example.com" }'))
        else:
            action = _fixed_response(Table(raw, path, table.problems, "{ status = 404 }"))
    return action


def _forward(table: Table, raw: Any, path: str) -> Action:
    if isinstance(raw, str):
        return Forward((WeightedGroup(raw),))
    example = '"web" or [{ group = "web", weight = 9 }, { group = "canary", weight = 1 }]'
    if not isinstance(raw, list) or not raw:
        table.note(path, wrong(example, raw))
        return BROKEN
    groups = []
    for n, item in enumerate(raw):
        one = Table(item, f"{path}[{n}]", table.problems, '{ group = "web", weight = 1 }')
        groups.append(
            WeightedGroup(
                one.need("group", read_text, "", "the name of a target group"),
                one.take("weight", lambda value: read_count(value, 0, MOST_WEIGHT), 1),
            )
        )
        one.close()
    names = [one.group for one in groups]
    for n, name in enumerate(names):
        if name and name in names[:n]:
            table.note(f"{path}[{n}].group", f"{got(name)} is already listed")
    if not any(one.weight for one in groups):
        table.note(path, "expected a weight above 0 for one group at least")
    return Forward(tuple(groups))


def _redirect(table: Table) -> Action:
    plain = Redirect()
    redirect = Redirect(
        status=table.take("status", _redirect_status, plain.status),
        protocol=table.take("protocol", _redirect_protocol, plain.protocol),
        host=table.take("host", _redirect_host, plain.host),
        port=table.take("port", _redirect_port, plain.port),
        path=table.take("path", _redirect_path, plain.path),
        query=table.take("query", _redirect_query, plain.query),
    )
    if table.is_table and not any(
        table.values.get(name, getattr(plain, name)) != getattr(plain, name)
        for name in ("protocol", "host", "port", "path")
    ):
        table.note(
            table.path,
            "expected a protocol, host, port or path other than the request's, "
            "or clients would go in circles",
        )
    table.close()
    return redirect


def _redirect_status(raw: Any) -> int:
    if raw not in REDIRECT_STATUSES or isinstance(raw, bool):
        raise wrong(f"one of {', '.join(map(str, REDIRECT_STATUSES))}", raw)
    return int(raw)


def _redirect_protocol(raw: Any) -> str:
    text = raw.lower() if isinstance(raw, str) else raw
    return read_choice(text, ("http", "https", "#{protocol}"))


def _redirect_host(raw: Any) -> str:
    text = _template(raw, "a host such as example.com or www.#{host}")
    bare = _PLACEHOLDER.sub("x", text)
    if not _HOST.fullmatch(bare):
        hint = "; the port has a key of its own, port" if ":" in bare else ""
        raise ValueError(str(wrong("a host such as example.com or www.#{host}", raw)) + hint)
    return text


def _redirect_port(raw: Any) -> str:
    if raw == "#{port}":
        return "#{port}"
    try:
        digits = isinstance(raw, str) and re.fullmatch(r"\d{1,5}", raw, re.ASCII)
        return str(read_count(int(raw) if digits else raw, 1, 65535))
    except ValueError:
        raise wrong("a port from 1 to 65535, or #{port}", raw) from None


def _redirect_path(raw: Any) -> str:
    text = _template(raw, "a path such as /v2/#{path}")
    if not text.startswith("/"):
        raise wrong("a path that begins with /, such as /v2/#{path}", raw)
    if "?" in text:
        raise ValueError(
            str(wrong("a path without ?", raw)) + "; the query has a key of its own, query"
        )
    return text


def _redirect_query(raw: Any) -> str:
    if raw == "":
        return ""
    text = _template(raw, "a query such as #{query}&from=old")
    if text.startswith("?"):
        raise wrong("a query without the ? before it", raw)
    return text


def _template(raw: Any, expected: str) -> str:
    text = read_text(raw, expected)
    for found in _PLACEHOLDER.finditer(text):
        if found[1] not in PLACEHOLDERS or not found[0].endswith("}"):
            known = ", ".join(f"#{{{name}}}" for name in PLACEHOLDERS)
            hint = did_you_mean(f"#{{{found[1]}}}", [f"#{{{name}}}" for name in PLACEHOLDERS])
            raise ValueError(f"expected {known}, got {found[0]}{hint}")
    return text


def _fixed_response(table: Table) -> Action:
    plain = FixedResponse()
    response = FixedResponse(
        status=table.take("status", _fixed_status, plain.status),
        body=table.take("body", _body, plain.body),
        content_type=table.take("content_type", _content_type, plain.content_type),
    )
    if response.status in (204, 205) and response.body:
        table.note(table.at("body"), f"a {response.status} answer has none")
    table.close()
    return response


def _fixed_status(raw: Any) -> int:
    try:
        status = read_count(raw, 200, 599)
    except ValueError:
        status = 300
    if 300 <= status < 400:
        raise wrong("a status from 200 to 299 or 400 to 599", raw)
    return status


def _body(raw: Any) -> str:
    if not isinstance(raw, str):
        raise wrong("a text", raw)
    if len(raw.encode()) > MOST_BODY:
        raise ValueError(f"expected at most {MOST_BODY} bytes, got {len(raw.encode())}")
    return raw


def _content_type(raw: Any) -> str:
    if not isinstance(raw, str) or not _CONTENT_TYPE.fullmatch(raw):
        raise wrong("a media type such as text/html; charset=utf-8", raw)
    return raw


def _host(raw: Any) -> str:
    host = read_text(raw, "a host such as example.com or *.example.com")
    if not _HOST_PATTERN.fullmatch(host):
        raise wrong("a host without a port, such as example.com or *.example.com", host)
    return host


def _path(raw: Any) -> str:
    path = read_text(raw, "a path such as /api/*")
    if path[0] not in "/*?":
        raise wrong("a path that begins with / or a wildcard", path)
    if strange := _NOT_IN_PATHS.search(path):
        raise ValueError(
            f"{wrong('a path as a client sends it', path)}; "
            f'no path has {got(strange[0])} in it; did you mean "{quote(strange[0])}"?'
        )
    return path


def _method(raw: Any) -> str:
    method = read_text(raw, "an HTTP method such as GET")
    if not _METHOD.fullmatch(method):
        near = method.upper()
        hint = f"; did you mean {got(near)}?" if _METHOD.fullmatch(near) else ""
        raise ValueError(f"{wrong('an HTTP method in capitals', method)}{hint}")
    return method


def _header(table: Table) -> Header:
    header = Header(
        table.need("name", _header_name, "", "the name of a header field"),
        _header_values(table),
    )
    table.close()
    return header


def _header_values(table: Table) -> tuple[str, ...]:
    example = '["*Mobile*"]'
    table.need("values", lambda raw: None, None, f"a list such as {example}")
    if table.values.get("values") == []:
        table.note(table.at("values"), "expected one value at least")
    return table.each("values", example, read_text)


def _header_name(raw: Any) -> str:
    if not isinstance(raw, str) or not _TOKEN.fullmatch(raw):
        raise wrong("the name of a header field such as User-Agent", raw)
    return raw


def _query(path: str, raw: Any, rule: Table) -> QueryPair:
    if isinstance(raw, str) and raw:
        key, equals, value = raw.partition("=")
        if equals and not key:
            rule.note(path, wrong(QUERY_EXAMPLE, raw))
        return QueryPair(key, value) if equals else QueryPair(None, raw)
    table = Table(raw, path, rule.problems, QUERY_EXAMPLE)
    pair = QueryPair(
        table.take("key", read_text, None) if table.has("key") else None,
        table.need("value", _query_value, "", "the value, with * and ?"),
    )
    table.close()
    return pair


def _query_value(raw: Any) -> str:
    return raw if raw == "" else read_text(raw)
