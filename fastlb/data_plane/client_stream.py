"""A client's transport: writes put off to the end of the loop's turn, back-pressure, one deadline, and
the ways to end in order. Knows no request; `http_server` reads those.
"""

from __future__ import annotations

import asyncio
import select
from typing import cast

from fastlb.data_plane.listener_counts import ListenerCounts
from fastlb.data_plane.splice import reset_at_close
from fastlb.data_plane.timers import TICK
from fastlb.data_plane.worker_state import WorkerState

LINGER_SECONDS = 2.0
"""After an error answer the client is read and ignored for so long: closing over unread bytes would send
a reset, which can overtake the answer."""
LINGER_BYTES = 1 << 20
_WRITE_HIGH = 65536
_SEND_BYTES = 32768
"""More than this is sent at once and not at the end of the loop's turn."""

# Whose turn it is. CLIENT: to take what was written, before its next request is read.
IDLE, HEAD, TARGET, CLIENT, LINGER, GONE = range(6)


class ClientStream(asyncio.Protocol):
    """One client connection, less what it is used for."""

    __slots__ = (
        "_eof",
        "_full_since",
        "_linger_left",
        "_reading",
        "_to_send",
        "_turn",
        "_writable",
        "armed_tick",
        "counts",
        "deadline",
        "idle_timeout",
        "transport",
        "worker",
    )

    def __init__(self, worker: WorkerState, counts: ListenerCounts, idle_timeout: float) -> None:
        self.worker = worker
        self.counts = counts
        self.idle_timeout = idle_timeout
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        """None until the loop has made it, a turn after the connection was accepted."""
        self.armed_tick = 0
        self.deadline = 0.0
        self._to_send = b""
        self._turn = HEAD
        self._eof = False
        self._reading = True
        self._writable = True
        self._full_since = 0.0
        self._linger_left = LINGER_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH)

    @property
    def has_ended(self) -> bool:
        """Whether the client has ended its side; it may still read."""
        return self._eof

    # -- writing and reading

    def write(self, data: bytes) -> None:
        self.counts.bytes_out += len(data)
        if self._to_send:
            self._to_send += data
        else:
            self._to_send = data
            self.worker.send_soon(self)
        if len(self._to_send) > _SEND_BYTES:
            self.send_now()

    def send_now(self) -> None:
        """What `write` put off to the end of this turn of the loop."""
        data, self._to_send = self._to_send, b""
        # The connection may have ended meanwhile; uvloop raises where it has.
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def read_if(self, wanted: bool) -> None:
        """Read the client, or leave in the kernel what it sends."""
        if wanted is not self._reading and not self.transport.is_closing():
            self._reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def has_more(self) -> bool:
        """Whether something has come that the loop has not seen yet."""
        if self.transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    # -- deadlines

    def await_for(self, seconds: float) -> None:
        """Call `on_deadline` after `seconds`, unless this is called again before."""
        timers = self.worker.timers
        deadline = timers.now + seconds
        self.deadline = deadline
        if deadline < self.armed_tick * TICK or not self.armed_tick:
            timers.arm(self, deadline)

    def on_deadline(self, now: float) -> None:
        raise NotImplementedError

    # -- the ways to end

    def ignore(self, data: bytes) -> None:
        """The client still sends though its connection ends: not for ever."""
        self._linger_left -= len(data)
        if self._linger_left < 0:
            self.transport.abort()

    def linger(self) -> None:
        """Close once the client has read the answer, or two seconds have passed."""
        if self._eof:
            self.close()
            return
        self._turn = LINGER
        self.await_for(LINGER_SECONDS)
        if not self.transport.is_closing():
            self.send_now()
            self.transport.write_eof()
            self.read_if(True)

    def close(self) -> None:
        """Close when everything that was written is sent."""
        self._turn = GONE
        self.await_for(self.idle_timeout)
        self.send_now()
        self.transport.close()

    def cut(self) -> None:
        """End inside a response. By a reset: a body that ends with the connection would look whole."""
        self._turn = GONE
        if not self.transport.is_closing():
            self.send_now()
            reset_at_close(self.transport.get_extra_info("socket"))
            self.transport.abort()

    def abort(self, _reason: str) -> None:
        """Close at once (worker_state.Connection)."""
        if self.transport is not None:
            self.transport.abort()
