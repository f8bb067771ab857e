"""What an operator is told: every refusal by its text, with nothing changed, and what is done else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlb.auto_scaling.commands import Commands
from fastlb.auto_scaling.group import Group
from fastlb.auto_scaling.group_status import status_of
from fastlb.auto_scaling.headroom import Headroom
from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.records import Records
from fastlb.auto_scaling.usage import Host
from fastlb.history import History
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.launch_template import LaunchTemplate
from tests.support.scaling_fakes import FakeRegistrar, instance


class Stage:
    """Groups that decide and do not act yet: nobody is launched."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.activities, self.decisions = History(), History()
        self.records = Records(folder)
        self.groups = {name: self._group(name) for name in names}
        self.commands = Commands(self.groups, self.activities, self.decisions)

    def _group(self, name: str) -> Group:
        """Its first version has been seen to work."""
        group = Group(
            AutoScalingGroup(
                name=name,
                launch_template=LaunchTemplate(command=("app",)),
                min=1,
                max=4,
                desired=2,
                policies=(),
            ),
            name,
            FakeRegistrar(),
            self.records,
            self.activities,
            self.decisions,
            Headroom(lambda: Host(0.0, 1 << 40)),
        )
        group.rollout.templates.prove()
        return group

    def put(self, group: str, *instances: Instance) -> None:
        for one in instances:
            self.groups[group].fleet._instances[one.id] = one

    def ask(self, command: str, **request: Any) -> Any:
        return self.commands.by_name[command](request)

    def state(self) -> Any:
        """All that a command could change."""
        found = [status_of(group) for group in self.groups.values()]
        for group in found:
            for one in group["instances"]:
                del one["age_s"]
        files = {path.name: path.read_bytes() for path in self.records.folder.iterdir()}
        entries = [one.plain() for one in (*self.activities.after(0), *self.decisions.after(0))]
        return found, files, entries


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path, "web", "api")
    made.put(
        "web",
        instance("i-serving"),
        instance("i-pending", "pending"),
        instance("i-standby", "standby"),
        instance("i-ending", "terminating"),
    )
    return made


def at_least(stage: Stage) -> None:
    stage.groups["web"].scaler.desired = 1


def at_most(stage: Stage) -> None:
    stage.groups["web"].scaler.desired = 4


def refreshing(stage: Stage) -> None:
    stage.groups["web"].rollout.refresh("asked for")


def deploying(stage: Stage) -> None:
    stage.groups["web"].rollout.templates.add(LaunchTemplate(command=("v2",)))
    stage.groups["web"].rollout.refresh("asked for")


def going_back(stage: Stage) -> None:
    deploying(stage)
    stage.groups["web"].rollout.roll_back("half of it failed")


def rolled_back(stage: Stage) -> None:
    going_back(stage)
    stage.groups["web"].rollout.end("done")


def never_well(stage: Stage) -> None:
    stage.groups["web"].rollout.templates.proven = 0
    deploying(stage)


def as_it_is(stage: Stage) -> None:
    pass


WEB = {"group": "web"}
UNDER = "group web would fall under its least of 1: "


@pytest.mark.parametrize(
    ("before", "command", "request_", "text"),
    [
        # who is meant
        (as_it_is, "scale", {}, "there are several auto scaling groups: say which of web, api"),
        (as_it_is, "scale", {"group": "wep"}, "group 'wep'; did you mean \"web\"?"),
        (as_it_is, "refresh", {"group": ["web"]}, "there is no auto scaling group ['web']"),
        (as_it_is, "protect", {}, "there is no instance None; there are i-serving, i-pending,"),
        (
            as_it_is,
            "terminate",
            {"instance": "i-servin"},
            "instance 'i-servin'; did you mean \"i-serving\"?",
        ),
        # scale
        (as_it_is, "scale", WEB, "expected a number of instances, got None"),
        (as_it_is, "scale", {**WEB, "desired": True}, "expected a number of instances, got True"),
        (as_it_is, "scale", {**WEB, "desired": 2.5}, "expected a number of instances, got 2.5"),
        (as_it_is, "scale", {**WEB, "desired": "3"}, "expected a number of instances, got '3'"),
        (
            as_it_is,
            "scale",
            {**WEB, "desired": 5},
            "group web has from 1 to 4 instances (min and max), got 5",
        ),
        (as_it_is, "scale", {**WEB, "desired": 0}, "group web has from 1 to 4 instances"),
        # refresh
        (
            refreshing,
            "refresh",
            WEB,
            "group web: instance refresh to v1 is under way (rolling); wait for it, or: "
            "fastlb refresh web --cancel",
        ),
        (as_it_is, "refresh", {**WEB, "action": "cancel"}, "group web: no refresh is under way"),
        (as_it_is, "refresh", {**WEB, "action": "rollback"}, "group web: no refresh is under way"),
        (
            refreshing,
            "refresh",
            {**WEB, "action": "rollback"},
            "group web: old and new are of the same template v1: there is nothing to go back to",
        ),
        (
            going_back,
            "refresh",
            {**WEB, "action": "rollback"},
            "group web: it is being rolled back already",
        ),
        (
            never_well,
            "refresh",
            {**WEB, "action": "rollback"},
            "group web: no template before v2 has shown that it works: there is nothing to go back to",
        ),
        (
            rolled_back,
            "refresh",
            WEB,
            "group web: template v2 was rolled back: half of it failed; change the launch template, "
            "or try the same one again: fastlb refresh web --force",
        ),
        (
            rolled_back,
            "refresh",
            {**WEB, "action": "rollback"},
            "an instance of another template than v1: there is nothing to go back from",
        ),
        (as_it_is, "refresh", {**WEB, "force": 1}, "force: expected true or false, got 1"),
        (
            refreshing,
            "refresh",
            {**WEB, "action": "cancel", "force": True},
            "force: only the start of a refresh is insisted on, not its cancel",
        ),
        (
            refreshing,
            "refresh",
            {**WEB, "action": "pause"},
            "expected start, cancel or rollback, got 'pause'",
        ),
        # suspend and resume
        (as_it_is, "suspend", WEB, "expected one of launch, terminate, scaling, got None"),
        (as_it_is, "suspend", {**WEB, "process": "all"}, "expected one of launch, terminate"),
        (as_it_is, "resume", {**WEB, "process": 1}, "expected one of launch, terminate, scaling"),
        # single instances
        (
            as_it_is,
            "protect",
            {"instance": "i-serving", "on": "yes"},
            "expected true or false, got 'yes'",
        ),
        (
            as_it_is,
            "standby",
            {"instance": "i-pending"},
            "instance i-pending is pending; only one in service can stand by",
        ),
        (
            at_least,
            "standby",
            {"instance": "i-serving"},
            f"{UNDER}with --replace another one is launched in its place",
        ),
        (
            as_it_is,
            "return",
            {"instance": "i-serving"},
            "instance i-serving is in service, not in standby",
        ),
        (
            at_most,
            "return",
            {"instance": "i-standby"},
            "group web would come over its most of 4: fastlb scale web 3 first, or terminate",
        ),
        (
            as_it_is,
            "terminate",
            {"instance": "i-ending"},
            "instance i-ending is terminating already",
        ),
        (
            at_least,
            "terminate",
            {"instance": "i-serving", "decrement": True},
            f"{UNDER}leave --decrement out, and another one is launched in its place",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    stage: Stage,
    before: Callable[[Stage], None],
    command: str,
    request_: dict[str, Any],
    text: str,
) -> None:
    before(stage)
    state = stage.state()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        stage.ask(command, **request_)
    assert text in str(caught.value)
    assert stage.state() == state


@pytest.mark.parametrize("command", ["activity", "why"])
@pytest.mark.parametrize("name", ["after", "wait"])
@pytest.mark.parametrize("value", [-1, "1", None, True, float("nan"), float("inf")])
def test_numbers_are_checked(stage: Stage, command: str, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected a number, got "):
        asyncio.run(stage.ask(command, **{name: value}))


def test_without_groups_and_instances_that_is_said(tmp_path: Path) -> None:
    empty = Stage(tmp_path)
    with pytest.raises(ValueError, match="there is no auto scaling group 'web': there is none"):
        empty.ask("scale", group="web", desired=1)
    with pytest.raises(ValueError, match="there is no instance 'i-1': there is none"):
        empty.ask("protect", instance="i-1")


def test_one_group_need_not_be_named(tmp_path: Path) -> None:
    only = Stage(tmp_path, "web")
    assert only.ask("scale", desired=3)["said"] == "group web: desired capacity 2 -> 3"
    assert only.ask("scale", desired=3)["said"] == "group web has 3 desired already"
    assert only.groups["web"].desired == 3
    known = only.records.group("web")
    assert known is not None
    assert known.desired == 3, "a successor knows it"


def test_suspending_one_and_resuming_all(stage: Stage) -> None:
    web = stage.groups["web"]
    for process, left in (("launch", "launch"), ("scaling", "launch, scaling")):
        said = stage.ask("suspend", group="web", process=process)["said"]
        assert said == f"group web: suspended: {left}"
    assert web.scaler.suspended
    assert not stage.groups["api"].suspended
    said = stage.ask("resume", group="web", process="scaling")["said"]
    assert said == "group web: suspended: launch"
    assert not web.scaler.suspended
    assert stage.ask("resume", group="web")["said"] == "group web: nothing is suspended"
    done = [one.what for one in stage.activities.after(0)]
    assert done == ["suspend launch", "suspend scaling", "resume scaling", "resume launch"]


def test_a_refresh_from_its_start_to_its_way_back(stage: Stage) -> None:
    said = stage.ask("refresh", group="web")["said"]
    assert said == "group web: 2 instances are replaced by new ones of template v1"
    said = stage.ask("refresh", group="web", action="cancel")["said"]
    assert said.endswith("what was replaced stays so, and launches use v1")
    web = stage.groups["web"]
    web.rollout.templates.add(LaunchTemplate(command=("v2",)))
    assert stage.ask("refresh", group="web")["said"].endswith("template v2")
    said = stage.ask("refresh", group="web", action="rollback")["said"]
    assert said == "group web: back to template v1"
    assert web.rollout.going_back


def test_a_bad_version_again_by_force_and_what_a_cancel_leaves(stage: Stage) -> None:
    rolled_back(stage)
    [shown, _] = [status_of(group) for group in stage.groups.values()]
    assert shown["rolled_back"] == "v2 is configured, and was rolled back: half of it failed"
    assert shown["launches"] == "launches use v1; on to v2: fastlb refresh web --force"
    assert stage.ask("refresh", group="web", force=True)["said"].endswith("of template v2")
    cause = "asked for by `fastlb refresh` --force; v2 was rolled back before: half of it failed"
    assert stage.activities.after(0)[-1].cause == cause
    assert status_of(stage.groups["web"])["launches"] == ""
    stage.put("web", instance("i-new", version=2))
    said = stage.ask("refresh", group="web", action="cancel")["said"]
    launches = (
        "launches use v1; on to v2: fastlb refresh web --force"  # the new one goes: it is over
    )
    assert said == (
        "group web: the refresh is cancelled; what was replaced stays so, 1 new instance goes again, "
        f"and {launches}"
    )
    shown = status_of(stage.groups["web"])
    assert (shown["version"], shown["launches"]) == (1, launches)
    assert shown["rolled_back"].startswith("v2 is configured, and was rolled back: half")
    with pytest.raises(ValueError, match="--force"):
        stage.ask("refresh", group="web")


def test_what_a_cancelled_refresh_left_is_said_and_goes_back(stage: Stage) -> None:
    deploying(stage)
    web = stage.groups["web"]
    for one in web.fleet.in_state("pending"):
        web.fleet._instances.pop(one.id)
    stage.put("web", instance("i-new", version=2))
    said = stage.ask("refresh", group="web", action="cancel")["said"]
    launches = (
        "launches use v1; 1 instance is of v2; on to v2: fastlb refresh web; "
        "back to v1: fastlb refresh web --rollback"
    )
    assert said.endswith(f"what was replaced stays so, and {launches}")
    shown = status_of(web)
    assert (shown["launches"], shown["cause"]) == (launches, "instance refresh to v2: cancelled")
    assert stage.ask("refresh", group="web", action="rollback")["said"].endswith("to template v1")
    assert web.rollout.run is not None
    assert web.rollout.run.refresh.old == ("i-new",)
    web.rollout.end("done")
    web.fleet._instances.pop("i-new")
    old = instance("i-old", version=7)
    stage.put("web", old)
    web.rollout.templates.configured = 1
    assert status_of(web)["launches"] == (
        "launches use v1; 1 instance is of v7; all of v1: fastlb refresh web"
    )
    old.protected = True
    assert status_of(web)["launches"] == ""


def test_a_rollback_that_is_cancelled_is_called_one(stage: Stage) -> None:
    going_back(stage)
    stage.put("web", instance("i-bad", version=2))
    said = stage.ask("refresh", group="web", action="cancel")["said"]
    assert said.startswith("group web: the rollback is cancelled; what was replaced stays so, and")


def test_the_last_change_is_whichever_was_later(stage: Stage) -> None:
    web = stage.groups["web"]
    web.scaler.say_cause("as before the supervisor was replaced")
    assert status_of(web)["cause"] == "as before the supervisor was replaced"
    stage.ask("refresh", group="web")
    assert status_of(web)["cause"] == "instance refresh to v1: asked for by `fastlb refresh`"
    stage.ask("scale", group="web", desired=3)
    assert status_of(web)["cause"].startswith("desired capacity 2 -> 3")


def test_one_is_one(stage: Stage) -> None:
    stage.put("api", instance("i-api"))
    said = stage.ask("refresh", group="api")["said"]
    assert said == "group api: 1 instance is replaced by a new one of template v1"


def test_protection_goes_and_comes_and_is_recorded(stage: Stage) -> None:
    one = stage.groups["web"].fleet.get("i-serving")
    assert one is not None
    assert stage.ask("protect", instance=one.id)["said"].endswith("is protected from scale-in")
    assert one.protected
    assert [record.protected for record in stage.records.instances()] == [True]
    assert stage.ask("protect", instance=one.id, on=False)["said"].endswith("protected no more")
    assert not one.protected


def test_terminating_in_service_waits_for_another_one(stage: Stage) -> None:
    one = stage.groups["web"].fleet.get("i-serving")
    assert one is not None
    said = stage.ask("terminate", instance=one.id)["said"]
    assert said.endswith("as soon as another one is in its place")
    assert (one.state, one.doomed) == ("in_service", "asked for by `fastlb terminate`")


@pytest.mark.parametrize(
    ("before", "command", "request_", "desired", "state"),
    [
        (as_it_is, "standby", {"instance": "i-serving"}, 1, "standby"),
        (at_least, "standby", {"instance": "i-serving", "replace": True}, 1, "standby"),
        (as_it_is, "return", {"instance": "i-standby"}, 3, "pending"),
        (as_it_is, "terminate", {"instance": "i-serving", "decrement": True}, 1, "terminating"),
        (as_it_is, "terminate", {"instance": "i-pending"}, 2, "terminating"),
        (as_it_is, "terminate", {"instance": "i-standby"}, 2, "terminating"),
        # one in standby is no part of the desired capacity
        (at_least, "terminate", {"instance": "i-standby", "decrement": True}, 1, "terminating"),
    ],
)
def test_what_is_done_to_one(
    stage: Stage,
    before: Callable[[Stage], None],
    command: str,
    request_: dict[str, Any],
    desired: int,
    state: str,
) -> None:
    before(stage)

    async def scenario() -> None:
        said = stage.ask(command, **request_)["said"]
        assert said.startswith(f"instance {request_['instance']} is ")
        group = stage.groups["web"]
        one = group.fleet.get(request_["instance"])
        assert one is not None
        assert (group.desired, one.state) == (desired, state)
        assert str(desired) in said
        await group.fleet._end_tasks()

    asyncio.run(scenario())


def test_histories_are_read_on_and_waited_for(stage: Stage) -> None:
    async def scenario() -> None:
        stage.activities.add("activity", "web", "one", "why")
        stage.activities.add("activity", "api", "two", "why")
        stage.decisions.add("scaling", "web", "three", "why")

        async def whats(command: str, **request: Any) -> list[str]:
            return [one["what"] for one in (await stage.ask(command, **request))["entries"]]

        assert await whats("activity") == ["one", "two"]
        assert await whats("activity", group="web") == ["one"]
        assert await whats("activity", after=1) == ["two"]
        assert await whats("why", after=1, wait=0) == []
        waiting = asyncio.create_task(whats("activity", after=2, wait=1e9))
        await asyncio.sleep(0)
        stage.activities.add("activity", "web", "four", "why")
        async with asyncio.timeout(5):
            assert await waiting == ["four"]
        with pytest.raises(ValueError, match="there is no auto scaling group"):
            await whats("activity", group="nobody")

    asyncio.run(scenario())


def test_whether_it_is_what_it_should_be(stage: Stage) -> None:
    async def scenario() -> None:
        found = await stage.ask("settled", group="web", wait=0.01)
        assert found == {"settled": False, "doing": "1 starting; 1 ending"}
        found = await stage.ask("settled", group="api")
        assert found == {"settled": False, "doing": "2 missing"}
        stage.put("api", instance("i-1"), instance("i-2"))
        assert await stage.ask("settled", group="api", wait=20) == {"settled": True, "doing": ""}

    asyncio.run(scenario())
