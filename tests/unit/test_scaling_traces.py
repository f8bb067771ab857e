"""Hours of load against `decide` in milliseconds: a small simulated group of Instances that must
start and warm up. What matters: enough capacity soon, and no flapping."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from fastlb.auto_scaling.scaling_policy import Capacity, Datapoint, decide
from fastlb.model.auto_scaling import PROFILES, AutoScalingGroup
from fastlb.model.scaling_policy import SimpleScaling, Step, StepScaling, TargetTracking

TICK = 1.0
CPU = TargetTracking(metric="cpu", target=60.0)
Load = Callable[[float], float]


@dataclass
class Run:
    """What happened: `changes` are (time, desired), `overload` the seconds at 100 % of a core."""

    changes: list[tuple[float, int]] = field(default_factory=list)
    desired: list[int] = field(default_factory=list, repr=False)
    overload: float = 0.0

    @property
    def turns(self) -> int:
        """How often the group went the other way than before."""
        numbers = [self.desired[0], *(number for _, number in self.changes)]
        ways = [b > a for a, b in pairwise(numbers)]
        return sum(a != b for a, b in pairwise(ways))


def simulate(
    load: Load,
    seconds: float,
    *,
    policies: tuple[Any, ...] = (CPU,),
    begin: int = 2,
    most: int = 20,
    boot: float = 2.0,
    **settings: Any,
) -> Run:
    """`load` is percent of a core of all requests together; Instances in service share it equally."""
    group = AutoScalingGroup(
        name="web",
        policies=policies,
        min=1,
        max=most,
        **{"period": 5.0, "warmup": 10.0, **settings},
    )
    window: deque[Datapoint] = deque(maxlen=max(group.datapoints_out, group.datapoints_in))
    born = [-1e9] * begin
    run = Run()
    cooldown_until, sums, ticks = 0.0, 0.0, 0
    now = 0.0
    while now < seconds:
        now += TICK
        serving = sum(now - one >= boot for one in born)
        share = load(now) / serving
        run.overload += TICK * (share >= 100.0)
        sums, ticks = sums + min(share, 100.0), ticks + 1
        run.desired.append(len(born))
        if now % group.period:
            continue
        window.append(Datapoint(now, sums / ticks))
        sums, ticks = 0.0, 0
        warm = sum(now - one >= boot + group.warmup for one in born)
        having = Capacity(len(born), 1, most, warm, len(born) - warm)
        made = decide(group, {"cpu": list(window)}, having, cooldown_until, now)
        if made.cooldown_until is not None:
            cooldown_until = made.cooldown_until
        if made.desired == having.desired:
            continue
        run.changes.append((now, made.desired))
        born += [now] * (made.desired - having.desired)
        born = born[: made.desired]
    return run


def noise(seed: int, share: float) -> Callable[[], float]:
    dice = random.Random(seed)
    return lambda: max(0.0, dice.gauss(1.0, share))


def test_a_step_is_answered_within_three_datapoints_and_once() -> None:
    run = simulate(lambda now: 90.0 if now < 100 else 280.0, 1000)
    assert run.changes[0][0] <= 115
    assert run.desired[-1] == 5
    assert run.turns == 0
    assert len(run.changes) <= 3


def test_a_step_down_is_answered_once_after_the_longer_window() -> None:
    run = simulate(lambda now: 550.0 if now <= 100 else 110.0, 1000, begin=10)
    ((when, desired),) = run.changes
    assert (when, desired) == (175.0, 2)


def test_a_ramp_is_followed_upwards_and_down() -> None:
    def load(now: float) -> float:
        return 60.0 + 500.0 * (1 - abs(now - 1800) / 1800)

    run = simulate(load, 3600)
    assert run.turns == 1
    assert max(run.desired) in (10, 11)
    assert run.desired[-1] <= 3
    assert run.overload == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_day_with_noise_has_one_peak(seed: int) -> None:
    jitter = noise(seed, 0.05)

    def load(now: float) -> float:
        return (320.0 - 260.0 * math.cos(now / 86400 * 2 * math.pi)) * jitter()

    run = simulate(load, 86400, period=60.0, warmup=60.0)
    assert run.turns <= 3
    assert len(run.changes) < 30
    assert max(run.desired) in (10, 11, 12)
    assert run.desired[-1] <= 3
    assert run.overload == 0


def test_a_flash_crowd_is_met_and_left_behind_without_flapping() -> None:
    run = simulate(lambda now: 600.0 if 300 <= now < 600 else 55.0, 1500, begin=1)
    assert run.turns == 1
    assert max(run.desired) in (10, 11)
    assert run.desired[-1] == 1
    # 100 % is all that a core shows: each round sees but 1.67 times what there is, so it takes some.
    assert run.overload < 75


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("level", [50.0, 54.0, 57.0, 60.0, 63.0])
@pytest.mark.parametrize("instances", [1, 4])
def test_noise_around_the_target_does_not_flap(seed: int, level: float, instances: int) -> None:
    jitter = noise(seed, 0.05)
    run = simulate(lambda now: instances * level * jitter(), 6 * 3600, begin=instances)
    assert run.turns <= 2
    assert run.desired[-1] in (instances, instances + 1)


@pytest.mark.parametrize("seed", range(5))
def test_strong_noise_turns_it_a_few_times_an_hour_at_most(seed: int) -> None:
    # Where the load fills nearly all of n: three datapoints over the target by chance add one, and
    # by AWS's arithmetic n are enough again when fifteen are low by chance.
    jitter = noise(seed, 0.1)
    run = simulate(lambda now: 4 * 57.0 * jitter(), 6 * 3600, begin=4)
    assert run.turns <= 6 * 4
    assert set(run.desired) == {4, 5}


def test_a_wave_shorter_than_the_window_does_not_flap() -> None:
    # Two minutes of load, one without: HPA's example of what its stabilisation is for.
    run = simulate(lambda now: 220.0 if now % 180 < 120 else 150.0, 3 * 3600)
    assert run.turns == 0
    assert run.desired[-1] == 4


def test_at_the_most_nothing_is_tried_again_and_again() -> None:
    run = simulate(lambda now: 2000.0, 1000, most=6)
    assert run.changes[-1][1] == 6
    assert len(run.changes) <= 4


def test_the_profile_of_aws_takes_minutes() -> None:
    names = ("period", "warmup", "datapoints_out", "datapoints_in")
    settings = {name: PROFILES["aws"][name] for name in names}
    run = simulate(lambda now: 90.0 if now < 600 else 280.0, 7200, **settings)
    assert run.changes[0][0] == 780.0
    assert run.desired[-1] == 5
    assert run.turns == 0


def test_steps_up_and_down() -> None:
    up = StepScaling(
        metric="cpu",
        comparison="above",
        threshold=70.0,
        steps=(Step(lower=0.0, upper=20.0, adjustment=1), Step(lower=20.0, adjustment=3)),
    )
    down = StepScaling(
        metric="cpu", comparison="below", threshold=30.0, steps=(Step(upper=0.0, adjustment=-1),)
    )
    run = simulate(
        lambda now: 400.0 if 300 <= now < 900 else 50.0, 2400, policies=(up, down), begin=1
    )
    assert run.turns == 1
    assert 5 <= max(run.desired) <= 8
    assert run.desired[-1] == 1


def test_simple_scaling_waits_for_its_cooldown_between_changes() -> None:
    up = SimpleScaling(metric="cpu", comparison="above", threshold=70.0, adjustment=1)
    run = simulate(lambda now: 400.0, 1000, policies=(up,), begin=1, cooldown=60.0)
    assert run.desired[-1] == 6
    times = [when for when, _ in run.changes]
    assert times == [15.0, 75.0, 135.0, 195.0, 255.0]
