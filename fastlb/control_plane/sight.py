"""What the admin server looks at: the whole instance as one Reading. Reads everything, changes nothing.

All counters are read by column, and histograms only of targets that did something since: a look at a
thousand targets must not keep the supervisor from its work.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from operator import add
from struct import Struct
from typing import Protocol

import psutil

import fastlb
from fastlb.admin.reading import (
    Counts,
    GroupReading,
    ListenerReading,
    Reading,
    TargetReading,
    WorkerReading,
)
from fastlb.auto_scaling.usage import parse_stat
from fastlb.control_plane.listener_columns import ListenerColumns
from fastlb.control_plane.scaling import Scaling
from fastlb.control_plane.target_registry import RegisteredTarget, TargetRegistry
from fastlb.control_plane.totals import TargetFigures, Totals
from fastlb.control_plane.worker_pool import Worker
from fastlb.history import History
from fastlb.model.configuration import Configuration
from fastlb.target_table.counters import (
    BLOCK,
    BUCKETS,
    HISTOGRAM,
    ROW,
    Cell,
    Counters,
    ListenerCell,
    block,
    bucket_bounds,
)
from fastlb.target_table.counters import Worker as Head
from fastlb.target_table.handover import listener_key
from fastlb.target_table.layout import TargetEntry

HOST_LOOK = 0.5
"""Least seconds between two looks at the host: percentages of less say nothing."""
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


class Instance(Protocol):
    """What is looked at."""

    @property
    def configuration(self) -> Configuration: ...
    @property
    def registry(self) -> TargetRegistry: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def totals(self) -> Totals: ...
    @property
    def columns(self) -> ListenerColumns: ...
    @property
    def scaling(self) -> Scaling: ...
    @property
    def workers(self) -> Sequence[Worker]: ...
    @property
    def hung(self) -> Set[int]: ...
    @property
    def draining(self) -> bool: ...


@dataclass(slots=True)
class _Latencies:
    """A target's packed histogram as of its last change; `fresh` if that was at the last look."""

    key: tuple[int, str, str]
    latency_us: int
    """The sum of what is in it, which changes with it."""
    fresh: bool
    packed: int


class Sight:
    """Makes Readings (`admin.reading.Source`)."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._started = time.monotonic()
        self._started_at = time.time()
        self._host: tuple[float, float, float] | None = None
        self._histograms: dict[int, _Latencies] = {}
        self._states: dict[int, tuple[str, str, float]] = {}
        """By the target's index: address, state, and since when."""
        psutil.cpu_percent(None)  # the first look has nothing to compare with

    @property
    def activities(self) -> History:
        return self._instance.scaling.activities

    @property
    def decisions(self) -> History:
        return self._instance.scaling.decisions

    def read(self) -> Reading:
        instance = self._instance
        now = time.monotonic()
        cpu_seconds, rss = _process(os.getpid())
        scaling = instance.scaling.status()
        owners = {one["address"]: one["id"] for group in scaling for one in group["instances"]}
        targets, sums = self._targets(now, owners)
        total = sum((counts.histogram or 0) for counts in sums.values())
        host_cpu, host_memory = self._look_at_host(now)
        head = instance.totals.head
        return Reading(
            at=now,
            time=time.time(),
            name=instance.configuration.name,
            version=fastlb.__version__,
            pid=os.getpid(),
            uptime=now - self._started,
            draining=instance.draining,
            host_cpu_percent=host_cpu,
            host_memory_percent=host_memory,
            cores=os.cpu_count() or 1,
            cpu_seconds=cpu_seconds,
            rss=rss,
            totals=Counts(
                requests=head(Head.REQUESTS),
                errors=head(Head.ERRORS),
                bytes_in=head(Head.BYTES_IN),
                bytes_out=head(Head.BYTES_OUT),
                connections=head(Head.CONNECTIONS),
                in_flight=sum(one.in_flight or 0 for one in sums.values()),
                statuses=(
                    head(Head.STATUS_1XX),
                    head(Head.STATUS_2XX),
                    head(Head.STATUS_3XX),
                    head(Head.STATUS_4XX),
                    head(Head.STATUS_5XX),
                ),
                retries=head(Head.RETRIES),
                histogram=total,
                accepted=head(Head.ACCEPTED),
            ),
            rejected=head(Head.REJECTED),
            log_dropped=head(Head.LOG_DROPPED),
            open_files=_open_files(),
            most_open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            started=self._started_at,
            listeners=self._listeners(),
            groups=self._groups(targets, sums),
            targets=targets,
            workers=[self._worker(one) for one in instance.workers],
            auto_scaling=scaling,
        )

    def _look_at_host(self, now: float) -> tuple[float, float]:
        """Percent of all cores since the last look, and of memory."""
        if self._host is None or now - self._host[0] > HOST_LOOK:
            self._host = now, psutil.cpu_percent(None), psutil.virtual_memory().percent
        return self._host[1:]

    def latencies(self, histogram: int, shares: Sequence[float]) -> list[float] | None:
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

    def buckets(self, histogram: int) -> list[tuple[float, int]]:
        return [
            (high / 1e6, count)
            for (_, high), count in zip(_BOUNDS, _unpacked(histogram), strict=True)
        ]

    def names(self, kind: str) -> Collection[str]:
        groups = self._instance.scaling.groups
        if kind == "group":
            return groups.keys()
        return {one.id for group in groups.values() for one in group.fleet}

    # -- targets

    def _targets(
        self, now: float, owners: dict[str, str]
    ) -> tuple[list[TargetReading], dict[str, Counts]]:
        """Every target, and the sums of each group: of all that it ever had."""
        instance = self._instance
        registry, totals = instance.registry, instance.totals
        registered = list(registry)
        leaving = registry.leaving()
        columns = 1 + max(
            (*(one.index for one in registered), *(one.index for one in leaving)), default=-1
        )
        cells = self._columns(columns)
        sums = {
            group.name: Counts(in_flight=0, histogram=0)
            for group in instance.configuration.target_groups
        }
        for group, figures in sums.items():
            gone = totals.gone(group)
            if gone is not None:
                _add(figures, _counts_of_dead(gone))
        for entry in leaving:
            if entry.group in sums:
                _add(sums[entry.group], self._counts(entry, cells))
        found = []
        kept: dict[int, tuple[str, str, float]] = {}
        for target in registered:
            entry = target.entry
            counts = self._counts(entry, cells)
            if entry.group in sums:
                _add(sums[entry.group], counts)
            kept[entry.index] = self._since(entry, now)
            found.append(_target(target, entry, counts, now, now - kept[entry.index][2], owners))
        self._states = kept
        living = {*kept, *(one.index for one in leaving)}
        self._histograms = {at: one for at, one in self._histograms.items() if at in living}
        return found, sums

    def _columns(self, columns: int) -> list[list[int]]:
        """For each of _COLUMNS the sums of all targets over the living workers' rows."""
        cells, rows = self._instance.counters.cells, range(self._instance.totals.rows)
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
        dead = self._instance.totals.dead(entry)
        if dead is not None:
            _add(counts, _counts_of_dead(dead, with_histogram=False))
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
        cells = self._instance.counters.cells
        dead = self._instance.totals.dead(entry)
        packed = _packed(dead.histogram) if dead is not None else 0
        first = block(entry.index) + HISTOGRAM
        for row in range(self._instance.totals.rows):
            at = row * ROW + first
            packed += int.from_bytes(cells[at : at + BUCKETS].tobytes(), "little")
        return packed

    def _since(self, entry: TargetEntry, now: float) -> tuple[str, str, float]:
        known = self._states.get(entry.index)
        if known is not None and known[:2] == (entry.address, entry.state):
            return known
        return entry.address, entry.state, now

    # -- the others

    def _groups(
        self, targets: Sequence[TargetReading], sums: dict[str, Counts]
    ) -> list[GroupReading]:
        instance = self._instance
        members: dict[str, int] = {}
        for one in targets:
            members[one.group] = members.get(one.group, 0) + 1
        holding = [
            one
            for one in instance.configuration.target_groups
            if one.auto_scaling_group is not None
        ]
        found = []
        for group in instance.configuration.target_groups:
            held: int | None = 0
            if group.auto_scaling_group is not None:
                # A worker counts what it holds of all groups together.
                held = instance.totals.head(Head.HELD) if len(holding) == 1 else None
            found.append(
                GroupReading(
                    group.name,
                    group.algorithm,
                    instance.registry.fail_open(group.name),
                    instance.registry.eligible(group.name),
                    members.get(group.name, 0),
                    held,
                    sums[group.name],
                )
            )
        return found

    def _listeners(self) -> list[ListenerReading]:
        instance = self._instance
        found = []
        for listener in instance.configuration.listeners:
            key = listener_key(listener)
            cells = instance.totals.listener(instance.columns[key])
            first = ListenerCell.STATUS_1XX
            one, two, three, four, five = cells[first : first + 5]
            counts = Counts(
                requests=cells[ListenerCell.REQUESTS],
                errors=cells[ListenerCell.ERRORS],
                bytes_in=cells[ListenerCell.BYTES_IN],
                bytes_out=cells[ListenerCell.BYTES_OUT],
                connections=cells[ListenerCell.CONNECTIONS],
                statuses=(one, two, three, four, five),
                accepted=cells[ListenerCell.ACCEPTED],
            )
            found.append(ListenerReading(key, listener.protocol, len(listener.rules), counts))
        return found

    def _worker(self, worker: Worker) -> WorkerReading:
        instance = self._instance
        index = worker.index
        row = instance.counters.row(index)
        ever = instance.totals.worker
        cpu_seconds, rss = _process(worker.pid) if worker.pid else (None, None)
        return WorkerReading(
            index=index,
            pid=worker.pid,
            state="hung" if index in instance.hung else worker.state,
            restarts=worker.restarts,
            cpu_seconds=cpu_seconds,
            rss=rss,
            held=row[Head.HELD],
            accept_pauses=row[Head.ACCEPT_PAUSES],
            counts=Counts(
                requests=ever(index, Head.REQUESTS),
                errors=ever(index, Head.ERRORS),
                bytes_in=ever(index, Head.BYTES_IN),
                bytes_out=ever(index, Head.BYTES_OUT),
                connections=row[Head.CONNECTIONS],
                in_flight=row[Head.IN_FLIGHT],
                statuses=(
                    ever(index, Head.STATUS_1XX),
                    ever(index, Head.STATUS_2XX),
                    ever(index, Head.STATUS_3XX),
                    ever(index, Head.STATUS_4XX),
                    ever(index, Head.STATUS_5XX),
                ),
                retries=ever(index, Head.RETRIES),
                accepted=ever(index, Head.ACCEPTED),
            ),
        )


def _target(
    target: RegisteredTarget,
    entry: TargetEntry,
    counts: Counts,
    now: float,
    since: float,
    owners: dict[str, str],
) -> TargetReading:
    return TargetReading(
        group=entry.group,
        address=entry.address,
        instance=owners.get(entry.address),
        state=entry.state,
        suspect=entry.suspect,
        reason=target.describe(now),
        since_s=since,
        weight=target.target.weight,
        backup=entry.backup,
        override=None,
        counts=counts,
    )


def _counts_of_dead(figures: TargetFigures, *, with_histogram: bool = True) -> Counts:
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


def _add(sums: Counts, one: Counts) -> None:
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


def _open_files() -> int | None:
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # the listing's own
    except OSError:
        return None


def _process(pid: int) -> tuple[float | None, int | None]:
    """CPU seconds and resident bytes; None where it cannot be looked at."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = parse_stat(os.read(fd, 4096))
        finally:
            os.close(fd)
    except OSError:
        return None, None
    return stat.cpu_seconds, stat.rss
