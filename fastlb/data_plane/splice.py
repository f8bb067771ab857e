"""Bytes both ways between two connected sockets: copied while they are few, spliced in bulk.

A Pump owns two non-blocking stream sockets (TCP or unix) from its start to its end, keeps
half-closes, and holds at most one buffer or one pipe of bytes a direction. Knows no Listener, no
Target and no timer: whoever made the Pump counts its bytes and ends it when it is silent too long.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from fastlb.data_plane.pipe_pool import Pipe, PipePool

# Where splicing pays, by bench/splice_line.py (2 cores, Linux 6.18, loopback; µs of CPU per round
# trip of 32 ping-pong connections, copy / splice):
#
#     message      64 B         4 KiB       8 KiB        16 KiB       64 KiB       256 KiB
#     TCP          9.0 /  9.9   9.4 / 9.9   10.0 / 9.6   11.5 / 9.9   31.1 / 20.8  112 /  55
#     unix         5.9 /  6.7   7.5 / 6.5    8.1 / 6.4    9.2 / 7.1   23.9 / 15.8  193 / 101
#
# and in bulk one way, GB per CPU second: TCP 1.5 by copies of 64 KiB and 2.9 spliced by 256 KiB,
# unix 3.1 and 6.5. A splice costs nearly the same for one byte as for a pipe full, so the line is
# at 4 to 8 KiB. The wrong side costs 10 % near the line: the rule may take its time to switch.
BULK_BYTES = 8 * 1024
BULK_AFTER = 4
"""Reads of BULK_BYTES or more in a row after which a direction is spliced."""
SMALL_BYTES = 4 * 1024
COPY_AFTER = 4
"""Splices of less than SMALL_BYTES in a row after which a direction is copied again."""
BUFFER_BYTES = 64 * 1024
"""The one buffer that all Pumps of a process read into, and the most that is copied out of it."""
PIPES = 64
"""Of 256 KiB each: what a worker may hold in the kernel for blocked bulk."""
FAIR_BYTES = 1024 * 1024
"""Moved in one go before other connections get their turn."""

_BUFFER = bytearray(BUFFER_BYTES)
_VIEW = memoryview(_BUFFER)
_NOWAIT = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)

_READING, _WRITING, _ENDED = range(3)


class ByteCounters(Protocol):
    """Who counts a Pump's bytes; a TargetRuntime where `b` is the target."""

    def sent(self, count: int) -> None:
        """`count` bytes of `a` are on their way to `b`."""

    def received(self, count: int) -> None:
        """`count` bytes came from `b`."""


pipes = PipePool(PIPES)
"""The process's pool. A direction holds a pipe in a callback, or while its sink is blocked."""


def move(source: int, sink: int, most: int) -> tuple[int, bytes, OSError | None] | None:
    """Splice what waits at `source`, up to `most` bytes, into `sink`.

    Tells how many came (0 where the source has ended), what of them the sink did not take, and how the
    sink failed. None where there is no pipe, or no splice: then they are to be read and sent. Raises
    BlockingIOError where nothing waits, and OSError where the source failed.
    """
    pipe = pipes.take()
    if pipe is None:
        return None
    try:
        count = os.splice(source, pipe.write_end, min(most, pipes.size), flags=_NOWAIT)
        pipe.held = count
        if not count:
            return 0, b"", None
        try:
            pipe.held -= os.splice(pipe.read_end, sink, count, flags=_NOWAIT)
        except BlockingIOError:
            pass
        except OSError as error:
            return count, b"", error
        left = b""
        while pipe.held:
            piece = os.read(pipe.read_end, pipe.held)
            pipe.held -= len(piece)
            left += piece
        return count, left, None
    except OSError as error:
        if error.errno not in _NO_SPLICE:
            raise
        pipes.limit = 0
        pipes.close()
        return None
    finally:
        pipes.give(pipe)


class _Flow:
    """One direction of a Pump."""

    __slots__ = (
        "bulk",
        "count",
        "moved",
        "pending",
        "pipe",
        "pump",
        "sink",
        "source",
        "state",
        "streak",
    )

    def __init__(
        self,
        pump: Pump,
        source: socket.socket,
        sink: socket.socket,
        pending: bytes,
        count: Callable[[int], None] | None,
    ) -> None:
        self.pump = pump
        self.source = source
        self.sink = sink
        self.pending = pending
        self.count = count
        self.pipe: Pipe | None = None
        self.state = _READING
        self.bulk = False
        self.streak = 0
        self.moved = 0

    def start(self) -> None:
        if not self.pending:
            self.pump.loop.add_reader(self.source.fileno(), self.on_readable)
            return
        self.state = _WRITING
        self.pump.loop.add_writer(self.sink.fileno(), self.on_writable)
        self.on_writable()

    def on_readable(self) -> None:
        if self.bulk:
            self._splice()
        else:
            self._copy()

    def _copy(self) -> None:
        budget = FAIR_BYTES
        while True:
            try:
                count = self.source.recv_into(_BUFFER)
            except BlockingIOError:
                return
            except OSError as error:
                self.pump.fail(self.source, error)
                return
            if not count:
                self._end()
                return
            pump = self.pump
            pump.last_activity = pump.now()
            self.moved += count
            if self.count is not None:
                self.count(count)
            try:
                sent = self.sink.send(_VIEW[:count])
            except BlockingIOError:
                sent = 0
            except OSError as error:
                pump.fail(self.sink, error)
                return
            if count < BULK_BYTES:
                self.streak = 0
            else:
                self.streak += 1
                if self.streak >= BULK_AFTER:
                    self.streak = 0
                    self.bulk = True
            if sent != count:
                self._block(bytes(_VIEW[sent:count]), None)
                return
            budget -= count
            if count < BUFFER_BYTES or self.bulk or budget <= 0:
                return

    def _splice(self) -> None:
        pipe = pipes.take()
        if pipe is None:
            self.bulk = False
            self._copy()
            return
        source, sink, pump = self.source.fileno(), self.sink.fileno(), self.pump
        budget = FAIR_BYTES
        while budget > 0:
            try:
                count = os.splice(source, pipe.write_end, pipes.size, flags=_NOWAIT)
            except BlockingIOError:
                if budget < FAIR_BYTES:
                    break
                # Something was told of, and is not there: TCP's urgent byte, which only a read steps over.
                pipes.give(pipe)
                self._copy()
                return
            except OSError as error:
                if error.errno in _NO_SPLICE:
                    pipes.limit = 0
                    pipes.close()
                pipes.give(pipe)
                if error.errno in _NO_SPLICE:
                    self.bulk = False
                    self._copy()
                else:
                    pump.fail(self.source, error)
                return
            if not count:
                pipes.give(pipe)
                self._end()
                return
            pump.last_activity = pump.now()
            self.moved += count
            if self.count is not None:
                self.count(count)
            try:
                # Never more than is there: the kernel would take it for "more to come" and wait.
                pipe.held = count - os.splice(pipe.read_end, sink, count, flags=_NOWAIT)
            except BlockingIOError:
                pipe.held = count
            except OSError as error:
                pipe.held = count
                pipes.give(pipe)
                pump.fail(self.sink, error)
                return
            if pipe.held:
                self._block(b"", pipe)
                return
            if count < SMALL_BYTES:
                self.streak += 1
                if self.streak >= COPY_AFTER:
                    self.streak = 0
                    self.bulk = False
                break
            self.streak = 0
            if count < BUFFER_BYTES:
                break
            budget -= count
        pipes.give(pipe)

    def on_writable(self) -> None:
        try:
            if self.pipe is not None:
                pipe = self.pipe
                pipe.held -= os.splice(pipe.read_end, self.sink.fileno(), pipe.held, flags=_NOWAIT)
                if pipe.held:
                    return
                self.pipe = None
                pipes.give(pipe)
            else:
                self.pending = self.pending[self.sink.send(self.pending) :]
                if self.pending:
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self.pump.fail(self.sink, error)
            return
        self.pump.last_activity = self.pump.now()
        # Read on at once: in bulk the sink is soon full again, and the loop need not be told of it.
        self.on_readable()
        if self.state == _WRITING and not self.pending and self.pipe is None:
            self.state = _READING
            self.pump.loop.remove_writer(self.sink.fileno())
            self.pump.loop.add_reader(self.source.fileno(), self.on_readable)

    def _block(self, pending: bytes, pipe: Pipe | None) -> None:
        """The sink takes no more: hold what it did not take, and read nothing until it did."""
        self.pending = pending
        self.pipe = pipe
        if self.state == _READING:
            self.state = _WRITING
            self.pump.loop.remove_reader(self.source.fileno())
            self.pump.loop.add_writer(self.sink.fileno(), self.on_writable)

    def _end(self) -> None:
        """The source sends no more, and everything it sent was written."""
        self.leave_loop()
        if self.pump.closed_by_both():
            return
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.pump.fail(self.sink, error)

    def leave_loop(self) -> None:
        if self.state == _READING:
            self.pump.loop.remove_reader(self.source.fileno())
        elif self.state == _WRITING:
            self.pump.loop.remove_writer(self.sink.fileno())
        self.state = _ENDED

    def discard(self) -> None:
        """Leave nothing behind, and no cycle of references for the garbage collector either."""
        self.leave_loop()
        self.pending = b""
        if self.pipe is not None:
            pipes.give(self.pipe)
            self.pipe = None
        del self.pump


_NO_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EPERM)
"""What sandboxes answer that know no splice for sockets: then this process copies."""


class Pump:
    """Moves bytes between `a` and `b` until both have ended, one has failed, or `abort`.

    `to_a` and `to_b` are bytes that go before what the other side sends. `on_done(pump, reason)` is
    called exactly once, with both sockets closed: `closed` after both sides ended in order,
    `reset by a` or `reset by b` where one failed, else the reason given to `abort`.
    """

    __slots__ = ("_a_to_b", "_b_to_a", "_on_done", "a", "b", "done", "last_activity", "loop", "now")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        a: socket.socket,
        b: socket.socket,
        on_done: Callable[[Pump, str], None],
        on_bytes: ByteCounters | None = None,
        *,
        to_a: bytes = b"",
        to_b: bytes = b"",
    ) -> None:
        self.loop = loop
        self.now = loop.time
        self.a = a
        self.b = b
        self.done = False
        self.last_activity = loop.time()
        """loop.time() of the last byte."""
        self._on_done = on_done
        self._a_to_b = _Flow(self, a, b, to_b, on_bytes.sent if on_bytes else None)
        self._b_to_a = _Flow(self, b, a, to_a, on_bytes.received if on_bytes else None)

    @property
    def bytes_a_to_b(self) -> int:
        """Read from `a`; without `to_b`."""
        return self._a_to_b.moved

    @property
    def bytes_b_to_a(self) -> int:
        return self._b_to_a.moved

    def start(self) -> None:
        """May call `on_done` before it returns."""
        self._a_to_b.start()
        if not self.done:
            self._b_to_a.start()

    def abort(self, reason: str) -> None:
        """End both sides with a reset, so that neither takes half a stream for a whole one."""
        self._finish(reason, reset=True)

    def fail(self, side: socket.socket, error: OSError) -> None:
        """`side` is broken: the other learns it as a reset."""
        self._finish(f"reset by {'a' if side is self.a else 'b'}", reset=True)

    def closed_by_both(self) -> bool:
        """Whether both directions have ended; the Pump has then, too."""
        if self._a_to_b.state != _ENDED or self._b_to_a.state != _ENDED:
            return False
        self._finish("closed", reset=False)
        return True

    def _finish(self, reason: str, *, reset: bool) -> None:
        if self.done:
            return
        self.done = True
        self._a_to_b.discard()
        self._b_to_a.discard()
        for side in (self.a, self.b):
            if reset:
                reset_at_close(side)
            side.close()
        on_done = self._on_done
        del self._on_done  # the owner's method, and so a cycle
        on_done(self, reason)


def reset_at_close(side: socket.socket) -> None:
    """Let the next close() send RST and drop what is not sent yet. Unix sockets have no reset."""
    try:
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    except OSError:
        pass  # it is reset already
