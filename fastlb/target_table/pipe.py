"""What a worker is born with, and the few words that pass between it and the supervisor after.

The pipe is one AF_UNIX SOCK_SEQPACKET pair a worker: a message is one packet, never split or joined.
Nothing here is on a request's way: a worker whose supervisor is gone goes on with the last table.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import reduction
from typing import Any

import msgpack

PACKET_BYTES = 4096
FDS_A_PACKET = 253
"""The kernel's SCM_MAX_FD: more slots than there can be workers."""


class InheritedFd:
    """A file descriptor that survives the pickling for a spawned process, as sockets do by themselves."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        return _rebuild_fd, (reduction.DupFd(self.fd),)


def _rebuild_fd(duplicate: Any) -> InheritedFd:
    return InheritedFd(duplicate.detach())


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """What the supervisor hands to a worker at its start.

    `index` is the worker's name in `Snapshot.slots` and its row in the counters. `listen` maps
    `listener_key(listener)` to that listener's sockets, one a slot, and `bindings` to the number of
    this set of sockets (`Snapshot.bindings`). The sockets (pipe included) are pickled for the spawned
    process by `multiprocessing`, which duplicates them. `run_dir` is where the worker binds
    `worker-<pid>.sock`, through which a supervisor that takes over gets the listening sockets from
    orphans. A worker keeps both maps true to what it has: it hands over what it got later as well.
    """

    index: int
    listen: dict[str, list[socket.socket]]
    table: InheritedFd
    counters: InheritedFd
    pipe: socket.socket
    run_dir: str
    bindings: dict[str, int] = field(default_factory=dict)
    log: str = ""
    """The file in which the newest log lines are kept; empty for none."""
    log_format: str = "human"


@dataclass(frozen=True, slots=True)
class TableChanged:
    """To a worker: read the table now, do not wait for a request."""


@dataclass(frozen=True, slots=True)
class Drain:
    """To a worker: empty the accept queues, answer with `Connection: close`, end within `seconds`.

    The instance ends: nobody accepts after it.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Retire:
    """To a worker: fewer are wanted. As Drain, but the others accept and the table goes on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Listen:
    """To a worker: listening sockets of slots from `first` on, before a table names them.

    `count` says how many were sent: the kernel drops those for which a process has no descriptor.
    `fds` belong to whoever received them.
    """

    key: str
    binding: int
    first: int
    count: int
    fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reopen:
    """To a worker: open the access log by its name anew. `number` grows with each one, and stands in
    the counters when that is done."""

    number: int


@dataclass(frozen=True, slots=True)
class Stop:
    """To a worker: end at once."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: it has read the table and accepts."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """From a worker: a target failed a request. `kind` is `refused`, `reset` or `timeout`.

    `epoch` is the TargetEntry's that the worker acted on: evidence older than a passed check is stale.
    """

    target: int
    epoch: int
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Relieve:
    """From a worker: it holds more connections than its share; let another accept from `slot`."""

    slot: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """From a worker: it holds requests for this target group, none of whose targets can take them."""

    group: str


@dataclass(frozen=True, slots=True)
class Missing:
    """From a worker: the table names sockets of this listener that it has not."""

    key: str


Message = (
    TableChanged
    | Drain
    | Retire
    | Listen
    | Reopen
    | Stop
    | Ready
    | Evidence
    | Relieve
    | Wanted
    | Missing
)

_KINDS: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *(TableChanged, Drain, Retire, Listen, Reopen, Stop),
        *(Ready, Evidence, Relieve, Wanted, Missing),
    )
}


def send(pipe: socket.socket, message: Message, fds: Sequence[int] = ()) -> bool:
    """Send without waiting; False where the other side does not read or is gone. `fds` travel with
    it as duplicates."""
    values = [getattr(message, name) for name in message.__dataclass_fields__ if name != "fds"]
    packet = msgpack.packb((type(message).__name__, values))
    try:
        # Not by socket.send_fds and recv_fds, which take flags and do not heed them.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        pipe.sendmsg([packet], rights, socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def receive(pipe: socket.socket) -> Message | None:
    """The next message; None where the other side is gone. Raises BlockingIOError when none waits."""
    fds = array.array("i")
    room = socket.CMSG_SPACE(FDS_A_PACKET * fds.itemsize)
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    try:
        packet, rights, _, _ = pipe.recvmsg(PACKET_BYTES, room, flags)
    except ConnectionError:
        return None
    for level, kind, raw in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    if not packet:
        return None
    name, values = msgpack.unpackb(packet)
    if name == Listen.__name__:
        key, binding, first, count = values
        return Listen(key, binding, first, count, tuple(fds))
    for fd in fds:
        os.close(fd)
    message: Message = _KINDS[name](*values)
    return message
