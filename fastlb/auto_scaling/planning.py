"""Which Instances to launch and which to end, so that a group comes to what it should be. Pure.

The new one comes before the old one goes: an Instance that is to be replaced serves until another
is ready, unless it serves nobody anyway. Knows no process, no clock, no reason why one is doomed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastlb.auto_scaling.termination import Candidate, choose


@dataclass(frozen=True, slots=True)
class Member:
    """One Instance that is pending or in service; others are no capacity."""

    id: str
    version: int
    launched_at: float
    in_service: bool
    serving: bool
    """In service, and its target gets requests."""
    settled: bool
    """Serving, warmed, and with its whole share of the traffic."""
    in_flight: int
    protected: bool
    doomed: str = ""
    """Why it is to be replaced."""
    harmful: bool = False
    """Serving, but worse than nothing: it may go as soon as anybody else is ready."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`end` names ids with the cause of each."""

    launch: int
    end: tuple[tuple[str, str], ...]


def surge_of(desired: int, min_healthy: int, max_healthy: int) -> int:
    """Instances over the desired capacity while some are replaced; enough for one to be replaced."""
    surge = desired * max_healthy // 100 - desired
    nobody_may_go_first = least_ready(desired, min_healthy) >= desired
    return max(surge, 1 if nobody_may_go_first else 0)


def least_ready(desired: int, min_healthy: int) -> int:
    return math.ceil(desired * min_healthy / 100)


def plan(
    members: Sequence[Member],
    desired: int,
    *,
    min_healthy: int = 100,
    surge: int = 1,
    policies: Sequence[str] = (),
    shrinking: str = "",
    may_terminate: bool = True,
    can_launch: bool = True,
) -> Plan:
    """What to do now; asked again after each change.

    `surge` is how many more than `desired` may live while some are doomed. `shrinking` is the cause
    of a scale-in. `can_launch` False says that no replacement can come for now: then who serves
    nobody need not wait for one.
    """
    good = [one for one in members if not one.doomed]
    doomed = [one for one in members if one.doomed]
    missing = desired - len(good)
    room = desired + (surge if doomed else 0) - len(members)
    launch = max(min(missing, room), 0)

    ready = sum(one.settled for one in good)
    somebody = sum(one.serving for one in good)
    serving = [one for one in doomed if one.serving and not one.harmful]
    end: list[tuple[str, str]] = []
    stopgaps: list[Member] = []
    # Each of those who serve nobody stands for one who should, until that one is there.
    useless = sum(not one.serving for one in doomed)
    replaced_useless = max(somebody + len(serving) + useless - desired, 0)
    for one in doomed:
        if one in serving:
            continue
        if one.serving:
            replaced = bool(somebody)
        elif not one.in_service or not can_launch:
            replaced = True
        else:
            replaced = replaced_useless > 0
            replaced_useless -= 1
        if replaced:
            end.append((one.id, one.doomed))
        else:
            stopgaps.append(one)
    if not desired:
        end += [(one.id, one.doomed) for one in stopgaps]
    elif can_launch and missing > 0:
        # They are better than nothing, but not where they take the room of what is to replace them.
        in_the_way = max(1 - room - len(end), 0)
        end += [(one.id, one.doomed) for one in stopgaps[:in_the_way]]
    if may_terminate:
        least = least_ready(desired, min_healthy)
        causes = {one.id: one.doomed for one in serving}
        # Who is protected from scale-in is doomed only for reasons that protect nobody.
        open_to_all = [_candidate(one, protected=False) for one in serving]
        going = choose(open_to_all, policies, max(ready + len(serving) - least, 0))
        end += [(id, causes[id]) for id in going]
        extra = [_candidate(one, protected=one.protected) for one in good]
        over = choose(extra, policies, max(len(good) - desired, 0))
        # Those who serve nobody are protected or were chosen first: they do not stand for others.
        idle = sum(not one.serving for one in good if one.id in over)
        stay = max(least, min(desired, 1))
        spare = max(somebody + len(serving) - len(going) - stay, 0)
        end += [(id, shrinking) for id in over[: idle + spare]]
    return Plan(launch, tuple(end))


def _candidate(one: Member, *, protected: bool) -> Candidate:
    return Candidate(
        id=one.id,
        version=one.version,
        in_flight=one.in_flight,
        launched_at=one.launched_at,
        protected=protected,
        ready=one.serving,
    )
