"""All auto scaling groups of an instance of fastlb: made, adopted, ticked, asked, ended together.

The seam between the supervisor and `auto_scaling`: knows both, and decides nothing of either.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from fastlb.auto_scaling.commands import Commands
from fastlb.auto_scaling.group import Group
from fastlb.auto_scaling.group_status import launches_use, status_of
from fastlb.auto_scaling.headroom import Headroom
from fastlb.auto_scaling.instance import why_not_startable
from fastlb.auto_scaling.process import ids_of, kill_marked
from fastlb.auto_scaling.records import InstanceRecord, Records
from fastlb.control_plane.group_targets import GroupTargets
from fastlb.control_plane.run_dir import RunDir
from fastlb.errors import FastlbError
from fastlb.history import History
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.target_group import Hold, TargetGroup

log = logging.getLogger("fastlb.scaling")

TICK = 0.1
HELD_AGAIN = 5.0
"""Workers say each second that they hold requests; after such a pause it is told anew."""


class Scaling:
    """The groups by their names, those left out to whose target group no listener forwards: their
    instances would never be checked. Raises FastlbError for a user of a launch template that cannot
    be."""

    def __init__(
        self,
        configuration: Configuration,
        used_groups: Collection[str],
        run_dir: RunDir,
        targets: GroupTargets,
        strangers: Callable[[], bool],
    ) -> None:
        self.activities = History(run_dir.path / "activities.jsonl")
        self.decisions = History(run_dir.path / "decisions.jsonl")
        self._run_dir = run_dir
        self._records = Records(run_dir.path)
        self._targets = targets
        self._strangers = strangers
        self._unwanted: dict[str, str] = {}
        """Instances that are to end, by their ids, and why."""
        self._ticking: asyncio.TimerHandle | None = None
        self._by_target_group: dict[str, Group] = {}
        self._held_at: dict[str, float] = {}
        self.groups: dict[str, Group] = {}
        self._leaving: dict[Group, asyncio.Task[None]] = {}
        """Groups that were removed, until their Instances have ended."""
        self._headroom = Headroom()
        places = places_of(configuration, used_groups)
        for settings in configuration.auto_scaling_groups:
            place = places.get(settings.name)
            if place is None:
                continue  # nobody could ask its instances, as `fastlb check` warns
            self._make_way(settings)
            trouble = why_not_startable(settings.launch_template)
            if trouble:  # no reason to let the other groups wait: what is missing may come
                log.error("auto_scaling_groups.%s.launch_template: %s", settings.name, trouble)
            self._make(settings, place)
        self.commands = Commands(self.groups, self.activities, self.decisions)

    def _make(self, settings: AutoScalingGroup, place: str) -> Group:
        group = Group(
            settings,
            place,
            self._targets,
            self._records,
            self.activities,
            self.decisions,
            self._headroom,
        )
        self.groups[settings.name] = group
        self._by_target_group[place] = group
        return group

    def _make_way(self, settings: AutoScalingGroup) -> None:
        """Let the user of a launch template come to its sockets."""
        user = settings.launch_template.user
        if user is not None:
            ids = ids_of(user)
            if ids.uid != os.geteuid():
                self._run_dir.let_pass(user, ids.uid)

    def adopt(self) -> None:
        """Take up the Instances of a supervisor that died; those of groups that are configured no more
        are ended as soon as no orphaned worker sends them requests."""
        wanted: dict[str, list[InstanceRecord]] = {name: [] for name in self.groups}
        for record in self._records.instances():
            if record.group in wanted:
                wanted[record.group].append(record)
                continue
            self._unwanted[record.id] = f"its group {record.group} is configured no more"
        for id in self._records.strays():
            self._unwanted[id] = "its record cannot be read"
        for name, records in wanted.items():
            self.groups[name].adopt(records)

    def _kill_unwanted(self) -> None:
        for id, why in self._unwanted.items():
            pids = sorted(set(kill_marked(id)))
            log.warning("instance %s was killed, since %s: pids %s", id, why, pids or "none left")
            self._records.forget(id)
        self._unwanted = {}

    def start(self) -> None:
        """Begin to act, and to tick."""
        for group in self.groups.values():
            self._guarded(group, Group.start)
        self._tick()

    @staticmethod
    def _guarded(group: Group, act: Callable[[Group], None]) -> None:
        """One group's trouble, for want of descriptors or by a mistake, is not the others'."""
        try:
            act(group)
        except Exception:
            log.exception("group %s could not go on", group.name)

    def wanted(self, target_group: str) -> None:
        """A worker holds requests for this target group."""
        group = self._by_target_group.get(target_group)
        now = time.monotonic()
        if now - self._held_at.get(target_group, -HELD_AGAIN) >= HELD_AGAIN:
            cause = "no target of it can take them"
            self.decisions.add("routing", target_group, "requests are held", cause)
        self._held_at[target_group] = now
        if group is not None:
            group.scaler.wake()

    def status(self) -> list[dict[str, Any]]:
        return [status_of(group) for group in self.groups.values()]

    def told(self, kind: str, subject: str, what: str, cause: str) -> None:
        """A decision of the target registry, for the history."""
        self.decisions.add("health" if kind == "health" else "routing", subject, what, cause)

    def check(self, configuration: Configuration, used_groups: Collection[str]) -> None:
        """Raise FastlbError where `reload` could not take the configuration over: a launch template that
        cannot work, a group that would change its place."""
        places = places_of(configuration, used_groups)
        for settings in configuration.auto_scaling_groups:
            known, place = self.groups.get(settings.name), places.get(settings.name)
            if place is None:
                continue
            if known is not None and known.target_group != place:
                raise FastlbError(
                    f"target_groups.{place}.auto_scaling_group: {settings.name} registers its "
                    f"instances in {known.target_group}, which cannot change while it runs; give "
                    "the new place an auto scaling group of another name"
                )
            if known is not None and known.settings == settings:
                continue
            trouble = why_not_startable(settings.launch_template)
            if trouble:
                raise FastlbError(f"auto_scaling_groups.{settings.name}.launch_template: {trouble}")
            self._make_way(settings)

    def reload(self, configuration: Configuration, used_groups: Collection[str]) -> None:
        """Take over the groups as they are configured now, after `check`. What commands have set (the
        desired capacity, what is suspended, standby) stays; the Instances of a removed group drain
        and end."""
        places = places_of(configuration, used_groups)
        wanted = {one.name: one for one in configuration.auto_scaling_groups if one.name in places}
        for name in self.groups.keys() - wanted.keys():
            group = self.groups.pop(name)
            self._by_target_group.pop(group.target_group, None)
            self._leaving[group] = asyncio.create_task(self._see_out(group))
        for name, settings in wanted.items():
            known = self.groups.get(name)
            if known is None:
                self._guarded(self._make(settings, places[name]), Group.start)
            elif known.settings != settings:
                known.reload(settings)

    async def _see_out(self, group: Group) -> None:
        """Until nothing is left of a removed group."""
        await group.retire()
        self._leaving.pop(group, None)
        log.info("auto scaling group %s is gone: its instances have ended", group.name)

    def not_in_force(self) -> list[str]:
        """The configured launch templates that were rolled back or whose refresh was cancelled, and what
        to do."""
        return [
            f"group {name}: {group.rollout.templates.not_in_force}; {launches_use(group)}"
            for name, group in self.groups.items()
            if group.rollout.templates.not_in_force
        ]

    def save_all(self) -> None:
        """The run-time folder was made anew."""
        for group in self.groups.values():
            group.save_all()

    async def stop(self) -> None:
        """End every Instance, at its own stop timeout at the latest."""
        self._end_ticking()
        self._kill_unwanted()
        await asyncio.gather(*(group.stop() for group in self._all()))
        self._forget()

    async def kill(self) -> None:
        """The same, at once. Does nothing where `stop` has ended them."""
        self._end_ticking()
        self._kill_unwanted()
        for group in self._all():
            await group.kill()
        self._forget()

    async def leave(self) -> None:
        """Leave the Instances to another supervisor; their targets stay registered here."""
        self._end_ticking()
        await asyncio.gather(*(group.leave() for group in self._all()))

    def deregister_all(self) -> None:
        """After `leave`: whoever adopts the Instances anew registers them anew."""
        for group in self.groups.values():
            for one in group.fleet:
                if one.target is not None:
                    one.target.deregister()
                    one.target = None

    def _all(self) -> list[Group]:
        """All groups, for the end; nobody sees those out any more that were removed."""
        for seeing in self._leaving.values():
            seeing.cancel()
        return [*self.groups.values(), *self._leaving]

    def _forget(self) -> None:
        """After a clean end the next start begins anew."""
        self._records.forget_groups()
        self.activities.forget()
        self.decisions.forget()

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)
        for group in (*self.groups.values(), *self._leaving):
            self._guarded(group, Group.tick)
        if self._unwanted and not self._strangers():
            self._kill_unwanted()
        self._targets.release_retired()

    def _end_ticking(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None


def places_of(configuration: Configuration, used_groups: Collection[str]) -> dict[str, str]:
    """The target group of each auto scaling group whose instances somebody could ask."""
    return {
        one.auto_scaling_group: one.name
        for one in configuration.target_groups
        if one.auto_scaling_group is not None and one.name in used_groups
    }


def with_holds(configuration: Configuration) -> Configuration:
    """The configuration as workers get it: how to hold requests, and nothing of launch templates."""
    groups = {one.name: one for one in configuration.auto_scaling_groups}

    def held(target_group: TargetGroup) -> TargetGroup:
        name = target_group.auto_scaling_group
        settings = groups.get(name) if name is not None else None
        if settings is None:
            return target_group
        return replace(target_group, hold=Hold(settings.hold_timeout, settings.hold_requests))

    return replace(
        configuration,
        target_groups=tuple(held(one) for one in configuration.target_groups),
        auto_scaling_groups=(),
    )
