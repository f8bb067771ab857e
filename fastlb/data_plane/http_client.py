"""The target side of HTTP: one connection to a Target, used by one Exchange at a time.

Reads responses, decides where each ends, and goes back to its pool only after a whole, self-delimited
response with no byte left over. Knows nothing of clients: an Exchange is told what came.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from typing import Protocol

from fastlb.data_plane.chunked import ChunkedDecoder, ChunkError
from fastlb.data_plane.reactor import Reactor
from fastlb.data_plane.response_head import BARE_LF, ResponseHead, ResponseReader
from fastlb.data_plane.stream import READ_BYTES, Stream
from fastlb.data_plane.target_runtime import TargetRuntime
from fastlb.data_plane.timers import TimerWheel
from fastlb.errors import RequestError

MAX_HEAD = 65536
"""Bytes of a response's head; AWS allows 32 K."""
BULK_BYTES = 16384
"""Of a body, still to come: from here on two splices cost less than reading and sending."""
MAX_INTERIM = 16
"""1xx responses before a final one; more is a target gone wrong."""

# What the bytes to come are.
_IDLE, _HEAD, _LENGTH, _CHUNKED, _UNTIL_CLOSE, _CLOSED = range(6)


class Receiver(Protocol):
    """What a target connection tells the one that uses it."""

    request_done: bool

    @property
    def is_head(self) -> bool:
        """Whether no body follows the answer's head, whatever that says."""

    @property
    def wants_upgrade(self) -> bool: ...

    def on_head_held(self) -> None:
        """A head came and nothing of its body: it is passed on with the body's first byte. Until then
        all is as if no byte had come."""

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx other than 101."""

    def on_upgrade(self, head: ResponseHead, rest: bytes) -> None:
        """A 101 that was asked for; `rest` belongs to the tunnel."""

    def on_whole(self, head: ResponseHead, data: bytes) -> None:
        """The final head, framed by its length, and all of its body are `data`; the connection is
        released already, and nothing else comes."""

    def on_response(self, head: ResponseHead, data: bytes, end: int, whole: bool) -> None:
        """The final head is `data[:end]`, the rest of `data` is body; `whole` where that is all of it."""

    def on_body(self, pieces: list[bytes]) -> None: ...

    def bulk_sink(self) -> Stream | None:
        """Where the bytes of a body may go past `on_body`, in the kernel; None where they must not."""

    def on_moved(self, count: int) -> None:
        """So many bytes of the body went there."""

    def on_end(self, trailers: bytes) -> None:
        """The response is complete, and the connection is released already."""

    def on_target_lost(self, error: RequestError, kind: str) -> None:
        """No (complete) response will come; the connection is closed. `kind`: reset, malformed."""

    def on_target_writable(self, writable: bool) -> None:
        """Backpressure of the request's body."""


class Pool(Protocol):
    """Where a connection waits for its next request (target_pool.TargetPool)."""

    idle: deque[TargetConnection]
    keeps: bool
    timers: TimerWheel

    def release(self, connection: TargetConnection, reusable: bool) -> None: ...


class TargetConnection(Stream):
    """One connection to a target."""

    __slots__ = (
        "_checked",
        "_decoder",
        "_held",
        "_interim",
        "_last",
        "_left",
        "_paused",
        "_pool",
        "_reader",
        "_reusable",
        "_state",
        "bytes_seen",
        "fresh",
        "idle_since",
        "learned_timeout",
        "receiver",
        "target",
        "write_paused",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reactor: Reactor,
        target: TargetRuntime,
        pool: Pool,
        reader: ResponseReader,
    ) -> None:
        super().__init__(loop, reactor)
        self.target = target
        self.receiver: Receiver | None = None
        self.fresh = True
        """Nothing was answered on it yet: its closing says something about the target."""
        self.idle_since = 0.0
        self.learned_timeout: float | None = None
        self.write_paused = False
        self._reader = reader
        self._pool = pool
        self._state = _IDLE
        self._held = b""
        self._left = 0
        self._paused = False
        self._interim = 0
        self._decoder: ChunkedDecoder | None = None
        self._last: ResponseHead | None = None
        """The final response before this one."""
        self._checked: _CheckedSender | None = None
        self._reusable = False
        self.bytes_seen = False

    def open(self, sock: socket.socket) -> None:
        super().open(sock)
        self.target.connection_opened()

    def start(self, receiver: Receiver, data: bytes) -> None:
        """Send a request's head, with what there is of its body, for `receiver`, at the end of this turn
        of the loop. Not for one that `is_head`. As long as it is in `to_send`, nothing of it was sent."""
        self.receiver = receiver
        self._state = _HEAD
        self._interim = 0
        self.bytes_seen = False
        self.to_send = data
        reactor = self.reactor
        if reactor.in_turn:
            reactor.outbox.append(self)
        else:
            reactor.send_soon(self)

    def start_bodyless(self, receiver: Receiver, data: bytes) -> None:
        """As `start`, of a request that `is_head`: an answer that looks like the last one, body and all, is
        something else to it."""
        self._last = None
        self.start(receiver, data)

    def start_once(self, receiver: Receiver, data: bytes) -> None:
        """As `start`, of any request that may not be sent twice: the kernel is asked in the last moment
        whether the target is still there."""
        if receiver.is_head:
            self._last = None
        self.receiver = receiver
        self._state = _HEAD
        self._interim = 0
        self.bytes_seen = False
        self.to_send = data
        if self._checked is None:
            self._checked = _CheckedSender(self)
        self.reactor.send_soon(self._checked)

    def send_body(self, data: bytes) -> None:
        """The next bytes of the request's body."""
        if self.to_send:
            if self._checked is not None:
                self._checked.send_now()
            else:
                self.send_now()
            if self.to_send:
                self.to_send += data  # it is lost, and nothing was sent: neither is this
                return
        self.send(data)

    def data_received(self, data: bytes) -> None:
        state = self._state
        receiver = self.receiver
        target = self.target
        size = len(data)
        target.bytes_in += size
        if not target.heard:
            target.hear()
        if receiver is None or state == _IDLE:
            # An answer before its request: nobody's, and never to be somebody's.
            self.close()
            self._pool.release(self, False)
            return
        if self.to_send:
            self.drop()  # as above, and the request, which is unsent, goes elsewhere
            return
        if state == _HEAD:
            last = self._last
            if (
                last is not None
                and size == last.whole
                and data.startswith(last.raw)
                and not (self._held or self._paused)
            ):
                # The head is the one before, byte for byte, and its body is here.
                self.bytes_seen = True
                self._on_whole(receiver, last, data)
                return
        self.bytes_seen = True
        try:
            if state == _HEAD:
                self._on_head(receiver, self._held + data if self._held else data)
            elif state == _LENGTH:
                left = self._left
                if len(data) < left:
                    self._left = self.sink_left = left - len(data)
                    receiver.on_body([data])
                elif len(data) == left:
                    receiver.on_body([data])
                    self._end(receiver, b"", leftover=False)
                else:
                    receiver.on_body([data[:left]])
                    self._end(receiver, b"", leftover=True)
            elif state == _CHUNKED:
                self._on_chunked(receiver, data)
            elif state == _UNTIL_CLOSE:
                receiver.on_body([data])
        except RequestError as error:
            self._fail(error, "malformed")

    def _move(self) -> bool:
        if self.receiver is None or self._state != _LENGTH or self._left != self.sink_left:
            self.sink = None  # what comes is not that body any more
            return False
        return super()._move()

    def _on_whole(self, receiver: Receiver, head: ResponseHead, data: bytes) -> None:
        self.receiver = None
        self._state = _IDLE
        self.fresh = False
        pool = self._pool
        if (
            self._reusable
            and receiver.request_done
            and pool.keeps
            and self._backlog is None
            and self.learned_timeout is None
        ):
            self.idle_since = pool.timers.now
            pool.idle.append(self)
        else:
            self._put_back(self._reusable and self._request_is_out(receiver))
        receiver.on_whole(head, data)

    def moved(self, count: int) -> None:
        target = self.target
        target.bytes_in += count
        if not target.heard:
            target.hear()
        receiver = self.receiver
        assert receiver is not None
        self._left = self.sink_left
        receiver.on_moved(count)
        if not self.sink_left:
            self._end(receiver, b"", leftover=False)

    def _on_head(self, receiver: Receiver, data: bytes, *, hold: bool = True) -> None:
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEAD:
                    raise RequestError(
                        502, "http_response_header_section_size", f"a head of over {MAX_HEAD} bytes"
                    )
                if not data.startswith(b"HTTP/1."[: len(data)]):
                    raise RequestError(502, "http_protocol_error", "malformed status line")
                if BARE_LF.search(data):  # its end would never be found
                    raise RequestError(502, "http_protocol_error", "a line ends without CR")
                self._held = data
                # Nothing of it went on: the request may still be sent elsewhere, should this break off.
                self.bytes_seen = False
                return
            end += 4
            if end > MAX_HEAD:
                raise RequestError(
                    502, "http_response_header_section_size", f"a head of over {MAX_HEAD} bytes"
                )
            whole = end == len(data)
            raw = data if whole else data[:end]
            last = self._last
            if last is not None and raw == last.raw:
                head = last
            else:
                head = self._reader.read(raw, last.block if last is not None else None, data)
            if head.status >= 200:
                break
            rest = b"" if whole else data[end:]
            if head.status == 101:
                if not (receiver.wants_upgrade and head.block.upgrade):
                    raise RequestError(502, "http_upgrade_failed", "a 101 that nobody asked for")
                self._held = b""
                receiver.on_upgrade(head, rest)
                return
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise RequestError(502, "http_protocol_error", "too many 1xx responses")
            receiver.on_interim(head)
            if not rest:
                self._held = b""
                return
            data = rest
        self._held = b""
        block = head.block
        self._last = head
        self._reusable = head.reusable
        if block.keep_alive_timeout is not None:
            self.learned_timeout = block.keep_alive_timeout
        if receiver.is_head or head.status == 204 or head.status == 304:
            receiver.on_response(head, raw, end, True)
            self._end(receiver, b"", leftover=not whole)
        elif block.length is not None:
            length = block.length
            got = len(data) - end
            if got < length:
                if not got and hold and receiver.request_done:
                    # Many servers write head and body apart. One that dies or hangs in between is as
                    # good as one that has not answered, as long as the client has not seen the head;
                    # and both in one write cost one system call less.
                    self._held = data
                    self.bytes_seen = False
                    receiver.on_head_held()
                    return
                self._state = _LENGTH
                self._left = length - got
                receiver.on_response(head, data, end, False)
                if self._left >= BULK_BYTES and self.receiver is receiver:
                    self.sink = receiver.bulk_sink()
                    self.sink_left = self._left
            elif got == length:
                if self._paused:
                    self.pace(True)  # for a slow reader; the next one who gets it is another
                self._on_whole(receiver, head, data)
            else:
                receiver.on_response(head, data[: end + length], end, True)
                self._end(receiver, b"", leftover=True)
        elif block.chunked:
            if not head.http_11:
                raise RequestError(502, "http_protocol_error", "Transfer-Encoding in HTTP/1.0")
            self._state = _CHUNKED
            self._decoder = ChunkedDecoder()
            receiver.on_response(head, raw, end, False)
            if not whole and self.receiver is receiver:
                self._on_chunked(receiver, data[end:])
        else:
            self._state = _UNTIL_CLOSE
            self._reusable = False
            receiver.on_response(head, data, end, False)

    def release_head(self) -> bool:
        """Pass on a head that is held; False where there is none."""
        receiver, held = self.receiver, self._held
        if receiver is None or self._state != _HEAD or b"\r\n\r\n" not in held:
            return False
        self.bytes_seen = True
        self._on_head(receiver, held, hold=False)
        return True

    def _on_chunked(self, receiver: Receiver, data: bytes) -> None:
        decoder = self._decoder
        assert decoder is not None
        try:
            pieces = decoder.feed(data)
        except ChunkError as error:
            detail = str(error).encode("ascii", "replace").decode()
            raise RequestError(502, "http_protocol_error", detail) from None
        if pieces:
            receiver.on_body(pieces)
        if decoder.done and self.receiver is receiver:
            self._decoder = None
            self._end(receiver, decoder.trailers, leftover=bool(decoder.rest))

    def _end(self, receiver: Receiver, trailers: bytes, *, leftover: bool) -> None:
        if self.receiver is not receiver:
            return  # it gave up inside the callback
        self.receiver = self.sink = None
        self._state = _IDLE
        self.fresh = False
        reusable = self._reusable and not leftover and self._request_is_out(receiver)
        if self._paused:
            self.pace(True)  # for a slow reader; the next one who gets it is another
        self._put_back(reusable)
        receiver.on_end(trailers)

    def _request_is_out(self, receiver: Receiver) -> bool:
        """Whether the target's socket has taken all of the request. A target that answers before may not
        read the rest, and the next request must not wait behind it: nobody could tell if it was sent."""
        return receiver.request_done and self._backlog is None

    def _put_back(self, reusable: bool) -> None:
        if not reusable:
            self.close()
        self._pool.release(self, reusable)

    def _fail(self, error: RequestError, kind: str) -> None:
        receiver, self.receiver = self.receiver, None
        self.close()
        if receiver is not None:
            receiver.on_target_lost(error, kind)

    def eof_received(self) -> bool:
        receiver = self.receiver
        if receiver is None:
            # Out of the pool now: `connection_lost` comes only with the next turn of the loop.
            self.close()
            self._pool.release(self, False)
        elif self._state == _UNTIL_CLOSE:
            self._end(receiver, b"", leftover=False)
        else:
            # At once: the end in order would first send a body to a target that no longer reads.
            self.drop()
        return False

    def _read_what_is_left(self) -> None:
        """Take an answer that came before sending failed.

        A target may answer 413 and close without reading the body, and the client must hear why.
        """
        try:
            while self.receiver is not None and (data := self.sock.recv(READ_BYTES)):
                self.data_received(data)
        except OSError:
            pass  # nothing is left, or the reset took it
        if self._state == _IDLE:
            self.close()  # its answer was whole, and it went to the pool
            self._pool.release(self, False)

    def connection_lost(self, error: OSError | None) -> None:
        if (
            error is not None
            and self.receiver is not None
            and not self._paused
            and not self.to_send  # else what came is no answer to it
        ):
            self._read_what_is_left()
        self.target.connection_closed()
        if self._state == _CLOSED and self.receiver is None:
            return
        state, self._state = self._state, _CLOSED
        receiver, self.receiver = self.receiver, None
        if receiver is None:
            self._pool.release(self, False)
            return
        if state == _HEAD and not self.bytes_seen:
            detail = "the target closed the connection without a response"
            receiver.on_target_lost(RequestError(502, "connection_terminated", detail), "reset")
        else:
            detail = "the target closed the connection inside a response"
            receiver.on_target_lost(RequestError(502, "http_response_incomplete", detail), "reset")

    def pace(self, wanted: bool) -> None:
        """Read the response, or leave it where it is while nobody takes it."""
        if self._paused is wanted:
            self._paused = not wanted
            if wanted:
                self.resume_reading()
            else:
                self.pause_reading()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.receiver is not None:
            self.receiver.on_target_writable(False)

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.receiver is not None:
            self.receiver.on_target_writable(True)

    def abandon(self) -> None:
        """The user of this connection wants no more of it; what it asked may still be answered, so that
        the connection is worth nothing."""
        self.receiver = None
        self.close()

    def close(self) -> None:
        """Close at once; nothing that is still to be sent matters any more."""
        self._state = _CLOSED
        self._held = self.to_send = b""
        self.sink = None
        self.drop()


class _CheckedSender:
    """Sends what a connection has to send unless the target has closed it, or said something."""

    __slots__ = ("_connection", "_poll")

    def __init__(self, connection: TargetConnection) -> None:
        self._connection = connection
        poll = select.poll()
        poll.register(connection.sock.fileno(), select.POLLIN | select.POLLRDHUP)
        self._poll = poll

    def send_now(self) -> None:
        connection = self._connection
        if connection.closing or not connection.to_send:
            return
        if self._poll.poll(0):
            connection.drop()  # with its request unsent: connection_lost tells
        else:
            connection.send_now()
