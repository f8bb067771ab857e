"""From counters to datapoints: rates, means, and what is missing while Instances come and go."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.measuring import Measures
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.scaling_policy import METRICS, Metric
from tests.support.scaling_fakes import instance, target_of

SETTINGS = AutoScalingGroup(name="web", datapoints_out=2, datapoints_in=4)
WARMUP = 10.0


class Stage:
    def __init__(self, *instances: Instance) -> None:
        self.measures = Measures(SETTINGS)
        self.instances = list(instances)
        self.now = 100.0

    def datapoint(self, **usages: tuple[float | None, int]) -> None:
        """One 6 s after the last; `usages` by the ids of Instances."""
        self.now += 6.0
        by_pid = {}
        for number, one in enumerate(self.instances, 1):
            one.process = SimpleNamespace(pid=number)  # type: ignore[assignment]
            if one.id in usages:
                by_pid[number] = usages[one.id]
        self.measures.datapoint(
            self.instances, by_pid, lambda one: one.warmed(self.now, WARMUP), self.now
        )

    def last(self, metric: Metric) -> tuple[float | None, bool]:
        point = self.measures.windows[metric][-1]
        assert point.at == self.now
        return point.value, point.complete


def test_a_group_of_nobody_has_a_missing_value_of_each_metric() -> None:
    stage = Stage()
    stage.datapoint()
    for metric in METRICS:
        assert stage.last(metric) == (None, False)
        assert stage.measures.latest(metric) is None


def test_a_rate_needs_two_looks_and_is_a_mean_over_the_instances() -> None:
    first, second = instance("a"), instance("b")
    stage = Stage(first, second)
    target_of(first).count(requests=1000)
    stage.datapoint()
    assert stage.last("requests") == (None, False)
    target_of(first).count(requests=1012)
    target_of(second).count(requests=6)
    stage.datapoint()
    assert stage.last("requests") == (90.0, True)
    assert (first.requests_a_minute, second.requests_a_minute) == (120.0, 60.0)
    stage.datapoint()
    assert stage.last("requests") == (0.0, True)


def test_one_that_warms_up_is_shown_and_not_counted() -> None:
    old, new = instance("a"), instance("b", at=100.0)
    stage = Stage(old, new)
    stage.datapoint(a=(50.0, 100), b=(99.0, 900))
    assert stage.last("cpu") == (50.0, True)
    assert (new.cpu, new.rss) == (99.0, 900)
    stage.datapoint(a=(50.0, 100), b=(70.0, 300))
    assert stage.last("cpu") == (60.0, True)
    assert stage.last("rss") == (200.0, True)


def test_what_is_not_known_of_one_leaves_the_mean_of_the_others_incomplete() -> None:
    stage = Stage(instance("a"), instance("b"))
    stage.datapoint(a=(40.0, 100), b=(None, 300))
    assert stage.last("cpu") == (40.0, False)
    assert stage.last("rss") == (200.0, True)
    stage.datapoint(a=(40.0, 100))
    assert stage.last("rss") == (100.0, False)
    assert (stage.instances[1].cpu, stage.instances[1].rss) == (None, None)


@pytest.mark.parametrize("state", ["pending", "standby", "terminating"])
def test_only_who_is_in_service_counts(state: str) -> None:
    stage = Stage(instance("a"), instance("b", state))
    for _ in range(2):
        stage.datapoint(a=(10.0, 1), b=(90.0, 9))
    assert stage.last("cpu") == (10.0, True)
    assert stage.last("requests") == (0.0, True)


def test_one_that_went_and_came_back_is_not_rated_over_its_absence() -> None:
    one = instance("a")
    stage = Stage(one)
    stage.datapoint()
    target_of(one).count(requests=600)
    one.state = "standby"
    stage.datapoint()
    one.state = "in_service"
    stage.datapoint()
    assert stage.last("requests") == (None, False)
    stage.datapoint()
    assert stage.last("requests") == (0.0, True)


def test_in_flight_is_the_mean_of_the_samples_between() -> None:
    one = instance("a")
    stage = Stage(one, instance("b", "pending"))
    target_of(one).count(in_flight=9)
    stage.measures.sample(stage.instances)
    stage.datapoint()
    assert stage.last("in_flight") == (None, False), "the first look has nothing behind it"
    for many in (1, 2, 6):
        target_of(one).count(in_flight=many)
        stage.measures.sample(stage.instances)
        assert one.in_flight == many
    stage.datapoint()
    assert stage.last("in_flight") == (3.0, True)
    stage.datapoint()
    assert stage.last("in_flight") == (6.0, True), "without samples what there is now"


def test_the_queue_wait_is_that_of_all_requests_together() -> None:
    busy, other = instance("a"), instance("b")
    stage = Stage(busy, other)
    stage.datapoint()
    assert stage.last("queue_wait") == (None, False)
    stage.datapoint()
    assert stage.last("queue_wait") == (0.0, True), "nobody asked, so nobody waited"
    target_of(busy).count(requests=30, queued=3, queue_wait=6.0)
    target_of(other).count(requests=10)
    stage.datapoint()
    assert stage.last("queue_wait") == (0.15, True)


def test_the_windows_are_as_long_as_the_policies_need_and_can_be_begun_anew() -> None:
    stage = Stage(instance("a"))
    for cpu in range(6):
        stage.datapoint(a=(float(cpu), 1))
    values: Any = [point.value for point in stage.measures.windows["cpu"]]
    assert values == [2.0, 3.0, 4.0, 5.0]
    stage.measures.keep(replace(SETTINGS, datapoints_in=3))
    assert [point.value for point in stage.measures.windows["cpu"]] == [3.0, 4.0, 5.0]
    assert stage.measures.latest("cpu") == 5.0
    stage.measures.forget()
    assert not any(stage.measures.windows.values())
    target_of(stage.instances[0]).count(requests=6)
    stage.datapoint()
    assert stage.last("requests") == (60.0, True), "what was counted is not forgotten"
