"""What the instance did in all, dead workers included.

A worker's row of counters is zeroed after its death; what only ever grows in it is added up here
before. What a worker holds at the moment (connections, in flight) dies with it. Knows no process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Protocol

from fastlb.target_table.counters import (
    BLOCK,
    BUCKETS,
    HISTOGRAM,
    Cell,
    Counters,
    ListenerCell,
    Worker,
    block,
    listener_block,
)
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

GROWING_OF_LISTENERS = tuple(ListenerCell)[1:]
LISTENER_CELLS = len(ListenerCell)

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
    bytes_in: int = 0
    bytes_out: int = 0
    latency_us: int = 0
    """The sum of what is in the histogram."""
    histogram: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, other: TargetFigures) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.status_5xx += other.status_5xx
        self.queued += other.queued
        self.queue_wait_us += other.queue_wait_us
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.latency_us += other.latency_us
        self.histogram = [a + b for a, b in zip(self.histogram, other.histogram, strict=True)]


class Before(Protocol):
    """What another supervisor's workers did: in all, for each target and group, for each listener."""

    def head(self, cell: Worker) -> int: ...
    def target(self, group: str, address: str) -> TargetFigures | None: ...
    def gone(self, group: str) -> TargetFigures | None: ...
    def listener(self, key: str) -> list[int] | None: ...
    def forget(self, group: str, address: str) -> None: ...


class Totals:
    """Sums over the living workers' rows and what the dead ones left; `before` is added, where another
    supervisor passed the instance on. `rows` of the counters are in use; they grow with the workers."""

    def __init__(self, counters: Counters, rows: int) -> None:
        self._counters = counters
        self.rows = rows
        self._heads: dict[int, dict[Worker, int]] = {}
        """By row."""
        self._targets: dict[Key, TargetFigures] = {}
        self.before: Before | None = None
        self._listeners: dict[int, list[int]] = {}
        """By column, in the order of ListenerCell."""
        self._gone: dict[str, TargetFigures] = {}
        """By group, of the targets that are registered no more."""

    def left_by_dead(self, listeners: Iterable[tuple[str, int]]) -> dict[str, Any]:
        """What no row shows, for a supervisor that gets the rows: plain values for `InheritedTotals`.
        `listeners` are keys and columns."""
        return {
            "heads": {cell.name: self._dead_head(cell) for cell in GROWING},
            "targets": [(*key, *astuple(one)) for key, one in self._targets.items()],
            "gone": [(group, *astuple(one)) for group, one in self._gone.items()],
            "listeners": {
                key: self._listeners[column]
                for key, column in listeners
                if column in self._listeners
            },
        }

    def absorb(
        self,
        index: int,
        targets: Iterable[TargetEntry],
        columns: int = 0,
        listeners: Iterable[int] = (),
    ) -> None:
        """Remember the row of a dead worker, and zero it. `targets` are all that have a column, those
        that are deregistered and not yet given away among them, and `columns` the least number of
        columns to zero; `listeners` are theirs."""
        row = self._counters.row(index)
        heads = self._heads.setdefault(index, dict.fromkeys(GROWING, 0))
        for cell in GROWING:
            heads[cell] += row[cell]
        for column in listeners:
            known_cells = self._listeners.setdefault(column, [0] * LISTENER_CELLS)
            at = listener_block(column)
            for one in GROWING_OF_LISTENERS:
                known_cells[one] += row[at + one]
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
            figures.add(_figures(row, at))
            kept[key_of(target)] = figures
        self._targets = kept  # those of deregistered targets are forgotten
        self._counters.clear_row(index, columns)

    def head(self, cell: Worker) -> int:
        """A head cell summed: over all workers ever where it only grows, else over the living."""
        before = self.before.head(cell) if self.before is not None and cell in GROWING else 0
        living = sum(self._counters.row(index)[cell] for index in range(self.rows))
        return before + self._dead_head(cell) + living

    def _dead_head(self, cell: Worker) -> int:
        return sum(heads.get(cell, 0) for heads in self._heads.values())

    def worker(self, index: int, cell: Worker) -> int:
        """The same of one row alone, of all workers that had it."""
        return self._heads.get(index, {}).get(cell, 0) + self._counters.row(index)[cell]

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
        dead = self.dead(target) or TargetFigures()
        alive = self._counters.target(target.index, self.rows)
        more = self._counters.target_more(target.index, self.rows)
        histogram = self._counters.histogram(target.index, self.rows)
        return TargetFigures(
            dead.requests + alive.requests,
            dead.errors + alive.errors,
            dead.status_5xx + alive.status_5xx,
            dead.queued + alive.queued,
            dead.queue_wait_us + alive.queue_wait_us,
            dead.bytes_in + more[0],
            dead.bytes_out + more[1],
            dead.latency_us + more[2],
            [a + b for a, b in zip(dead.histogram, histogram, strict=True)],
        )

    def dead(self, target: TargetEntry) -> TargetFigures | None:
        """What it did for workers that are dead, or another supervisor's; None where it did nothing."""
        known = self._targets.get(key_of(target))
        before = (
            self.before.target(target.group, target.address) if self.before is not None else None
        )
        if known is None or before is None:
            return known or before
        before = replace(before)  # its histogram is made anew by each `add`
        before.add(known)
        return before

    def retire(self, target: TargetEntry) -> None:
        """Its column is given away: what it did stays its group's."""
        self._gone.setdefault(target.group, TargetFigures()).add(self.target(target))
        self._targets.pop(key_of(target), None)
        if self.before is not None:
            self.before.forget(target.group, target.address)

    def gone(self, group: str) -> TargetFigures | None:
        """What the group's targets did that are registered no more; None where there was none."""
        known = self._gone.get(group)
        before = self.before.gone(group) if self.before is not None else None
        if known is None or before is None:
            return known or before
        before = replace(before)
        before.add(known)
        return before

    def listener(self, key: str, column: int) -> list[int]:
        """In the order of ListenerCell: over all workers ever, CONNECTIONS over the living."""
        sums = list(self._listeners.get(column, (0,) * LISTENER_CELLS))
        before = self.before.listener(key) if self.before is not None else None
        if before is not None:
            sums = [a + b for a, b in zip(sums, before, strict=True)]
        at = listener_block(column)
        for index in range(self.rows):
            cells = self._counters.row(index)[at : at + LISTENER_CELLS].tolist()
            sums = [a + b for a, b in zip(sums, cells, strict=True)]
        return sums

    def forget_listener(self, column: int) -> None:
        """Another listener is counted there from now on."""
        self._listeners.pop(column, None)


def _figures(row: memoryview, at: int) -> TargetFigures:
    """Of the block that begins at `at` of one worker's row."""
    return TargetFigures(
        row[at + Cell.REQUESTS],
        row[at + Cell.ERRORS],
        row[at + Cell.STATUS_5XX],
        row[at + Cell.QUEUED],
        row[at + Cell.QUEUE_WAIT_US],
        row[at + Cell.BYTES_IN],
        row[at + Cell.BYTES_OUT],
        row[at + Cell.LATENCY_US],
        row[at + HISTOGRAM : at + HISTOGRAM + BUCKETS].tolist(),
    )


def key_of(target: TargetEntry) -> Key:
    return target.index, target.group, target.address
