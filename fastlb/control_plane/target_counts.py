"""Targets' counters as the admin server wants them: read by column, histograms packed into one number.

All buckets of a histogram are one integer, so that a sum or a difference of two is one operation, and it
is read only where it changed: a look at a thousand targets must not keep the supervisor from its work.
What of it each worker's row added is each worker's own histogram. Knows no group and no state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add
from struct import Struct

from fastlb.admin.reading import Counts
from fastlb.control_plane.totals import TargetFigures, Totals
from fastlb.target_table.counters import (
    BLOCK,
    BUCKETS,
    HISTOGRAM,
    ROW,
    Cell,
    Counters,
    Worker,
    block,
    bucket_bounds,
)
from fastlb.target_table.layout import TargetEntry

_PACKED = Struct(f"<{BUCKETS}Q")
_COLUMNS = (
    Cell.IN_FLIGHT,
    Cell.REQUESTS,
    Cell.ERRORS,
    Cell.STATUS_5XX,
    Cell.CONNECTIONS,
    Cell.BYTES_IN,
    Cell.BYTES_OUT,
    Cell.QUEUED,
    Cell.QUEUE_WAIT_US,
    Cell.LATENCY_US,
)
_BOUNDS = tuple(bucket_bounds(bucket) for bucket in range(BUCKETS))


@dataclass(slots=True)
class _Latencies:
    """A target's packed histogram as of its last change; `fresh` if that was at the last look."""

    key: tuple[int, str, str]
    latency_us: int
    """The sum of what is in it, which changes with it."""
    fresh: bool
    packed: int
    rows: list[int] = field(default_factory=list)
    """What each row held of it."""


@dataclass(slots=True)
class _Row:
    """A row's worker, and what all targets' histograms have grown by in it, whoever it belonged to."""

    pid: int = 0
    packed: int = 0


class TargetCounts:
    """Over all workers, dead and alive."""

    def __init__(self, counters: Counters, totals: Totals) -> None:
        self._counters = counters
        self._totals = totals
        self._histograms: dict[int, _Latencies] = {}
        self._rows: list[_Row] = []

    def look(self, entries: Sequence[TargetEntry]) -> dict[int, Counts]:
        """Of all that have a column, by its index."""
        self._look_at_rows()
        cells = self._columns(1 + max((one.index for one in entries), default=-1))
        found = {one.index: self._counts(one, cells) for one in entries}
        self._histograms = {at: one for at, one in self._histograms.items() if at in found}
        return found

    def worker(self, index: int) -> int:
        """The packed histogram of what the workers with this row did, as of the last look."""
        return self._rows[index].packed if index < len(self._rows) else 0

    def _look_at_rows(self) -> None:
        """A row that another worker has got begins at zero: what it holds is all new."""
        while len(self._rows) < self._totals.rows:
            self._rows.append(_Row())
            for known in self._histograms.values():
                known.rows.append(0)
        for row, one in enumerate(self._rows):
            pid = self._counters.cells[row * ROW + Worker.PID]
            if pid != one.pid:
                one.pid = pid
                for known in self._histograms.values():
                    known.rows[row] = 0

    def _columns(self, columns: int) -> list[list[int]]:
        """For each of _COLUMNS the sums of all targets over the living workers' rows."""
        cells, rows = self._counters.cells, range(self._totals.rows)
        found = []
        for cell in _COLUMNS:
            sums = [0] * columns
            for row in rows:
                begin = row * ROW + block(0) + cell
                # One strided copy in C.
                sums = list(map(add, sums, cells[begin : begin + columns * BLOCK : BLOCK].tolist()))
            found.append(sums)
        return found

    def _counts(self, entry: TargetEntry, cells: list[list[int]]) -> Counts:
        (
            in_flight,
            requests,
            errors,
            status_5xx,
            connections,
            bytes_in,
            bytes_out,
            queued,
            wait,
            latency,
        ) = [column[entry.index] for column in cells]
        counts = Counts(
            requests=requests,
            errors=errors,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            connections=connections,
            in_flight=in_flight,
            status_5xx=status_5xx,
            queued=queued,
            queue_wait_us=wait,
            latency_us=latency,
        )
        dead = self._totals.dead(entry)
        if dead is not None:
            add_counts(counts, counts_of(dead, with_histogram=False))
        counts.histogram = self._histogram(entry, counts)
        return counts

    def _histogram(self, entry: TargetEntry, counts: Counts) -> int:
        key = entry.index, entry.group, entry.address
        known = self._histograms.get(entry.index)
        if known is None or known.key != key:
            if not counts.latency_us:
                return 0
            known = self._histograms[entry.index] = _Latencies(
                key, 0, fresh=True, packed=0, rows=[0] * len(self._rows)
            )
        latency_us = counts.latency_us or 0
        changed = latency_us != known.latency_us
        # Once more after a change: a worker writes the counts of a tick one after the other.
        if changed or known.fresh:
            known.packed = self._read_histogram(entry, known.rows)
        known.latency_us, known.fresh = latency_us, changed
        return known.packed

    def _read_histogram(self, entry: TargetEntry, before: list[int]) -> int:
        """Of all rows. What each has more than `before` is its worker's, and `before` is brought up to
        date."""
        cells = self._counters.cells
        dead = self._totals.dead(entry)
        packed = _packed(dead.histogram) if dead is not None else 0
        first = block(entry.index) + HISTOGRAM
        for row, one in enumerate(self._rows):
            at = row * ROW + first
            found = int.from_bytes(cells[at : at + BUCKETS].tobytes(), "little")
            if found < before[row]:
                before[row] = 0  # the column was zeroed
            if found != before[row]:
                one.packed += found - before[row]
                before[row] = found
            packed += found
        return packed


class ListenerLatencies:
    """Histograms of listeners, by their keys. Nobody counts latencies by listener; so they are known where
    no other listener forwards to the same groups. Each only grows, however a reload changes who uses what.
    """

    def __init__(self) -> None:
        self._packed: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        """Each group's histogram as of the last look."""

    def look(
        self, users: Mapping[str, Collection[str]], groups: Mapping[str, int]
    ) -> dict[str, int | None]:
        """`users` has the groups that each listener forwards to, `groups` their histograms now. None of a
        listener that shares a group or forwards to none."""
        times = Counter(group for used in users.values() for group in used)
        found: dict[str, int | None] = {}
        for key, used in users.items():
            if not used or any(times[group] > 1 for group in used):
                found[key] = None
                continue
            known = self._packed.get(key, 0)
            found[key] = known + sum(
                groups[one] - self._groups.get(one, groups[one]) for one in used if one in groups
            )
        self._packed = {key: one for key, one in found.items() if one is not None}
        self._groups = dict(groups)
        return found


def latencies(histogram: int, shares: Sequence[float]) -> list[float] | None:
    """In seconds, under which these growing shares lie; None of an empty histogram."""
    counts = _unpacked(histogram)
    total = sum(counts)
    if not total:
        return None
    found: list[float] = []
    seen = 0
    wanted = [share * total for share in shares]
    for bucket, count in enumerate(counts):
        if not count:
            continue
        while len(found) < len(wanted) and seen + count >= wanted[len(found)]:
            low, high = _BOUNDS[bucket]
            found.append((low + (high - low) * (wanted[len(found)] - seen) / count) / 1e6)
        seen += count
    return found


def buckets(histogram: int) -> list[tuple[float, int]]:
    """Of each bucket its upper bound in seconds, and how many lie in it."""
    return [
        (high / 1e6, count) for (_, high), count in zip(_BOUNDS, _unpacked(histogram), strict=True)
    ]


def counts_of(figures: TargetFigures, *, with_histogram: bool = True) -> Counts:
    """What a target did for workers that are dead, or before it was registered no more."""
    return Counts(
        requests=figures.requests,
        errors=figures.errors,
        bytes_in=figures.bytes_in,
        bytes_out=figures.bytes_out,
        status_5xx=figures.status_5xx,
        queued=figures.queued,
        queue_wait_us=figures.queue_wait_us,
        latency_us=figures.latency_us,
        histogram=_packed(figures.histogram) if with_histogram else None,
    )


def add_counts(sums: Counts, one: Counts) -> None:
    """Add a target's to its group's."""
    sums.requests += one.requests
    sums.errors = (sums.errors or 0) + (one.errors or 0)
    sums.bytes_in += one.bytes_in
    sums.bytes_out += one.bytes_out
    sums.connections += one.connections
    sums.in_flight = (sums.in_flight or 0) + (one.in_flight or 0)
    sums.status_5xx = (sums.status_5xx or 0) + (one.status_5xx or 0)
    sums.queued = (sums.queued or 0) + (one.queued or 0)
    sums.queue_wait_us = (sums.queue_wait_us or 0) + (one.queue_wait_us or 0)
    sums.latency_us = (sums.latency_us or 0) + (one.latency_us or 0)
    sums.histogram = (sums.histogram or 0) + (one.histogram or 0)


def _packed(histogram: Sequence[int]) -> int:
    return int.from_bytes(_PACKED.pack(*histogram), "little")


def _unpacked(packed: int) -> tuple[int, ...]:
    return _PACKED.unpack(packed.to_bytes(_PACKED.size, "little"))
