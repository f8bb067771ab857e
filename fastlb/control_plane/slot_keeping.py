"""Who accepts from which slot, from moment to moment: the worker that it belongs to, or another one while
that one hangs, is dead or has more than its share.

How slots are shared out is `slot_assignment`'s; here is when that is looked at, and what is known of
the workers then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from fastlb.control_plane.listen_sockets import ListenSockets
from fastlb.control_plane.slot_assignment import Relief, ReliefBudget, assign_slots, home_of
from fastlb.control_plane.worker_pool import Worker, WorkerPool
from fastlb.target_table.counters import Counters
from fastlb.target_table.counters import Worker as Head

log = logging.getLogger("fastlb")

TICK = 0.1
"""Time between two looks at whether lent slots go home, and whether a worker hangs."""
HUNG_NS = 2_000_000_000
"""A worker beats ten times a second; without a beat for so long it accepts nobody either."""


class SlotKeeper:
    """`changed` is called when a slot has passed on; `settled` tells that none shall any more."""

    def __init__(
        self,
        sockets: ListenSockets,
        pool: WorkerPool,
        counters: Counters,
        slots: tuple[int, ...],
        changed: Callable[[], None],
        settled: Callable[[], bool],
    ) -> None:
        self._sockets = sockets
        self._pool = pool
        self._counters = counters
        self._changed = changed
        self._settled = settled
        self._relief = ReliefBudget(time.monotonic())
        self._ticking: asyncio.TimerHandle | None = None
        self.slots = slots
        """The workers that accept, by their indices, slot for slot."""
        self.hung: set[int] = set()
        """The workers that do not answer, by their indices."""

    def tick(self) -> None:
        """Look, now and some times a second."""
        self._ticking = asyncio.get_running_loop().call_later(TICK, self.tick)
        hung = {worker.index for worker in self._pool.running if self._hangs(worker)}
        for index in hung ^ self.hung:
            worker = self._pool.by_index(index)
            what = "does not answer: others accept from its slots" if index in hung else "is back"
            if worker is not None:
                log.warning("worker %d (pid %d) %s", index, worker.pid, what)
        homes = self._homes()
        lent = any(holder != home_of(slot, homes) for slot, holder in enumerate(self.slots))
        if lent or hung != self.hung:
            self.hung = hung
            self.assign()

    def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()

    def assign(self, *relief: Relief) -> bool:
        """Look anew at who accepts from which slot; whether that moved one."""
        connections = {
            worker.index: self._counters.row(worker.index)[Head.CONNECTIONS]
            for worker in self._pool.running
            if worker.index not in self.hung
        }
        homes = self._homes()
        slots = assign_slots(self._sockets.slots, homes, connections, self.slots, relief)
        if slots == self.slots or self._settled():
            return False
        log.debug("slots %s pass to workers %s", self.slots, slots)
        self.slots = slots
        self._changed()
        return True

    def relieve(self, worker: Worker, slot: int) -> None:
        """A worker has more than its share, and asks that another one accepts from one of its slots."""
        if self._relief.take(time.monotonic()) and not self.assign(Relief(worker.index, slot)):
            self._relief.give_back()

    def died(self, worker: Worker) -> None:
        """Whoever takes its index is not hung yet. The slots pass on at the next `assign`."""
        self.hung.discard(worker.index)

    def _hangs(self, worker: Worker) -> bool:
        """Whether a worker does not beat (any more): deadlocked, or stopped by a signal."""
        beat = max(self._counters.row(worker.index)[Head.BEAT_NS], int(worker.ready_at * 1e9))
        return time.monotonic_ns() - beat > HUNG_NS

    def _homes(self) -> list[int]:
        """The workers to which the slots belong."""
        return [worker.index for worker in self._pool.active]
