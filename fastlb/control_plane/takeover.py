"""Taking over from a supervisor that died: its workers go on serving until ours are ready.

The orphans hold all listening sockets. One of them hands over duplicates, so that old and new
workers accept from the same queues; only when all of ours are ready are the orphans told to drain.
Whoever calls `take_over` holds the instance's lock: no other supervisor can be alive.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastlb.child_process import wait_for_pidfd
from fastlb.control_plane.listen_sockets import listens_at
from fastlb.control_plane.run_dir import RunDir
from fastlb.model.listener import Listener
from fastlb.target_table import handover
from fastlb.target_table.handover import Handover, HandoverError, listener_key

log = logging.getLogger("fastlb.takeover")

ANSWER_WITHIN = 1.0
ASK_AGAIN = 0.02
"""A worker refuses until it has noticed its supervisor's death, which takes milliseconds."""
GRACE = 1.0
"""Over the drain time-out, before an orphan that is still there gets SIGTERM."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A living worker of the dead supervisor. No child of ours: the pidfd is how it is named."""

    path: Path
    pid: int
    pidfd: int


@dataclass(slots=True)
class Inheritance:
    """What the dead supervisor left: workers, their sockets by listener key, targets' health."""

    orphans: list[Orphan] = field(default_factory=list)
    sockets: dict[str, list[socket.socket]] = field(default_factory=dict)
    health: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        return max((len(sockets) for sockets in self.sockets.values()), default=0)

    def close(self) -> None:
        """Forget the orphans; the sockets belong to whoever took them."""
        for orphan in self.orphans:
            os.close(orphan.pidfd)
        self.orphans.clear()


def take_over(run_dir: RunDir, listeners: Sequence[Listener]) -> Inheritance:
    """Find the orphans and get the configured listeners' sockets from the first that answers."""
    found = Inheritance(find_orphans(run_dir))
    for orphan in found.orphans:
        try:
            given = _ask(orphan)
        except (OSError, HandoverError) as error:
            log.error("orphaned worker pid %d does not hand over: %s", orphan.pid, error)
            continue
        try:
            found.health = _health(given)
        except ValueError as error:
            log.warning("health states begin anew: %s", error)
        found.sockets = _usable(given, listeners)
        log.warning(
            "taking over from a supervisor that died: %d orphaned workers, sockets of %s",
            len(found.orphans),
            ", ".join(found.sockets) or "no configured listener",
        )
        break
    return found


def find_orphans(run_dir: RunDir) -> list[Orphan]:
    """The workers that still answer at their sockets; the sockets of dead ones are removed."""
    orphans = []
    for path in run_dir.worker_sockets():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(ANSWER_WITHIN)
            try:
                probe.connect(str(path))
                pid = handover.peer_pid(probe)
                orphans.append(Orphan(path, pid, os.pidfd_open(pid)))
            except (ConnectionRefusedError, ProcessLookupError):
                path.unlink(missing_ok=True)
            except OSError as error:
                log.error("%s does not answer: %s", path, error)
    return orphans


def _ask(orphan: Orphan) -> Handover:
    deadline = time.monotonic() + ANSWER_WITHIN
    while True:
        try:
            return handover.ask_handover(str(orphan.path), deadline)
        except HandoverError:
            if time.monotonic() + ASK_AGAIN >= deadline:
                raise
            time.sleep(ASK_AGAIN)


def _health(given: Handover) -> dict[tuple[str, str], tuple[str, int]]:
    try:
        snapshot = handover.last_snapshot(given.table)
    finally:
        os.close(given.table)
    if snapshot is None:
        return {}
    return {(one.group, one.address): (one.state, one.epoch) for one in snapshot.targets}


def _usable(given: Handover, listeners: Sequence[Listener]) -> dict[str, list[socket.socket]]:
    """The sockets of configured listeners that are what they should be; the others are closed."""
    wanted = {listener_key(listener): listener for listener in listeners}
    usable: dict[str, list[socket.socket]] = {}
    for key, sockets in given.listeners.items():
        listener = wanted.get(key)
        for one in sockets:
            if listener is not None and listens_at(one, listener.address):
                one.setblocking(False)
                usable.setdefault(key, []).append(one)
                continue
            if listener is not None:
                log.error("an orphan's socket is no listening socket of %s: not used", key)
            one.close()
    return usable


async def end_orphans(orphans: Sequence[Orphan], seconds: float) -> None:
    """Have all orphans drain and wait for their end; SIGTERM to those that outstay it."""
    deadline = time.monotonic() + seconds + GRACE
    await asyncio.gather(*(_end(orphan, seconds, deadline) for orphan in orphans))


async def _end(orphan: Orphan, seconds: float, deadline: float) -> None:
    await _ask_drain(orphan, seconds)
    if await wait_for_pidfd(orphan.pidfd, deadline):
        log.info("orphaned worker pid %d has ended", orphan.pid)
        orphan.path.unlink(missing_ok=True)
    else:
        log.error("orphaned worker pid %d outstays its drain: SIGTERM", orphan.pid)
        terminate_orphans([orphan])


def terminate_orphans(orphans: Sequence[Orphan]) -> None:
    """SIGTERM to those that are still there, without waiting."""
    for orphan in orphans:
        try:
            signal.pidfd_send_signal(orphan.pidfd, signal.SIGTERM)
        except ProcessLookupError:
            pass  # it has ended


async def _ask_drain(orphan: Orphan, seconds: float) -> None:
    answer_by = time.monotonic() + ANSWER_WITHIN
    try:
        await asyncio.to_thread(handover.ask_drain, str(orphan.path), seconds, answer_by)
        log.info("orphaned worker pid %d drains", orphan.pid)
    except (OSError, HandoverError) as error:
        log.error("orphaned worker pid %d does not drain: %s", orphan.pid, error)
