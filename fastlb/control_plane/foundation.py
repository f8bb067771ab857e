"""What is there before the first worker: sockets, the bridge's memory, and the targets on it.

Makes these parts in the order in which each needs the one before, and has them closed in the
opposite one. None of them knows a worker's process or an auto scaling group.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from fastlb.control_plane.departures import Departures
from fastlb.control_plane.faults import Faults
from fastlb.control_plane.group_targets import GroupTargets, Parts
from fastlb.control_plane.health_monitor import HealthMonitor
from fastlb.control_plane.listen_sockets import ListenSockets
from fastlb.control_plane.listener_columns import ListenerColumns
from fastlb.control_plane.name_resolution import (
    by_what_was_found,
    doubles,
    first_of,
    resolve_groups,
)
from fastlb.control_plane.operator_overrides import OperatorOverrides
from fastlb.control_plane.orphans import Orphans
from fastlb.control_plane.publication import Publication
from fastlb.control_plane.run_dir import RunDir
from fastlb.control_plane.surroundings import check_access_log
from fastlb.control_plane.takeover import Inheritance
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.totals import Totals
from fastlb.control_plane.used_groups import used_groups
from fastlb.errors import FastlbError
from fastlb.model.address import Address
from fastlb.model.configuration import Configuration
from fastlb.model.target_group import OUT_OF_USE, TargetGroup
from fastlb.target_table.counters import Counters
from fastlb.target_table.handover import listener_key
from fastlb.target_table.layout import Snapshot
from fastlb.target_table.writer import TableWriter

log = logging.getLogger("fastlb")


@dataclass(frozen=True, slots=True)
class Foundation:
    """`configuration` is what the given one came to: real ports, and the number of workers. There are
    `slots` of each listener."""

    configuration: Configuration
    slots: int
    orphans: Orphans
    sockets: ListenSockets
    writer: TableWriter
    counters: Counters
    totals: Totals
    columns: ListenerColumns
    publication: Publication
    overrides: OperatorOverrides
    registry: TargetRegistry
    monitor: HealthMonitor
    parts: Parts
    targets: GroupTargets
    departures: Departures


def lay(
    given: Configuration,
    workers: int,
    run_dir: RunDir,
    left: Inheritance,
    snapshot: Callable[[], Snapshot],
    on_published: Callable[[], None],
    pids: Callable[[], set[int]],
    cleanup: AsyncExitStack,
    *,
    others_serve: bool,
    faults: Faults,
) -> Foundation:
    """Raises FastlbError with all of what is in `faults` and can be found here: a log that cannot be
    opened, an address in use, a name that cannot be resolved, a group that comes to nobody while
    `others_serve`: another supervisor is in charge. `left` is what is there of the instance already;
    `pids` are the workers', which are no orphans. Nothing is published before `publication.begin`, and
    `snapshot` not asked."""
    orphans = Orphans(run_dir, left.orphans, pids)
    cleanup.push_async_callback(orphans.close)
    slots = max(workers, left.slots)
    overrides = OperatorOverrides(run_dir.path)
    resolved = _check(given, overrides, left, others_serve, faults)
    with faults.noted():
        sockets = ListenSockets(given.listeners, slots, left.sockets)
        cleanup.callback(sockets.close)
    faults.refuse()
    # Port 0 and 0 workers mean "whatever it comes to": the workers read what it came to.
    configuration = replace(given, listeners=sockets.listeners, workers=workers)
    writer = TableWriter()
    cleanup.callback(writer.close)
    counters = Counters()
    cleanup.callback(counters.close)
    totals = Totals(counters, workers)
    columns = ListenerColumns(totals.forget_listener)
    columns.assign(listener_key(one) for one in configuration.listeners)
    publication = Publication(writer, snapshot, on_published)
    cleanup.callback(publication.end)
    find = by_what_was_found(resolved)
    registry = TargetRegistry(
        overrides.take(given.target_groups, find),
        used_groups(given),
        publication.changed,
        override_of=overrides.of,
        find=find,
    )
    monitor = HealthMonitor(registry, counters, workers, asyncio.get_running_loop())
    parts = Parts(registry, monitor, publication, counters, totals, workers, lambda: orphans.living)
    targets = GroupTargets(parts)
    departures = Departures(targets, registry)
    return Foundation(
        configuration=configuration,
        slots=slots,
        orphans=orphans,
        sockets=sockets,
        writer=writer,
        counters=counters,
        totals=totals,
        columns=columns,
        publication=publication,
        overrides=overrides,
        registry=registry,
        monitor=monitor,
        parts=parts,
        targets=targets,
        departures=departures,
    )


def _check(
    given: Configuration,
    overrides: OperatorOverrides,
    left: Inheritance,
    others_serve: bool,
    faults: Faults,
) -> dict[Address, list[Address]]:
    """What can be found without changing anything. Where the targets are whose names can be resolved."""
    with faults.noted():
        check_access_log(given.access_log)
    resolved = resolve_groups(given.target_groups, faults)
    for group in given.target_groups:
        for line in doubles(group, lambda target: first_of(target, resolved)):
            faults.note(line)
    with faults.noted():
        _check_overrides(overrides, given.target_groups, left, others_serve)
    return resolved


def _check_overrides(
    overrides: OperatorOverrides,
    groups: Iterable[TargetGroup],
    left: Inheritance,
    others_serve: bool,
) -> None:
    """As at a reload: a group that has somebody does not come to nobody by what operators said of the
    targets that the file names now. Where nobody else is in charge it is told, and their word stands."""
    served = {group for (group, _), (state, _) in left.health.items() if state not in OUT_OF_USE}
    for group in groups:
        if group.name not in served or group.auto_scaling_group is not None:
            continue
        try:
            overrides.check(group)
        except FastlbError:
            if others_serve:
                raise
            log.error(
                "target group %s has nobody any more, because of what operators said of the targets "
                "that the configuration names now: `fastlb status` shows it",
                group.name,
            )
