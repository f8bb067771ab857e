"""The worker's own epoll for HTTP connections, inside the loop's: who is ready is told in one go, and what
all of them have to send leaves in one go.

uvloop's transports cost as much for a byte moved, and more for a connection: 1.2 KB and ten system calls
where this takes a slot of a list and two. Knows file descriptors and who is called for them; what they do
then is `stream`'s affair.
"""

from __future__ import annotations

import asyncio
import select
from typing import Protocol

BATCH = 256
"""Events that are handled before timers and others of the loop get their turn."""

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
_ONCE = select.EPOLLET | select.EPOLLRDHUP | select.EPOLLPRI
"""Edge-triggered: a descriptor is told of once for what has come, and not looked at again in the next turn
to find that nothing is left. A read that is not full has taken all there was, but for what is told of by
itself: the other side's end, and TCP's urgent data, before which a read stops."""


class Handler(Protocol):
    """Who is called when its descriptor is ready."""

    def on_event(self, events: int) -> None: ...


class Sender(Protocol):
    """Who has something to send."""

    def send_now(self) -> None: ...


class Ending(Protocol):
    """What is over, and is to be told so from outside of any other call."""

    def tell_end(self) -> None: ...


class Reactor:
    """One a worker. A descriptor must be forgotten before it is closed."""

    __slots__ = ("_ended", "_epoll", "_handlers", "_loop", "_scheduled", "in_turn", "outbox")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._handlers: list[Handler | None] = [None] * 1024
        self._ended: list[Ending] = []
        self.in_turn = False
        """Whether what is added to `outbox` now leaves in any case."""
        self.outbox: list[Sender] = []
        """Who has something to send at the end of this turn."""
        self._scheduled = False
        loop.add_reader(self._epoll.fileno(), self._turn)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def watch(self, fd: int, handler: Handler, events: int) -> None:
        """Call `handler` whenever one of `events` (READABLE, WRITABLE) holds, and on errors. Raises
        OSError where the kernel has no room."""
        handlers = self._handlers
        if fd >= len(handlers):
            handlers.extend([None] * (fd + 1024 - len(handlers)))
        handlers[fd] = handler
        self._epoll.register(fd, events)

    def watch_once(self, fd: int, handler: Handler) -> None:
        """As `watch`, of READABLE, for one that reads all there is or says that it may not have (`again`):
        after a read that was full, or an event of anything else beside READABLE."""
        self.watch(fd, handler, READABLE | _ONCE)

    def again(self, fd: int) -> None:
        """Call the handler of one that is watched once in the next turn, if it is READABLE then."""
        self._epoll.modify(fd, READABLE | _ONCE)

    def change(self, fd: int, events: int) -> None:
        """Other events of a descriptor that is watched."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Call nobody for `fd` any more."""
        self._handlers[fd] = None
        self._epoll.unregister(fd)

    def abandon(self, fd: int) -> None:
        """As `forget`, of a descriptor that is closed before the next turn of the loop is over: the
        kernel forgets it then by itself, and a system call is saved."""
        self._handlers[fd] = None

    def end_soon(self, ending: Ending) -> None:
        """Call `ending.tell_end()` after this turn's events and messages."""
        self._ended.append(ending)
        self._schedule()

    def send_soon(self, sender: Sender) -> None:
        """Call `sender.send_now()` when everything that has come in this turn is handled.

        All of a turn's messages then leave in one go: whoever receives them is woken once and not for
        each, which is most of what a small message costs.
        """
        self.outbox.append(sender)
        if not self.in_turn:
            self._schedule()

    def _schedule(self) -> None:
        if not self.in_turn and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send_all)

    def _turn(self) -> None:
        handlers = self._handlers
        ready = iter(self._epoll.poll(0, BATCH))
        self.in_turn = True
        while True:
            try:
                for fd, events in ready:  # after a failure: from the next one on
                    handler = handlers[fd]
                    if handler is not None:  # else one before it has ended it
                        handler.on_event(events)
                break
            except Exception as error:  # noqa: BLE001  the others' events must still be handled
                self._report("an event of a connection failed", error)
        self._send_all()

    def _send_all(self) -> None:
        self._scheduled = False
        outbox = self.outbox
        self.in_turn = True  # what is added meanwhile leaves with the rest
        turn = iter(outbox)
        while True:
            try:
                for sender in turn:  # after a failure: from the next one on
                    sender.send_now()
                break
            except Exception as error:  # noqa: BLE001  the others' messages must still leave
                self._report("a message could not be sent", error)
        outbox.clear()
        self.in_turn = False
        if self._ended:
            self._tell_ends()

    def _tell_ends(self) -> None:
        endings, self._ended = self._ended, []
        for ending in endings:
            try:
                ending.tell_end()
            except Exception as error:  # noqa: BLE001  the others must still hear of theirs
                self._report("the end of a connection failed", error)

    def _report(self, what: str, error: Exception) -> None:
        self._loop.call_exception_handler({"message": what, "exception": error})
