"""A worker's view of the targets: what the table says of them, what this worker has in flight there.

Counts live in Python and go to shared memory at each tick; only the in-flight count is stored at once, where
the other workers' choices look at it. Knows no HTTP and no client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from struct import pack_into
from typing import Any

from fastlb.data_plane.hold import HoldQueue
from fastlb.data_plane.routing_algorithm import chooser, eligible
from fastlb.model.address import parse_address
from fastlb.model.target_group import TargetGroup
from fastlb.target_table.counters import (
    BUCKETS,
    HISTOGRAM,
    QUICK_BUCKETS,
    ROW,
    Cell,
    Counters,
    block,
    bucket_of,
)
from fastlb.target_table.layout import Snapshot, TargetEntry
from fastlb.target_table.pipe import Evidence, Wanted

_HISTOGRAM_FORMAT = f"{BUCKETS}Q"
_LONGEST_DOUBT = 30.0


class TargetRuntime:
    """One target: its table entry, its counters, its pool."""

    __slots__ = (
        "_awaited_since",
        "_base",
        "_cells",
        "_compared",
        "_dirty",
        "_doubt_timer",
        "_doubts",
        "_others",
        "_table",
        "address",
        "answering",
        "backup",
        "bytes_in",
        "bytes_out",
        "connections",
        "doubt_epoch",
        "doubted",
        "entry",
        "errors",
        "group",
        "heard",
        "histogram",
        "in_flight",
        "index",
        "key",
        "latency",
        "pool",
        "queue_wait_us",
        "queued",
        "refused",
        "requests",
        "state",
        "status_5xx",
        "suspect",
        "weight",
    )

    def __init__(self, table: TargetTable, group: GroupRuntime, entry: TargetEntry) -> None:
        self._table = table
        self._cells = table.counters.cells
        self._base = table.row * ROW + block(entry.index)
        self._others: tuple[int, ...] = ()
        self._compared = False
        """Whether other workers look at our count of requests in flight for each choice."""
        self._dirty = False
        self._doubt_timer: asyncio.TimerHandle | None = None
        self._doubts = 0
        self.group = group
        self.index = entry.index
        self.address = parse_address(entry.address)
        self.key = entry.address
        self.doubted = False
        self.refused = False
        """Whether it is doubted since nobody listens there."""
        self.doubt_epoch = -1
        self.in_flight = self.requests = self.errors = self.status_5xx = self.connections = 0
        self.bytes_in = self.bytes_out = 0
        self.queued = self.queue_wait_us = 0
        self.answering = 0
        """Of those in flight, the ones that are in the middle of their answer, and streams."""
        self._awaited_since = 0
        self.heard = False
        self.histogram = [0] * BUCKETS
        self.latency = 0.0
        """The sum of what the histogram holds, in seconds."""
        self.pool: Any = None
        """The HTTP side's TargetPool, which this module does not know; it needs close and forget."""
        self.entry = entry
        self.update(entry)

    def update(self, entry: TargetEntry) -> None:
        """Take over what the table says now."""
        if self.pool is not None and entry.epoch != self.entry.epoch:
            self.pool.forget()
        self.entry = entry
        self.weight = entry.weight
        self.backup = entry.backup
        self.state = entry.state
        self.suspect = entry.suspect
        if self.doubted and (entry.state != "healthy" or entry.epoch > self.doubt_epoch):
            self._end_doubt()
            self._doubts = 0

    def see_rows(self, rows: Iterable[int]) -> None:
        """Whose counts, besides our own, make up the load."""
        mine = self._table.row
        at = block(self.index)
        self._others = tuple(row * ROW + at for row in rows if row != mine)

    def compare(self, wanted: bool) -> None:
        """Store the count of requests in flight at once, or with the others at each tick."""
        self._compared = wanted
        self._cells[self._base] = self.in_flight

    def load(self) -> int:
        """Requests in flight, over all workers."""
        load = self.in_flight
        cells = self._cells
        for offset in self._others:
            load += cells[offset]
        return load

    def begin(self) -> None:
        """A request or TCP connection was given to the target."""
        self.in_flight = in_flight = self.in_flight + 1
        self.requests += 1
        if self._compared:
            self._cells[self._base] = in_flight
        if not self._dirty:
            self._dirty = True
            self._table.dirty.append(self)

    def end(self, seconds: float | None) -> None:
        """It is over; `seconds` is its latency where it was answered."""
        self.in_flight = in_flight = self.in_flight - 1
        if self._compared:
            self._cells[self._base] = in_flight
        if seconds is not None:
            elapsed = int(seconds * 1e6)
            if 0 <= elapsed < 65536:
                self.histogram[QUICK_BUCKETS[elapsed]] += 1
            else:
                self.histogram[bucket_of(elapsed)] += 1
            self.latency += seconds
        if not self._dirty:
            self._dirty = True
            self._table.dirty.append(self)

    def begin_held(self, seconds: float) -> None:
        """What is given to the target next had been held for so long."""
        self.queued += 1
        self.queue_wait_us += int(seconds * 1e6)

    def connection_opened(self) -> None:
        self.connections += 1
        self._mark()

    def connection_closed(self) -> None:
        self.connections -= 1
        self._mark()

    def received(self, count: int) -> None:
        self.bytes_in += count
        if not self.heard:
            self.hear()

    def hear(self) -> None:
        """The first byte since the last tick."""
        self.heard = True
        self._mark()

    def sent(self, count: int) -> None:
        self.bytes_out += count

    def failed(self, kind: str, detail: str) -> None:
        """The target refused, reset or did not accept in time: doubt it, and tell the supervisor.

        The doubt bridges the moment until the supervisor's verdict is in the table; where there is no
        supervisor any more, it ends by itself, later each time.
        """
        self.errors += 1
        self._mark()
        self._table.report(Evidence(self.index, self.entry.epoch, kind, detail))
        if self.state != "healthy":
            return
        refused = kind == "refused"
        if not self.doubted:
            self.doubted = True
            self.doubt_epoch = self.entry.epoch
            length = min(2.0**self._doubts, _LONGEST_DOUBT)
            self._doubts += 1
            self._doubt_timer = self._table.loop.call_later(length, self._end_doubt)
        elif self.refused or not refused:
            return
        self.refused = self.refused or refused
        self.group.refilter()

    def count_error(self) -> None:
        """An answer that was malformed, cut or late: counted, but no evidence that others will be."""
        self.errors += 1
        self._mark()

    def _mark(self) -> None:
        if not self._dirty:
            self._dirty = True
            self._table.dirty.append(self)

    def _end_doubt(self) -> None:
        if self._doubt_timer is not None:
            self._doubt_timer.cancel()
            self._doubt_timer = None
        if self.doubted:
            self.doubted = self.refused = False
            self.group.refilter()

    def flush(self, now_ns: int) -> None:
        """Store the counts in shared memory.

        Since when somebody waits is known to a tick, which costs a request nothing: where nobody
        waited at one tick and somebody does at the next, it began between them; and where all who
        waited were answered between two ticks, a byte was heard.
        """
        self._dirty = False
        cells = self._cells
        base = self._base
        cells[base + Cell.IN_FLIGHT] = self.in_flight
        cells[base + Cell.REQUESTS] = self.requests
        cells[base + Cell.ERRORS] = self.errors
        cells[base + Cell.STATUS_5XX] = self.status_5xx
        cells[base + Cell.CONNECTIONS] = self.connections
        cells[base + Cell.BYTES_IN] = self.bytes_in
        cells[base + Cell.BYTES_OUT] = self.bytes_out
        cells[base + Cell.QUEUED] = self.queued
        cells[base + Cell.QUEUE_WAIT_US] = self.queue_wait_us
        cells[base + Cell.LATENCY_US] = int(self.latency * 1e6)
        if self.heard:
            self.heard = False
            cells[base + Cell.LAST_BYTE_NS] = now_ns
        waiting = max(self.in_flight - self.answering, 0)
        if not waiting:
            self._awaited_since = 0
        elif not self._awaited_since:
            self._awaited_since = now_ns
        cells[base + Cell.WAITING_SINCE_NS] = self._awaited_since
        cells[base + Cell.WAITING] = waiting
        start = (base + HISTOGRAM) * 8
        pack_into(_HISTOGRAM_FORMAT, self._table.bytes, start, *self.histogram)

    def close(self) -> None:
        """The table names it no more. What is in flight goes on to its end."""
        self._end_doubt()
        if self.pool is not None:
            self.pool.close()


class GroupRuntime:
    """A TargetGroup's targets and the choice among them."""

    __slots__ = (
        "_basis",
        "_eligible",
        "_turn",
        "choose",
        "fail_open",
        "held",
        "name",
        "settings",
        "targets",
    )

    def __init__(self, table: TargetTable, settings: TargetGroup) -> None:
        self.name = settings.name
        self.settings = settings
        self.targets: list[TargetRuntime] = []
        self.fail_open = False
        self._turn = table.row
        self._eligible: list[TargetRuntime] = []
        self.choose: Callable[[str], TargetRuntime] | None = None
        self._basis: tuple[str, list[tuple[TargetRuntime, int]]] | None = None
        """What `choose` was made for."""
        want = Wanted(self.name)
        self.held = HoldQueue(table.loop, self.can_take, lambda: table.report(want))

    def compare(self, shared: bool) -> None:
        """`shared` says that other workers use these targets, too: where all of them choose by load, it
        must be known at once."""
        compared = (
            shared
            and len(self.targets) > 1
            and self.settings.algorithm == "least_outstanding_requests"
        )
        for target in self.targets:
            target.compare(compared)

    def refilter(self) -> None:
        """Who is eligible may have changed."""
        found, self.fail_open = eligible(self._known())
        algorithm = self.settings.algorithm
        basis = (algorithm, [(target, target.weight) for target in found])
        # A cycle that begins anew with each snapshot would favour its first targets.
        if basis != self._basis:
            self._basis = basis
            self._eligible = found
            self.choose = chooser(algorithm, found, self._turn) if found else None
        self.held.refresh()

    def _known(self) -> list[TargetRuntime]:
        """The targets that may be eligible at all, if only by failing open.

        Where requests are held, an instance gets nothing before its first passed check, and one that
        nobody listens at any more gets nothing while the supervisor makes sure: its replacement will.
        """
        if self.settings.hold is None:
            return self.targets
        return [
            target for target in self.targets if target.state != "initial" and not target.refused
        ]

    def can_take(self, tried: Sequence[TargetRuntime]) -> bool:
        """Whether there is a target for a request that `tried` have failed.

        One of those again where it is well; not where that would be failing open, since it would fail
        the same request once more.
        """
        if self.choose is None:
            return False
        return not self.fail_open or any(target not in tried for target in self._eligible)

    def others(self, tried: Sequence[TargetRuntime]) -> list[TargetRuntime]:
        """The eligible targets that are not among `tried`."""
        return [target for target in self._eligible if target not in tried]

    def pick(self, client: str, tried: Sequence[TargetRuntime]) -> TargetRuntime | None:
        """A target for a client's request, none of those `tried` for it before."""
        if not tried:
            return None if self.choose is None else self.choose(client)
        others = self.others(tried)
        if not others:
            # A suspect may only be slow, and whoever was tried has failed already.
            healthy = [t for t in self.targets if t.state == "healthy" and t.weight > 0]
            others = [t for t in healthy if t not in tried and not t.doubted]
        if not others:
            return None
        algorithm = self.settings.algorithm
        # A cycle that is begun for one choice would send every second try to its first target.
        once = "weighted_random" if algorithm == "round_robin" else algorithm
        return chooser(once, others, self._turn)(client)


class TargetTable:
    """All groups and targets of a worker, kept in step with the snapshots."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        row: int,
        report: Callable[[Evidence | Wanted], None],
        new_target: Callable[[TargetRuntime], None],
    ) -> None:
        self.loop = loop
        self.counters = counters
        self.bytes = counters.cells.cast("B")
        self.row = row
        self.report = report
        self.dirty: list[TargetRuntime] = []
        self.groups: dict[str, GroupRuntime] = {}
        self.targets: dict[int, TargetRuntime] = {}
        self._new_target = new_target
        self._rows: tuple[int, ...] = ()

    def apply(self, snapshot: Snapshot) -> None:
        """Make groups and targets what `snapshot` says; those that stay keep their state."""
        rows = tuple(snapshot.all_rows)
        settings = {group.name: group for group in snapshot.config.target_groups}
        for name in self.groups.keys() - settings.keys():
            self.groups.pop(name).held.close(f"target group {name} is no more")
        for name, group in settings.items():
            if name in self.groups:
                self.groups[name].settings = group
            else:
                self.groups[name] = GroupRuntime(self, group)
            self.groups[name].targets = []
        seen = set()
        for entry in snapshot.targets:
            if entry.group not in self.groups:
                continue
            seen.add(entry.index)
            target = self.targets.get(entry.index)
            if target is not None and target.key == entry.address:
                target.update(entry)
            else:
                if target is not None:
                    target.close()
                target = TargetRuntime(self, self.groups[entry.group], entry)
                self.targets[entry.index] = target
                self._new_target(target)
                target.see_rows(rows)
            target.group = self.groups[entry.group]
            target.group.targets.append(target)
        for index in self.targets.keys() - seen:
            self.targets.pop(index).close()
        if rows != self._rows:
            self.see_rows(rows)
        for group_runtime in self.groups.values():
            group_runtime.compare(len(rows) > 1)
            group_runtime.refilter()

    @property
    def held(self) -> int:
        """Requests and TCP connections that are held, of all groups."""
        return sum(len(group.held) for group in self.groups.values())

    def end_holding(self, why: str) -> None:
        """Nothing is held any more, and what is gets its answer."""
        for group in self.groups.values():
            group.held.close(why)

    def flush(self) -> None:
        """Store what changed since the last tick."""
        if self.dirty:
            now_ns = time.monotonic_ns()
            dirty, self.dirty = self.dirty, []
            for target in dirty:
                target.flush(now_ns)

    def see_rows(self, rows: tuple[int, ...]) -> None:
        """Whose counts make up the targets' load."""
        self._rows = rows
        for target in self.targets.values():
            target.see_rows(rows)
