"""One socket of an HTTP connection, a client's or a target's: reads when there is something, sends at the
end of the turn, keeps what the socket does not take, and ends in order.

Calls its subclass as asyncio calls a Protocol, with the same promises: `connection_lost` comes exactly
once, from the loop and never from inside another call, and nothing comes after it. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import socket
from os import read, write
from types import FunctionType
from typing import cast

from fastlb.data_plane.reactor import READABLE, WRITABLE, Reactor
from fastlb.data_plane.splice import move

READ_BYTES = 80 * 1024
"""One read, of a body of 64 KiB with its head; what is held of a direction is at most one read and
BACKLOG_HIGH."""
BACKLOG_HIGH = 65536
"""More than this that the socket does not take, and whoever writes is asked to pause."""
BACKLOG_LOW = 16384


class Stream:
    """A connected, non-blocking stream socket in a Reactor."""

    __slots__ = (
        "_backlog",
        "_ended",
        "_events",
        "_failure",
        "_fd",
        "_half_closed",
        "_in_bulk",
        "_over_high",
        "closing",
        "loop",
        "reactor",
        "sink",
        "sink_left",
        "sock",
        "to_send",
    )

    def __init_subclass__(cls) -> None:
        """Give each kind of connection its own copy of what runs for each message: the interpreter
        remembers at each place in a function where the last object had its attributes (PEP 659), and
        two classes that take turns there make it look them up each time."""
        for name in ("on_event", "send_now"):
            shared = getattr(Stream, name)
            own = FunctionType(shared.__code__.replace(), shared.__globals__, name)
            own.__doc__ = shared.__doc__
            if name not in cls.__dict__:
                setattr(cls, name, own)

    def __init__(self, loop: asyncio.AbstractEventLoop, reactor: Reactor) -> None:
        self.loop = loop
        self.reactor = reactor
        self.sock: socket.socket = cast(socket.socket, None)
        """None until `open` and after `release`."""
        self.sink: Stream | None = None
        """Where the next `sink_left` bytes go as they are: in the kernel, if it takes them."""
        self.sink_left = 0
        self.to_send = b""
        """What leaves at the end of this turn of the loop."""
        self.closing = False
        """Nothing is read or written for its owner any more; `connection_lost` is yet to come or came."""
        self._backlog: bytearray | None = None
        self._over_high = False
        self._events = 0
        self._in_bulk = False
        """Told of in each turn while something waits: asking for each piece of a body costs more."""
        self._half_closed = 0
        """READABLE when the other side has ended, WRITABLE when ours is to end after the backlog."""
        self._fd = -1
        """The socket's, for as long as it is ours: a number that is closed may be another's soon."""
        self._ended = False
        self._failure: OSError | None = None

    def open(self, sock: socket.socket) -> None:
        """Take a connected socket over, and read it. Raises OSError where the kernel has no room."""
        self.sock = sock
        self._fd = sock.fileno()
        self.reactor.watch_once(self._fd, self)
        self._events = READABLE

    # -- what a subclass says

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError

    def eof_received(self) -> bool:
        """The other side sends no more; whether our side stays open."""
        raise NotImplementedError

    def connection_lost(self, error: OSError | None) -> None:
        """It is over; the socket is closed after this. `error` where it failed."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        raise NotImplementedError

    def resume_writing(self) -> None:
        raise NotImplementedError

    def moved(self, count: int) -> None:
        """So many bytes went from here to `sink`, of the `sink_left` that are left."""
        raise NotImplementedError

    # -- reading

    def on_event(self, events: int) -> None:
        """The Reactor's call. What is so is found out from the socket: the event may be older than
        what was done since."""
        try:
            if (
                events != READABLE or self._events != READABLE or self.sink is not None
            ) and not self._is_to_be_read(events):
                return
            try:
                data = read(self._fd, READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose(error)
                return
            if data:
                self.data_received(data)
                if events != READABLE or len(data) == READ_BYTES:
                    self._read_again()
            else:
                self._on_eof()
        except Exception:
            self.drop()  # nobody knows how far it came: it must not be used again, nor call for ever
            raise

    def _is_to_be_read(self, events: int) -> bool:
        """Do what is not reading: send a backlog, splice. Whether something is left to be read."""
        if self._backlog is not None and events != READABLE:
            self._send_backlog()
        if not self._events & READABLE or events == WRITABLE:
            return False
        if self.sink is None or not self._move():
            return True
        if self.sink is None:
            self._read_again()
        elif self._events == READABLE and not self._in_bulk:
            self._in_bulk = True
            self.reactor.change(self._fd, READABLE)
        return False

    def _move(self) -> bool:
        """Splice into `sink`; False where what waits must be read."""
        sink = self.sink
        assert sink is not None
        if sink.to_send or sink._backlog is not None or sink.closing:
            return False
        try:
            found = move(self.sock.fileno(), sink.sock.fileno(), self.sink_left)
        except (BlockingIOError, InterruptedError):
            return False  # nothing, or TCP's urgent byte, which only a read steps over
        except OSError as error:
            self._lose(error)
            return True
        if found is None:
            return False
        count, left, failure = found
        if not count:
            self._on_eof()
            return True
        if failure is not None:
            sink._lose(failure)
        elif left:
            sink._keep(left)
        self.sink_left -= count
        self.moved(count)
        return True

    def _read_again(self) -> None:
        """There may be more than was read: bytes, or the other side's end behind them."""
        if self._events == READABLE:
            self._in_bulk = False
            self.reactor.again(self._fd)

    def _on_eof(self) -> None:
        self._half_closed |= READABLE
        self._watch(self._events & ~READABLE)
        if not self.eof_received():
            self.finish()

    def pause_reading(self) -> None:
        """Leave in the kernel what comes."""
        self._watch(self._events & ~READABLE)

    def resume_reading(self) -> None:
        if not self.closing and not self._half_closed & READABLE:
            self._watch(self._events | READABLE)

    def _watch(self, events: int) -> None:
        before = self._events
        if events == before:
            return
        self._events = events
        fd = self._fd
        if not events:
            # Not an empty set of events: the kernel would still tell of a hang-up, each time anew.
            self.reactor.forget(fd)
        elif events == READABLE:
            self._in_bulk = False
            if before:
                self.reactor.again(fd)
            else:
                self.reactor.watch_once(fd, self)
        elif before:
            self.reactor.change(fd, events)
        else:
            self.reactor.watch(fd, self, events)

    # -- writing

    def send_now(self) -> None:
        """Send what waits in `to_send`, which keeps it where nothing of it could be sent."""
        data = self.to_send
        if not data or self.closing:
            return
        if self._backlog is None:
            try:
                sent = write(self._fd, data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            self.to_send = b""
            if sent != len(data):
                self._keep(memoryview(data)[sent:])
        else:
            self.to_send = b""
            self._keep(data)

    def send_parts(self, head: bytes, data: bytes, at: int) -> None:
        """Send `head` and then `data[at:]` at once, without making one of them."""
        self.send_now()
        body = memoryview(data)[at:]
        if self.closing:
            return
        sent = 0
        if self._backlog is None:
            try:
                sent = self.sock.sendmsg((head, body))
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._lose(error)
                return
        if sent < len(head):
            self._keep(head[sent:])
            sent = len(head)
        if sent < len(head) + len(body):
            self._keep(body[sent - len(head) :])

    def send(self, data: bytes) -> None:
        """Send at once; nothing may wait in `to_send`."""
        self.to_send = data
        self.send_now()
        self.to_send = b""

    @property
    def backlog_bytes(self) -> int:
        """What was sent and the socket has not taken."""
        return len(self._backlog) if self._backlog is not None else 0

    def _keep(self, data: bytes | memoryview) -> None:
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = bytearray(data)
            self._watch(self._events | WRITABLE)
        else:
            backlog += data
        if len(backlog) > BACKLOG_HIGH and not self._over_high:
            self._over_high = True
            self.pause_writing()

    def _send_backlog(self) -> None:
        backlog = self._backlog
        assert backlog is not None
        try:
            sent = write(self._fd, backlog)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        del backlog[:sent]
        if not backlog:
            self._backlog = None
            self._watch(self._events & ~WRITABLE)
            if self._half_closed & WRITABLE:
                self._shut_down()
            if self.closing:
                self._leave(None)
                return
        if self._over_high and len(backlog) <= BACKLOG_LOW:
            self._over_high = False
            if not self.closing:
                self.resume_writing()

    # -- ends

    def write_eof(self) -> None:
        """End our side once everything is sent."""
        self.send_now()
        if self.closing:
            return
        self._half_closed |= WRITABLE
        if self._backlog is None:
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side has reset it; reading says so, too

    def finish(self) -> None:
        """Close when everything that was written is sent. Reads no more."""
        if self.closing:
            return
        self.send_now()
        self.closing = True
        if self._backlog is None:
            self._leave(None)
        else:
            self._watch(WRITABLE)

    def drop(self) -> None:
        """Close at once; nothing that is still to be sent matters."""
        self._lose(None)

    def release(self) -> socket.socket:
        """Give the socket away; the owner hears of its end, and it stays open. Nothing may wait to be
        sent."""
        sock = self.sock
        self._watch(0)
        self.sock = cast(socket.socket, None)
        self._fd = -1
        self.closing = True
        self._leave(None)
        return sock

    def _lose(self, error: OSError | None) -> None:
        self.closing = True
        self._backlog = None
        self._leave(error)

    def _leave(self, error: OSError | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._failure = error
        if self._events:
            self._events = 0
            self.reactor.abandon(self._fd)
        self.reactor.end_soon(self)

    def tell_end(self) -> None:
        """The Reactor's call, once this has ended."""
        error, self._failure = self._failure, None
        try:
            self.connection_lost(error)
        finally:
            self._fd = -1
            if self.sock is not None:
                self.sock.close()
