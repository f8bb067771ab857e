"""What a worker is born with, and the few words that pass between it and the supervisor after.

The pipe is one AF_UNIX SOCK_SEQPACKET pair a worker: a message is one packet, never split or joined.
Nothing here is on a request's way: a worker whose supervisor is gone goes on with the last table.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

import msgpack

PACKET_BYTES = 4096


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
    `listener_key(listener)` to that listener's sockets, one a slot. The sockets (pipe included) are
    pickled for the spawned process by `multiprocessing`, which duplicates them. `run_dir` is where
    the worker binds `worker-<pid>.sock`, through which a supervisor that takes over gets the
    listening sockets from orphans.
    """

    index: int
    listen: dict[str, list[socket.socket]]
    table: InheritedFd
    counters: InheritedFd
    pipe: socket.socket
    run_dir: str
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


Message = TableChanged | Drain | Reopen | Stop | Ready | Evidence | Relieve | Wanted

_KINDS: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (TableChanged, Drain, Reopen, Stop, Ready, Evidence, Relieve, Wanted)
}


def send(pipe: socket.socket, message: Message) -> bool:
    """Send without waiting; False where the other side does not read or is gone."""
    values = [getattr(message, name) for name in message.__dataclass_fields__]
    try:
        pipe.send(msgpack.packb((type(message).__name__, values)), socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def receive(pipe: socket.socket) -> Message | None:
    """The next message; None where the other side is gone. Raises BlockingIOError when none waits."""
    try:
        packet = pipe.recv(PACKET_BYTES, socket.MSG_DONTWAIT)
    except ConnectionError:
        return None
    if not packet:
        return None
    kind, values = msgpack.unpackb(packet)
    message: Message = _KINDS[kind](*values)
    return message
