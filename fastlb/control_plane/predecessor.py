"""The living supervisor that hands over to this one, as the new one sees it.

Both say in turns, in frames of `target_table.handover`, at `takeover.sock` of the run-time folder:

    old: its handover number, version and pid      nothing is touched yet
    new: take                                      the old one no longer scales
    old: lock, table, counters, listening sockets  the new one starts its workers
    new: ready, or why it fails
    old: yours                                     its workers are orphans now, which the new one drains

Until the last word the old one is in charge, and a new one that ends before it leaves no trace. Knows
neither what is done with what it gets nor how the old one came by it: that is `successor`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack

import fastlb
from fastlb.child_process import wait_for_pidfd
from fastlb.control_plane.run_dir import TAKEOVER, RunDir, run_dir_path
from fastlb.errors import FastlbError
from fastlb.model.listener import Listener
from fastlb.target_table import handover
from fastlb.target_table.handover import HANDOVER, Handover, HandoverError, listener_key

log = logging.getLogger("fastlb.takeover")

GREETED_WITHIN = 5.0
TAKEN_WITHIN = 20.0
"""The old one ends what it leads of instances before it answers."""
CHARGED_WITHIN = 10.0
MOST_FRAME_READ = 1 << 16


@dataclass(slots=True)
class Estate:
    """What the old one gives: duplicates, for the receiver to close."""

    given: Handover
    counters: int
    words: dict[str, Any] = field(default_factory=dict)

    def concrete(self, listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
        """Listeners that were asked for with port 0, with the ports that these have."""
        known = [(str(asked), str(real)) for asked, real in self.words.get("asked", ())]
        found = []
        for listener in listeners:
            if listener.address.port == 0:
                match = next((one for one in known if one[0] == listener_key(listener)), None)
                if match is not None:
                    known.remove(match)
                    port = int(match[1].rpartition(":")[2])
                    listener = replace(listener, address=replace(listener.address, port=port))
            found.append(listener)
        return tuple(found)


class Predecessor:
    """The connection to it. `ask`, `take`, `take_charge` and `close`, in this order."""

    def __init__(self, name: str, connection: socket.socket, greeting: dict[str, Any]) -> None:
        self._name = name
        self._connection = connection
        self.pid = handover.peer_pid(connection)
        self._pidfd = os.pidfd_open(self.pid)
        self.version = str(greeting.get("version", "unknown"))

    @classmethod
    def ask(cls, name: str) -> Predecessor | None:
        """None where no supervisor of this name hands over. Raises FastlbError where one lives and
        cannot, before anything was touched."""
        path = run_dir_path(name) / TAKEOVER
        deadline = time.monotonic() + GREETED_WITHIN
        try:
            connection = handover.connect(str(path), deadline)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise FastlbError(f"cannot take over at {path}: {error.strerror or error}") from error
        try:
            payload, _ = handover.receive_frame(connection, deadline)
            greeting = handover.as_dict(payload)
            handover.refuse_error(greeting)
            refuse_other_number(greeting)
            return cls(name, connection, greeting)
        except (OSError, HandoverError, msgpack.UnpackException) as error:
            connection.close()
            raise FastlbError(_no(name, error)) from error
        except BaseException:
            connection.close()
            raise

    def take(self) -> tuple[RunDir, Estate]:
        """From now on the old one leaves the instances to us. Raises FastlbError."""
        deadline = time.monotonic() + TAKEN_WITHIN
        fds: list[int] = []
        try:
            self._connection.settimeout(TAKEN_WITHIN)
            self._connection.sendall(handover.frame({"take": True, "version": fastlb.__version__}))
            payload, fds = handover.receive_frame(self._connection, deadline)
            words = handover.as_dict(payload)
            handover.refuse_error(words)
            counts: dict[str, int] = words["listeners"]
            if len(fds) != 3 + sum(counts.values()):
                raise HandoverError(f"{len(fds)} descriptors came for {counts}")
        except (OSError, HandoverError, KeyError, TypeError, msgpack.UnpackException) as error:
            for fd in fds:
                os.close(fd)
            raise FastlbError(_no(self._name, error)) from error
        lock, table, counters, *rest = fds
        left = iter(rest)
        sockets = {
            key: [socket.socket(fileno=next(left)) for _ in range(count)]
            for key, count in counts.items()
        }
        run_dir = RunDir(run_dir_path(self._name), lock)
        return run_dir, Estate(Handover(self.pid, -1, sockets, table), counters, words)

    async def take_charge(self) -> dict[str, Any]:
        """Ours are ready: the instance is ours when this returns, with the old one's last words; none
        where it died meanwhile. Raises FastlbError where it lives and keeps the instance."""
        loop = asyncio.get_running_loop()
        self._connection.setblocking(False)
        try:
            async with asyncio.timeout(CHARGED_WITHIN):
                await loop.sock_sendall(self._connection, handover.frame({"ready": True}))
                words = await hear(self._connection)
            handover.refuse_error(words)
            return words
        except TimeoutError as error:
            raise FastlbError(_no(self._name, error)) from error
        except ValueError as error:
            # An answer came, and it can only be yes: what it says beside that is not worth the instance.
            log.error("the last words of pid %d are not understood: %s", self.pid, error)
            return {}
        except (OSError, HandoverError) as error:
            # It was killed in this moment: then nobody else is in charge. Or it broke off.
            if await wait_for_pidfd(self._pidfd, time.monotonic() + 1.0):
                return {}
            raise FastlbError(_no(self._name, error)) from error

    def fail(self, why: str) -> None:
        """Tell the old one why it stays in charge, as far as it listens."""
        try:
            self._connection.settimeout(0.5)
            self._connection.sendall(handover.frame({"failed": why}))
        except OSError:
            pass  # it is gone, or has given up: then it knows

    def close(self) -> None:
        self._connection.close()
        os.close(self._pidfd)


async def hear(connection: socket.socket) -> dict[str, Any]:
    """One frame without descriptors. Raises OSError and HandoverError."""
    loop = asyncio.get_running_loop()
    data = b""
    while (payload := handover.payload_of(data)) is None:
        more = await loop.sock_recv(connection, MOST_FRAME_READ)
        if not more:
            raise HandoverError("the connection ended")
        data += more
    return handover.as_dict(payload)


def refuse_other_number(greeting: dict[str, Any]) -> None:
    """Raises FastlbError for a release that this one cannot follow without loss."""
    number = greeting.get("handover")
    if number == HANDOVER:
        return
    raise FastlbError(
        f"the running fastlb {greeting.get('version', 'of an unknown version')} passes an instance on "
        f"by handover {number}, and fastlb {fastlb.__version__} takes it by handover {HANDOVER}: "
        "nothing was changed. Stop the running one and start this one, or upgrade by a release "
        "between the two"
    )


def _no(name: str, error: Exception) -> str:
    why = str(error) or type(error).__name__
    return f'the running supervisor of instance "{name}" does not hand over: {why}'
