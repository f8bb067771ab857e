"""What the instance did in all, dead workers included.

A worker's row of counters is zeroed after its death; what only ever grows in it is added up here
before. What a worker holds at the moment (connections, in flight) dies with it. Knows no process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

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


class Totals:
    """Sums over the living workers' rows and what the dead ones left."""

    def __init__(self, counters: Counters, rows: int) -> None:
        self._counters = counters
        self._rows = rows
        self._heads = dict.fromkeys(GROWING, 0)
        self._targets: dict[Key, TargetFigures] = {}

    def absorb(self, index: int, targets: Iterable[TargetEntry]) -> None:
        """Remember the row of a dead worker, and zero it."""
        row = self._counters.row(index)
        for cell in GROWING:
            self._heads[cell] += row[cell]
        columns = 0
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
        return self._heads.get(cell, 0) + sum(
            self._counters.row(index)[cell] for index in range(self._rows)
        )

    def in_flight(self, targets: Iterable[TargetEntry], index: int | None = None) -> int:
        """Requests and TCP connections that targets have now, of one worker or of all."""
        columns = max((target.index for target in targets), default=-1) + 1
        rows = range(self._rows) if index is None else (index,)
        end = block(columns)
        # A strided copy for each row: a status of a thousand targets is asked while requests run.
        return sum(
            sum(self._counters.row(row)[block(0) + Cell.IN_FLIGHT : end : BLOCK].tolist())
            for row in rows
        )

    def target(self, target: TargetEntry) -> TargetFigures:
        dead = self._targets.get(key_of(target)) or TargetFigures()
        alive = self._counters.target(target.index, self._rows)
        histogram = self._counters.histogram(target.index, self._rows)
        return TargetFigures(
            dead.requests + alive.requests,
            dead.errors + alive.errors,
            dead.status_5xx + alive.status_5xx,
            dead.queued + alive.queued,
            dead.queue_wait_us + alive.queue_wait_us,
            [a + b for a, b in zip(dead.histogram, histogram, strict=True)],
        )


def key_of(target: TargetEntry) -> Key:
    return target.index, target.group, target.address
