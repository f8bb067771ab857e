"""Taking over from a supervisor that died, or hands over: its workers serve until ours are ready.

The orphans hold all listening sockets. One of them hands over duplicates, so that old and new
workers accept from the same queues; only when all of ours are ready are the orphans told to drain.
Whoever calls `take_over` holds the instance's lock: no other supervisor can be alive. One that lives
gives the sockets itself (`take_over_from_living`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fastlb.control_plane.listen_sockets import is_taken, listens_at
from fastlb.control_plane.orphans import ANSWER_WITHIN, Orphan, find_orphans
from fastlb.control_plane.predecessor import Estate
from fastlb.control_plane.run_dir import RunDir
from fastlb.control_plane.wording import count_of
from fastlb.model.listener import Listener
from fastlb.target_table import handover
from fastlb.target_table.handover import Handover, HandoverError, listener_key

log = logging.getLogger("fastlb.takeover")

ASK_AGAIN = 0.02
"""A worker refuses until it has noticed its supervisor's death, which takes milliseconds."""
BORN_WITHIN = 5.0
"""For an interpreter to start, on a host that has just been short of everything."""


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
            "taking over from a supervisor that died: %s, sockets of %s",
            count_of(len(found.orphans), "orphaned worker"),
            ", ".join(found.sockets) or "no configured listener",
        )
        break
    return found


async def newborns_end(listeners: Iterable[Listener]) -> None:
    """Wait until the addresses of `listeners`, which nobody handed over, are free.

    A worker that was being born as its supervisor died has that one's sockets, and hears of the death
    only once it runs: then it ends. Until then it can neither be asked for them nor told.
    """
    deadline = time.monotonic() + BORN_WITHIN
    said = False
    for listener in listeners:
        while await asyncio.to_thread(is_taken, listener.address):
            if time.monotonic() > deadline:
                return
            if not said:
                said = True
                log.warning(
                    "%s is in use, and a supervisor of this name died: waiting %g s at most for its "
                    "workers to hear of that and end",
                    listener_key(listener),
                    BORN_WITHIN,
                )
            await asyncio.sleep(ASK_AGAIN)


def take_over_from_living(
    run_dir: RunDir, estate: Estate, listeners: Sequence[Listener]
) -> Inheritance:
    """What the old supervisor gave, and its workers, which go on until ours are ready."""
    found = Inheritance(find_orphans(run_dir))
    try:
        found.health = _health(estate.given)
    except ValueError as error:
        log.warning("health states begin anew: %s", error)
    found.sockets = _usable(estate.given, listeners)
    log.warning(
        "taking over from pid %d: %s, sockets of %s",
        estate.given.pid,
        count_of(len(found.orphans), "worker"),
        ", ".join(found.sockets) or "no configured listener",
    )
    return found


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
        if not given.known:
            raise ValueError("the workers are of a release whose table means something else")
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
