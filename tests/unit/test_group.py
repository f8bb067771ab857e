"""A group at work: what it launches in one look, of what it sees of its Instances and of the host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlb.auto_scaling.group import Group
from fastlb.auto_scaling.headroom import MIB, Headroom
from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.records import Records
from fastlb.auto_scaling.targets import TargetSight
from fastlb.auto_scaling.usage import Host
from fastlb.history import History
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.launch_template import LaunchTemplate
from tests.support.scaling_fakes import FakeRegistrar, instance, target_of

FAILING = TargetSight("unhealthy", True, "no answer")


class Stage:
    """A group whose launches are instances without a process."""

    def __init__(self, folder: Path, *instances: Instance, **settings: Any) -> None:
        self.available = 1 << 20
        self.decisions = History()
        headroom = Headroom(lambda: Host(0.0, self.available * MIB))
        given = {"desired": 2, "max": 8, "warmup": 0.0, "host_memory_reserve": 0, **settings}
        self.group = Group(
            AutoScalingGroup(
                name="web",
                launch_template=LaunchTemplate(command=("v1",)),
                policies=(),
                **given,
            ),
            "web",
            FakeRegistrar(),
            Records(folder),
            History(),
            self.decisions,
            headroom,
        )
        headroom.look(0.0)
        self.headroom = headroom
        for one in instances:
            self.group.fleet._instances[one.id] = one
        self.launched = 0

    def launch(self, settings: object, version: int, template: object, cause: str) -> None:
        self.launched += 1
        one = instance(f"new{self.launched}", "pending", version=version)
        self.group.fleet._instances[one.id] = one

    def look(self) -> int:
        """How many are launched by one look."""
        before = self.launched
        self.group.reconcile()
        return self.launched - before

    def see(self, id: str, sight: TargetSight) -> None:
        one = self.group.fleet.get(id)
        assert one is not None
        target_of(one).seen = sight


@pytest.fixture
def play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Stage], None], Stage], None]:
    """Lets a group act without processes, and nothing of it outlive the test."""

    def run(scenario: Callable[[Stage], None], stage: Stage) -> None:
        async def inside() -> None:
            monkeypatch.setattr(stage.group.fleet, "launch", stage.launch)
            stage.group._begun = True
            try:
                scenario(stage)
            finally:
                stage.group._end_acting()
                await stage.group.fleet._end_tasks()

        asyncio.run(inside())

    return run


Play = Callable[[Callable[[Stage], None], Stage], None]


def test_no_more_are_launched_at_once_than_the_memory_has_room_for(
    tmp_path: Path, play: Play
) -> None:
    def scenario(stage: Stage) -> None:
        [one] = stage.group.fleet
        one.rss = 100 * MIB
        stage.available = 350
        stage.headroom.look(10.0)
        assert stage.look() == 3
        assert stage.look() == 0, "what was launched has not taken its memory yet"
        assert stage.group.launching.blocked.startswith(
            "memory would run out: 350 MiB are available"
        )
        stage.available = 340
        stage.headroom.look(12.0)
        stage.look()
        assert stage.group.launching.blocked.startswith(
            "memory would run out: 340 MiB are available"
        )
        told = [one.what for one in stage.decisions.after(0)]
        assert told == ["no launch"], "once, not for each figure"
        for other in stage.group.fleet:
            other.rss = 50 * MIB
        stage.headroom.look(20.0)
        assert stage.look() == 2
        assert stage.group.launching.blocked == ""

    play(scenario, Stage(tmp_path, instance("a"), desired=6))


def test_the_first_of_a_group_is_always_tried(tmp_path: Path, play: Play) -> None:
    def scenario(stage: Stage) -> None:
        stage.available = 0
        stage.headroom.look(10.0)
        assert stage.look() == 2

    play(scenario, Stage(tmp_path))


def test_a_refresh_begins_with_one_and_goes_on_when_it_is_settled(
    tmp_path: Path, play: Play
) -> None:
    def scenario(stage: Stage) -> None:
        stage.group.rollout.refresh("asked for")
        assert stage.look() == 1
        assert stage.look() == 0
        new = stage.group.fleet.get("new1")
        assert new is not None
        stage.group.fleet._instances["new1"] = instance("new1")
        assert stage.look() == 3

    play(scenario, Stage(tmp_path, *map(instance, "abcd"), desired=4))


def test_the_first_new_one_is_replaced_where_nobody_serves(tmp_path: Path, play: Play) -> None:
    def scenario(stage: Stage) -> None:
        stage.group.rollout.refresh("asked for")
        assert stage.look() == 1
        stage.group.fleet._instances["new1"] = instance("new1")
        for id in ("a", "b", "new1"):
            stage.see(id, FAILING)
        assert stage.look() == 1

    play(scenario, Stage(tmp_path, instance("a"), instance("b")))
