"""Which Rule of a Listener matches a request, which group gets it, where a Redirect leads.

Pure: a request is seen through `Facts`, randomness is passed in. Knows no parser, no socket, no
TargetGroup. Compiled once a Listener, because `Router.match` is on every request's way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Protocol
from urllib.parse import parse_qsl

from fastlb.model.listener import Action, Forward, Listener, Redirect, Rule

_MEMO = 1024
"""Values that an index remembers: hosts and client addresses come again, request by request."""
_MEMO_CHARACTERS = 256
"""A longer value is not remembered: a client could fill the memory with them."""


class Facts(Protocol):
    """What rules ask of a request. Only what a listener's rules need is ever read."""

    @property
    def host(self) -> str:
        """Lower-cased and without the port."""

    @property
    def path(self) -> str:
        """As it stood in the request line, without the query."""

    @property
    def method(self) -> str: ...

    @property
    def query(self) -> str:
        """What follows the `?`, still percent-encoded."""

    @property
    def source_ip(self) -> str: ...

    def header(self, name: str) -> list[str]:
        """The values of the fields of that name, which is in lower case."""


class Router:
    """The rules of one Listener, compiled.

    `is_trivial` says that there are none: every request goes to the default; no Facts need be made.
    """

    __slots__ = (
        "_all",
        "_default",
        "_host",
        "_method",
        "_outcomes",
        "_path",
        "_rest",
        "is_trivial",
    )

    def __init__(self, listener: Listener) -> None:
        rules = sorted(listener.rules, key=lambda rule: rule.priority)
        self.is_trivial = not rules
        self._default: tuple[int, Action] = (0, listener.default)
        self._outcomes = [(rule.priority, rule.action) for rule in rules]
        self._all = (1 << len(rules)) - 1
        self._host = _Index([[p.lower() for p in rule.host] for rule in rules], memo=True)
        self._path = _Index([rule.path for rule in rules])
        self._method = _Index([rule.method for rule in rules], memo=True)
        self._rest = [_Rest(rule) for rule in rules]

    def match(self, facts: Facts) -> tuple[int, Action]:
        """The priority and Action of the first rule whose conditions all hold; 0 is the default's.

        A set of rules is an int, bit i for the rule of the i-th lowest priority: host, path and
        method give one set each by a few dictionary look-ups, however many rules there are, and
        only rules in all three are asked for the rest.
        """
        rules = self._all
        if self._path.selects:
            rules &= self._path.rules_for(facts.path)
        if rules and self._host.selects:
            rules &= self._host.rules_for(facts.host)
        if rules and self._method.selects:
            rules &= self._method.rules_for(facts.method)
        while rules:
            lowest = rules & -rules
            position = lowest.bit_length() - 1
            if self._rest[position].holds(facts):
                return self._outcomes[position]
            rules ^= lowest
        return self._default


class _Index:
    """For one condition of all rules: the set of rules that hold for a value.

    `x`, `x*` and `*x` are found by dictionary, whatever their number; other patterns are tried.
    """

    __slots__ = ("_always", "_ends", "_exact", "_memo", "_others", "_starts", "selects")

    def __init__(self, patterns_of_rules: Sequence[Iterable[str]], memo: bool = False) -> None:
        self._always = 0
        self._exact: dict[str, int] = {}
        starts: dict[int, dict[str, int]] = {}
        ends: dict[int, dict[str, int]] = {}
        self._others: list[tuple[Callable[[str], object], int]] = []
        for position, patterns in enumerate(patterns_of_rules):
            bit = 1 << position
            listed = list(patterns)
            if not listed:
                self._always |= bit
            for pattern in listed:
                texts = [_literal(piece) for piece in _pieces(pattern)]
                match texts:
                    case [str(text)]:
                        _join(self._exact, text, bit)
                    case ["", ""]:
                        self._always |= bit
                    case [str(text), ""]:
                        _join(starts.setdefault(len(text), {}), text, bit)
                    case ["", str(text)]:
                        _join(ends.setdefault(len(text), {}), text, bit)
                    case _:
                        compiled = re.compile(wildcard_regex(pattern), re.DOTALL)
                        self._others.append((compiled.match, bit))
        self._starts = list(starts.items())
        self._ends = list(ends.items())
        self._memo: dict[str, int] | None = {} if memo else None
        self.selects = self._always != (1 << len(patterns_of_rules)) - 1

    def rules_for(self, value: str) -> int:
        memo = self._memo
        if memo is not None:
            known = memo.get(value)
            if known is not None:
                return known
        rules = self._always | self._exact.get(value, 0)
        for length, table in self._starts:
            rules |= table.get(value[:length], 0)
        for length, table in self._ends:
            rules |= table.get(value[-length:], 0)
        for match, bit in self._others:
            if not rules & bit and match(value):
                rules |= bit
        if memo is not None and len(value) <= _MEMO_CHARACTERS:
            if len(memo) >= _MEMO:
                memo.clear()
            memo[value] = rules
        return rules


def _join(table: dict[str, int], text: str, bit: int) -> None:
    table[text] = table.get(text, 0) | bit


class _Rest:
    """The conditions of one rule that no index answers: header, query, source IP."""

    __slots__ = ("_headers", "_query", "_source")

    def __init__(self, rule: Rule) -> None:
        self._headers = [(h.name.lower(), _any_of(h.values)) for h in rule.header]
        self._query = [
            (None if pair.key is None else _any_of([pair.key]), _any_of([pair.value]))
            for pair in rule.query
        ]
        self._source = _Networks(rule.source_ip) if rule.source_ip else None

    def holds(self, facts: Facts) -> bool:
        if self._source is not None and not self._source.holds(facts.source_ip):
            return False
        for name, matches in self._headers:
            if not any(matches(value) for value in facts.header(name)):
                return False
        if not self._query:
            return True
        pairs = parse_qsl(facts.query, keep_blank_values=True, errors="replace")
        return any(
            (key_matches is None or key_matches(key)) and value_matches(value)
            for key, value in pairs
            for key_matches, value_matches in self._query
        )


class _Networks:
    """Whether an address is in any of some networks. An IPv4 client seen through an IPv6 socket
    (`::ffff:10.0.0.1`) is that IPv4 client."""

    __slots__ = ("_memo", "_networks")

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [unmapped_network(one) for one in networks]
        self._memo: dict[str, bool] = {}

    def holds(self, source_ip: str) -> bool:
        known = self._memo.get(source_ip)
        if known is None:
            address = unmapped_address(source_ip)
            known = address is not None and any(address in one for one in self._networks)
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            self._memo[source_ip] = known
        return known


def unmapped_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address, IPv4 where it is an IPv4-mapped one; None if it is none, as of a unix socket."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def unmapped_network(text: str) -> IPv4Network | IPv6Network:
    """The network, IPv4 where it is one of IPv4-mapped addresses. Raises ValueError."""
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _any_of(patterns: Iterable[str]) -> Callable[[str], object]:
    """Whether a text matches any of the patterns, whatever the case of ASCII letters in both."""
    source = "|".join(f"(?:{wildcard_regex(pattern)})" for pattern in patterns)
    return re.compile(source, re.DOTALL | re.IGNORECASE | re.ASCII).match


def wildcard_regex(pattern: str) -> str:
    r"""The regex (for DOTALL) that matches a whole text where `pattern` does.

    `*` is any number of characters, `?` is one, `\*`, `\?` and `\\` are the characters themselves.
    Never backtracks over a `*`: the leftmost place of each piece between two is the best one, so
    that it is atomic, and the last piece is looked for at the end alone.
    """
    pieces = ["".join("." if c is None else re.escape(c) for c in p) for p in _pieces(pattern)]
    if len(pieces) == 1:
        return pieces[0] + r"\Z"
    first, *middle, last = pieces
    source = first + "".join(f"(?>.*?{piece})" for piece in middle if piece)
    if not last:
        return source
    return f"{source}(?=.{{{len(_pieces(pattern)[-1])}}})(?>.*)(?<={last})"


def _pieces(pattern: str) -> list[list[str | None]]:
    """What stands between the `*`s; None is a `?`."""
    pieces: list[list[str | None]] = [[]]
    characters = iter(pattern)
    for c in characters:
        if c == "*":
            pieces.append([])
        elif c == "?":
            pieces[-1].append(None)
        elif c == "\\":
            following = next(characters, "")
            pieces[-1].extend([following] if following in ("*", "?", "\\") else [c, *following])
        else:
            pieces[-1].append(c)
    return pieces


def _literal(piece: list[str | None]) -> str | None:
    return None if None in piece else "".join(c for c in piece if c)


def choose_group(forward: Forward, random01: float) -> str:
    """The group whose share of the weights holds `random01`, which is in [0, 1)."""
    groups = forward.groups
    if len(groups) == 1:
        return groups[0].group
    point = random01 * sum(one.weight for one in groups)
    chosen = ""
    for one in groups:
        if one.weight:
            # The last one with a weight also gets what rounding pushed to the very end.
            chosen = one.group
            point -= one.weight
            if point < 0:
                break
    if not chosen:
        raise ValueError("a Forward needs a group with a weight above 0")
    return chosen


_DEFAULT_PORTS = {"http": "80", "https": "443"}
_PLACEHOLDER = re.compile(r"#\{(protocol|host|port|path|query)\}")
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")
_NOT_HOST = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:%\[\]-]")
_NOT_PATH = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@/%\[\]-]")
_NOT_QUERY = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@/%?\[\]{}|-]")


def redirect_location(
    redirect: Redirect, *, protocol: str, host: str, port: int, path: str, query: str
) -> str:
    """The Location of a Redirect; the arguments are the request's own, `path` with its leading `/`,
    `query` without `?`.

    As in AWS: `#{path}` comes without its leading `/`, the port of the request is kept unless
    another is given, and the default port of the protocol is left out. Whatever the request holds,
    the result is printable ASCII, and no part of it can end the host or the path early.
    """
    values = {
        "protocol": protocol,
        "host": _NOT_HOST.sub(_percent, host),
        "port": str(port),
        "path": _NOT_PATH.sub(_percent, path.removeprefix("/")),
        "query": _NOT_QUERY.sub(_percent, query),
    }

    def filled(template: str) -> str:
        text = _PLACEHOLDER.sub(lambda found: values[found[1]], template)
        return _NOT_PRINTABLE.sub(partial(_percent, encoding="utf-8"), text)

    new_protocol, new_host, new_port = (
        filled(redirect.protocol).lower(),
        filled(redirect.host),
        filled(redirect.port),
    )
    new_path = "/" + filled(redirect.path).removeprefix("/")
    new_query = filled(redirect.query)
    tail = f"{new_path}?{new_query}" if new_query else new_path
    if not new_host:
        # HTTP/1.0 without Host: a second slash at the beginning would make a host of the path.
        return "/" + tail.lstrip("/")
    if ":" in new_host and not new_host.startswith("["):
        new_host = f"[{new_host}]"
    if new_port == _DEFAULT_PORTS.get(new_protocol):
        return f"{new_protocol}://{new_host}{tail}"
    return f"{new_protocol}://{new_host}:{new_port}{tail}"


def _percent(found: re.Match[str], encoding: str = "latin-1") -> str:
    """Text of a request is its bytes, one character each; what cannot be is UTF-8."""
    character = found[0]
    if ord(character) > 255:
        encoding = "utf-8"
    return "".join(f"%{byte:02X}" for byte in character.encode(encoding, "replace"))
