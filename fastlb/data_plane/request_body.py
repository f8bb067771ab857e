"""The body of one request on its way: where it ends, how it is framed for the target, and how much of it
is kept for a second try. Knows no connection.
"""

from __future__ import annotations

from fastlb.data_plane.chunked import ChunkedDecoder, ChunkError, encode, encode_end
from fastlb.data_plane.request_head import RequestHead
from fastlb.errors import RequestError

REPLAY_BYTES = 65536
"""Body that is kept for a second try; a request with more cannot be sent twice."""
HELD_BYTES = 65536
"""Body that is read from the client before a target connection takes it."""


class RequestBody:
    """Made for a request that has one. `done` says that the client has sent all of it."""

    __slots__ = (
        "_bytes",
        "_decoder",
        "_held",
        "_held_bytes",
        "_left",
        "_length",
        "_limit",
        "_replays",
        "done",
    )

    def __init__(self, head: RequestHead, limit: int | None) -> None:
        block = head.block
        self.done = False
        self._left = self._length = block.content_length
        self._decoder = ChunkedDecoder() if block.chunked else None
        self._limit = limit
        self._bytes = 0
        self._replays = head.idempotent
        self._held: list[bytes] | None = []
        self._held_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What the next bytes of the client are for the target, and what comes after the body.

        Raises RequestError (400, 413)."""
        decoder = self._decoder
        if decoder is None:
            piece, rest = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self.done = not self._left
            return self._keep(piece), rest
        try:
            pieces = decoder.feed(data)
        except ChunkError as error:
            detail = str(error).encode("ascii", "replace").decode()
            raise RequestError(400, "http_request_error", detail) from None
        self._bytes += sum(map(len, pieces))
        if self._limit is not None and self._bytes > self._limit:
            detail = f"a body of over {self._limit} bytes"
            raise RequestError(413, "http_request_denied", detail)
        encoded = encode(pieces)
        if decoder.done:
            self.done = True
            encoded += encode_end(decoder.trailers)
        return self._keep(encoded), decoder.rest

    @property
    def bulk_left(self) -> int:
        """How many of the bytes to come go to the target as they are, and need not be kept."""
        return self._left if self._decoder is None and self._held is None else 0

    def moved(self, count: int) -> None:
        """So many of those went."""
        self._left -= count
        self.done = not self._left

    def _keep(self, encoded: bytes) -> bytes:
        if self._held is not None and encoded:
            self._held.append(encoded)
            self._held_bytes += len(encoded)
        return encoded

    @property
    def holds_too_much(self) -> bool:
        """Whether no more should be read before a target takes what is held."""
        return self._held_bytes >= HELD_BYTES

    @property
    def received(self) -> int:
        """Bytes of the body that have come, without the framing of chunks."""
        return self._length - self._left + self._bytes

    @property
    def is_whole(self) -> bool:
        """Whether everything that has come is still at hand."""
        return self._held is not None

    def held(self) -> bytes:
        """Everything that has come. Only where it `is_whole`."""
        assert self._held is not None
        return b"".join(self._held)

    def sent(self) -> None:
        """It was sent, as far as it has come: keep it only while it may be sent once more."""
        if self._held_bytes > REPLAY_BYTES or not self._replays:
            self._held = None

    def take_back(self, unsent: bytes) -> None:
        """What was thought to be sent was not."""
        self._held = [unsent]
        self._held_bytes = len(unsent)
