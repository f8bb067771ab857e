"""Targets' counters as the admin server wants them: read by column, histograms packed into one number.

All buckets of a histogram are one integer, so that a sum or a difference of two is one operation, and it
is read only where it changed: a look at a thousand targets must not keep the supervisor from its work.
Knows no group and no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


class TargetCounts:
    """Over all workers, dead and alive."""

    def __init__(self, counters: Counters, totals: Totals) -> None:
        self._counters = counters
        self._totals = totals
        self._histograms: dict[int, _Latencies] = {}

    def look(self, entries: Sequence[TargetEntry]) -> dict[int, Counts]:
        """Of all that have a column, by its index."""
        cells = self._columns(1 + max((one.index for one in entries), default=-1))
        found = {one.index: self._counts(one, cells) for one in entries}
        self._histograms = {at: one for at, one in self._histograms.items() if at in found}
        return found

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
            known = self._histograms[entry.index] = _Latencies(key, 0, True, 0)
        latency_us = counts.latency_us or 0
        changed = latency_us != known.latency_us
        # Once more after a change: a worker writes the counts of a tick one after the other.
        if changed or known.fresh:
            known.packed = self._read_histogram(entry)
        known.latency_us, known.fresh = latency_us, changed
        return known.packed

    def _read_histogram(self, entry: TargetEntry) -> int:
        cells = self._counters.cells
        dead = self._totals.dead(entry)
        packed = _packed(dead.histogram) if dead is not None else 0
        first = block(entry.index) + HISTOGRAM
        for row in range(self._totals.rows):
            at = row * ROW + first
            packed += int.from_bytes(cells[at : at + BUCKETS].tobytes(), "little")
        return packed


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
