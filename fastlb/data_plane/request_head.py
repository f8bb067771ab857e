"""Reads the head of a request, refuses what could be read in two ways, and writes what the target gets.

httptools (strict) checks the grammar; one regular expression finds the few fields that a proxy acts on;
everything else is copied as it came. What equals what was read before, byte for byte, is not read again:
the whole head (`RequestHead.raw`), or the header block after another request line (`HeaderBlock.raw`), of
the connection's last request or of another connection from the same address. That is sound since both are
pure functions of those bytes. Knows no connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

import httptools

from fastlb.data_plane.connection_field import (
    NO_OPTIONS,
    connection_options,
    named_fields,
    without,
)
from fastlb.errors import RequestError
from fastlb.model.address import Address
from fastlb.model.listener import Action
from fastlb.model.matching import Router

_REQUEST_LINE = re.compile(
    rb"([A-Z][A-Z-]*) (/[!\"$-~]*|\*|[Hh][Tt][Tt][Pp]://([^/?#\s@]*)([/?][!\"$-~]*)?)"
    rb" HTTP/1\.([01])\r\n"
)
# What nearly every request looks like; its line goes to the target as it came.
_COMMON_LINE = re.compile(rb"(GET|POST|PUT|DELETE|PATCH|HEAD|OPTIONS) (/[!\"$-~]*) HTTP/1\.1\r\n")
_FIELDS = re.compile(
    rb"(?i)\n(?=[chtekupx])(connection|content-length|transfer-encoding|host|expect|upgrade|te"
    rb"|keep-alive|proxy-connection|x-forwarded-for|x-forwarded-proto|x-forwarded-port"
    rb"|x-amzn-trace-id):[ \t]*([^\r]*)"
)
# The names of the same fields, in a head in lower case: told apart by their first letters, which costs
# half as much, and what there is of them is known at a glance.
_NAMES = re.compile(
    rb"\n(?:co(?:nnection|ntent-length)|t(?:ransfer-encoding|e)|host|expect|keep-alive|upgrade"
    rb"|proxy-connection|x-(?:forwarded-(?:for|proto|port)|amzn-trace-id)):"
)
_HOST_NAME, _CONNECTION_NAME, _LENGTH_NAME = b"\nhost:", b"\nconnection:", b"\ncontent-length:"
_COMMON_NAMES = frozenset((_HOST_NAME, _CONNECTION_NAME, _LENGTH_NAME))
_KEEP_ALIVE = b"\nconnection: keep-alive\r\n"
_ROOT = b"X-Amzn-Trace-Id: Root="
_END = b"\r\n\r\n"
"""What follows a new trace id where there was none: the end of its line, and of the head."""
_HOST = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?"
)
_DIGITS = re.compile(rb"[0-9]{1,18}")
MAX_REQUEST_LINE = 16384
"""AWS's 16 K; a longer one is answered 414."""
_REMEMBERED_BLOCKS = 1024
_REMEMBERED_BYTES = 4096
"""Blocks of at most so many bytes are remembered over connections: some 3 MB a worker, 12 at most."""
_MARKS = 4096
"""Hashes of blocks that came once: only what comes a second time is kept. Pages with another Referer each
would else sweep through those megabytes, and all that is useful out of the processor's cache."""

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
"""RFC 9110 §9.2.2, of the methods that this proxy passes (TRACE is refused)."""
SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_ORDINARY = IDEMPOTENT - {b"HEAD"}


class RequestParserShell:
    """The callbacks of a httptools parser that only checks: there are none."""


@dataclass(slots=True, eq=False)
class ForwardedFields:
    """What a Listener and a client's address add to each request; connections of an address share one.

    `peer` is the client's address, and `client` as X-Forwarded-For writes it. `trusted` says that the client is
    one of the trusted proxies, whose own X-Forwarded-* are kept. `mode` is append, preserve or remove;
    `strict` says that trusted proxies are configured, so that others' X-Forwarded-For is dropped.
    """

    peer: str
    client: bytes
    port: bytes
    host: bytes
    mode: str
    trusted: bool
    strict: bool
    added: bytes = field(init=False)
    """The lines that a request gets which brings none of X-Forwarded-* and no trace id."""

    def __post_init__(self) -> None:
        self.added = _added(self, b"", False, False)


@dataclass(slots=True)  # not frozen: one is made for most requests, and that makes it dear
class HeaderBlock:
    """What the fields of one head say; a pure function of its bytes and of the connection's facts.

    `forwarded` holds every line that the target gets, up to `Root=` of the trace id (or `Self=` where
    the caller sent a Root): per request only the request line goes before it and the trace id after.
    `rest` is what follows the trace id, the head's end included.
    """

    raw: bytes
    forwarded: bytes
    rest: bytes
    host: bytes
    keep_alive: bool
    http_11: bool
    content_length: int
    chunked: bool
    upgrade: bytes
    forwarded_for: bytes
    stays: bool
    """Of HTTP/1.1, and the connection stays open after the answer."""
    memorable: bool
    """Of HTTP/1.1, and nothing in it changes the protocol: other requests may be compared with it."""
    bodyless: bool


@dataclass(slots=True)  # not frozen: one is made for each message, and that makes it dear
class RequestHead:
    """One request's line and its fields. `target` is in origin form, or `*`; `line` is the request
    line for the target, with its CRLF. `raw` is the head as it came, where it may come again."""

    method: bytes
    target: bytes
    line: bytes
    block: HeaderBlock
    ordinary: bool
    """It may be sent twice, and its answer's body is what the answer's head says."""
    raw: bytes
    routed: tuple[Router, int, Action] | None = field(default=None, compare=False)
    """By which rules it was given to which action, where it was: a head that comes again is not matched
    again."""

    @property
    def idempotent(self) -> bool:
        return self.method in IDEMPOTENT

    def to_target(self, trace: bytes) -> bytes:
        """The head as it goes to a target; `trace` is the request's new trace id."""
        block = self.block
        return b"".join((self.line, block.forwarded, trace, block.rest))


_Key = tuple[ForwardedFields, int, bytes]
"""What a header block is read by: the connection's facts, the most fields, and its bytes."""


def _bad(detail: str, status: int = 400) -> RequestError:
    return RequestError(status, "http_request_error", detail)


class HeadReader:
    """Reads heads for all connections of a worker, and keeps what they have in common: the httptools
    parser, and header blocks that came before."""

    __slots__ = ("_blocks", "_marks", "_parser")

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(RequestParserShell())
        self._blocks: dict[_Key, HeaderBlock] = {}
        self._marks: set[int] = set()

    def again(self, data: bytes, last: RequestHead) -> RequestHead | None:
        """The request in `data`, where that is one whole request whose fields are `last`'s."""
        block = last.block
        raw = block.raw
        if not data.endswith(raw):
            return None
        size = len(data)
        line = _COMMON_LINE.fullmatch(data, 0, size - len(raw))
        if line is None or size > MAX_REQUEST_LINE:
            return None
        method, target = line.groups()
        return RequestHead(
            method,
            target,
            line[0],
            block,
            method in _ORDINARY,
            data if target == last.target else b"",  # kept only where it seems to come again
        )

    def read(
        self, head: bytes, last: HeaderBlock | None, fields: ForwardedFields, max_headers: int
    ) -> RequestHead:
        """The request in `head`, which ends with the empty line. Raises RequestError (400, 405, 431).

        `last` is the HeaderBlock of the connection's previous request.
        """
        line = _COMMON_LINE.match(head)
        if line is not None:
            at = line.end()
            method, target = line.groups()
            if last is not None and len(head) - at == len(last.raw) and head.endswith(last.raw):
                block = last
            else:
                block = self._block(head, at, (fields, max_headers, head[at:]))
            return RequestHead(method, target, line[0], block, method in _ORDINARY, head)
        line = _REQUEST_LINE.match(head)
        if line is None:
            raise self._why_not(head)
        method, target, authority, rest, minor = line.groups()
        if method in (b"TRACE", b"CONNECT", b"PRI"):  # PRI begins HTTP/2, and is nothing else
            raise RequestError(405, "http_request_denied", f"{method.decode()} is not offered")
        at = line.end()
        # Never a block that is known: this line may be one that httptools refuses.
        block = self._read_block(head, at, (fields, max_headers, head[at:]), http_11=minor == b"1")
        if target == b"*" and method != b"OPTIONS":
            raise _bad("the request target * is for OPTIONS")
        if authority is not None:
            if authority.lower() != block.host.lower() or not authority:
                raise _bad("the absolute target names another host than Host")
            target = rest or (b"*" if method == b"OPTIONS" else b"/")  # RFC 9112 §3.2.4
            if target[:1] == b"?":
                target = b"/" + target
        line_out = b"%b %b HTTP/1.1\r\n" % (method, target)
        return RequestHead(method, target, line_out, block, method in _ORDINARY, head)

    def _block(self, head: bytes, at: int, key: _Key) -> HeaderBlock:
        """The header block that begins at `at`, of a head of HTTP/1.1."""
        known = self._blocks.get(key)
        if known is not None:
            return known
        block = self._read_block(head, at, key, http_11=True)
        if block.memorable and len(block.raw) <= _REMEMBERED_BYTES:
            mark = hash(key)
            if mark not in self._marks:
                if len(self._marks) >= _MARKS:
                    self._marks.clear()
                self._marks.add(mark)
            else:
                if len(self._blocks) >= _REMEMBERED_BLOCKS:
                    self._blocks.clear()
                self._blocks[key] = block
        return block

    def _read_block(self, head: bytes, at: int, key: _Key, *, http_11: bool) -> HeaderBlock:
        self._check(head)
        try:
            block = _read_common(head, at, key) if http_11 else None
            if block is None:
                block = _read_any(head, at, key, http_11)
        except RequestError:
            # The parser may wait for this request's body, and would take the next head for it.
            self._parser = httptools.HttpRequestParser(RequestParserShell())
            raise
        if not (block.memorable and block.keep_alive and block.bodyless):
            self._parser = httptools.HttpRequestParser(RequestParserShell())
        return block

    def _check(self, head: bytes) -> None:
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self._parser = httptools.HttpRequestParser(RequestParserShell())
        except httptools.HttpParserError as error:
            self._parser = httptools.HttpRequestParser(RequestParserShell())
            raise _bad(_ascii(str(error))) from None

    def _why_not(self, head: bytes) -> RequestError:
        line = head.split(b"\r\n", 1)[0]
        if not re.search(rb" HTTP/1\.[01]$", line):
            return _bad("the request line does not end with HTTP/1.1 or HTTP/1.0")
        if line.startswith(b"CONNECT "):
            return RequestError(405, "http_request_denied", "CONNECT is not offered")
        return _bad("malformed request line")


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


@lru_cache(1024)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def _read_common(head: bytes, at: int, key: _Key) -> HeaderBlock | None:
    """What `_read_any` says, in a third of its time, of a head of HTTP/1.1 in which a proxy acts on nothing
    but Host, Connection: keep-alive and Content-Length; None of any other."""
    fields, max_headers, raw = key
    lowered = head.lower()
    names = _NAMES.findall(lowered, at - 1)
    if names != [_HOST_NAME] and not (
        _HOST_NAME in names and _COMMON_NAMES.issuperset(names) and len(names) == len(set(names))
    ):
        return None
    start = lowered.index(_HOST_NAME, at - 1) + len(_HOST_NAME)
    host = head[start : head.index(b"\r", start)].strip(b" \t")
    if not _is_host(host) or head.count(b"\n", at) - 1 > max_headers:
        return None
    size = 0
    framing = b""
    lines = head[at:-2]
    if len(names) > 1:
        taken = []
        if _CONNECTION_NAME in names:
            start = lowered.find(_KEEP_ALIVE, at - 1) + 1
            if not start:
                return None
            taken.append(head[start : start + len(_KEEP_ALIVE) - 1])
        if _LENGTH_NAME in names:
            start = lowered.index(_LENGTH_NAME, at - 1) + 1
            end = head.index(b"\r", start)
            value = head[start + len(_LENGTH_NAME) - 1 : end].strip(b" \t")
            if not _DIGITS.fullmatch(value):
                return None
            size = int(value)
            framing = b"Content-Length: %d\r\n" % size
            taken.append(head[start : end + 2])
        lines = b"\n" + lines
        for line in taken:
            lines = lines.replace(b"\n" + line, b"\n", 1)
        lines = lines[1:]
    return HeaderBlock(
        raw,
        b"".join((lines, fields.added, framing, _ROOT)),
        _END,
        host,
        True,
        True,
        size,
        False,
        b"",
        b"",
        True,
        True,
        not size,
    )


def _read_any(head: bytes, at: int, key: _Key, http_11: bool) -> HeaderBlock:
    """The fields of a head whose grammar httptools has accepted; `at` is where the first begins."""
    fields, max_headers, raw = key
    if head.count(b"\n", at) - 1 > max_headers:
        raise _bad(f"over {max_headers} header fields", 431)
    host: bytes | None = None
    length: bytes | None = None
    chunked = False
    options = NO_OPTIONS
    expect = upgrade = forwarded_for = trace = b""
    proto_kept = port_kept = proxy_connection = False
    kept: list[bytes] = []
    copied = at
    for match in _FIELDS.finditer(head, at - 1, len(head) - 2):
        name = match[1].lower()
        value = match[2].rstrip(b" \t")
        drop = True
        if name == b"host":
            if host is not None:
                raise _bad("several Host fields")
            host = value
            drop = False
        elif name == b"content-length":
            if length is not None or not _DIGITS.fullmatch(value):
                raise _bad("malformed or repeated Content-Length")
            length = value
        elif name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                raise _bad("Transfer-Encoding is not exactly one chunked")
            chunked = True
        elif name == b"connection":
            try:
                options |= connection_options(value)
            except ValueError as error:
                raise _bad(str(error)) from None
        elif name == b"expect":
            if expect or value.lower() != b"100-continue":
                raise _bad("an Expect that is not 100-continue", 417)
            expect = value
            drop = False
        elif name == b"upgrade":
            upgrade = upgrade + b", " + value if upgrade else value
        elif name == b"x-forwarded-for":
            forwarded_for = forwarded_for + b", " + value if forwarded_for else value
            drop = fields.mode != "preserve"
        elif name == b"x-forwarded-proto":
            proto_kept = fields.trusted
            drop = not proto_kept
        elif name == b"x-forwarded-port":
            port_kept = fields.trusted
            drop = not port_kept
        elif name == b"proxy-connection":
            proxy_connection = True
        elif name == b"x-amzn-trace-id":
            trace = trace + b";" + value if trace else value
        if drop:
            kept.append(head[copied : match.start() + 1])
            copied = match.end() + 2
    kept.append(head[copied:-2])
    lines = b"".join(kept)
    if host is None:
        if http_11:
            raise _bad("no Host")
        host = fields.host
        lines += b"Host: %b\r\n" % host
    elif not _is_host(host) and (http_11 or host):
        raise _bad("malformed Host")
    if chunked and length is not None:
        raise _bad("Content-Length with Transfer-Encoding")
    if chunked and not http_11:
        raise _bad("Transfer-Encoding in HTTP/1.0")
    extra = named_fields(options)
    if extra:
        lines = without(lines, extra)
        # These two are always there: what Connection takes away is put anew.
        proto_kept = proto_kept and b"x-forwarded-proto" not in extra
        port_kept = port_kept and b"x-forwarded-port" not in extra
    wants_upgrade = upgrade if b"upgrade" in options and http_11 else b""
    if b"h2c" in wants_upgrade.lower():
        # Inside a tunnel of HTTP/2 every rule and check here would be passed by; RFC 9113 dropped it.
        wants_upgrade = b""
    size = int(length) if length is not None else 0
    # Written as it was understood, not as it came.
    framing = b""
    if chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    elif length is not None:
        framing = b"Content-Length: %d\r\n" % size
    if wants_upgrade and (size or chunked):
        # A tunnel begins where the head ends; a body would leave two readings of the next byte.
        wants_upgrade = b""
    if wants_upgrade:
        framing += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % wants_upgrade
    keep_alive = b"close" not in options and (http_11 or b"keep-alive" in options)
    rest = _trace_rest(trace) if trace else _END
    added = _added(fields, forwarded_for, proto_kept, port_kept)
    root = b"X-Amzn-Trace-Id: Self=" if b";root=" in rest.lower() else _ROOT
    return HeaderBlock(
        raw=raw,
        forwarded=b"".join((lines, added, framing, root)),
        rest=rest,
        host=host,
        keep_alive=keep_alive,
        http_11=http_11,
        content_length=size,
        chunked=chunked,
        upgrade=wants_upgrade,
        forwarded_for=forwarded_for,
        # httptools takes Proxy-Connection for Connection, and `close` would end its parser.
        stays=keep_alive and http_11,
        memorable=http_11 and not (upgrade or expect or proxy_connection),
        bodyless=not (size or chunked),
    )


def _added(
    fields: ForwardedFields, forwarded_for: bytes, proto_kept: bool, port_kept: bool
) -> bytes:
    parts = []
    if fields.mode == "append":
        if forwarded_for and (fields.trusted or not fields.strict):
            parts.append(b"X-Forwarded-For: %b, %b\r\n" % (forwarded_for, fields.client))
        else:
            parts.append(b"X-Forwarded-For: %b\r\n" % fields.client)
    if not proto_kept:
        parts.append(b"X-Forwarded-Proto: http\r\n")
    if not port_kept:
        parts.append(b"X-Forwarded-Port: %b\r\n" % fields.port)
    return b"".join(parts)


def _trace_rest(trace: bytes) -> bytes:
    """What follows our own trace id, to the head's end: the caller's fields, its Self replaced by ours.

    As AWS does: without a Root ours is the Root; with one, ours goes before as Self.
    """
    pairs = [pair.strip(b" \t") for pair in trace.split(b";")]
    others = [pair for pair in pairs if pair and not pair.lower().startswith(b"self=")]
    return b"".join(b";" + pair for pair in others) + b"\r\n\r\n"


def glimpse(head: bytes) -> RequestHead | None:
    """What can be made out of a request that was refused, for the log alone."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        return None
    host = b""
    for match in _FIELDS.finditer(head, line.end() - 1):
        if match[1].lower() == b"host":
            host = match[2].strip(b" \t")
            break
    return RequestHead(
        line[1],
        line[2],
        line[0],
        HeaderBlock(
            raw=head[line.end() :],
            forwarded=b"",
            rest=b"",
            host=host,
            keep_alive=False,
            http_11=True,
            content_length=0,
            chunked=False,
            upgrade=b"",
            forwarded_for=b"",
            stays=False,
            memorable=False,
            bodyless=True,
        ),
        False,
        b"",
    )


def listener_host(address: Address) -> bytes:
    """The Host for a request of HTTP/1.0 that names none: where it was sent to."""
    return str(address).encode()
