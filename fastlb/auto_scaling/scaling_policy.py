"""What the ScalingPolicies of a group make of its metrics: pure, time is passed in.

Knows datapoints and numbers of Instances; not how they are measured, launched or ended, and not the
host: whether there is room for one more is asked elsewhere. Scheduled policies are `schedule`'s.

Target tracking, step and simple scaling follow AWS: out where any policy wants out, and the largest
wins; in only where all that can scale in want it, and again the largest wins. A step or simple policy
can scale in where one of its adjustments is negative, or where it sets an exact capacity when the
metric is below: it agrees while its threshold is breached and its cooldown is over. All others (and
target tracking with `disable_scale_in`) have no say in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import ceil
from typing import Any, Literal

from fastlb.auto_scaling.adjustment import adjusted, step_for
from fastlb.auto_scaling.metric_wording import figure, for_datapoints, instances
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.scaling_policy import (
    Metric,
    Scheduled,
    SimpleScaling,
    StepScaling,
    TargetTracking,
)

LOW_MARK = 0.9
"""Share of the target under which target tracking scales in (AWS: "usually more than 10 %")."""
STALE_PERIODS = 3
"""A last datapoint older than so many periods says nothing of now."""
_NOISE = 1e-9
"""Relative; a mean of floats may be this far off, and must not cost an Instance."""

Direction = Literal["out", "in", "none", "missing"]
_Outcome = tuple[Direction, int, str, dict[str, Any]]
"""Direction, desired, reason and the inputs beside the common ones."""


@dataclass(frozen=True, slots=True)
class Datapoint:
    """A metric's mean over one period; None is missing."""

    at: float
    """Monotonic seconds: the end of its period."""
    value: float | None
    complete: bool = True
    """Every warmed in-service Instance reported."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Numbers of Instances of a group."""

    desired: int
    least: int
    """`least` and `most` are the bounds in force."""
    most: int
    in_service: int
    """In service and warmed: those that the last datapoint is the mean of."""
    warming: int
    """Pending, or in service and not yet warmed: capacity, but not in the metric."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one policy wants. `desired` is the group's own where the direction is `none` or `missing`."""

    policy: str
    """Such as `target_tracking cpu 60`."""
    direction: Direction
    desired: int
    reason: str
    inputs: dict[str, Any]
    """The figures, plain values."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What all policies together want; `desired` is the group's own where nothing is to be done."""

    desired: int
    reason: str
    proposals: tuple[Proposal, ...]
    cooldown_until: float | None
    """Set where a simple policy's direction was taken: none of them acts before that."""


def decide(
    group: AutoScalingGroup,
    windows: Mapping[Metric, Sequence[Datapoint]],
    capacity: Capacity,
    cooldown_until: float,
    now: float,
) -> Decision:
    """What capacity the group should have.

    `windows` holds the last datapoints of each metric, one a period, oldest first. To be called once
    for each new datapoint: one that was already acted on would be taken for the effect of the action.
    """
    desired = capacity.desired
    inside = min(max(desired, capacity.least), capacity.most)
    if inside != desired:
        bound = f"{inside} is the {'least' if inside > desired else 'most'}"
        return Decision(inside, f"{desired} desired, but {bound}", (), None)
    voiced = [
        (
            policy,
            _propose(group, policy, windows.get(policy.metric, ()), capacity, cooldown_until, now),
        )
        for policy in group.policies
        if not isinstance(policy, Scheduled)
    ]
    if not voiced:
        return Decision(desired, "no policy scales this group by a metric", (), None)
    proposals = tuple(one for _, one in voiced)
    voters = [one for policy, one in voiced if _can_scale_in(policy)]
    ins = [one for one in voters if one.direction == "in"]
    taken = [one for one in proposals if one.direction == "out"]
    if not taken and len(ins) == len(voters):
        taken = ins
    if not taken:
        return Decision(desired, _why_nothing(proposals, voters, ins), proposals, None)
    winner = max(taken, key=lambda one: one.desired)
    cooldowns = [
        group.cooldown if policy.cooldown is None else policy.cooldown
        for policy, one in voiced
        if isinstance(policy, SimpleScaling) and one in taken
    ]
    until = now + max(cooldowns) if cooldowns else None
    return Decision(winner.desired, winner.reason, proposals, until)


def _propose(
    group: AutoScalingGroup,
    policy: TargetTracking | StepScaling | SimpleScaling,
    points: Sequence[Datapoint],
    capacity: Capacity,
    cooldown_until: float,
    now: float,
) -> Proposal:
    metric = policy.metric
    limit: dict[str, Any]
    if isinstance(policy, TargetTracking):
        name = f"target_tracking {metric} {figure(metric, policy.target)}"
        limit = {"target": policy.target}
    else:
        kind = "step_scaling" if isinstance(policy, StepScaling) else "simple_scaling"
        name = f"{kind} {metric} {policy.comparison} {figure(metric, policy.threshold)}"
        limit = {"threshold": policy.threshold}
    nothing = _nothing_known(metric, points, capacity, group.period, now)
    if nothing:
        direction, desired, reason, more = _stay(capacity, nothing, missing=True)
    elif isinstance(policy, TargetTracking):
        direction, desired, reason, more = _track(group, policy, points, capacity)
    else:
        direction, desired, reason, more = _adjust(group, policy, points, capacity)
    left = cooldown_until - now
    if isinstance(policy, SimpleScaling) and direction in ("out", "in") and left > 0:
        said = f"{reason}; in cooldown for another {left:.1f} s"
        direction, desired, reason, more = _stay(capacity, said, more)
    inputs = {
        "metric": metric,
        **limit,
        "datapoints": [
            one.value for one in points[-max(group.datapoints_out, group.datapoints_in) :]
        ],
        "desired": capacity.desired,
        "in_service": capacity.in_service,
        "warming": capacity.warming,
        **more,
    }
    return Proposal(name, direction, desired, reason, inputs)


def _track(
    group: AutoScalingGroup,
    policy: TargetTracking,
    points: Sequence[Datapoint],
    capacity: Capacity,
) -> _Outcome:
    metric, target, mark = policy.metric, policy.target, policy.target * LOW_MARK
    over = f"over the target of {figure(metric, target)}"
    under = f"under {figure(metric, mark)} ({LOW_MARK:g} of the target)"
    latest = _row(points, group.datapoints_out)
    low = _row(points, group.datapoints_in, complete=True)
    out = bool(latest) and min(latest) > target
    if out or (low and max(low) < mark):
        # Inwards the highest, so that a dip removes nobody who is needed again soon after.
        value = latest[-1] if out else max(low)
        needed = _needed(capacity.in_service, value / target)
        more = {"value": value, "needed": needed}
        shown = figure(metric, value)
        if out:
            measured = f"{metric} {shown} {over}{for_datapoints(group.datapoints_out)}"
        else:
            measured = f"{metric} at most {shown}, {under}{for_datapoints(group.datapoints_in)}"
        said = f"{measured}: {instances(capacity.in_service)} in service need {needed}"
        if out:
            return _grow(capacity, needed, said, more)
        if policy.disable_scale_in:
            return _stay(capacity, f"{said}, but this policy's scale-in is disabled", more)
        return _shrink(capacity, needed, said, more)
    if not latest:
        return _stay(capacity, _gap(metric, points, group.datapoints_out), missing=True)
    value = latest[-1]
    said = f"{metric} {figure(metric, value)}"
    if value > target:
        past = _trailing(one.value is not None and one.value > target for one in reversed(points))
        said = f"{said} {over}{for_datapoints(past, group.datapoints_out)}"
    elif value < mark:
        past = _trailing(
            one.value is not None and one.complete and one.value < mark for one in reversed(points)
        )
        said = f"{said} {under}{for_datapoints(past, group.datapoints_in)} of all instances"
    else:
        said = f"{said} near the target of {figure(metric, target)}"
    return _stay(capacity, said, {"value": value})


def _adjust(
    group: AutoScalingGroup,
    policy: StepScaling | SimpleScaling,
    points: Sequence[Datapoint],
    capacity: Capacity,
) -> _Outcome:
    metric, threshold, above = policy.metric, policy.threshold, policy.comparison == "above"
    count = group.datapoints_out if above else group.datapoints_in
    row = _row(points, count, complete=not above)
    if not row:
        return _stay(capacity, _gap(metric, points, count, complete=not above), missing=True)
    breaches = [value >= threshold if above else value <= threshold for value in row]
    value = row[-1] if above or not all(breaches) else max(row)
    limit = f"the threshold of {figure(metric, threshold)}"
    side = f"at or {policy.comparison}"
    more: dict[str, Any] = {"value": value}
    if not breaches[-1]:
        return _stay(capacity, f"{metric} {figure(metric, value)} not {side} {limit}", more)
    shown = f"{metric} {figure(metric, value)} {side} {limit}"
    if not all(breaches):
        return _stay(
            capacity, f"{shown}{for_datapoints(_trailing(reversed(breaches)), count)}", more
        )
    shown += for_datapoints(count)
    if isinstance(policy, SimpleScaling):
        adjustment: int | None = policy.adjustment
    else:
        adjustment = step_for(policy, value - threshold)
    if adjustment is None:
        return _stay(capacity, f"{shown}: no step is for that", more)
    exact = policy.adjustment_type == "exact_capacity"
    # An exact capacity goes the way that its comparison says and no other: a metric that rises
    # never ends anybody.
    grows = above if exact else adjustment > 0
    base = capacity.desired
    if grows and isinstance(policy, StepScaling):
        # What warms is on its way already: the same breach does not add it again.
        base = min(base, capacity.in_service)
    wanted = adjusted(base, policy.adjustment_type, adjustment, policy.min_adjustment_magnitude)
    more |= {"adjustment": adjustment, "adjustment_type": policy.adjustment_type}
    if exact:
        said = f"{shown}: exactly {adjustment} wanted"
    elif policy.adjustment_type == "percent_change_in_capacity":
        said = f"{shown}: {adjustment:+d} % of {instances(base)} makes {wanted}"
    else:
        said = f"{shown}: {adjustment:+d} to {instances(base)} makes {wanted}"
    return (_grow if grows else _shrink)(capacity, wanted, said, more)


def _grow(capacity: Capacity, wanted: int, said: str, more: dict[str, Any]) -> _Outcome:
    if wanted <= capacity.desired:
        warming = f", {capacity.warming} of them warming" if capacity.warming else ""
        return _stay(capacity, f"{said}; {capacity.desired} are desired already{warming}", more)
    if capacity.desired >= capacity.most:
        return _stay(capacity, f"{said}, but {capacity.most} is the most", more)
    if wanted > capacity.most:
        return "out", capacity.most, f"{said}, but {capacity.most} is the most", more
    return "out", wanted, said, more


def _shrink(capacity: Capacity, wanted: int, said: str, more: dict[str, Any]) -> _Outcome:
    floor = max(capacity.least, 1)  # zero is the idle timeout's affair
    if wanted >= capacity.desired:
        return _stay(capacity, f"{said}; {capacity.desired} are desired", more)
    if capacity.desired <= floor:
        return _stay(capacity, f"{said}, but {floor} is the least", more)
    if capacity.warming:
        return _stay(
            capacity,
            f"{said}; no scale-in during the warm-up of {instances(capacity.warming)}",
            more,
        )
    if wanted < floor:
        return "in", floor, f"{said}, but {floor} is the least", more
    return "in", wanted, said, more


def _stay(
    capacity: Capacity, said: str, more: dict[str, Any] | None = None, missing: bool = False
) -> _Outcome:
    return "missing" if missing else "none", capacity.desired, said, more or {}


def _can_scale_in(policy: TargetTracking | StepScaling | SimpleScaling) -> bool:
    match policy:
        case TargetTracking():
            return not policy.disable_scale_in
        case _ if policy.adjustment_type == "exact_capacity":
            return policy.comparison == "below"
        case StepScaling():
            return any(step.adjustment < 0 for step in policy.steps)
        case SimpleScaling():
            return policy.adjustment < 0


def _why_nothing(
    proposals: tuple[Proposal, ...], voters: list[Proposal], ins: list[Proposal]
) -> str:
    if not ins:
        return "; ".join(one.reason for one in proposals)
    against = next(one for one in voters if one.direction != "in")
    wish = max(ins, key=lambda one: one.desired)
    return f"{wish.policy} would scale in to {wish.desired}, {against.policy} not: {against.reason}"


def _nothing_known(
    metric: Metric, points: Sequence[Datapoint], capacity: Capacity, period: float, now: float
) -> str:
    """Why the metric says nothing at all, or nothing."""
    if not capacity.in_service:
        return f"no instance in service and warmed whose {metric} could be taken"
    if not points:
        return f"no datapoint of {metric} yet"
    age = now - points[-1].at
    if age > STALE_PERIODS * period:
        return f"the last datapoint of {metric} is {age:.1f} s old"
    return ""


def _row(points: Sequence[Datapoint], count: int, complete: bool = False) -> list[float]:
    """The last `count` values, or none where one is missing (or, if asked for, not complete)."""
    row = [
        one.value
        for one in points[-count:]
        if one.value is not None and (one.complete or not complete)
    ]
    return row if len(row) == count else []


def _gap(metric: Metric, points: Sequence[Datapoint], count: int, complete: bool = False) -> str:
    """What `_row` misses, for a person."""
    if len(points) < count:
        return f"{len(points)} of {count} datapoints of {metric} so far"
    there = sum(len(_row([one], 1, complete)) for one in points[-count:])
    return f"only {there} of the last {count} datapoints of {metric}" + (
        " of all instances" if complete else ""
    )


def _needed(in_service: int, ratio: float) -> int:
    """Instances that the load of `in_service` needs: what is added is rounded up, removed down."""
    return ceil(in_service * ratio * (1.0 - _NOISE))


def _trailing(newest_first: Iterable[bool]) -> int:
    """How many are true before the first that is not."""
    return sum(1 for _ in takewhile(bool, newest_first))
