"""The keep-alive connections of a Target: takes, opens, keeps and closes them in time."""

from __future__ import annotations

import asyncio
import errno
import select
from collections import deque
from collections.abc import Callable
from typing import Protocol

from fastlb.data_plane.http_client import TargetConnection
from fastlb.data_plane.response_head import ResponseReader
from fastlb.data_plane.target_runtime import TargetRuntime
from fastlb.data_plane.timers import TimerWheel

# What a refused connection looks like: nobody listens, or no socket file is there.
_REFUSED = {
    errno.ECONNREFUSED,
    errno.ENOENT,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
}
# Not the target's fault: we are out of descriptors, ports or memory.
LOCAL_ERRORS = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EADDRNOTAVAIL,
    errno.EACCES,
    errno.EPERM,
}
_FULL_QUEUE_PAUSE = 0.005
"""A unix socket whose accept queue is full answers EAGAIN at once, where TCP would wait."""


class Waiter(Protocol):
    """Who wants a connection that must be opened first."""

    def on_connected(self, connection: TargetConnection) -> None: ...

    def on_connect_failed(self, error: OSError) -> None: ...


class TargetPool:
    """Idle connections of one target, last used first; the oldest are closed when their time is over."""

    __slots__ = (
        "_idle",
        "_loop",
        "_reader",
        "_send_soon",
        "_tasks",
        "_timers",
        "keeps",
        "learned",
        "target",
    )

    def __init__(
        self,
        target: TargetRuntime,
        loop: asyncio.AbstractEventLoop,
        timers: TimerWheel,
        reader: ResponseReader,
        send_soon: Callable[[TargetConnection], None],
    ) -> None:
        self.target = target
        self._timers = timers
        self._loop = loop
        self._reader = reader
        self._send_soon = send_soon
        self._idle: deque[TargetConnection] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.learned = float("inf")
        """What is known of the target's own keep-alive timeout; we close before it does."""
        self.keeps = target.group.settings.keepalive_timeout > 0
        """Whether connections are kept at all."""

    def take(self, *, surely_open: bool) -> TargetConnection | None:
        """An idle connection, or None. `surely_open` asks the kernel whether the target has closed it or
        sent something: worth a system call for a request that cannot be sent twice."""
        while self._idle:
            connection = self._idle.pop()
            if surely_open and _readable(connection.transport):
                connection.close()
                continue
            return connection
        return None

    def open(self, waiter: Waiter) -> asyncio.Task[None]:
        """Open a connection for `waiter`; cancel the returned task to give up."""
        task = self._loop.create_task(self._open(waiter))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open(self, waiter: Waiter) -> None:
        address = self.target.address
        connection = TargetConnection(self.target, self._reader, self.release, self._send_soon)
        while True:
            try:
                if address.is_unix:
                    await self._loop.create_unix_connection(lambda: connection, address.path)
                else:
                    await self._loop.create_connection(
                        lambda: connection, address.host, address.port
                    )
            except BlockingIOError:
                await asyncio.sleep(_FULL_QUEUE_PAUSE)
                continue
            except OSError as error:
                waiter.on_connect_failed(error)
                return
            waiter.on_connected(connection)
            return

    def release(self, connection: TargetConnection, reusable: bool) -> None:
        """A connection is idle, or was closed by the target while it was."""
        if reusable:
            if connection.learned_timeout is not None:
                self.learned = min(self.learned, connection.learned_timeout * 0.75)
                connection.learned_timeout = None
            if self.keeps:
                connection.idle_since = self._timers.now
                self._idle.append(connection)
            else:
                connection.close()
        elif connection in self._idle:
            # It closed first: next time we do. A kill closes connections of every age, so that only a
            # plausible keep-alive timeout is learned.
            self._idle.remove(connection)
            age = self._timers.now - connection.idle_since
            if age > 0.5:
                self.learned = min(self.learned, max(age * 0.75, 0.4))

    def expire(self, now: float) -> None:
        """Close what has been idle for too long; called once a tick."""
        timeout = self.target.group.settings.keepalive_timeout
        self.keeps = timeout > 0 and self.learned > 0
        limit = now - min(timeout, self.learned)
        while self._idle and self._idle[0].idle_since < limit:
            self._idle.popleft().close()

    def forget(self) -> None:
        """The target is another process now: what was learned of the old one does not hold."""
        self.learned = float("inf")

    def close(self) -> None:
        self.keeps = False
        while self._idle:
            self._idle.pop().close()

    def __len__(self) -> int:
        return len(self._idle)


def is_refusal(error: OSError) -> bool:
    return error.errno in _REFUSED


def _readable(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))
