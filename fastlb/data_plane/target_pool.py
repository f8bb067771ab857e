"""The keep-alive connections of a Target: takes, opens, keeps and closes them in time."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from typing import Protocol

from fastlb.data_plane.http_client import TargetConnection
from fastlb.data_plane.reactor import WRITABLE, Reactor
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

    __slots__ = ("_loop", "_reactor", "_reader", "idle", "keeps", "learned", "target", "timers")

    def __init__(
        self,
        target: TargetRuntime,
        loop: asyncio.AbstractEventLoop,
        reactor: Reactor,
        timers: TimerWheel,
        reader: ResponseReader,
    ) -> None:
        self.target = target
        self.timers = timers
        self._loop = loop
        self._reactor = reactor
        self._reader = reader
        self.idle: deque[TargetConnection] = deque()
        self.learned = float("inf")
        """What is known of the target's own keep-alive timeout; we close before it does."""
        self.keeps = target.group.settings.keepalive_timeout > 0
        """Whether connections are kept at all."""

    def take(self) -> TargetConnection | None:
        """An idle connection, or None."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.closing:
                return connection
        return None

    def open(self, waiter: Waiter) -> Opening:
        """Open a connection for `waiter`, who is told from the loop, never from inside this call."""
        connection = TargetConnection(self._loop, self._reactor, self.target, self, self._reader)
        return Opening(self._loop, self._reactor, self.target, connection, waiter)

    def release(self, connection: TargetConnection, reusable: bool) -> None:
        """A connection is idle, or was closed by the target while it was."""
        if reusable:
            if connection.learned_timeout is not None:
                self.learned = min(self.learned, connection.learned_timeout * 0.75)
                connection.learned_timeout = None
            if self.keeps:
                connection.idle_since = self.timers.now
                self.idle.append(connection)
            else:
                connection.close()
        elif connection in self.idle:
            # It closed first: next time we do. A kill closes connections of every age, so that only a
            # plausible keep-alive timeout is learned.
            self.idle.remove(connection)
            age = self.timers.now - connection.idle_since
            if age > 0.5:
                self.learned = min(self.learned, max(age * 0.75, 0.4))

    def expire(self, now: float) -> None:
        """Close what has been idle for too long; called once a tick."""
        timeout = self.target.group.settings.keepalive_timeout
        self.keeps = timeout > 0 and self.learned > 0
        limit = now - min(timeout, self.learned)
        while self.idle and self.idle[0].idle_since < limit:
            self.idle.popleft().close()

    def forget(self) -> None:
        """The target is another process now: what was learned of the old one does not hold."""
        self.learned = float("inf")

    def close(self) -> None:
        self.keeps = False
        while self.idle:
            self.idle.pop().close()

    def __len__(self) -> int:
        return len(self.idle)


class Opening:
    """A connection to a target that is being made, until `waiter` is told or it is cancelled."""

    __slots__ = ("_connection", "_loop", "_reactor", "_retry", "_sock", "_target", "_waiter")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reactor: Reactor,
        target: TargetRuntime,
        connection: TargetConnection,
        waiter: Waiter,
    ) -> None:
        self._loop = loop
        self._reactor = reactor
        self._target = target
        self._connection = connection
        self._waiter: Waiter | None = waiter
        self._sock: socket.socket | None = None
        self._retry: asyncio.Handle | None = loop.call_soon(self._begin)

    def cancel(self) -> None:
        """Give up; the waiter hears nothing any more."""
        self._waiter = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        sock, self._sock = self._sock, None
        if sock is not None:
            self._reactor.forget(sock.fileno())
            sock.close()

    def _begin(self) -> None:
        self._retry = None
        address = self._target.address
        sock: socket.socket | None = None
        try:
            if address.is_unix:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.setblocking(False)
                sock.connect(address.path)
            else:
                family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
                sock = socket.socket(family, socket.SOCK_STREAM)
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect((address.host, address.port))
        except BlockingIOError as error:
            assert sock is not None
            if error.errno == errno.EINPROGRESS:
                try:
                    self._reactor.watch(sock.fileno(), self, WRITABLE)
                except OSError as shortage:
                    sock.close()
                    self._fail(shortage)
                    return
                self._sock = sock
            else:  # EAGAIN: the accept queue of a unix socket is full
                sock.close()
                self._retry = self._loop.call_later(_FULL_QUEUE_PAUSE, self._begin)
            return
        except OSError as error:
            if sock is not None:
                sock.close()
            self._fail(error)
            return
        self._done(sock)

    def on_event(self, _events: int) -> None:
        """The attempt has an outcome."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._reactor.forget(sock.fileno())
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            sock.close()
            self._fail(OSError(number, os.strerror(number)))
        else:
            self._done(sock)

    def _done(self, sock: socket.socket) -> None:
        waiter, self._waiter = self._waiter, None
        assert waiter is not None
        try:
            self._connection.open(sock)
        except OSError as error:
            sock.close()
            waiter.on_connect_failed(error)
            return
        waiter.on_connected(self._connection)

    def _fail(self, error: OSError) -> None:
        waiter, self._waiter = self._waiter, None
        assert waiter is not None
        waiter.on_connect_failed(error)


def is_refusal(error: OSError) -> bool:
    return error.errno in _REFUSED
