"""The chunked transfer coding (RFC 9112 §7.1), decoded strictly and written anew. Pure.

httptools decodes it too, but cannot say where a message ended inside the bytes it was fed; the end is
what decides whose the next byte is. What is forwarded is framed by what was understood here: sizes are
written anew, chunk extensions are dropped, and no second reading of the same bytes can differ.
"""

from __future__ import annotations

import re

MAX_LINE = 4096
MAX_TRAILERS = 16384

# Extensions without the grammar's "bad whitespace", as httptools has them: nobody may read more into them.
_SIZE = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:;[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:=(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    rb'|"(?:[\t\x20!#-\[\]-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"))?)*'
)
_TRAILER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t\x20-\x7e\x80-\xff]*")
# Fields that frame, route or authenticate must not be taken from a trailer (RFC 9110 §6.5.1).
_NOT_IN_TRAILERS = frozenset(
    b"connection content-length content-encoding content-type content-range expect host keep-alive"
    b" max-forwards proxy-authenticate proxy-authorization proxy-connection set-cookie te trailer"
    b" transfer-encoding upgrade authorization cookie x-forwarded-for x-forwarded-proto"
    b" x-forwarded-port x-amzn-trace-id".split()
)


class ChunkError(ValueError):
    """The bytes are not a chunked body."""


class ChunkedDecoder:
    """Feed it bytes; it returns data and says when the body is `done` and what bytes are `rest`."""

    __slots__ = ("_held", "_left", "_trailer_bytes", "_want", "done", "rest", "trailers")

    def __init__(self) -> None:
        self._want = "size"
        self._left = 0
        self._held = b""
        self._trailer_bytes = 0
        self.done = False
        self.rest = b""
        """What came after the body's end, once `done`."""
        self.trailers = b""
        """The trailer fields that may be forwarded, each line with its CRLF."""

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of body data in `data`. Raises ChunkError."""
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        at = 0
        size = len(data)
        while True:
            if self._want == "data":
                if at == size:
                    return pieces
                end = min(at + self._left, size)
                pieces.append(data[at:end])
                self._left -= end - at
                at = end
                if self._left:
                    return pieces
                self._want = "data end"
            if self._want == "data end":
                if size - at < 2:
                    self._held = data[at:]
                    if self._held not in (b"", b"\r"):
                        raise ChunkError("a chunk's data does not end with CRLF")
                    return pieces
                if data[at : at + 2] != b"\r\n":
                    raise ChunkError("a chunk's data does not end with CRLF")
                at += 2
                self._want = "size"
            limit = MAX_LINE if self._want == "size" else MAX_TRAILERS
            end = data.find(b"\r\n", at, at + limit + 2)
            if end < 0:
                if size - at > limit + 1:  # one more than the line: its CR, before its LF has come
                    raise ChunkError(f"a line of over {limit} bytes")
                self._held = data[at:]
                if b"\n" in self._held or b"\0" in self._held:
                    raise ChunkError("a bare LF or NUL where a line was expected")
                return pieces
            line = data[at:end]
            at = end + 2
            if self._want == "size":
                self._on_size(line)
            elif line:
                self._on_trailer(line)
            else:
                self.done = True
                self.rest = data[at:]
                return pieces

    def _on_size(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise ChunkError(f"not a chunk size: {line[:40]!r}")
        self._left = int(match[1], 16)
        self._want = "data" if self._left else "trailers"

    def _on_trailer(self, line: bytes) -> None:
        match = _TRAILER.fullmatch(line)
        if match is None:
            raise ChunkError(f"not a trailer field: {line[:40]!r}")
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_TRAILERS:
            raise ChunkError(f"trailers of over {MAX_TRAILERS} bytes")
        if match[1].lower() not in _NOT_IN_TRAILERS:
            self.trailers += line + b"\r\n"


def encode(pieces: list[bytes]) -> bytes:
    """`pieces` as one chunk; nothing of nothing, which would be the last chunk."""
    size = sum(map(len, pieces))
    return b"".join((b"%x\r\n" % size, *pieces, b"\r\n")) if size else b""


def encode_end(trailers: bytes) -> bytes:
    """The last chunk, `trailers` (lines with their CRLF) and the body's end."""
    return b"0\r\n%b\r\n" % trailers
