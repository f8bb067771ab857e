"""A new configuration under a living instance: prepared first, then in force in one turn of the loop.

What a reload touches, in which order, so that no connection meets a half: sockets before the table
that names them, slots pass on before their worker drains, groups go after the last client of a removed
listener. Reads no file and says nothing to anybody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from fastlb.control_plane.administration import Administration
from fastlb.control_plane.administration import Prepared as PreparedAdmin
from fastlb.control_plane.departures import Departures
from fastlb.control_plane.faults import Faults
from fastlb.control_plane.group_targets import GroupTargets, Parts
from fastlb.control_plane.leadership import Leadership
from fastlb.control_plane.listen_sockets import ListenSockets, SocketChange
from fastlb.control_plane.listener_columns import ListenerColumns
from fastlb.control_plane.name_resolution import by_what_was_found, resolve_groups
from fastlb.control_plane.operator_overrides import OperatorOverrides
from fastlb.control_plane.scaling import with_holds
from fastlb.control_plane.surroundings import check_access_log
from fastlb.control_plane.used_groups import forwarded_to, used_groups
from fastlb.control_plane.worker_pool import Worker, WorkerPool
from fastlb.errors import FastlbError
from fastlb.model.address import Address
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.target_group import TargetGroup
from fastlb.target_table.counters import LISTENERS, ROWS
from fastlb.target_table.counters import Worker as Head
from fastlb.target_table.handover import listener_key
from fastlb.target_table.layout import SLOT_BYTES, Snapshot, SnapshotCodec
from fastlb.target_table.pipe import Listen

log = logging.getLogger("fastlb")

IN_FORCE_WITHIN = 10.0
"""For all workers to act on a new table, and for new ones to be ready: they need 0.2 s each."""
LOOK = 0.02
LINGER_GRACE = 1.0
"""Over the drain time-out, after which the workers have cut who is left of a removed listener."""
ENTRY_BYTES = 512
"""Room for one target in the table, its longest address included."""


@dataclass(slots=True)
class Prepared:
    """All that a change needs, and what it comes to: listeners with their real ports, the number of
    workers, groups that are to go on for a while."""

    given: Configuration
    configuration: Configuration
    sockets: SocketChange
    resolved: Mapping[Address, list[Address]]
    lingering: Lingering
    admin: PreparedAdmin | None = None

    def close(self) -> None:
        """Close what was bound and did not come into force."""
        self.sockets.close()
        if self.admin is not None:
            self.admin.close()


@dataclass(frozen=True, slots=True)
class Lingering:
    """Groups that are configured no more, and go on for the last requests of removed listeners."""

    target_groups: tuple[TargetGroup, ...] = ()
    auto_scaling_groups: tuple[AutoScalingGroup, ...] = ()
    until: float = 0.0

    def added_to(self, configuration: Configuration) -> Configuration:
        return replace(
            configuration,
            target_groups=(*configuration.target_groups, *self.target_groups),
            auto_scaling_groups=(*configuration.auto_scaling_groups, *self.auto_scaling_groups),
        )


@dataclass(slots=True)
class Reconfiguration:
    """`configuration` is what is in force: with real ports, and with the groups that linger. `swap`
    makes it the table's; `is_stopping` tells whether the instance ends, or is passed on."""

    configuration: Configuration
    sockets: ListenSockets
    pool: WorkerPool
    parts: Parts
    targets: GroupTargets
    leadership: Leadership
    departures: Departures
    overrides: OperatorOverrides
    columns: ListenerColumns
    administration: Administration
    swap: Callable[[Configuration], None]
    is_stopping: Callable[[], bool]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _lingering: Lingering = field(default_factory=Lingering)
    _generation: int = 0
    _change: SocketChange = field(default_factory=SocketChange)

    @property
    def stopping(self) -> bool:
        return self.is_stopping()

    # -- before

    async def prepare(self, given: Configuration) -> Prepared:
        """Check and bind everything that `given` needs. Raises FastlbError with all that can be found
        against it, and nothing changed."""
        faults = Faults()
        count = given.workers or len(os.sched_getaffinity(0))
        if not self.pool.room_for(count):
            faults.note(
                f"workers: no room for {count}: with those that still drain there would be more than "
                f"{ROWS}; try again after the drain timeout"
            )
        slots = max(count, self.sockets.slots)
        change, resolved = await asyncio.to_thread(self._bind, given, slots, faults)
        prepared = Prepared(given, given, change, resolved, Lingering())
        try:
            # Of listeners that cannot be bound the others' faults are looked for all the same.
            listeners = change.listeners or tuple(self.sockets.concrete(given.listeners))
            concrete = replace(given, listeners=listeners, workers=count)
            prepared.lingering = self._lingering_after(concrete)
            prepared.configuration = prepared.lingering.added_to(concrete)
            self._check(prepared, concrete, faults)
            with faults.noted():
                prepared.admin = self.administration.prepare(given.admin)
            faults.refuse()
        except BaseException:
            prepared.close()
            raise
        return prepared

    def _bind(
        self, given: Configuration, slots: int, faults: Faults
    ) -> tuple[SocketChange, dict[Address, list[Address]]]:
        """What takes its time: names, files and sockets."""
        with faults.noted():
            check_access_log(given.access_log)
        resolved = resolve_groups(given.target_groups, faults)
        change = SocketChange()
        with faults.noted():
            change = self.sockets.prepare(given.listeners, slots)
        return change, resolved

    def _check(self, prepared: Prepared, concrete: Configuration, faults: Faults) -> None:
        configuration = prepared.configuration
        used = used_groups(configuration)
        used |= {one.name for one in prepared.lingering.target_groups}
        with faults.noted():
            self.parts.registry.check(configuration.target_groups, prepared.resolved)
        with faults.noted():
            self.leadership.scaling.check(configuration, used)
        self._check_overrides(concrete, faults)
        slots = max(concrete.workers, self.sockets.slots)
        with faults.noted():
            _check_size(configuration, len(self.parts.registry), slots)
        keys = {listener_key(one) for one in configuration.listeners}
        if len(keys) > LISTENERS:
            faults.note(f"{len(keys)} listeners: at most {LISTENERS} can be")

    def _check_overrides(self, new: Configuration, faults: Faults) -> None:
        """A group that has somebody must not come to nobody by what operators said of its targets: they
        were asked to insist on that, and whoever changes the file was not."""
        for group in new.target_groups:
            members = self.parts.registry.members(group.name)
            if group.auto_scaling_group is None and any(one.active for one in members):
                with faults.noted():
                    self.overrides.check(group)

    def _lingering_after(self, new: Configuration) -> Lingering:
        """The groups that must go on beside `new`, for the clients of listeners that it has not."""
        old = self.configuration
        names = {listener_key(one) for one in new.listeners}
        removed = [one for one in old.listeners if listener_key(one) not in names]
        needed = {one.name for one in self._lingering.target_groups} | forwarded_to(removed)
        there = {one.name for one in new.target_groups}
        groups = tuple(
            one for one in old.target_groups if one.name in needed and one.name not in there
        )
        wanted = {one.auto_scaling_group for one in groups}
        configured = {one.name for one in new.auto_scaling_groups}
        scaled = tuple(
            one
            for one in old.auto_scaling_groups
            if one.name in wanted and one.name not in configured
        )
        until = self._lingering.until
        if removed:
            until = max(until, time.monotonic() + new.drain_timeout + LINGER_GRACE)
        return Lingering(groups, scaled, until if groups else 0.0)

    # -- the change

    def apply(self, prepared: Prepared) -> list[str]:
        """In one turn of the loop: nothing else runs, and one table is published of it."""
        change, configuration = prepared.sockets, prepared.configuration
        news = [(key, 0, change.bound[key]) for key in change.bound]
        news += [(key, len(self.sockets.sockets[key]), change.more[key]) for key in change.more]
        self.sockets.adopt(change, prepared.given.listeners)
        for key, first, sockets in news:
            binding = self.sockets.bindings[key]
            message = Listen(key, binding, first, len(sockets))
            self.pool.broadcast(message, [one.fileno() for one in sockets])
        # Whoever has them can serve them, were this process killed now.
        self.sockets.listen(change)
        self.columns.assign(listener_key(one) for one in configuration.listeners)
        surplus = self.pool.surplus(configuration.workers)
        self.pool.grow(configuration.workers)
        self._see_rows()
        self._take_over(configuration, prepared.lingering, prepared.resolved)
        for worker in surplus:
            self.pool.retire(worker, configuration.drain_timeout)
        logging.getLogger().setLevel(configuration.log_level.upper())
        self._change = SocketChange(removed=change.removed)
        change.removed = []
        admin, prepared.admin = prepared.admin, None
        return self.administration.apply(admin) if admin is not None else []

    def _take_over(
        self,
        configuration: Configuration,
        lingering: Lingering,
        resolved: Mapping[Address, list[Address]],
    ) -> None:
        used = used_groups(configuration) | {one.name for one in lingering.target_groups}
        groups = self.overrides.take(
            configuration.target_groups,
            by_what_was_found(resolved),
        )
        gone = self.parts.registry.reconfigure(groups, used, resolved)
        self.parts.registry.ask_anew()
        self.configuration, self._lingering = configuration, lingering
        self.swap(configuration)
        self.leadership.scaling.reload(configuration, used)
        self.parts.monitor.see_checks()
        self.parts.monitor.see_new()
        for target in gone:
            self.departures.leave(target, configuration.drain_timeout)
        self._generation = self.parts.publication.next_generation

    def _see_rows(self) -> None:
        """More workers have more rows; fewer leave theirs as they are, zeroed."""
        rows = max(self.parts.rows, self.pool.rows)
        self.parts.rows = self.parts.totals.rows = self.parts.monitor.rows = rows

    def send_sockets(self, worker: Worker, key: str) -> None:
        """Once more, to a worker that has not got them."""
        sockets = self.sockets.sockets.get(key, [])
        if sockets:
            message = Listen(key, self.sockets.bindings[key], 0, len(sockets))
            self.pool.tell(worker, message, [one.fileno() for one in sockets])

    # -- after

    async def in_force(self) -> list[str]:
        """Wait until all workers act on it, and until removed sockets are empty; who does not act."""
        deadline = time.monotonic() + IN_FORCE_WITHIN
        await self._until(lambda: not self._late(waiting=True), deadline)
        late = self._late()
        await self._until(lambda: self._change.removal_is_over, deadline)
        self._change.end_removed()
        return late

    async def _until(self, true: Callable[[], bool], deadline: float) -> None:
        """Looks again and again, because what workers write to shared memory wakes nobody."""
        while not true() and not self.stopping and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)

    def _late(self, *, waiting: bool = False) -> list[str]:
        """Who does not act on the new table; while `waiting` those who died are left out, for what they
        are waiting for may be far away."""
        blind = set(self.targets.blind(self._generation))
        late = []
        for worker in self.pool.workers:
            who = f"worker {worker.index}" + (f" (pid {worker.pid})" if worker.pid else "")
            if not worker.retired and worker.state == "dead":
                if not waiting:
                    late.append(
                        f"{who} has died and is started again: it acts on the new table then"
                    )
            elif not worker.retired and worker.state != "running":
                late.append(f"{who} is not ready yet: it acts on the new table once it is")
            elif worker.index in blind and worker.pid:
                late.append(
                    f"{who} does not act on the new table after {IN_FORCE_WITHIN:g} s: it hangs, and "
                    "others accept from its slots; end it and another takes its place"
                )
        return late

    async def look_round(self) -> None:
        """Once a second: let the groups go that lingered for the clients of removed listeners."""
        if not self._lingering.target_groups or self.lock.locked() or self.stopping:
            return
        if time.monotonic() < self._lingering.until:
            leaving = self.parts.totals.head(Head.LEAVING)
            if leaving or self.targets.blind(self._generation):
                return
        async with self.lock:
            names = {one.name for one in self._lingering.target_groups}
            scaled = {one.name for one in self._lingering.auto_scaling_groups}
            old = self.configuration
            kept = tuple(one for one in old.target_groups if one.name not in names)
            groups = tuple(one for one in old.auto_scaling_groups if one.name not in scaled)
            left = replace(old, target_groups=kept, auto_scaling_groups=groups)
            log.info("removed listeners have no clients any more: %s go", ", ".join(sorted(names)))
            self._take_over(left, Lingering(), {})


def _check_size(configuration: Configuration, registered: int, slots: int) -> None:
    """Raise FastlbError where the table would have no room."""
    new = sum(len(group.targets) for group in configuration.target_groups)
    snapshot = Snapshot(with_holds(configuration), 0, (), tuple(range(slots)))
    size = len(SnapshotCodec().encode(snapshot)) + (registered + new) * ENTRY_BYTES
    if size > SLOT_BYTES:
        raise FastlbError(
            f"the configuration of {size} bytes has too many rules or targets: at most {SLOT_BYTES}"
        )
