"""How many Instances there should be, over time: metrics, schedules, requests and the host's room."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from fastlb.auto_scaling import autoscaler
from fastlb.auto_scaling.autoscaler import MIB, Autoscaler
from fastlb.auto_scaling.headroom import Headroom
from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.usage import Host, Usage
from fastlb.history import History
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.scaling_policy import Scheduled, SimpleScaling, TargetTracking
from tests.support.scaling_fakes import FakeFleet, instance, target_of

PLENTY = Host(10.0, 100_000 * MIB)
TRACKING = TargetTracking(metric="requests", target=60.0)


class Stage:
    """A group whose desired capacity is what it has at once, and whose requests a test makes."""

    def __init__(self, **settings: Any) -> None:
        given = {"max": 10, "period": 5.0, "warmup": 0.0, "datapoints_in": 3, **settings}
        self.settings = AutoScalingGroup(name="web", **given)
        self.now = 1000.0
        self.time = datetime(2026, 3, 2, 7, 59, 30, tzinfo=UTC)
        self.host = PLENTY
        self.fleet = FakeFleet()
        self.activities, self.decisions = History(), History()
        self.follows = True
        self.changes = 0
        self.scaler = Autoscaler(
            self.settings,
            self.fleet,  # type: ignore[arg-type]
            Headroom(lambda: self.host),
            self.activities,
            self.decisions,
            self._changed,
            clock=lambda: self.now,
            wall=lambda: self.time,
        )
        self._follow()

    def _changed(self) -> None:
        self.changes += 1
        self._follow()

    def _follow(self) -> None:
        if not self.follows:
            return
        wanted = self.scaler.desired if hasattr(self, "scaler") else 0
        while len(self.fleet.instances) > wanted:
            self.fleet.instances.pop()
        while len(self.fleet.instances) < wanted:
            self.fleet.instances.append(instance(f"i{len(self.fleet.instances)}", at=self.now))

    def run(self, seconds: float, a_minute: float = 0.0) -> list[int]:
        """Each Instance gets so many requests a minute; the desired capacity after each tick of 1 s."""
        seen = []
        for _ in range(round(seconds)):
            self.now += 1.0
            self.time += timedelta(seconds=1)
            for one in self.fleet:
                target = target_of(one)
                target.count(requests=target.counted.requests + round(a_minute / 60))
            self.scaler.tick(self.now)
            seen.append(self.scaler.desired)
        return seen

    def said(self, history: History, what: str = "") -> list[tuple[str, str, str]]:
        return [(one.what, one.cause, one.outcome) for one in history.after(0) if what in one.what]


@pytest.mark.parametrize(
    ("settings", "desired"),
    [
        ({"min": 1}, 1),
        ({"min": 2}, 2),
        ({"min": 2, "desired": 4}, 4),
        ({"min": 0}, 0),
        ({"policies": (Scheduled(cron="0 7 * * *", min=3),)}, 3),
        ({"policies": (Scheduled(cron="0 7 * * *", desired=6, max=5),)}, 5),
    ],
)
def test_what_it_starts_with(settings: dict[str, Any], desired: int) -> None:
    assert Stage(**settings).scaler.desired == desired


def test_each_change_is_said_with_its_cause_and_told_once() -> None:
    stage = Stage(policies=())
    stage.scaler.set_desired(3, "asked for")
    stage.scaler.set_desired(3, "asked for again")
    assert stage.changes == 1
    assert stage.said(stage.decisions) == [("desired capacity 1 -> 3", "asked for", "")]
    assert stage.scaler.cause == "desired capacity 1 -> 3: asked for"


def test_load_scales_out_and_its_end_scales_in() -> None:
    stage = Stage(policies=(TRACKING,))
    assert stage.run(5 + 15, 240)[-1] == 4  # one had 4 times the target
    assert stage.run(20, 60)[-1] == 4
    falling = stage.run(60)
    assert falling[-1] == 1
    assert falling.index(1) >= 14, "three datapoints of each Instance are needed"


def test_a_scale_in_is_judged_by_new_datapoints() -> None:
    stage = Stage(policies=(replace(TRACKING, target=120.0),), desired=8)
    seen = stage.run(60, 60)
    at = seen.index(4)
    assert set(seen[:at]) == {8}
    assert set(seen[at : at + 14]) == {4}, "the windows were begun anew"


def test_between_the_bounds_and_never_to_zero_by_a_policy() -> None:
    stage = Stage(policies=(TRACKING,), min=0, max=3, desired=1, idle_timeout=1e6)
    assert max(stage.run(40, 6000)) == 3
    assert min(stage.run(200)) == 1


def test_suspended_it_measures_and_decides_nothing() -> None:
    stage = Stage(policies=(TRACKING,), min=0, desired=1, idle_timeout=10.0)
    stage.scaler.suspended = True
    assert set(stage.run(60, 600)) | set(stage.run(60)) == {1}
    assert stage.scaler.measures.latest("requests") is not None
    assert stage.scaler.decision is None


def test_the_cooldown_of_a_simple_policy_holds_off_the_next_step() -> None:
    policy = SimpleScaling(
        metric="requests", comparison="above", threshold=100.0, adjustment=1, cooldown=30.0
    )
    seen = Stage(policies=(policy,)).run(90, 600)
    steps = [at for at in range(1, len(seen)) if seen[at] != seen[at - 1]]
    assert len(steps) == 3
    assert all(later - earlier >= 30 for earlier, later in pairwise(steps))


# -- the host


def test_a_refusal_is_told_once_in_its_episode(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(policies=(TRACKING,))
    stage.host = replace(PLENTY, cpu_percent=97.0)
    stage.run(60, 600)
    stage.host = replace(PLENTY, cpu_percent=99.0)
    stage.run(60, 600)
    assert stage.scaler.desired == 1
    assert "the host's CPU is saturated: 99 %" in stage.scaler.refused
    [(what, _, outcome)] = stage.said(stage.activities)
    assert what == "scale out to 10"
    assert outcome.startswith("refused: the host's CPU is saturated: 97 % of all cores")
    assert len(stage.said(stage.decisions, "scale out")) == 1
    assert sum("does not scale out" in message for message in caplog.messages) == 1
    stage.host = PLENTY
    stage.run(10, 600)
    assert (stage.scaler.desired, stage.scaler.refused) == (10, "")


def test_a_new_episode_is_told_anew() -> None:
    stage = Stage(policies=(TRACKING,))
    stage.host = replace(PLENTY, cpu_percent=97.0)
    stage.run(30, 600)
    stage.run(30, 60)  # near the target: nothing to refuse
    assert stage.scaler.refused == ""
    stage.run(30, 600)
    assert len(stage.said(stage.activities)) == 2


def test_as_many_as_the_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        autoscaler, "usage_of_trees", lambda pids: {pid: Usage(0.0, 100 * MIB, 1) for pid in pids}
    )
    stage = Stage(policies=(TRACKING,), host_memory_reserve=200 * MIB)
    give_process(stage.fleet.instances[0])
    stage.host = Host(10.0, 450 * MIB)
    stage.run(20, 600)
    assert stage.scaler.desired == 3
    assert "memory would run out: 450 MiB are available" in stage.scaler.cause


def give_process(one: Instance) -> None:
    one.process = SimpleNamespace(pid=4_000_001)  # type: ignore[assignment]


def test_who_is_too_big_is_to_be_replaced_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(
        autoscaler, "usage_of_trees", lambda pids: {pid: Usage(0.0, 101 * MIB, 1) for pid in pids}
    )
    stage = Stage(policies=())
    one = stage.fleet.instances[0]
    one.template = LaunchTemplate(max_rss=100 * MIB)
    give_process(one)
    stage.run(20)
    assert one.doomed == "over max_rss: 101 of 100 MiB"
    assert len(caplog.messages) == 1


# -- schedules


def test_a_schedule_comes_up_while_it_runs_and_only_once() -> None:
    stage = Stage(policies=(Scheduled(cron="0 8 * * *", min=2, max=6, desired=4),))
    assert stage.scaler.desired == 4, "as since yesterday"
    stage.scaler.desired = 2
    assert set(stage.run(29)) == {2}
    assert stage.run(1) == [4]
    stage.scaler.set_desired(3, "asked for")
    assert set(stage.run(300)) == {3}
    assert (stage.scaler.bounds.least, stage.scaler.bounds.most) == (2, 6)
    assert [what for what, _, _ in stage.said(stage.decisions, "bounds")] == ["bounds 2 to 6"]
    assert "scheduled 0 8 * * *" in stage.said(stage.decisions, "2 -> 4")[0][1]


@pytest.mark.parametrize(
    ("policy", "desired"),
    [
        (Scheduled(cron="0 8 * * *", min=5), 5),
        (Scheduled(cron="0 8 * * *", max=2), 2),
        (Scheduled(cron="0 8 * * *", desired=99), 10),
        (Scheduled(cron="0 8 * * *", desired=0), 1),
        (Scheduled(cron="0 9 * * *", desired=9), 3),
        (Scheduled(cron="0 9 * * *", time_zone="Europe/Berlin", desired=9), 9),
    ],
)
def test_what_a_schedule_sets_is_kept_between_the_bounds(policy: Scheduled, desired: int) -> None:
    stage = Stage(policies=(policy,), desired=3)
    stage.scaler.desired = 3
    stage.run(40)
    assert stage.scaler.desired == desired


def test_after_a_long_sleep_the_last_time_counts() -> None:
    stage = Stage(policies=(Scheduled(cron="0 * * * *", desired=4),))
    stage.time += timedelta(days=40)
    stage.run(2)
    assert stage.scaler.desired == 4
    assert len(stage.said(stage.decisions, "bounds")) == 1


def test_other_settings_hold_at_once() -> None:
    stage = Stage(policies=(), desired=5)
    stage.scaler.reload(replace(stage.settings, max=3))
    assert stage.scaler.desired == 3
    assert "3 is the most now (min 1 of the group; max 3 of the group)" in stage.scaler.cause
    stage.scaler.reload(replace(stage.settings, min=6))
    assert stage.scaler.desired == 6


# -- idle


def idle_stage(**settings: Any) -> Stage:
    return Stage(**{"policies": (), "min": 0, "desired": 2, "idle_timeout": 30.0, **settings})


def test_without_a_request_it_comes_to_nothing_and_a_request_wakes_it() -> None:
    stage = idle_stage()
    stage.run(20, 60)
    quiet = stage.run(31)
    assert (quiet[28], quiet[-1]) == (2, 0)
    assert stage.scaler.cause.endswith("(idle_timeout)")
    assert set(stage.run(60)) == {0}
    stage.scaler.wake()
    stage.scaler.wake()
    assert stage.scaler.desired == 1
    seen = stage.run(31)
    assert (seen[0], seen[28], seen[-1]) == (1, 1, 0)


def test_what_is_in_flight_is_no_idleness() -> None:
    stage = idle_stage()
    target_of(stage.fleet.instances[1]).count(in_flight=1)
    assert set(stage.run(100)) == {2}


def test_a_least_of_one_is_never_idle() -> None:
    assert set(idle_stage(min=1).run(100)) == {2}


def test_what_was_asked_for_has_the_whole_idle_timeout() -> None:
    # Nobody ever asked anything, and the group has been at 0 for long.
    stage = idle_stage()
    assert stage.run(60)[-1] == 0
    stage.scaler.set_desired(2, "asked for")
    seen = stage.run(31)
    assert (seen[0], seen[28], seen[-1]) == (2, 2, 0)


def test_a_schedule_that_starts_instances_gives_them_time() -> None:
    stage = idle_stage(policies=(Scheduled(cron="0 8 * * *", desired=3),))
    assert stage.scaler.desired == 3
    stage.scaler.set_desired(0, "asked for")
    seen = stage.run(29 + 1 + 30)
    assert seen[:30] == [0] * 29 + [3]
    assert (seen[-2], seen[-1]) == (3, 0)


def test_a_group_of_at_most_nobody_stays_asleep() -> None:
    stage = idle_stage(policies=(Scheduled(cron="0 7 * * *", max=0),), desired=0)
    stage.scaler.wake()
    assert stage.scaler.desired == 0
