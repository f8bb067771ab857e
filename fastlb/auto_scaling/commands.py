"""What an operator says to the groups: each answered at once with what it will do, or why not.

Turns requests of the control socket, plain values, into calls of `group` and plain values back. A
request that makes no sense raises ValueError with a sentence. The answer to what changes something
says what it will do (`said`) and of which group (`group`).
"""

from __future__ import annotations

import asyncio
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastlb.auto_scaling.group import Group
from fastlb.auto_scaling.group_status import (
    instances_of,
    is_steady,
    launches_use,
    what_it_does,
)
from fastlb.auto_scaling.instance import Instance
from fastlb.history import MOST_ENTRIES, Entry, History
from fastlb.model.auto_scaling import SUSPENDABLE

LONGEST_WAIT = 20.0
"""Seconds that one request may wait; whoever wants to wait longer asks again."""

Request = Mapping[str, Any]
Answer = dict[str, Any]


class Commands:
    """The commands by their names."""

    def __init__(
        self, groups: Mapping[str, Group], activities: History, decisions: History
    ) -> None:
        self._groups = groups
        self._activities = activities
        self._decisions = decisions
        self.by_name: dict[str, Callable[[Request], Any]] = {
            "scale": self.scale,
            "refresh": self.refresh,
            "suspend": self.suspend,
            "resume": self.resume,
            "protect": self.protect,
            "standby": self.standby,
            "return": self.bring_back,
            "terminate": self.terminate,
            "activity": self.activity,
            "why": self.why,
            "settled": self.settled,
        }

    # -- groups

    def scale(self, request: Request) -> Answer:
        group = self._group(request)
        desired = request.get("desired")
        if not isinstance(desired, int) or isinstance(desired, bool):
            raise ValueError(f"expected a number of instances, got {desired!r}")
        least, most = group.scaler.bounds.least, group.scaler.bounds.most
        if not least <= desired <= most:
            raise ValueError(
                f"group {group.name} has from {least} to {most} instances (min and max), "
                f"got {desired}"
            )
        before = group.desired
        if desired == before:
            return _said(group, f"group {group.name} has {desired} desired already")
        group.scaler.set_desired(desired, "asked for by `fastlb scale`")
        said = f"group {group.name}: desired capacity {before} -> {desired}"
        if group.scaler.scales_by_itself:
            said += f"; its policies may change that again (fastlb suspend {group.name} scaling)"
        return _said(group, said)

    def refresh(self, request: Request) -> Answer:
        group = self._group(request)
        action, force = request.get("action", "start"), request.get("force", False)
        if not isinstance(force, bool):
            raise ValueError(f"force: expected true or false, got {force!r}")
        if action == "start":
            return self._start_refresh(group, force=force)
        if action not in ("cancel", "rollback"):
            raise ValueError(f"expected start, cancel or rollback, got {action!r}")
        if force:
            raise ValueError(f"force: only the start of a refresh is insisted on, not its {action}")
        return self._cancel_refresh(group) if action == "cancel" else self._roll_back(group)

    @staticmethod
    def _start_refresh(group: Group, *, force: bool) -> Answer:
        name, run, templates = group.name, group.rollout.run, group.rollout.templates
        if run is not None:
            raise ValueError(
                f"group {name}: {run.entry.what} is under way ({run.refresh.phase}); "
                f"wait for it, or: fastlb refresh {name} --cancel"
            )
        version = templates.configured
        bad = templates.rolled_back.get(version)
        if bad is not None and not force:
            raise ValueError(
                f"group {name}: template v{version} was rolled back: {bad}; change the launch "
                f"template, or try the same one again: fastlb refresh {name} --force"
            )
        why = "asked for by `fastlb refresh`"
        if bad is not None:
            why += f" --force; v{version} was rolled back before: {bad}"
        elif version != templates.version:
            why = f"asked for; v{version} is configured"
        living = len(group.fleet.in_state("pending", "in_service"))
        group.rollout.refresh(why)
        new = "is replaced by a new one" if living == 1 else "are replaced by new ones"
        return _said(group, f"group {name}: {instances_of(living)} {new} of template v{version}")

    @staticmethod
    def _cancel_refresh(group: Group) -> Answer:
        if group.rollout.run is None:
            raise ValueError(f"group {group.name}: no refresh is under way")
        what = "rollback" if group.rollout.going_back else "refresh"
        new = "" if group.rollout.going_back else "new "
        surplus = group.rollout.cancel(group.desired)
        went = ""
        if surplus:
            went = f"{surplus} {new}{'instance goes' if surplus == 1 else 'instances go'} again, "
        return _said(
            group,
            f"group {group.name}: the {what} is cancelled; what was replaced stays so, {went}"
            f"and {launches_use(group)}",
        )

    @staticmethod
    def _roll_back(group: Group) -> Answer:
        run, templates = group.rollout.run, group.rollout.templates
        if run is None and (
            templates.configured == templates.version or not group.rollout.others()
        ):
            raise ValueError(
                f"group {group.name}: no refresh is under way, and none was cancelled that left an "
                f"instance of another template than v{templates.version}: there is nothing to go "
                "back from"
            )
        if run is not None and run.refresh.source == run.refresh.target:
            raise ValueError(
                f"group {group.name}: old and new are of the same template v"
                f"{run.refresh.target}: there is nothing to go back to"
                if templates.proven
                else f"group {group.name}: no template before v{run.refresh.target} has shown that "
                "it works: there is nothing to go back to"
            )
        if group.rollout.going_back:
            raise ValueError(f"group {group.name}: it is being rolled back already")
        group.rollout.roll_back("asked for by `fastlb refresh --rollback`")
        return _said(group, f"group {group.name}: back to template v{templates.version}")

    def suspend(self, request: Request) -> Answer:
        return self._suspend(request, suspend=True)

    def resume(self, request: Request) -> Answer:
        return self._suspend(request, suspend=False)

    def _suspend(self, request: Request, *, suspend: bool) -> Answer:
        group = self._group(request)
        given = request.get("process")
        if given is None and not suspend:
            processes = list(SUSPENDABLE)
        elif given in SUSPENDABLE:
            processes = [str(given)]
        else:
            raise ValueError(f"expected one of {', '.join(SUSPENDABLE)}, got {given!r}")
        for process in processes:
            group.suspend(process, suspend=suspend)
        left = sorted(group.suspended)
        said = f"suspended: {', '.join(left)}" if left else "nothing is suspended"
        return _said(group, f"group {group.name}: {said}")

    # -- instances

    def protect(self, request: Request) -> Answer:
        group, one = self._instance(request)
        on = request.get("on", True)
        if not isinstance(on, bool):
            raise ValueError(f"expected true or false, got {on!r}")
        group.protect(one, on)
        what = "is protected from scale-in" if on else "is protected no more"
        return _said(group, f"instance {one.id} {what}")

    def standby(self, request: Request) -> Answer:
        group, one = self._instance(request)
        replace = bool(request.get("replace", False))
        if one.state != "in_service":
            raise ValueError(
                f"instance {one.id} is {_state(one)}; only one in service can stand by"
            )
        if not replace and group.desired - 1 < group.scaler.bounds.least:
            raise ValueError(
                f"group {group.name} would fall under its least of {group.scaler.bounds.least}: with "
                "--replace another one is launched in its place"
            )
        group.stand_by(one, replace=replace)
        return _said(
            group,
            f"instance {one.id} is drained and kept running; desired capacity is {group.desired}",
        )

    def bring_back(self, request: Request) -> Answer:
        group, one = self._instance(request)
        if one.state != "standby":
            raise ValueError(f"instance {one.id} is {_state(one)}, not in standby")
        if group.desired + 1 > group.scaler.bounds.most:
            raise ValueError(
                f"group {group.name} would come over its most of {group.scaler.bounds.most}: "
                f"fastlb scale {group.name} {group.desired - 1} first, or terminate {one.id}"
            )
        group.bring_back(one)
        return _said(
            group, f"instance {one.id} is checked and returns; desired capacity is {group.desired}"
        )

    def terminate(self, request: Request) -> Answer:
        group, one = self._instance(request)
        decrement = bool(request.get("decrement", False))
        if one.state == "terminating":
            raise ValueError(f"instance {one.id} is terminating already")
        counts = one.state != "standby"
        if decrement and counts and group.desired - 1 < group.scaler.bounds.least:
            raise ValueError(
                f"group {group.name} would fall under its least of {group.scaler.bounds.least}: "
                "leave --decrement out, and another one is launched in its place"
            )
        return _said(group, group.terminate(one, decrement=decrement))

    # -- looking

    async def activity(self, request: Request) -> Answer:
        group = request.get("group")
        name = self._group(request).name if group is not None else None
        return await self._entries(
            self._activities, request, lambda one: name in (None, one.subject)
        )

    async def why(self, request: Request) -> Answer:
        """All decisions, or those `about` a group, an instance or a target, or a target's port."""
        about = request.get("about")
        if about is not None and not isinstance(about, str):
            raise ValueError(f"about: expected text, got {about!r}")
        return await self._entries(
            self._decisions, request, lambda one: about is None or is_about(one.subject, about)
        )

    async def _entries(
        self, history: History, request: Request, wanted: Callable[[Entry], bool]
    ) -> Answer:
        """Of the `wanted` those with a number over `after`, and those of the numbers `open` that have
        ended since; of them the `last` ones. `newest` is what to ask on after."""
        after = int(_number(request, "after", 0))
        last = int(_number(request, "last", MOST_ENTRIES))
        seconds = min(_number(request, "wait", 0), LONGEST_WAIT)
        given = request.get("open", [])
        if not isinstance(given, list):
            raise ValueError(f"open: expected a list of numbers, got {given!r}")

        def find() -> list[Entry]:
            return [
                one
                for one in history.after(0)
                if wanted(one)
                and (one.number > after or (one.ended is not None and one.number in given))
            ]

        found = find()
        if not found and seconds:
            await history.wait(seconds)
            found = find()
        newest = max((one.number for one in history.after(after)), default=after)
        return {"entries": [one.plain() for one in found[-last:] if last], "newest": newest}

    async def settled(self, request: Request) -> Answer:
        """Wait until a group is what it should be; what it still does, if it does."""
        group = self._group(request)
        seconds = min(_number(request, "wait", 0), LONGEST_WAIT)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not is_steady(group) and loop.time() < deadline:
            await group.activities.wait(min(deadline - loop.time(), 0.25))
        return {"settled": is_steady(group), "doing": what_it_does(group)}

    # -- who is meant

    def _group(self, request: Request) -> Group:
        name = request.get("group")
        if name is None and len(self._groups) == 1:
            return next(iter(self._groups.values()))
        if name is None:
            known = ", ".join(self._groups)
            raise ValueError(
                f"there are several auto scaling groups: say which of {known}"
                if known
                else "this instance has no auto scaling group"
            )
        group = self._groups.get(name) if isinstance(name, str) else None
        if group is None:
            raise ValueError(f"there is no auto scaling group {name!r}{_known(self._groups, name)}")
        return group

    def _instance(self, request: Request) -> tuple[Group, Instance]:
        id = request.get("instance")
        ids = []
        for group in self._groups.values():
            for one in group.fleet:
                if one.id == id:
                    return group, one
                ids.append(one.id)
        raise ValueError(f"there is no instance {id!r}{_known(ids, id)}")


def is_about(subject: str, word: str) -> bool:
    """Whether somebody who says `word` means it: an address or a name, a port, a part of a path such
    as an instance's id."""
    if word in (subject, subject.removeprefix("unix:"), *subject.split("/")):
        return True
    return not subject.startswith("unix:") and word.removeprefix(":") == subject.rpartition(":")[2]


def _said(group: Group, what: str) -> Answer:
    return {"said": what, "group": group.name}


def _number(request: Request, name: str, default: float) -> float:
    value = request.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name}: expected a number, got {value!r}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}: expected a number, got {value!r}")
    return value


def _known(names: Iterable[str], given: object) -> str:
    listed = list(names)
    if not listed:
        return ": there is none"
    near = difflib.get_close_matches(str(given), listed, n=1, cutoff=0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; there {'is' if len(listed) == 1 else 'are'} {', '.join(listed[:20])}"


def _state(one: Instance) -> str:
    return one.state.replace("_", " ")
