"""Counters in shared memory: one row a worker, written by that worker alone, read by everyone.

Each cell is one aligned u64, stored whole, so that a reader sees an old or a new value and never a
half. A row is a head (`Worker` cells, then one short block a listener of `ListenerCell` cells) and one
block a target (`Cell` cells, then the histogram).
Knows where the cells are and what they mean; who may write which row is the caller's affair.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from enum import IntEnum

from fastlb.target_table.layout import create_memory

ROWS = 128
"""Twice the most workers, so that a replacement never waits for the row of one that still drains."""
TARGETS = 2048
LISTENERS = 256
LISTENER_BLOCK = 16
_WORKER_CELLS = 64
HEAD = _WORKER_CELLS + LISTENERS * LISTENER_BLOCK
BLOCK = 128
ROW = HEAD + TARGETS * BLOCK
COUNTERS_BYTES = ROWS * ROW * 8


class Worker(IntEnum):
    """Cells at the head of a row. Times are CLOCK_MONOTONIC in ns, which all processes share."""

    PID = 0
    STARTED_NS = 1
    BEAT_NS = 2
    CONNECTIONS = 3
    ACCEPTED = 4
    REJECTED = 5
    REQUESTS = 6
    IN_FLIGHT = 7
    STATUS_1XX = 8
    STATUS_2XX = 9
    STATUS_3XX = 10
    STATUS_4XX = 11
    STATUS_5XX = 12
    ERRORS = 13
    """Error answers that fastlb made itself, and connections it had to cut."""
    RETRIES = 14
    BYTES_IN = 15
    BYTES_OUT = 16
    GENERATION = 17
    """Of the target table that the worker acts on."""
    ACCEPT_PAUSES = 18
    """Times that accepting stopped for want of file descriptors."""
    HELD = 19
    """Requests and TCP connections that wait for a first instance of their group now."""
    LEAVING = 40
    """HTTP connections of removed listeners, which may still send a request."""
    LOG_DROPPED = 60
    """Lines of the access log that were lost, since the file did not take them in time."""
    LOG_REOPENED = 61
    """The number of the last `Reopen` that the worker has followed."""


class ListenerCell(IntEnum):
    """Cells of a listener's block. All but CONNECTIONS only grow."""

    CONNECTIONS = 0
    ACCEPTED = 1
    REQUESTS = 2
    STATUS_1XX = 3
    STATUS_2XX = 4
    STATUS_3XX = 5
    STATUS_4XX = 6
    STATUS_5XX = 7
    ERRORS = 8
    BYTES_IN = 9
    BYTES_OUT = 10


class Cell(IntEnum):
    """Cells at the head of a target's block."""

    IN_FLIGHT = 0
    """Requests or TCP connections given to the target and not finished."""
    REQUESTS = 1
    ERRORS = 2
    """Refused, reset, timed out, malformed or cut answers."""
    LAST_BYTE_NS = 3
    """When the target last sent a byte to this worker."""
    WAITING = 4
    """Requests sent to the target that have no response byte yet."""
    WAITING_SINCE_NS = 5
    """When WAITING last rose from 0."""
    STATUS_5XX = 6
    CONNECTIONS = 7
    BYTES_IN = 8
    BYTES_OUT = 9
    QUEUED = 10
    """Of REQUESTS, those that had been held until a target was there."""
    QUEUE_WAIT_US = 11
    """The sum of their waits, in microseconds."""
    LATENCY_US = 12
    """The sum of the latencies in the histogram, in microseconds."""


HISTOGRAM = 16
"""First histogram cell of a block; the cells before belong to `Cell`."""
BUCKETS = BLOCK - HISTOGRAM


def bucket_of(microseconds: int) -> int:
    """The histogram bucket of a latency: four buckets for each power of two, from 0 to over 4 min."""
    if microseconds < 8:
        return microseconds if microseconds > 0 else 0
    power = microseconds.bit_length() - 3
    return min((power << 2) + ((microseconds >> power) & 3) + 4, BUCKETS - 1)


def bucket_bounds(bucket: int) -> tuple[int, int]:
    """The least latency of a bucket and the least of the next, in microseconds."""
    if bucket < 8:
        return bucket, bucket + 1
    power, quarter = (bucket - 4) >> 2, (bucket - 4) & 3
    return (4 + quarter) << power, (5 + quarter) << power


def _buckets_until(most: int) -> bytes:
    found = bytearray()
    for bucket in range(BUCKETS):
        least, next_least = bucket_bounds(bucket)
        found += bytes((bucket,)) * (min(next_least, most) - least)
    return bytes(found)


QUICK_BUCKETS = _buckets_until(65536)
"""`bucket_of` of each latency under 65 ms, which nearly every one is: a third of its cost. Made from the
bounds, which takes 0.1 ms of each start; asking `bucket_of` takes 17."""


def percentile(histogram: list[int], share: float) -> float | None:
    """The latency in seconds under which `share` (0 to 1) of the counted ones lie; None of nothing."""
    total = sum(histogram)
    if not total:
        return None
    wanted = share * total
    seen = 0
    for bucket, count in enumerate(histogram):
        if count and seen + count >= wanted:
            low, high = bucket_bounds(bucket)
            return (low + (high - low) * (wanted - seen) / count) / 1e6
        seen += count
    raise AssertionError("unreachable: the shares of a histogram sum to its total")


@dataclass(slots=True)
class TargetTotals:
    """One target's counters, summed over all workers."""

    in_flight: int
    requests: int
    errors: int
    status_5xx: int
    connections: int
    waiting: int
    last_byte_ns: int
    waiting_since_ns: int
    """The latest over the workers that wait; 0 where none does."""
    queued: int
    queue_wait_us: int


class Counters:
    """All rows. The control plane creates them (`fd` None); a worker maps the inherited `fd`."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = create_memory("fastlb-counters", COUNTERS_BYTES) if fd is None else fd
        self._memory = mmap.mmap(self.fd, COUNTERS_BYTES)
        self.cells = memoryview(self._memory).cast("Q")

    def row(self, index: int) -> memoryview:
        """The cells of one row: `row[Worker.X]`, `row[block(target) + Cell.X]`."""
        return self.cells[index * ROW : (index + 1) * ROW]

    def clear_row(self, index: int, targets: int = TARGETS) -> None:
        """Zero a row whose worker is dead: `targets` columns of it, the head included."""
        start = index * ROW * 8
        size = (HEAD + targets * BLOCK) * 8
        self._memory[start : start + size] = bytes(size)

    def clear_target(self, target: int, rows: int) -> None:
        """Zero a column before its index is given to another target."""
        for index in range(rows):
            start = (index * ROW + block(target)) * 8
            self._memory[start : start + BLOCK * 8] = bytes(BLOCK * 8)

    def target(self, target: int, rows: int) -> TargetTotals:
        """Sums over the first `rows` rows."""
        totals = TargetTotals(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        for index in range(rows):
            at = index * ROW + block(target)
            (
                in_flight,
                requests,
                errors,
                last_byte,
                waiting,
                since,
                status_5xx,
                connections,
                _,
                _,
                queued,
                queue_wait,
            ) = self.cells[at : at + 12].tolist()
            totals.in_flight += in_flight
            totals.requests += requests
            totals.errors += errors
            totals.status_5xx += status_5xx
            totals.connections += connections
            totals.queued += queued
            totals.queue_wait_us += queue_wait
            totals.last_byte_ns = max(totals.last_byte_ns, last_byte)
            if waiting:
                totals.waiting += waiting
                totals.waiting_since_ns = max(totals.waiting_since_ns, since)
        return totals

    def target_more(self, target: int, rows: int) -> tuple[int, int, int]:
        """Bytes from the target and to it, and microseconds of latency, summed over the first `rows`
        rows."""
        places = [index * ROW + block(target) for index in range(rows)]
        return (
            sum(self.cells[at + Cell.BYTES_IN] for at in places),
            sum(self.cells[at + Cell.BYTES_OUT] for at in places),
            sum(self.cells[at + Cell.LATENCY_US] for at in places),
        )

    def histogram(self, target: int, rows: int) -> list[int]:
        """Latency counts of one target, summed over the first `rows` rows."""
        sums = [0] * BUCKETS
        for index in range(rows):
            at = index * ROW + block(target) + HISTOGRAM
            sums = [a + b for a, b in zip(sums, self.cells[at : at + BUCKETS], strict=True)]
        return sums

    def close(self) -> None:
        self.cells.release()
        self._memory.close()
        os.close(self.fd)


def listener_block(listener: int) -> int:
    """Where the block of a listener begins in a row."""
    return _WORKER_CELLS + listener * LISTENER_BLOCK


def block(target: int) -> int:
    """Where the block of a target begins in a row."""
    return HEAD + target * BLOCK
