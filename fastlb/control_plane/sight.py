"""What the admin server looks at: the whole instance as one Reading. Reads everything, changes nothing."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Collection, Sequence

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
from fastlb.control_plane.instance import Instance
from fastlb.control_plane.registered_target import RegisteredTarget
from fastlb.control_plane.target_counts import (
    ListenerLatencies,
    TargetCounts,
    add_counts,
    buckets,
    counts_of,
    latencies,
)
from fastlb.control_plane.used_groups import forwarded_to
from fastlb.control_plane.worker_pool import Worker
from fastlb.history import History
from fastlb.target_table.counters import ListenerCell
from fastlb.target_table.counters import Worker as Head
from fastlb.target_table.handover import listener_key
from fastlb.target_table.layout import TargetEntry

HOST_LOOK = 0.5
"""Least seconds between two looks at the host: percentages of less say nothing."""


class Sight:
    """Makes Readings (`admin.reading.Source`)."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._started = time.monotonic()
        self._started_at = time.time()
        self._host: tuple[float, float, float] | None = None
        self._counts = TargetCounts(instance.counters, instance.totals)
        self._of_listeners = ListenerLatencies()
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
            listeners=self._listeners(sums),
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
        return latencies(histogram, shares)

    def buckets(self, histogram: int) -> list[tuple[float, int]]:
        return buckets(histogram)

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
        by_index = self._counts.look([*(one.entry for one in registered), *leaving])
        sums = {
            group.name: Counts(in_flight=0, histogram=0)
            for group in instance.configuration.target_groups
        }
        for group, figures in sums.items():
            gone = totals.gone(group)
            if gone is not None:
                add_counts(figures, counts_of(gone))
        for entry in leaving:
            if entry.group in sums:
                add_counts(sums[entry.group], by_index[entry.index])
        found = []
        kept: dict[int, tuple[str, str, float]] = {}
        for target in registered:
            entry = target.entry
            counts = by_index[entry.index]
            if entry.group in sums:
                add_counts(sums[entry.group], counts)
            kept[entry.index] = self._since(entry, now)
            found.append(_target(target, entry, counts, now, now - kept[entry.index][2], owners))
        self._states = kept
        return found, sums

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

    def _listeners(self, sums: dict[str, Counts]) -> list[ListenerReading]:
        instance = self._instance
        found = []
        histograms = self._of_listeners.look(
            {listener_key(one): forwarded_to((one,)) for one in instance.configuration.listeners},
            {group: counts.histogram or 0 for group, counts in sums.items()},
        )
        for listener in instance.configuration.listeners:
            key = listener_key(listener)
            cells = instance.totals.listener(key, instance.columns[key])
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
                histogram=histograms[key],
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
                histogram=self._counts.worker(index),
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
        weight=target.weight if isinstance(target.weight, int) else float(target.weight),
        backup=entry.backup,
        override=", ".join(what for what, _, _ in target.override.said()) or None,
        counts=counts,
    )


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
