"""A client's connection, less its requests: one deadline, whose turn it is, and the ways to end in order.
Knows no request; `request_stream` cuts those out of it.
"""

from __future__ import annotations

import socket

from fastlb.data_plane.listener_counts import ListenerCounts
from fastlb.data_plane.splice import reset_at_close
from fastlb.data_plane.stream import Stream
from fastlb.data_plane.timers import NEVER
from fastlb.data_plane.worker_state import WorkerState

LINGER_SECONDS = 2.0
"""After an error answer the client is read and ignored for so long: closing over unread bytes would send
a reset, which can overtake the answer."""
LINGER_BYTES = 1 << 20
SEND_BYTES = 32768
"""More than this is sent at once and not at the end of the loop's turn."""

# Whose turn it is. CLIENT: to take what was written, before its next request is read.
IDLE, HEAD, TARGET, CLIENT, LINGER, GONE = range(6)


class ClientStream(Stream):
    """One client connection, less what it is used for."""

    __slots__ = (
        "_eof",
        "_full_since",
        "_linger_left",
        "_reading",
        "_turn",
        "_writable",
        "armed_at",
        "counts",
        "deadline",
        "idle_timeout",
        "worker",
    )

    def __init__(self, worker: WorkerState, counts: ListenerCounts, idle_timeout: float) -> None:
        super().__init__(worker.loop, worker.reactor)
        self.worker = worker
        self.counts = counts
        self.idle_timeout = idle_timeout
        self.armed_at = NEVER
        self.deadline = 0.0
        self._turn = HEAD
        self._eof = False
        self._reading = True
        self._writable = True
        self._full_since = 0.0
        self._linger_left = LINGER_BYTES

    @property
    def has_ended(self) -> bool:
        """Whether the client has ended its side; it may still read."""
        return self._eof

    # -- writing and reading

    def write(self, data: bytes) -> None:
        self.counts.bytes_out += len(data)
        if self.to_send:
            self.to_send += data
        else:
            self.to_send = data
            self.reactor.send_soon(self)
        if len(self.to_send) > SEND_BYTES:
            self.send_now()

    def write_parts(self, head: bytes, data: bytes, at: int) -> None:
        """Write `head` and `data[at:]`; what is much is not copied together."""
        size = len(head) + len(data) - at
        if size > SEND_BYTES:
            self.counts.bytes_out += size
            self.send_parts(head, data, at)
        else:
            self.write(head + data[at:])

    def read_if(self, wanted: bool) -> None:
        """Read the client, or leave in the kernel what it sends."""
        if wanted is not self._reading and not self.closing:
            self._reading = wanted
            if wanted:
                self.resume_reading()
            else:
                self.pause_reading()

    def has_more(self) -> bool:
        """Whether something has come that the loop has not seen yet."""
        if self.closing:
            return False
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass  # its end, which the loop has not seen either
        return True

    # -- deadlines

    def await_for(self, seconds: float) -> None:
        """Call `on_deadline` after `seconds`, unless this is called again before."""
        timers = self.worker.timers
        deadline = self.deadline = timers.now + seconds
        if deadline < self.armed_at:
            timers.arm(self, deadline)

    def on_deadline(self, now: float) -> None:
        raise NotImplementedError

    # -- the ways to end

    def ignore(self, data: bytes) -> None:
        """The client still sends though its connection ends: not for ever."""
        self._linger_left -= len(data)
        if self._linger_left < 0:
            self.drop()

    def linger(self) -> None:
        """Close once the client has read the answer, or two seconds have passed."""
        if self._eof:
            self.close()
            return
        self._turn = LINGER
        self.await_for(LINGER_SECONDS)
        if not self.closing:
            self.write_eof()
            self.read_if(True)

    def close(self) -> None:
        """Close when everything that was written is sent."""
        self._turn = GONE
        self.await_for(self.idle_timeout)
        self.finish()

    def cut(self) -> None:
        """End inside a response. By a reset: a body that ends with the connection would look whole."""
        self._turn = GONE
        if not self.closing:
            self.send_now()
            reset_at_close(self.sock)
            self.drop()

    def abort(self, reason: str) -> None:
        """Close at once (worker_state.Connection)."""
        self.drop()
