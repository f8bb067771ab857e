"""What an operator says to targets: drained, disabled, weighed, added, removed, and back.

Turns requests, plain values, into overrides on top of the configuration, and says what it did. A
request that makes no sense raises ValueError with a sentence, and nothing has changed. An Instance
of an auto scaling group is drained by its standby: there is one way to take one out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastlb.control_plane.departures import Departures
from fastlb.control_plane.group_targets import GroupTargets, Parts
from fastlb.control_plane.name_resolution import resolve
from fastlb.control_plane.operator_overrides import OperatorOverrides
from fastlb.control_plane.registered_target import RegisteredTarget
from fastlb.control_plane.scaling import Scaling
from fastlb.control_plane.target_impact import NO_IMPACT, Impact, impact_of_losing
from fastlb.control_plane.target_lookup import (
    Meant,
    Request,
    TargetLookup,
    reason_of,
    seconds_of,
    switch_of,
    text_of,
)
from fastlb.control_plane.target_naming import Named
from fastlb.control_plane.wording import count_of
from fastlb.errors import FastlbError
from fastlb.model.address import parse_target_address
from fastlb.model.target_group import MOST_WEIGHT, Target
from fastlb.model.target_override import (
    Added,
    OutMode,
    OutOfUse,
    Override,
    Removed,
    WeightOverride,
    parse_weight,
)
from fastlb.target_table.layout import TargetEntry

log = logging.getLogger("fastlb.targets")

LONGEST_WAIT = 20.0
"""Seconds that one request may wait; whoever wants to wait longer asks again."""
LOOK_SECONDS = 0.02
Answer = dict[str, Any]


class TargetCommands:
    """The commands by their names. Each request names a `target`, and its `group` where the same
    address is in several; `reason` is kept, and `force` insists on what leaves a group worse off.

    The answer holds `said`, what there is to mind as `warning`, and `group`, `target` and `in_flight`;
    where the target is an `instance`, its `group` is the auto scaling group."""

    def __init__(
        self,
        parts: Parts,
        targets: GroupTargets,
        departures: Departures,
        overrides: OperatorOverrides,
        scaling: Scaling,
        drain_timeout: Callable[[], float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._targets = targets
        self._departures = departures
        self._drain_timeout = drain_timeout
        self._overrides = overrides
        self._scaling = scaling
        self._lookup = TargetLookup(parts.registry, overrides, scaling)
        self._clock = clock
        self.by_name: dict[str, Callable[[Request], Any]] = {
            "drain": self.drain,
            "undrain": self.undrain,
            "disable": self.disable,
            "enable": self.enable,
            "weight": self.weight,
            "target_add": self.add,
            "target_remove": self.remove,
            "target_idle": self.idle,
        }

    # -- out of use, and back

    async def drain(self, request: Request) -> Answer:
        """No new requests; its checks go on, so that it is back at once."""
        return await self._waited(request, lambda: self._take_out(request, "drained"))

    async def disable(self, request: Request) -> Answer:
        """No new requests and no checks."""
        return await self._waited(request, lambda: self._take_out(request, "disabled"))

    def undrain(self, request: Request) -> Answer:
        return self._bring_back(request, "drained")

    def enable(self, request: Request) -> Answer:
        return self._bring_back(request, "disabled")

    def _take_out(self, request: Request, mode: OutMode) -> Answer:
        reason = reason_of(request)
        named = self._lookup.named(request)
        if named.instance:
            return self._stand_by(named, mode, reason)
        meant = self._lookup.meant(named)
        out = meant.override.out
        if out is not None and out.mode == mode:
            if reason and reason != out.reason:
                again = replace(meant.override, out=replace(out, reason=reason))
                return self._say(meant, again, f"{mode}, for another reason", reason)
            return self._answer(meant, f"{meant} is {mode} already")
        impact = self._insisted(meant.target, request)
        override = replace(meant.override, out=OutOfUse(mode, self._clock(), reason))
        return self._say(meant, override, mode, reason, impact=impact)

    def _bring_back(self, request: Request, mode: OutMode) -> Answer:
        reason = reason_of(request)
        named = self._lookup.named(request)
        if named.instance:
            answer: Answer = self._scaling.commands.bring_back({"instance": named.instance})
            return {**answer, "instance": named.instance}
        meant = self._lookup.meant(named)
        out = meant.override.out
        if out is None:
            return self._answer(meant, f"{meant} is not {mode}: it is {meant.target.state}")
        if out.mode != mode:
            command = "undrain" if out.mode == "drained" else "enable"
            raise ValueError(
                f"{meant} is {out.mode}, not {mode}: "
                f"fastlb {command} {meant.target.address} brings it back"
            )
        back = "no longer " + mode
        return self._say(meant, replace(meant.override, out=None), back, reason)

    def _stand_by(self, named: Named, mode: OutMode, reason: str) -> Answer:
        try:
            answer: Answer = self._scaling.commands.standby({"instance": named.instance})
        except ValueError as error:
            hint = (
                f": fastlb standby {named.instance} --replace" if "--replace" in str(error) else ""
            )
            raise ValueError(f"{error}{hint}") from None
        because = f"asked for by an operator: {reason}" if reason else "asked for by an operator"
        self._registry.told("routing", named.instance, f"{mode}, which is standby", because)
        said = f"{answer['said']} (standby, since it is an instance; fastlb return brings it back)"
        return {**answer, "said": said, "instance": named.instance}

    # -- weights

    def weight(self, request: Request) -> Answer:
        """`weight` is a number, or percent of the configured one as "50%"; with `reset` it is that."""
        reason = reason_of(request)
        reset = switch_of(request, "reset")
        raw = request.get("weight")
        if reset == (raw is not None):
            raise ValueError("expected a weight such as 3 or 50%, or to reset it")
        wanted = None
        if not reset:
            number, percent = parse_weight(raw)
            wanted = WeightOverride(number, percent, self._clock(), reason)
        meant = self._lookup.meant(self._lookup.named(request))
        configured, before = meant.target.target.weight, meant.target.weight
        after = configured if wanted is None else wanted.of(configured)
        if after > MOST_WEIGHT:
            raise ValueError(
                f"{meant}: {raw} of the configured weight {configured} is over {MOST_WEIGHT}"
            )
        impact = NO_IMPACT if after else self._insisted(meant.target, request)
        what = f"weight {before_and_after(before, after)}"
        if wanted is None:
            what += ", the configured one"
        elif wanted.percent:
            what += f" ({wanted} of {configured})"
        return self._say(meant, replace(meant.override, weight=wanted), what, reason, impact=impact)

    # -- coming and going

    async def add(self, request: Request) -> Answer:
        """A target that the configuration does not name, or one that was removed by `remove`."""
        reason = reason_of(request)
        group = self._lookup.group(request)
        address = parse_target_address(text_of(request, "target"))
        weight, backup = request.get("weight"), switch_of(request, "backup")
        number, percent = (1, False) if weight is None else parse_weight(weight)
        if percent:
            raise ValueError("a new target's weight is a number: there is none to take percent of")
        try:
            # Where the name server is slow, nobody else waits for it.
            resolved = await asyncio.to_thread(resolve, address, group)
        except FastlbError as error:
            raise ValueError(str(error)) from None
        if any(one.address == resolved for one in self._lookup.present(group)):
            raise ValueError(f"target {resolved} is in group {group} already")
        key = (group, str(address))
        if self._overrides.configured(*key) is None:
            key = (group, str(resolved))  # a name could be another address at the next start
        target = self._overrides.configured(*key)
        override = replace(self._overrides.at(key), removed=None)
        if target is not None and (weight is not None or backup):
            raise ValueError(
                f"target {address} of group {group} is configured: add it without a weight and "
                "without backup, and change its weight by fastlb weight"
            )
        if target is None:
            target = Target(resolved, number, backup)
            override = Override(added=Added(number, backup, self._clock(), reason))
        try:
            added = self._registry.register(group, target, resolved)
        except FastlbError as error:
            raise ValueError(str(error)) from None
        except KeyError:
            raise ValueError(f"group {group} is gone meanwhile") from None
        trouble = self._overrides.set(key, override)
        added.override = override
        self._told(added, "added by an operator", reason)
        self._parts.monitor.see_new()
        said = f"{added} is added, and gets requests when its first check has passed"
        meant = Meant(added, key, override)
        return self._answer(meant, said, trouble or _until_stopped(meant))

    async def remove(self, request: Request) -> Answer:
        """Drained first; gone when nothing is in flight there any more, or at the drain timeout."""
        return await self._waited(request, lambda: self._let_go(request))

    def _let_go(self, request: Request) -> Answer:
        reason = reason_of(request)
        self._lookup.group(request)
        named = self._lookup.named(request)
        if named.instance:
            raise ValueError(
                f"{named.address} is an instance: fastlb terminate {named.instance} ends it, "
                f"fastlb standby {named.instance} takes it out"
            )
        meant = self._lookup.meant(named)
        impact = self._insisted(meant.target, request)
        configured = self._overrides.configured(*meant.key) is not None
        # First said, then done: a supervisor that takes over amidst would have it back else.
        removed = Removed(self._clock(), reason) if configured else None
        trouble = self._overrides.set(meant.key, Override(removed=removed))
        self._told(meant.target, "removed by an operator", reason)
        drain_timeout = self._drain_timeout()
        self._departures.leave(meant.target, drain_timeout)
        self._tell_impact(meant, impact)
        stays = (
            f"; it is configured, and stays out until fastlb target add {meant.key[0]} {meant.key[1]}"
            if configured
            else ""
        )
        said = (
            f"{meant} is removed as soon as nothing is in flight there, and after "
            f"{drain_timeout:g} s (drain_timeout) at the latest{stays}"
        )
        return self._answer(meant, said, trouble, impact)

    # -- waiting

    async def _waited(self, request: Request, act: Callable[[], Answer]) -> Answer:
        """Do it, and with `wait` answer when nothing is in flight any more, or after so long: what `idle`
        says stands in the answer then."""
        seconds = seconds_of(request, "wait")
        answer = act()
        if not seconds or "instance" in answer:
            return answer
        who = {"group": answer["group"], "target": answer["target"]}
        return {**answer, **await self.idle({**who, "wait": seconds})}

    async def idle(self, request: Request) -> Answer:
        """Whether nothing is in flight any more at a target that gets nothing new; waits for that up
        to `wait` seconds. `back` where it gets new requests by now."""
        group, address = text_of(request, "group"), text_of(request, "target")
        deadline = time.monotonic() + min(seconds_of(request, "wait"), LONGEST_WAIT)
        since = self._parts.publication.next_generation
        while True:
            members = [one for one in self._registry.members(group) if str(one.address) == address]
            out = [one for one in members if not one.active]
            back = bool(members) and not out
            # One that was removed is through when it is gone, and what it had then as well.
            leaving = any(one.draining for one in out) or self._gone_with(group, address)
            idle = not leaving and (not out or self._targets.idle(out, since))
            if idle or time.monotonic() >= deadline:
                break
            await asyncio.sleep(LOOK_SECONDS)
        in_flight = sum(self._in_flight(one) for one in out) + self._gone_with(group, address)
        return {
            "idle": idle and not back,
            "back": back,
            "in_flight": in_flight,
            "strangers": self._parts.strangers(),
        }

    def _gone_with(self, group: str, address: str) -> int:
        """What is in flight still at one that was deregistered at its drain timeout."""
        return sum(
            self._in_flight(one)
            for one in self._registry.leaving()
            if (one.group, one.address) == (group, address)
        )

    def _in_flight(self, target: RegisteredTarget | TargetEntry) -> int:
        return self._parts.counters.target(target.index, self._parts.rows).in_flight

    # -- what is said

    def _insisted(self, target: RegisteredTarget, request: Request) -> Impact:
        """What it comes to when this target gets nothing new. Raises ValueError where that is an
        outage and nobody insists."""
        force = switch_of(request, "force")
        impact = impact_of_losing(target, self._registry.members(target.group.name))
        if impact.outage and not force:
            raise ValueError(
                f"{target} stays as it is: without it {impact.said}; --force does it all the same"
            )
        return impact

    def _say(
        self, meant: Meant, override: Override, what: str, reason: str, impact: Impact = NO_IMPACT
    ) -> Answer:
        """Kept first, then published: what was answered holds."""
        trouble = self._overrides.set(meant.key, override)
        self._registry.say(meant.target.index, override, what, _cause(reason))
        self._tell_impact(meant, impact)
        self._parts.monitor.see_new()
        said = f"{meant}: {what}"
        in_flight = self._in_flight(meant.target)
        if in_flight and not meant.target.active:
            said += f"; {count_of(in_flight, 'request')} in flight"
        return self._answer(meant, said, trouble, impact)

    def _told(self, target: RegisteredTarget, what: str, reason: str) -> None:
        log.info("%s: %s%s", target, what, _tail(reason))
        cause = f"in group {target.group.name}{_tail(reason)}"
        self._registry.told("routing", str(target.address), what, cause)

    def _tell_impact(self, meant: Meant, impact: Impact) -> None:
        if impact.said:
            log.warning("%s", impact.said)
            cause = f"an operator took out target {meant.target.address}"
            self._registry.told("routing", meant.key[0], impact.said, cause)

    def _answer(
        self, meant: Meant, said: str, trouble: str = "", impact: Impact = NO_IMPACT
    ) -> Answer:
        """`warning` is what there is to mind."""
        warnings = [impact.said, trouble]
        return {
            "said": said,
            "warning": "; ".join(one for one in warnings if one),
            "group": meant.target.group.name,
            "target": str(meant.target.address),
            "in_flight": self._in_flight(meant.target),
        }


def before_and_after(before: object, after: object) -> str:
    return f"{_amount(before)} -> {_amount(after)}"


def _amount(weight: Any) -> str:
    return f"{float(weight):g}"


def _until_stopped(meant: Meant) -> str:
    if meant.override.added is None:
        return ""
    return "it lasts until fastlb is stopped: what is to stay belongs into the configuration"


def _cause(reason: str) -> str:
    return f"by an operator{_tail(reason)}"


def _tail(reason: str) -> str:
    return f": {reason}" if reason else ""
