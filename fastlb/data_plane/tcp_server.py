"""One client's connection to a TCP Listener: finds a target that accepts, then leaves it to a Pump.

Nothing is read from the client before a target has accepted, so that every failed connect may be
tried on another target. Knows no listening socket: the worker accepts, and keeps the connections.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fastlb.data_plane.listener_counts import ListenerCounts
from fastlb.data_plane.splice import Pump, reset_at_close
from fastlb.data_plane.target_pool import LOCAL_ERRORS, is_refusal
from fastlb.data_plane.target_runtime import GroupRuntime, TargetRuntime
from fastlb.data_plane.timers import NEVER, TimerWheel
from fastlb.errors import RequestError
from fastlb.model.address import Address

_FULL_QUEUE_PAUSE = 0.005
"""A unix socket whose accept queue is full answers EAGAIN at once, where TCP would wait."""


class Owner(Protocol):
    """What a connection needs of its worker."""

    loop: asyncio.AbstractEventLoop
    timers: TimerWheel

    def connection_opened(self, connection: TcpConnection) -> None: ...

    def connection_closed(self, connection: TcpConnection) -> None: ...


@dataclass(frozen=True, slots=True)
class TcpEnd:
    """What became of a connection, for the access log; `connect` is -1 where no target took it. Times are
    in seconds; `why` is a Pump's reason, or a RequestError's cause."""

    targets: tuple[str, ...]
    bytes_in: int
    bytes_out: int
    held: float
    connect: float
    total: float
    why: str
    detail: str


class TcpConnection:
    """Lives from the accepted socket to the end of both sides; `start()` may end it at once.

    `client_ip` is empty for a client that came over a unix socket.
    A target's latency is the time it took to accept: how long a stream lives says nothing of it.
    """

    __slots__ = (
        "_began",
        "_came",
        "_client",
        "_client_ip",
        "_connected_in",
        "_failure",
        "_group",
        "_held",
        "_idle_timeout",
        "_on_end",
        "_owner",
        "_pause",
        "_pump",
        "_target",
        "_to_target",
        "_watching",
        "armed_at",
        "counts",
        "deadline",
        "listener",
        "tried",
        "waited",
    )

    def __init__(
        self,
        owner: Owner,
        counts: ListenerCounts,
        group: GroupRuntime,
        idle_timeout: float,
        client: socket.socket,
        client_ip: str,
        on_end: Callable[[TcpEnd], None] | None = None,
    ) -> None:
        self.armed_at = NEVER
        self.deadline = 0.0
        self.listener: object = None
        """Through which it came, set by that."""
        self.counts = counts
        self._owner = owner
        self._group = group
        self._idle_timeout = idle_timeout
        self._client = client
        self._client_ip = client_ip
        self._on_end = on_end
        self._came = owner.loop.time()
        self._failure = ""
        self.tried: list[TargetRuntime] = []
        self.waited = 0.0
        self._held = False
        """Whether it waits in its group's HoldQueue."""
        self._target: TargetRuntime | None = None
        self._to_target: socket.socket | None = None
        self._watching = False
        """The loop tells of the two sockets while a connect takes its time."""
        self._pause: asyncio.TimerHandle | None = None
        self._pump: Pump | None = None
        self._began = 0.0
        self._connected_in: float | None = None

    def start(self) -> None:
        self._owner.connection_opened(self)
        if self._client_ip:
            self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._try_targets()

    def begin_drain(self) -> None:
        """Nobody can be told to come again inside a stream: it lives until the drain deadline."""

    def abort(self, reason: str) -> None:
        if self._pump is not None:
            self._pump.abort(reason)
        else:
            self._leave_target()
            self._close(reason)

    def on_deadline(self, now: float) -> None:
        pump = self._pump
        if self._held:
            self._give_up("no target in time")
            return
        if pump is None:
            self._refused_by_target(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
            return
        quiet_until = pump.last_activity + self._idle_timeout
        if quiet_until > now:
            self._owner.timers.arm(self, quiet_until)
        else:
            pump.abort("idle")

    # -- choosing

    def _try_targets(self, *, may_hold: bool = True) -> None:
        """Begin a connect to the next target; a client for whom none is left is held or reset."""
        # Nothing was sent, which has cost nobody anything: each eligible target may be tried.
        if self._group.settings.retries > 0 or not self.tried:
            target = self._group.pick(self._client_ip, self.tried)
            if target is not None:
                self.tried.append(target)
                self._connect(target)
                return
            if may_hold and self._hold():
                return
        self._give_up(self._failure or f"no target of group {self._group.settings.name} is there")

    def _give_up(self, detail: str, why: str = "destination_unavailable") -> None:
        self.counts.errors += 1
        self._close(why, detail)

    # -- while no target can take it (hold.Held)

    def _hold(self) -> bool:
        hold = self._group.settings.hold
        if hold is None:
            return False
        try:
            seconds = self._group.held.add(self, hold)
        except RequestError as error:
            self._failure = error.detail
            return False  # TCP has no word for why
        self._held = True
        self._owner.timers.arm(self, self._owner.loop.time() + seconds)
        self._owner.loop.add_reader(self._client.fileno(), self._look_at_client)
        return True

    def _end_hold(self) -> None:
        if self._held:
            self._held = False
            self._owner.loop.remove_reader(self._client.fileno())
            self._group.held.leave(self)

    def has_left(self) -> bool:
        poll = select.poll()
        poll.register(self._client.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def on_released(self, seconds: float) -> None:
        self._end_hold()
        target = self._group.pick(self._client_ip, self.tried)
        target = target or self._group.pick(self._client_ip, ())
        assert target is not None
        target.begin_held(seconds)
        self.tried.append(target)
        self._connect(target)

    def on_hold_over(self, error: RequestError) -> None:
        self._give_up(error.detail, error.cause)

    # -- connecting

    def _connect(self, target: TargetRuntime) -> None:
        self._target = target
        target.begin()
        loop = self._owner.loop
        self._began = loop.time()
        try:
            self._to_target = socket.socket(
                _family(target.address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK
            )
        except OSError as error:
            self._refused_by_target(error)
            return
        self._owner.timers.arm(self, self._began + self._group.settings.connect_timeout)
        self._ask()

    def _ask(self) -> None:
        """Ask the kernel how far the connect is; again when the loop tells of the socket."""
        target, to_target = self._target, self._to_target
        assert target is not None
        assert to_target is not None
        where = _kernel_address(target.address)
        code = to_target.connect_ex(where)
        if code == errno.EINPROGRESS:
            # On one host the answer is often there by now: a call instead of a round of the loop.
            code = to_target.connect_ex(where)
        if code == 0:
            if _is_itself(to_target, target.address):
                code = errno.ECONNREFUSED
            else:
                self._connected(target, to_target)
                return
        if code in (errno.EALREADY, errno.EINPROGRESS):
            self._watch(to_target)
        elif code == errno.EAGAIN:
            self._pause = self._owner.loop.call_later(_FULL_QUEUE_PAUSE, self._ask)
        else:
            self._refused_by_target(OSError(code, os.strerror(code)))

    def _watch(self, to_target: socket.socket) -> None:
        if not self._watching:
            self._watching = True
            self._owner.loop.add_writer(to_target.fileno(), self._ask)
            self._owner.loop.add_reader(self._client.fileno(), self._look_at_client)

    def _look_at_client(self) -> None:
        """A client that reset is gone. One that has ended its side may wait for an answer."""
        try:
            self._client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            self.abort("reset by a")
            return
        # Its bytes stay in the kernel, and so would wake the loop for ever.
        self._owner.loop.remove_reader(self._client.fileno())

    def _refused_by_target(self, error: OSError) -> None:
        target = self._target
        assert target is not None
        self._leave_target()
        local = error.errno in LOCAL_ERRORS
        self._failure = f"{(error.strerror or str(error)).lower()} on {target.address}"
        if not local:
            kind = "timeout" if error.errno == errno.ETIMEDOUT else "reset"
            if is_refusal(error):
                kind = "refused"
            target.failed(kind, self._failure)
        self._try_targets(may_hold=not local)  # no instance to come would mend it

    def _leave_target(self) -> None:
        """End the connect in progress, if there is one."""
        self._end_watch()
        target, self._target = self._target, None
        to_target, self._to_target = self._to_target, None
        if to_target is not None:
            to_target.close()
        if target is not None:
            target.end(None)

    def _end_watch(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._watching:
            self._watching = False
            assert self._to_target is not None
            self._owner.loop.remove_writer(self._to_target.fileno())
            self._owner.loop.remove_reader(self._client.fileno())

    # -- connected

    def _connected(self, target: TargetRuntime, to_target: socket.socket) -> None:
        self._end_watch()
        owner = self._owner
        self._connected_in = owner.loop.time() - self._began
        target.answering += 1  # a stream may be silent for as long as it likes
        target.connection_opened()
        if not target.address.is_unix:
            to_target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pump = Pump(owner.loop, self._client, to_target, self._on_pump_done, target)
        owner.timers.arm(self, self._pump.last_activity + self._idle_timeout)
        self._pump.start()

    def _on_pump_done(self, pump: Pump, reason: str) -> None:
        target = self._target
        assert target is not None
        self._pump = self._target = self._to_target = None
        target.answering -= 1
        target.connection_closed()
        target.end(self._connected_in)
        owner = self._owner
        self.counts.bytes_in += pump.bytes_a_to_b
        self.counts.bytes_out += pump.bytes_b_to_a
        owner.timers.disarm(self)
        owner.connection_closed(self)
        self._tell_end(reason, "", pump.bytes_a_to_b, pump.bytes_b_to_a)

    def _tell_end(self, why: str, detail: str, received: int = 0, sent: int = 0) -> None:
        if self._on_end is None:
            return
        end = TcpEnd(
            targets=tuple(target.key for target in self.tried),
            bytes_in=received,
            bytes_out=sent,
            held=self.waited,
            connect=-1.0 if self._connected_in is None else self._connected_in,
            total=self._owner.loop.time() - self._came,
            why=why,
            detail=detail,
        )
        self._on_end(end)

    def _close(self, why: str, detail: str = "") -> None:
        """End the client by a reset, which it cannot take for an empty answer."""
        if self._client.fileno() != -1:
            self._end_hold()
            reset_at_close(self._client)
            self._client.close()
            self._owner.timers.disarm(self)
            self._owner.connection_closed(self)
            self._tell_end(why, detail)


def _family(address: Address) -> socket.AddressFamily:
    if address.is_unix:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def _kernel_address(address: Address) -> str | tuple[str, int]:
    return address.path if address.is_unix else (address.host, address.port)


def _is_itself(to_target: socket.socket, address: Address) -> bool:
    """Nobody listens there, but the kernel chose that very port for our side and joined the ends."""
    if address.is_unix or to_target.getsockname()[1] != address.port:
        return False
    try:
        return bool(to_target.getsockname() == to_target.getpeername())
    except OSError:
        return False  # reset already, so by somebody else
