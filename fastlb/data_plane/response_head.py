"""Reads the head of a target's response: its framing, whether the connection may be used again, and
what the client gets. Refuses what could be read in two ways. Pure but for the parser object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import httptools

from fastlb.data_plane.connection_field import (
    NO_OPTIONS,
    connection_options,
    named_fields,
    without,
)
from fastlb.errors import RequestError

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_FIELDS = re.compile(
    rb"(?i)\n(?=[ctkpu])(connection|content-length|transfer-encoding|keep-alive|proxy-connection"
    rb"|upgrade):[ \t]*([^\r]*)"
)
BARE_LF = re.compile(rb"(?<!\r)\n")
"""What RFC 9112 §2.2 lets a recipient take for a line's end, and this proxy does not."""
_LENGTH = frozenset((b"content-length",))
_DIGITS = re.compile(rb"[0-9]{1,18}")
_LENGTH_AS_WE_WRITE = re.compile(rb" (?:0|[1-9][0-9]{0,17})")
# The names of the same fields, in a head in lower case.
_NAMES = re.compile(
    rb"\n(?:co(?:nnection|ntent-length)|transfer-encoding|keep-alive|proxy-connection|upgrade):"
)
_CONNECTION_NAME, _LENGTH_NAME = b"\nconnection:", b"\ncontent-length:"
_KEEP_ALIVE = b"\nconnection: keep-alive\r\n"
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?i)(?:^|[,\s])timeout=([0-9]{1,6})")


class ResponseParserShell:
    """The callbacks of a httptools parser that only checks: there are none."""


@dataclass(slots=True)  # not frozen: one is made for most messages, and that makes it dear
class ResponseBlock:
    """What the fields of one response say; a pure function of the bytes after its status line.

    `length` is None where neither Content-Length nor chunked frames the body. `forwarded` is the lines
    for the client, without the empty one; it is `raw` less its last CRLF where nothing was taken out.
    """

    raw: bytes
    forwarded: bytes
    unchanged: bool
    length: int | None
    chunked: bool
    close: bool
    keep_alive: bool
    keep_alive_timeout: float | None
    upgrade: bytes


@dataclass(slots=True)  # not frozen: one is made for each message, and that makes it dear
class ResponseHead:
    """`line` is the status line with its CRLF, always of HTTP/1.1. `raw` is the head as it came, of `size`
    bytes; `whole` the bytes of it and its body, where a Content-Length says so, else -1. `kept` is what a
    client of HTTP/1.1 that stays gets, where there is such a length: `raw` itself if nothing was taken
    out."""

    status: int
    family: int
    """2 of a 204, and so on."""
    line: bytes
    http_11: bool
    block: ResponseBlock
    raw: bytes
    size: int
    whole: int
    kept: bytes

    @property
    def reusable(self) -> bool:
        """Whether the target keeps the connection open after this response (RFC 9112 §9.3)."""
        block = self.block
        return not block.close and (self.http_11 or block.keep_alive)

    def for_client(self, *, http_11: bool, bodyless: bool, keep: bool) -> tuple[bytes, bool, bool]:
        """The head as a client of that version gets it, whether the body is to be chunked for it, and
        whether the body ends with the connection, as for a client of HTTP/1.0 that knows no chunks."""
        block = self.block
        lines = block.forwarded
        if self.status == 204 and block.length is not None:
            lines = without_length(lines)
        unframed = not bodyless and block.length is None
        if http_11:
            framing = b"Transfer-Encoding: chunked\r\n" if unframed else b""
            connection = b"" if keep else b"Connection: close\r\n"
            return b"".join((self.line, lines, framing, connection, b"\r\n")), unframed, False
        stays = keep and not unframed
        connection = b"Connection: keep-alive\r\n" if stays else b"Connection: close\r\n"
        return b"".join((self.line, lines, connection, b"\r\n")), False, unframed


def _bad(detail: str) -> RequestError:
    return RequestError(502, "http_protocol_error", detail)


@lru_cache(256)
def _status_line(line: bytes) -> tuple[bytes, int, bool, bool]:
    """The line for the client, its status, whether it came as HTTP/1.1, and whether a Content-Length frames
    what follows the head. Raises RequestError (502), which is not remembered."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise _bad("malformed status line")
    status = int(match[2])
    http_11 = match[1] == b"1"
    ours = line if http_11 else b"HTTP/1.1" + line[8:]
    return ours, status, http_11, status >= 200 and status not in (204, 304)


class ResponseReader:
    """Reads heads for all connections of a worker; keeps the httptools parser that checks them."""

    __slots__ = ("_parser",)

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(ResponseParserShell())

    def read(self, head: bytes, last: ResponseBlock | None, message: bytes = b"") -> ResponseHead:
        """The response in `head`, which ends with the empty line. Raises RequestError (502).

        `last` is the ResponseBlock of the connection's previous response; `message` is the head with what
        has come after it.
        """
        at = head.index(b"\r\n") + 2
        line, status, http_11, has_body = _status_line(head[:at])
        if last is not None and len(head) - at == len(last.raw) and head.endswith(last.raw):
            block = last
        else:
            common = _read_common(head, at)
            # What is not checked yet is taken for nothing but where the message would end.
            whole = common is not None and common.length == len(message) - len(head)
            if whole and has_body and http_11:
                self._check(message)
            else:
                self._check(head)
                # It waits for a body that it will not see: the body is framed by `length` here.
                self._parser = httptools.HttpResponseParser(ResponseParserShell())
            block = common or _read_any(head, at)
        length = block.length
        framed = length is not None and has_body
        return ResponseHead(
            status,
            status // 100,
            line,
            http_11,
            block,
            head,
            len(head),
            len(head) + length if framed and length is not None else -1,
            (head if http_11 and block.unchanged else b"".join((line, block.forwarded, b"\r\n")))
            if framed
            else b"",
        )

    def _check(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            self._parser = httptools.HttpResponseParser(ResponseParserShell())
            detail = str(error).encode("ascii", "replace").decode()
            raise _bad(detail) from None


def _read_common(head: bytes, at: int) -> ResponseBlock | None:
    """Of a head in which Content-Length, and Connection: keep-alive or not, is all that a proxy acts on,
    both written as everybody writes them; None of any other. `_read_any` says the same of it."""
    lowered = head.lower()
    names = _NAMES.findall(lowered, at - 1)
    stays = len(names) == 2
    if names != [_LENGTH_NAME] and not (
        stays and _LENGTH_NAME in names and _CONNECTION_NAME in names
    ):
        return None
    start = lowered.index(_LENGTH_NAME, at - 1) + len(_LENGTH_NAME)
    end = head.index(b"\r", start)
    if not _LENGTH_AS_WE_WRITE.fullmatch(head, start, end):
        return None
    raw = head[at:]
    lines = raw[:-2]
    if stays:
        line = lowered.find(_KEEP_ALIVE, at - 1) + 1
        if not line:
            return None
        lines = head[at:line] + head[line + len(_KEEP_ALIVE) - 1 : -2]
    length = int(head[start:end])
    return ResponseBlock(raw, lines, not stays, length, False, False, stays, None, b"")


def _read_any(head: bytes, at: int) -> ResponseBlock:
    """The fields of a head whose grammar httptools has accepted; `at` is where the first begins."""
    length: int | None = None
    chunked = False
    options = NO_OPTIONS
    timeout: float | None = None
    upgrade = rewritten = b""
    kept: list[bytes] = []
    copied = at
    for match in _FIELDS.finditer(head, at - 1, len(head) - 2):
        name = match[1].lower()
        value = match[2].rstrip(b" \t")
        if name == b"content-length":
            if length is not None or not _DIGITS.fullmatch(value):
                raise _bad("malformed or repeated Content-Length")
            length = int(value)
            if match[0][15:] == b": %d" % length:
                continue
            # Framed for the client as it was understood here, not as it came.
            rewritten = b"Content-Length: %d\r\n" % length
        if name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                raise _bad("Transfer-Encoding is not exactly one chunked")
            chunked = True
        elif name == b"connection":
            try:
                options |= connection_options(value)
            except ValueError as error:
                raise _bad(str(error)) from None
        elif name == b"keep-alive":
            found = _KEEP_ALIVE_TIMEOUT.search(value)
            timeout = float(found[1]) if found else None
        elif name == b"upgrade":
            upgrade = value
        kept.append(head[copied : match.start() + 1])
        copied = match.end() + 2
    if chunked and length is not None:
        raise _bad("Content-Length with Transfer-Encoding")
    kept.append(head[copied:-2])
    lines = b"".join(kept)
    extra = named_fields(options)
    if extra:
        lines = without(lines, extra)
    lines += rewritten
    raw = head[at:]
    return ResponseBlock(
        raw=raw,
        forwarded=lines,
        unchanged=not rewritten and len(lines) + 2 == len(raw),
        length=length,
        chunked=chunked,
        close=b"close" in options,
        keep_alive=b"keep-alive" in options,
        keep_alive_timeout=timeout,
        upgrade=upgrade if b"upgrade" in options else b"",
    )


def without_length(lines: bytes) -> bytes:
    """`lines` less Content-Length, which a 204 or 1xx must not carry (RFC 9110 §8.6)."""
    return without(lines, _LENGTH)
