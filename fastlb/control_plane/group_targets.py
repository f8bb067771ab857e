"""How targets come and leave while requests run, those of Instances and all others.

Implements `auto_scaling.targets` over the parts that the supervisor has. The question that matters
here is when a target is really out of use: each worker acts on its own copy of the table, and says
in its counters which generation that is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fastlb.auto_scaling.targets import TargetCounts, TargetSight
from fastlb.control_plane.health_monitor import HealthMonitor
from fastlb.control_plane.publication import Publication
from fastlb.control_plane.registered_target import RegisteredTarget
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.totals import Totals
from fastlb.model.address import Address
from fastlb.model.target_group import Target
from fastlb.target_table.counters import ROW, Counters, Worker, percentile


@dataclass(slots=True)
class Parts:
    """What is asked. `rows` are those of the counters that workers may write; they grow with these."""

    registry: TargetRegistry
    monitor: HealthMonitor
    publication: Publication
    counters: Counters
    totals: Totals
    rows: int
    strangers: Callable[[], bool]
    """Whether workers of another supervisor still serve, with another table."""


class GroupTargets:
    """The Registrar of all auto scaling groups."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._retired: list[tuple[int, int]] = []
        """(index, the generation that does not name it): to be given away again."""
        self._idle_since: dict[int, int] = {}
        """Of these by index: when nothing was in flight first (CLOCK_MONOTONIC, ns)."""

    def register(self, group: str, address: Address, changed: Callable[[], None]) -> InstanceTarget:
        parts = self._parts
        target = parts.registry.register(group, Target(address))
        target.changed = changed
        parts.monitor.see_new()
        return InstanceTarget(self, parts, target)

    def idle(self, targets: Iterable[RegisteredTarget], since: int) -> bool:
        """Whether nothing is in flight at these targets, which get nothing new as of the generation
        `since`; in this order, as of `settled`."""
        rows = self._parts.rows
        return self.seen_by_all(since) and not any(
            self._parts.counters.target(one.index, rows).in_flight for one in targets
        )

    def handle(self, target: RegisteredTarget) -> InstanceTarget:
        """Of a target that others have registered, to take it out as an Instance's is."""
        return InstanceTarget(self, self._parts, target)

    def percentile(self, histogram: Sequence[int], share: float) -> float | None:
        return percentile(list(histogram), share)

    def retire(self, index: int) -> int:
        """A target was deregistered; the generation of the table that does not name it."""
        generation = self._parts.publication.next_generation
        self._retired.append((index, generation))
        return generation

    def release_retired(self) -> None:
        """Some times a second: give back the columns of the counters that nobody writes any more."""
        parts = self._parts
        left = []
        for index, generation in self._retired:
            since = self._idle_since.setdefault(index, time.monotonic_ns())
            # In this order: what a worker had begun before it stored its counts is among them.
            stored = self.seen_by_all(generation) and self._stored_by_all(since)
            if parts.counters.target(index, parts.rows).in_flight:
                del self._idle_since[index]
                left.append((index, generation))
            elif stored:
                del self._idle_since[index]
                parts.registry.release(index, parts.counters, parts.rows)
            else:
                left.append((index, generation))
        self._retired = left

    def seen_by_all(self, generation: int) -> bool:
        """Whether each living worker acts on this generation of the table or a newer one."""
        return not self._parts.strangers() and not self.blind(generation)

    def blind(self, generation: int) -> list[int]:
        """The rows of living workers that act on an older generation."""
        cells = self._parts.counters.cells
        return [
            row
            for row in self._living_rows(cells)
            if cells[row * ROW + Worker.GENERATION] < generation
        ]

    def _stored_by_all(self, since: int) -> bool:
        """Whether each living worker has stored since then what it had counted, as it does at each tick: a
        column that is given away sooner would be written once more."""
        cells = self._parts.counters.cells
        return all(cells[row * ROW + Worker.BEAT_NS] > since for row in self._living_rows(cells))

    def _living_rows(self, cells: memoryview) -> Iterable[int]:
        """A row is zeroed after its worker's death."""
        return (row for row in range(self._parts.rows) if cells[row * ROW + Worker.PID])


class InstanceTarget:
    """One registration."""

    def __init__(self, all: GroupTargets, parts: Parts, target: RegisteredTarget) -> None:
        self._all = all
        self._parts = parts
        self._target = target
        self._drained_at = 0
        self._gone_at = 0

    def set_share(self, share: float) -> None:
        self._parts.registry.set_share(self._target.index, share)

    def drain(self) -> None:
        self._parts.registry.drain(self._target.index)
        self._drained_at = self._parts.publication.next_generation

    @property
    def is_registered(self) -> bool:
        return self._parts.registry.by_index(self._target.index) is self._target

    @property
    def has_strangers(self) -> bool:
        return self._parts.strangers()

    @property
    def settled(self) -> bool:
        # In this order: a worker that has seen the drain begins nothing new, and what it had begun
        # before is counted by then.
        return self._all.seen_by_all(self._drained_at) and not self._in_flight()

    def deregister(self) -> None:
        self._target.changed = _nobody
        self._parts.registry.deregister(self._target.index)
        self._gone_at = self._all.retire(self._target.index)

    @property
    def forgotten(self) -> bool:
        return self._all.seen_by_all(self._gone_at)

    def sight(self) -> TargetSight:
        health = self._target.health
        failing = health.state == "unhealthy" and health.fails >= health.check.unhealthy_threshold
        # No clock here: how long ago the last check was is nothing to decide by.
        reason = health.describe(health.checked_at or 0.0)
        return TargetSight(self._target.state, failing, reason.partition(", last ")[0])

    def counts(self) -> TargetCounts:
        parts, target = self._parts, self._target
        current = parts.counters.target(target.index, parts.rows)
        figures = parts.totals.target(target.entry)
        return TargetCounts(
            in_flight=current.in_flight,
            requests=figures.requests,
            failed=figures.status_5xx + figures.errors,
            histogram=tuple(figures.histogram),
            queued=figures.queued,
            queue_wait=figures.queue_wait_us / 1e6,
        )

    def _in_flight(self) -> int:
        return self._parts.counters.target(self._target.index, self._parts.rows).in_flight


def _nobody() -> None:
    pass
