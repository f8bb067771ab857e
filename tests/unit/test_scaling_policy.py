"""What policies decide: tables worked out by hand, and what must hold whatever the figures are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.auto_scaling.adjustment import adjusted, step_for
from fastlb.auto_scaling.metric_wording import figure
from fastlb.auto_scaling.scaling_policy import Capacity, Datapoint, Decision, Proposal, decide
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.scaling_policy import (
    AdjustmentType,
    Comparison,
    Metric,
    Scheduled,
    SimpleScaling,
    Step,
    StepScaling,
    TargetTracking,
)

CPU = TargetTracking(metric="cpu", target=60.0)
PERIOD = 5.0
NOW = 1000.0
Value = float | None


def group_of(*policies: Any, **settings: Any) -> AutoScalingGroup:
    return AutoScalingGroup(name="web", policies=policies, period=PERIOD, **settings)


def points(*values: Value, complete: bool = True) -> list[Datapoint]:
    """The last one ends now."""
    first = NOW - PERIOD * (len(values) - 1)
    return [Datapoint(first + PERIOD * n, value, complete) for n, value in enumerate(values)]


def capacity(
    desired: int,
    *,
    in_service: int | None = None,
    warming: int = 0,
    least: int = 1,
    most: int = 20,
) -> Capacity:
    in_service = desired - warming if in_service is None else in_service
    return Capacity(desired, least, most, in_service, warming)


def decided(
    group: AutoScalingGroup,
    having: Capacity,
    cooldown_until: float = 0.0,
    /,
    **windows: list[Datapoint],
) -> Decision:
    return decide(group, windows, having, cooldown_until, NOW)  # type: ignore[arg-type]


def only(decision: Decision) -> Proposal:
    (proposal,) = decision.proposals
    return proposal


# -- target tracking


@pytest.mark.parametrize(
    ("in_service", "value", "needed"),
    [
        (2, 93.1, 4),  # 3.1 Instances' load: what is added is rounded up
        (4, 90.0, 6),  # exactly 6
        (2, 60.1, 3),
        (3, 100.0, 5),
        (10, 61.0, 11),
        (1, 300.0, 5),
        (3, 60.0 * (1 + 1e-13), 3),  # a mean's float noise costs no Instance
    ],
)
def test_out_is_proportional_and_rounded_up(in_service: int, value: float, needed: int) -> None:
    made = decided(group_of(CPU), capacity(in_service), cpu=points(value, value, value))
    assert made.desired == needed


@pytest.mark.parametrize(
    ("in_service", "value", "needed"),
    [
        (4, 37.5, 3),  # 1.5 too many: what is removed is rounded down
        (10, 30.0, 5),
        (10, 35.0, 6),  # 5.83
        (3, 53.9, 3),  # 2.695: under the mark, and yet nobody too many
        (6, 0.0, 1),
        (3, 40.0, 2),  # 2 * 60.0 exactly, with float noise
    ],
)
def test_in_is_proportional_and_what_is_removed_rounded_down(
    in_service: int, value: float, needed: int
) -> None:
    made = decided(group_of(CPU), capacity(in_service), cpu=points(*[value] * 15))
    assert made.desired == needed


@pytest.mark.parametrize(
    ("window", "direction"),
    [
        ((61.0, 61.0, 61.0), "out"),
        ((60.0, 61.0, 61.0), "none"),  # at the target is not over it
        ((61.0, 61.0, 59.0), "none"),
        ((61.0, 61.0), "missing"),
        ((None, 61.0, 61.0), "missing"),
        ((61.0, 61.0, None), "missing"),
        ((), "missing"),
        ((None, 99.0, 99.0, 99.0), "out"),  # a gap before the window
        ((20.0,) * 15, "in"),
        ((90.0,) + (20.0,) * 15, "in"),
        ((20.0,) * 14, "none"),
        ((54.0,) + (20.0,) * 14, "none"),  # 0.9 of the target is not under it
        ((20.0,) * 7 + (None,) + (20.0,) * 7, "none"),
        ((57.0,) * 20, "none"),
    ],
)
def test_datapoints_that_it_takes(window: tuple[Value, ...], direction: str) -> None:
    made = decided(group_of(CPU), capacity(6), cpu=points(*window))
    assert only(made).direction == direction
    assert (made.desired == 6) == (direction in ("none", "missing"))


def test_one_incomplete_datapoint_keeps_from_scaling_in_but_not_out() -> None:
    window = points(*[20.0] * 15)
    window[3] = replace(window[3], complete=False)
    made = decided(group_of(CPU), capacity(6), cpu=window)
    assert made.desired == 6
    assert (
        made.reason
        == "cpu 20 under 54 (0.9 of the target) for 11 of 15 datapoints of all instances"
    )
    made = decided(group_of(CPU), capacity(2), cpu=points(90.0, 90.0, 90.0, complete=False))
    assert made.desired == 3


def test_in_takes_the_highest_of_its_window_and_out_the_latest() -> None:
    made = decided(group_of(CPU), capacity(10), cpu=points(*[10.0] * 7, 48.0, *[10.0] * 7))
    assert made.desired == 8
    made = decided(group_of(CPU), capacity(2), cpu=points(200.0, 200.0, 70.0))
    assert made.desired == 3


def test_what_warms_is_capacity_and_is_not_added_again() -> None:
    high = points(93.0, 93.0, 93.0)
    made = decided(group_of(CPU), capacity(4, warming=2), cpu=high)
    assert made.desired == 4
    assert made.reason == (
        "cpu 93 over the target of 60 for 3 datapoints: 2 instances in service need 4; "
        "4 are desired already, 2 of them warming"
    )
    made = decided(group_of(CPU), capacity(3, warming=1), cpu=high)
    assert made.desired == 4


def test_nothing_is_removed_while_one_warms() -> None:
    low = points(*[10.0] * 15)
    made = decided(group_of(CPU), capacity(6, warming=1), cpu=low)
    assert made.desired == 6
    assert made.reason.endswith("; no scale-in during the warm-up of 1 instance")
    assert decided(group_of(CPU), capacity(6), cpu=low).desired == 1


def test_without_an_instance_in_service_nothing_is_known() -> None:
    made = decided(group_of(CPU), capacity(2, warming=2), cpu=points(*[90.0] * 15))
    assert only(made).direction == "missing"
    assert made.reason == "no instance in service and warmed whose cpu could be taken"


def test_a_metric_that_nobody_measures_any_more_says_nothing() -> None:
    old = [replace(one, at=one.at - 16.0) for one in points(*[90.0] * 3)]
    made = decided(group_of(CPU), capacity(2), cpu=old)
    assert only(made).direction == "missing"
    assert made.reason == "the last datapoint of cpu is 16.0 s old"


def test_scale_in_can_be_disabled() -> None:
    policy = replace(CPU, disable_scale_in=True)
    made = decided(group_of(policy), capacity(6), cpu=points(*[10.0] * 15))
    assert made.desired == 6
    assert made.reason == (
        "cpu at most 10, under 54 (0.9 of the target) for 15 datapoints: "
        "6 instances in service need 1, but this policy's scale-in is disabled"
    )
    assert decided(group_of(policy), capacity(6), cpu=points(*[90.0] * 3)).desired == 9


def test_bounds() -> None:
    high, low = points(*[90.0] * 3), points(*[1.0] * 15)
    made = decided(group_of(CPU), capacity(6, most=8), cpu=high)
    assert made.desired == 8
    assert made.reason == (
        "cpu 90 over the target of 60 for 3 datapoints: 6 instances in service need 9, "
        "but 8 is the most"
    )
    made = decided(group_of(CPU), capacity(6, most=6), cpu=high)
    assert only(made).direction == "none"
    assert made.reason.endswith("need 9, but 6 is the most")
    assert decided(group_of(CPU), capacity(6, least=3), cpu=low).desired == 3
    assert decided(group_of(CPU), capacity(6, least=0), cpu=low).desired == 1
    made = decided(group_of(CPU), capacity(1, least=0), cpu=points(*[0.0] * 15))
    assert made.desired == 1
    assert made.reason.endswith("need 0, but 1 is the least")


def test_a_capacity_outside_the_bounds_comes_inside_first() -> None:
    made = decided(group_of(CPU), capacity(6, most=4), cpu=points(*[90.0] * 3))
    assert made == Decision(4, "6 desired, but 4 is the most", (), None)
    made = decided(group_of(CPU), capacity(1, least=3), cpu=points(*[1.0] * 15))
    assert made == Decision(3, "1 desired, but 3 is the least", (), None)
    assert decided(group_of(CPU), capacity(1, least=0, most=0)).desired == 0


def test_zero_stays_zero() -> None:
    made = decided(group_of(CPU), capacity(0, least=0), cpu=points(*[90.0] * 15))
    assert made.desired == 0


def test_a_group_without_policies_by_metric_stays_as_it_is() -> None:
    for policies in ((), (Scheduled(cron="0 8 * * *", min=2),)):
        made = decided(group_of(*policies), capacity(3))
        assert made == Decision(3, "no policy scales this group by a metric", (), None)


def test_a_proposal_says_what_it_was_made_of() -> None:
    window = points(50.0, 80.0, 91.5, 93.1)
    proposal = only(decided(group_of(CPU, datapoints_in=4), capacity(2), cpu=window))
    assert proposal.policy == "target_tracking cpu 60"
    assert proposal.reason == (
        "cpu 93.1 over the target of 60 for 3 datapoints: 2 instances in service need 4"
    )
    assert proposal.inputs == {
        "metric": "cpu",
        "target": 60.0,
        "value": 93.1,
        "datapoints": [50.0, 80.0, 91.5, 93.1],
        "desired": 2,
        "in_service": 2,
        "warming": 0,
        "needed": 4,
    }


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("cpu", 93.1, "93.1"),
        ("cpu", 93.12345, "93.12"),
        ("cpu", 0.00001, "0"),
        ("requests", 512.0, "512/min"),
        ("requests", 123456.7, "123457/min"),
        ("in_flight", 4.5, "4.5"),
        ("rss", 300 * 1048576.0, "300 MiB"),
        ("queue_wait", 0.035, "35 ms"),
    ],
)
def test_figures(metric: Metric, value: float, shown: str) -> None:
    assert figure(metric, value) == shown


# -- several policies

REQUESTS = TargetTracking(metric="requests", target=100.0)


def test_out_if_any_and_the_largest_wins() -> None:
    both = group_of(CPU, REQUESTS)
    made = decided(both, capacity(2), cpu=points(*[90.0] * 3), requests=points(*[10.0] * 15))
    assert made.desired == 3
    made = decided(both, capacity(2), cpu=points(*[90.0] * 3), requests=points(*[250.0] * 3))
    assert made.desired == 5
    assert made.reason.startswith("requests 250/min over the target of 100/min")
    assert [one.desired for one in made.proposals] == [3, 5]


def test_in_only_if_all_and_the_largest_wins() -> None:
    both = group_of(CPU, REQUESTS)
    low = points(*[10.0] * 15)
    made = decided(both, capacity(10), cpu=low, requests=points(*[45.0] * 15))
    assert made.desired == 5
    made = decided(both, capacity(10), cpu=low, requests=points(*[95.0] * 15))
    assert made.desired == 10
    assert made.reason == (
        "target_tracking cpu 60 would scale in to 2, target_tracking requests 100/min not: "
        "requests 95/min near the target of 100/min"
    )


def test_a_missing_metric_blocks_in_and_not_out() -> None:
    both = group_of(CPU, REQUESTS)
    assert decided(both, capacity(10), cpu=points(*[10.0] * 15)).desired == 10
    assert decided(both, capacity(10), cpu=points(*[90.0] * 15)).desired == 15
    made = decided(both, capacity(10))
    assert made.reason == "no datapoint of cpu yet; no datapoint of requests yet"


def test_a_policy_without_scale_in_has_no_say_in_it() -> None:
    group = group_of(CPU, replace(REQUESTS, disable_scale_in=True))
    low = points(*[10.0] * 15)
    assert decided(group, capacity(10), cpu=low, requests=points(*[95.0] * 15)).desired == 2
    assert decided(group, capacity(10), cpu=low).desired == 2


# -- step scaling

STEPS = (
    Step(lower=0.0, upper=10.0, adjustment=1),
    Step(lower=10.0, upper=20.0, adjustment=2),
    Step(lower=20.0, adjustment=4),
)
UP = StepScaling(metric="cpu", comparison="above", threshold=60.0, steps=STEPS)
DOWN = StepScaling(
    metric="cpu",
    comparison="below",
    threshold=40.0,
    steps=(
        Step(lower=-10.0, upper=0.0, adjustment=-1),
        Step(upper=-10.0, adjustment=-2),
    ),
)


@pytest.mark.parametrize(
    ("value", "adjustment"),
    [(0.0, 1), (9.99, 1), (10.0, 2), (19.99, 2), (20.0, 4), (1e9, 4), (-0.01, None)],
)
def test_above_the_lower_bound_belongs_to_the_step(value: float, adjustment: int | None) -> None:
    assert step_for(UP, value) == adjustment


@pytest.mark.parametrize(
    ("value", "adjustment"), [(0.0, -1), (-9.99, -1), (-10.0, -2), (-40.0, -2), (0.01, None)]
)
def test_below_the_upper_bound_belongs_to_the_step(value: float, adjustment: int | None) -> None:
    assert step_for(DOWN, value) == adjustment


@pytest.mark.parametrize(
    ("base", "percent", "made"),
    [
        (10, 30, 13),
        (10, 127, 22),  # 12.7 -> 12
        (3, 10, 4),  # 0.3 -> 1
        (10, -67, 4),  # -6.7 -> -6
        (3, -10, 2),  # -0.3 -> -1
        (10, 10, 11),
        (10, -10, 9),
        (10, 0, 10),
        (1, 100, 2),
        (1000, 1, 1010),
    ],
)
def test_percents_are_rounded_as_aws_does(base: int, percent: int, made: int) -> None:
    assert adjusted(base, "percent_change_in_capacity", percent) == made


def test_the_least_magnitude_is_of_percents() -> None:
    assert adjusted(10, "percent_change_in_capacity", 10, 3) == 13
    assert adjusted(10, "percent_change_in_capacity", -10, 3) == 7
    assert adjusted(100, "percent_change_in_capacity", 10, 3) == 110
    assert adjusted(10, "percent_change_in_capacity", 0, 3) == 10
    assert adjusted(10, "change_in_capacity", 1, 3) == 11
    assert adjusted(10, "exact_capacity", 4, 3) == 4


@pytest.mark.parametrize(
    ("window", "desired"),
    [
        ((60.0, 60.0, 60.0), 11),  # at the threshold is a breach
        ((61.0, 61.0, 75.0), 12),  # the latest finds the step
        ((99.0, 99.0, 99.0), 14),
        ((59.0, 99.0, 99.0), 10),
        ((99.0, 99.0, 59.0), 10),
        ((99.0, 99.0), 10),
        ((99.0, None, 99.0), 10),
    ],
)
def test_steps_out(window: tuple[Value, ...], desired: int) -> None:
    assert decided(group_of(UP), capacity(10), cpu=points(*window)).desired == desired


def test_steps_in() -> None:
    group = group_of(UP, DOWN)
    assert decided(group, capacity(10), cpu=points(*[40.0] * 15)).desired == 9
    assert decided(group, capacity(10), cpu=points(*[29.0] * 15)).desired == 8
    assert decided(group, capacity(10), cpu=points(*[5.0] * 14, 35.0)).desired == 9
    assert decided(group, capacity(10), cpu=points(*[5.0] * 14)).desired == 10
    assert decided(group, capacity(10), cpu=points(41.0, *[5.0] * 14)).desired == 10
    assert decided(group, capacity(10, warming=1), cpu=points(*[5.0] * 15)).desired == 10
    made = decided(group, capacity(10), cpu=points(*[5.0] * 15, complete=False))
    assert made.desired == 10
    assert made.reason == (
        "cpu 5 not at or above the threshold of 60; only 0 of the last 15 datapoints of cpu of all "
        "instances"
    )


def test_steps_count_from_what_is_warm_and_add_the_difference_only() -> None:
    percent = replace(
        UP,
        adjustment_type="percent_change_in_capacity",
        steps=(
            Step(lower=0.0, upper=10.0, adjustment=10),
            Step(lower=10.0, adjustment=30),
        ),
    )
    group = group_of(percent)
    # AWS's example: 10 %, then while that one warms 10 % again, then 30 %.
    assert decided(group, capacity(10), cpu=points(*[65.0] * 3)).desired == 11
    having = capacity(11, warming=1)
    assert decided(group, having, cpu=points(*[65.0] * 3)).desired == 11
    made = decided(group, having, cpu=points(*[72.0] * 3))
    assert made.desired == 13
    assert made.reason == (
        "cpu 72 at or above the threshold of 60 for 3 datapoints: +30 % of 10 instances makes 13"
    )


def test_launches_that_do_not_come_up_are_not_counted_on_again_and_again() -> None:
    # 3 were asked for and none is there: the next breach asks for the same capacity.
    made = decided(group_of(UP), capacity(5, in_service=2, warming=0), cpu=points(*[99.0] * 3))
    assert made.desired == 6
    made = decided(group_of(UP), capacity(6, in_service=2, warming=0), cpu=points(*[99.0] * 3))
    assert made.desired == 6


def test_a_metric_between_steps_does_nothing() -> None:
    gap = replace(UP, steps=(Step(lower=10.0, adjustment=1),))
    made = decided(group_of(gap), capacity(2), cpu=points(*[65.0] * 3))
    assert made.desired == 2
    assert (
        made.reason
        == "cpu 65 at or above the threshold of 60 for 3 datapoints: no step is for that"
    )


def test_an_exact_capacity_goes_one_way() -> None:
    up = replace(UP, adjustment_type="exact_capacity", steps=(Step(lower=0.0, adjustment=8),))
    assert decided(group_of(up), capacity(5), cpu=points(*[70.0] * 3)).desired == 8
    assert decided(group_of(up), capacity(12), cpu=points(*[70.0] * 3)).desired == 12
    down = replace(DOWN, adjustment_type="exact_capacity", steps=(Step(upper=0.0, adjustment=2),))
    both = group_of(up, down)
    assert decided(both, capacity(5), cpu=points(*[20.0] * 15)).desired == 2
    assert decided(both, capacity(1), cpu=points(*[20.0] * 15)).desired == 1


def test_who_can_only_scale_out_does_not_keep_others_from_scaling_in() -> None:
    low = points(*[10.0] * 15)
    assert decided(group_of(CPU, UP), capacity(10), cpu=low).desired == 2
    # DOWN could scale in: it must agree, and its vote is for more.
    assert decided(group_of(CPU, DOWN), capacity(10), cpu=low).desired == 8
    assert decided(group_of(CPU, DOWN), capacity(10), cpu=points(*[45.0] * 15)).desired == 10


# -- simple scaling

SIMPLE = SimpleScaling(metric="cpu", comparison="above", threshold=80.0, adjustment=2)


def test_one_adjustment_then_the_cooldown() -> None:
    high = points(*[85.0] * 3)
    made = decided(group_of(SIMPLE, cooldown=60.0), capacity(2), cpu=high)
    assert (made.desired, made.cooldown_until) == (4, NOW + 60.0)
    made = decided(group_of(SIMPLE), capacity(4), NOW + 12.0, cpu=high)
    assert (made.desired, made.cooldown_until) == (4, None)
    assert made.reason == (
        "cpu 85 at or above the threshold of 80 for 3 datapoints: +2 to 4 instances makes 6; "
        "in cooldown for another 12.0 s"
    )
    made = decided(group_of(SIMPLE), capacity(4), NOW, cpu=high)
    assert made.desired == 6


def test_a_policy_may_have_its_own_cooldown() -> None:
    high = points(*[85.0] * 3)
    own = replace(SIMPLE, cooldown=7.0)
    assert decided(group_of(own), capacity(2), cpu=high).cooldown_until == NOW + 7.0
    both = decided(group_of(own, SIMPLE, cooldown=60.0), capacity(2), cpu=high)
    assert both.cooldown_until == NOW + 60.0


def test_the_cooldown_begins_though_another_policy_asked_for_more() -> None:
    # Its metric has not seen the effect of what was added.
    made = decided(group_of(SIMPLE, CPU), capacity(4), cpu=points(*[120.0] * 3))
    assert (made.desired, made.cooldown_until) == (8, NOW + 60.0)


def test_others_do_not_wait_for_the_cooldown() -> None:
    made = decided(group_of(SIMPLE, CPU), capacity(4), NOW + 30.0, cpu=points(*[90.0] * 3))
    assert (made.desired, made.cooldown_until) == (6, None)


def test_simple_scaling_in() -> None:
    down = replace(SIMPLE, comparison="below", threshold=20.0, adjustment=-1)
    both = group_of(SIMPLE, down)
    made = decided(both, capacity(4), cpu=points(*[10.0] * 15))
    assert (made.desired, made.cooldown_until) == (3, NOW + 60.0)
    assert decided(both, capacity(1), cpu=points(*[10.0] * 15)).desired == 1
    assert decided(both, capacity(4), NOW + 1.0, cpu=points(*[10.0] * 15)).desired == 4


# -- whatever the figures are

values = st.one_of(st.none(), st.floats(0, 1000))
metrics: list[Metric] = ["cpu", "requests"]
targets = st.floats(0.5, 500)
comparisons: st.SearchStrategy[Comparison] = st.sampled_from(["above", "below"])
kinds: st.SearchStrategy[AdjustmentType] = st.sampled_from(
    ["change_in_capacity", "exact_capacity", "percent_change_in_capacity"]
)
tracking = st.builds(
    TargetTracking,
    metric=st.sampled_from(metrics),
    target=targets,
    disable_scale_in=st.booleans(),
)
simple = st.builds(
    SimpleScaling,
    metric=st.sampled_from(metrics),
    comparison=comparisons,
    threshold=targets,
    adjustment=st.integers(-200, 200),
    adjustment_type=kinds,
    min_adjustment_magnitude=st.integers(0, 5),
)
stepped = st.builds(
    StepScaling,
    metric=st.sampled_from(metrics),
    comparison=comparisons,
    threshold=targets,
    steps=st.tuples(st.builds(Step, adjustment=st.integers(-200, 200))),
    adjustment_type=kinds,
)


@st.composite
def capacities(draw: st.DrawFn) -> Capacity:
    least = draw(st.integers(0, 10))
    return Capacity(
        desired=draw(st.integers(0, 25)),
        least=least,
        most=draw(st.integers(max(least, 1), 20)),
        in_service=draw(st.integers(0, 25)),
        warming=draw(st.sampled_from([0, 0, 1, 5])),
    )


windows_of_any_kind = st.lists(
    st.builds(lambda value, complete: (value, complete), values, st.booleans()), max_size=6
)


@given(
    st.lists(st.one_of(tracking, simple, stepped), max_size=4),
    st.tuples(windows_of_any_kind, windows_of_any_kind),
    capacities(),
    st.sampled_from([0.0, NOW + 10.0]),
)
def test_invariants(
    policies: list[Any],
    pairs: tuple[list[tuple[Value, bool]], list[tuple[Value, bool]]],
    having: Capacity,
    cooldown_until: float,
) -> None:
    group = group_of(*policies, datapoints_out=2, datapoints_in=3)
    windows = {
        metric: [
            replace(point, complete=complete)
            for point, (_, complete) in zip(points(*[v for v, _ in pair]), pair, strict=True)
        ]
        for metric, pair in zip(metrics, pairs, strict=True)
    }
    made = decide(group, windows, having, cooldown_until, NOW)
    assert having.least <= made.desired <= having.most
    assert made.reason or not policies
    assert made == decide(group, windows, having, cooldown_until, NOW)
    if not having.least <= having.desired <= having.most:
        return
    assert len(made.proposals) == len(policies)
    assert made.desired >= max(having.least, min(1, having.desired))
    if made.desired < having.desired:
        assert not having.warming, "in while one warms"
        assert not any(one.direction == "out" for one in made.proposals)
    if made.desired == having.desired:
        assert made.cooldown_until is None
    if not having.in_service:
        assert made.desired == having.desired
    for policy, proposal in zip(policies, made.proposals, strict=True):
        window = [one.value for one in windows[policy.metric]]
        match proposal.direction:
            case "out":
                assert proposal.desired > having.desired
                assert window[-2:].count(None) == 0
            case "in":
                assert proposal.desired < having.desired
                assert len(window) >= 3
                assert window[-3:].count(None) == 0
            case _:
                assert proposal.desired == having.desired
    if all(one.direction == "missing" for one in made.proposals):
        assert made.desired == having.desired


@given(
    st.lists(st.floats(0, 500), min_size=1, max_size=6),
    st.lists(st.floats(0, 500), min_size=6, max_size=6),
    capacities(),
    targets,
    st.booleans(),
)
def test_a_higher_metric_never_makes_a_smaller_group(
    window: list[float], more: list[float], having: Capacity, target: float, disabled: bool
) -> None:
    policy = TargetTracking(metric="cpu", target=target, disable_scale_in=disabled)
    group = group_of(policy, datapoints_out=2, datapoints_in=3)
    higher = [a + b for a, b in zip(window, more, strict=False)]
    low = decided(group, having, cpu=points(*window)).desired
    assert decided(group, having, cpu=points(*higher)).desired >= low


@given(st.integers(1, 50), st.floats(0, 500), targets)
def test_who_has_what_was_asked_for_is_asked_for_nothing_more(
    in_service: int, load: float, target: float
) -> None:
    """The same load on the decided capacity moves it no further: the answer is a fixed point."""
    group = group_of(replace(CPU, target=target), datapoints_out=2, datapoints_in=3)
    value = load / in_service
    having = capacity(in_service, most=100000)
    first = decided(group, having, cpu=points(*[value] * 3)).desired
    spread = load / first
    again = decided(group, capacity(first, most=100000), cpu=points(*[spread] * 3)).desired
    assert again == first
