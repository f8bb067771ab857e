"""A group's Scheduled policies over time: which bounds are in force, and what has come up.

Pure, and without a memory: what holds at a moment follows from the cron expressions alone, so that a
restarted supervisor knows it as well as one that was there. Knows no cron syntax (`model.schedule`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.scaling_policy import Scheduled
from fastlb.model.schedule import last_time


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a group at one moment."""

    least: int
    most: int
    desired: int | None
    """What a group that starts now begins with, within the bounds; None is `least`. Not to be set
    again while it runs: `due` says when a policy sets it."""
    cause: str
    """Where the bounds come from, for a person."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A Scheduled policy came up."""

    at: datetime
    """UTC."""
    policy: Scheduled


def bounds_at(group: AutoScalingGroup, when: datetime) -> Bounds:
    """The bounds in force at `when`, which is aware.

    They are the group's own; each that a Scheduled policy sets holds from its time until another
    one sets it. Of two that come up at once the one that stands later in the configuration holds.
    Where the least is over the most, the most holds and the least is lowered to it: the most is
    what guards the host.
    """
    least, most, desired = group.min, group.max, group.desired
    causes = {"min": "", "max": ""}
    past = _last_ones(group, when)
    for one in past:
        if one.policy.min is not None:
            least, causes["min"] = one.policy.min, _said(one)
        if one.policy.max is not None:
            most, causes["max"] = one.policy.max, _said(one)
    if past and past[-1].policy.desired is not None:
        desired = past[-1].policy.desired
    cause = "; ".join(
        f"{name} {value} {causes[name] or 'of the group'}"
        for name, value in (("min", least), ("max", most))
    )
    if least > most:
        cause += f"; min is over max, so {most} holds for both"
        least = most
    if desired is not None:
        desired = min(max(desired, least), most)
    return Bounds(least, most, desired, cause)


def due(group: AutoScalingGroup, since: datetime, until: datetime) -> list[Occurrence]:
    """What came up after `since` and not after `until`, in order of time.

    Of each policy only the last one, which is all that still matters: so it costs the same after
    a second and after a month's sleep.
    """
    return [one for one in _last_ones(group, until) if one.at > since]


def _last_ones(group: AutoScalingGroup, until: datetime) -> list[Occurrence]:
    """The last time of each policy, in order of time; where that is the same, as configured."""
    found = [
        Occurrence(at, policy)
        for policy in group.policies
        if isinstance(policy, Scheduled)
        and (at := last_time(policy.cron, policy.time_zone, until)) is not None
    ]
    return sorted(found, key=lambda one: one.at)


def _said(one: Occurrence) -> str:
    zone = one.policy.time_zone
    return f'of the schedule "{one.policy.cron}" ({zone}) since {one.at.astimezone(UTC):%F %H:%M}Z'
