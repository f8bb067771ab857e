"""What the instance did in all, dead workers included.

A worker's row of counters is zeroed after its death; what only ever grows in it is added up here
before. What a worker holds at the moment (connections, in flight) dies with it. Knows no process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from typing import Any, Protocol

from fastlb.target_table.counters import BLOCK, BUCKETS, HISTOGRAM, Cell, Counters, Worker, block
from fastlb.target_table.layout import TargetEntry

GROWING = (
    Worker.ACCEPTED,
    Worker.REJECTED,
    Worker.REQUESTS,
    Worker.STATUS_1XX,
    Worker.STATUS_2XX,
    Worker.STATUS_3XX,
    Worker.STATUS_4XX,
    Worker.STATUS_5XX,
    Worker.ERRORS,
    Worker.RETRIES,
    Worker.BYTES_IN,
    Worker.BYTES_OUT,
    Worker.LOG_DROPPED,
)

Key = tuple[int, str, str]
"""Index, group and address: an index alone may be another target's later."""


@dataclass(slots=True)
class TargetFigures:
    """What one target did for workers."""

    requests: int = 0
    errors: int = 0
    status_5xx: int = 0
    queued: int = 0
    queue_wait_us: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, other: TargetFigures) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.status_5xx += other.status_5xx
        self.queued += other.queued
        self.queue_wait_us += other.queue_wait_us
        self.histogram = [a + b for a, b in zip(self.histogram, other.histogram, strict=True)]


class Before(Protocol):
    """What another supervisor's workers did, in all and for each target."""

    def head(self, cell: Worker) -> int: ...
    def target(self, group: str, address: str) -> TargetFigures | None: ...


class Totals:
    """Sums over the living workers' rows and what the dead ones left; `before` is added, where another
    supervisor passed the instance on. `rows` of the counters are in use; they grow with the workers."""

    def __init__(self, counters: Counters, rows: int) -> None:
        self._counters = counters
        self.rows = rows
        self._heads = dict.fromkeys(GROWING, 0)
        self._targets: dict[Key, TargetFigures] = {}
        self.before: Before | None = None

    def left_by_dead(self) -> dict[str, Any]:
        """What no row shows, for a supervisor that gets the rows: plain values for `InheritedTotals`."""
        heads = {cell.name: value for cell, value in self._heads.items()}
        return {
            "heads": heads,
            "targets": [(*key, *astuple(one)) for key, one in self._targets.items()],
        }

    def absorb(self, index: int, targets: Iterable[TargetEntry], columns: int = 0) -> None:
        """Remember the row of a dead worker, and zero it: the columns of `targets`, and `columns` at
        least, for some were deregistered and are still in use."""
        row = self._counters.row(index)
        for cell in GROWING:
            self._heads[cell] += row[cell]
        kept: dict[Key, TargetFigures] = {}
        for target in targets:
            at = block(target.index)
            columns = max(columns, target.index + 1)
            known = self._targets.get(key_of(target))
            if not row[at + Cell.REQUESTS] and not row[at + Cell.ERRORS]:
                if known is not None:
                    kept[key_of(target)] = known
                continue
            figures = known or TargetFigures()
            figures.requests += row[at + Cell.REQUESTS]
            figures.errors += row[at + Cell.ERRORS]
            figures.status_5xx += row[at + Cell.STATUS_5XX]
            figures.queued += row[at + Cell.QUEUED]
            figures.queue_wait_us += row[at + Cell.QUEUE_WAIT_US]
            first = at + HISTOGRAM
            left = row[first : first + BUCKETS]
            figures.histogram = [a + b for a, b in zip(figures.histogram, left, strict=True)]
            kept[key_of(target)] = figures
        self._targets = kept  # those of deregistered targets are forgotten
        self._counters.clear_row(index, columns)

    def head(self, cell: Worker) -> int:
        """A head cell summed: over all workers ever where it only grows, else over the living."""
        before = self.before.head(cell) if self.before is not None and cell in self._heads else 0
        return (
            before
            + self._heads.get(cell, 0)
            + sum(self._counters.row(index)[cell] for index in range(self.rows))
        )

    def in_flight(self, targets: Iterable[TargetEntry], index: int | None = None) -> int:
        """Requests and TCP connections that targets have now, of one worker or of all."""
        columns = max((target.index for target in targets), default=-1) + 1
        rows = range(self.rows) if index is None else (index,)
        end = block(columns)
        # A strided copy for each row: a status of a thousand targets is asked while requests run.
        return sum(
            sum(self._counters.row(row)[block(0) + Cell.IN_FLIGHT : end : BLOCK].tolist())
            for row in rows
        )

    def target(self, target: TargetEntry) -> TargetFigures:
        dead = self._targets.get(key_of(target)) or TargetFigures()
        alive = self._counters.target(target.index, self.rows)
        histogram = self._counters.histogram(target.index, self.rows)
        figures = TargetFigures(
            dead.requests + alive.requests,
            dead.errors + alive.errors,
            dead.status_5xx + alive.status_5xx,
            dead.queued + alive.queued,
            dead.queue_wait_us + alive.queue_wait_us,
            [a + b for a, b in zip(dead.histogram, histogram, strict=True)],
        )
        if self.before is not None:
            before = self.before.target(target.group, target.address)
            if before is not None:
                figures.add(before)
        return figures


def key_of(target: TargetEntry) -> Key:
    return target.index, target.group, target.address
