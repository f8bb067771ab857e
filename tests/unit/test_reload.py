"""One reload after the other, each whole or not at all; and holds are told to workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastlb.control_plane.reload import LIVE, Given, Outcome, Reload, Source, refuse_fixed
from fastlb.control_plane.scaling import Scaling, with_holds
from fastlb.control_plane.watch import QUIET, Settling, Watch
from fastlb.errors import ConfigError, FastlbError
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.target_group import Hold, TargetGroup

TRUE = LaunchTemplate(command=("true",))
WEB = AutoScalingGroup(name="web", launch_template=TRUE)
API = AutoScalingGroup(name="api", launch_template=TRUE)
BEFORE = Configuration(
    target_groups=(TargetGroup(name="a", auto_scaling_group="web"), TargetGroup(name="b")),
    auto_scaling_groups=(WEB, API),
)
BIGGER = replace(BEFORE, auto_scaling_groups=(replace(WEB, max=9), API))


class Change:
    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Stage:
    """A Live that records, and the file that is read."""

    def __init__(self) -> None:
        self.found: Configuration | FastlbError = BEFORE
        self.prepared: list[Change] = []
        self.applied: list[Configuration] = []
        self.fails: FastlbError | None = None
        self.late: list[str] = []
        self.left: list[str] = []
        self.of_file = BEFORE
        self.stopping = False
        self.lock = asyncio.Lock()
        self.on_prepare: Callable[[], None] = lambda: None
        source = Source(
            at_start=Given(BEFORE, BEFORE),
            load=self.load,
            differences=lambda old, new: ["a: 1 -> 2"] if old != new else [],
            overridden=lambda old, new: ["a: is set"] if old != new else [],
        )
        self.reload = Reload(source, self, lambda: self.left)

    def load(self) -> Given:
        if isinstance(self.found, FastlbError):
            raise self.found
        return Given(self.found, self.of_file)

    async def prepare(self, configuration: Configuration) -> Change:
        if self.fails is not None:
            raise self.fails
        self.on_prepare()
        await asyncio.sleep(0)
        self.prepared.append(Change(configuration))
        return self.prepared[-1]

    def apply(self, prepared: Change) -> list[str]:
        self.applied.append(prepared.configuration)
        return []

    async def in_force(self) -> list[str]:
        return self.late

    def ask(self, **fields: Any) -> dict[str, Any]:
        return asyncio.run(self.reload.answer(fields))


def test_what_changed_is_said() -> None:
    stage = Stage()
    assert stage.ask()["said"] == "nothing has changed"
    stage.found = BIGGER
    assert stage.ask() == {
        "said": "a: 1 -> 2\n1 change in force",
        "changed": ["a: 1 -> 2"],
        "late": [],
        "not_in_force": [],
    }
    assert stage.ask()["said"] == "nothing has changed"
    assert stage.applied == [BEFORE, BIGGER, BIGGER]
    assert all(one.closed for one in stage.prepared)


def test_who_does_not_act_and_what_is_not_used_is_said() -> None:
    stage = Stage()
    stage.found, stage.late, stage.left = BIGGER, ["worker 1 hangs"], ["group web: rolled back"]
    answer = stage.ask()
    assert answer["late"] == ["worker 1 hangs"]
    assert answer["said"] == "a: 1 -> 2\ngroup web: rolled back"


def test_what_the_command_line_overrides_is_said_and_no_change() -> None:
    stage = Stage()
    stage.of_file = BIGGER
    said = "a: is set\nnothing has changed"
    assert stage.ask(dry_run=True)["said"] == said
    assert stage.ask()["said"] == said  # a dry run was no reading of it
    assert stage.ask()["said"] == "nothing has changed"
    stage.found, stage.of_file = BIGGER, BEFORE
    assert stage.ask()["said"] == "a: 1 -> 2\na: is set\n1 change in force"
    assert stage.ask()["changed"] == []


def test_a_dry_run_prepares_and_changes_nothing() -> None:
    stage = Stage()
    stage.found = BIGGER
    assert stage.ask(dry_run=True)["said"] == "a: 1 -> 2\n1 change, not applied"
    assert not stage.applied
    assert stage.prepared[0].closed
    assert stage.ask()["changed"] == ["a: 1 -> 2"]
    with pytest.raises(ValueError, match="expected true or false"):
        stage.ask(dry_run="yes")


def test_what_cannot_change_is_named_and_nothing_is_changed() -> None:
    stage = Stage()
    stage.found = replace(BIGGER, name="other", workers=3)
    with pytest.raises(ValueError, match=r"^name: cannot change while it runs") as caught:
        stage.ask()
    assert "workers" not in str(caught.value)
    assert not stage.applied
    refuse_fixed(BEFORE, replace(BIGGER, workers=3, log_level="debug", target_groups=()))
    assert set(Configuration.__dataclass_fields__) >= LIVE


@pytest.mark.parametrize(
    "error", [FastlbError("fastlb.toml: no such file"), ConfigError(["min: 5", "max: 3"])]
)
def test_what_cannot_be_read_or_prepared_is_said(error: FastlbError) -> None:
    stage = Stage()
    stage.found = error
    with pytest.raises(ValueError, match=str(error)):
        stage.ask()
    stage.found, stage.fails = BIGGER, error
    with pytest.raises(ValueError, match=str(error)):
        stage.ask()
    assert not stage.applied


def test_without_a_configuration_there_is_nothing_to_read() -> None:
    with pytest.raises(ValueError, match="no configuration that could be read anew"):
        asyncio.run(Reload(None, Stage()).reload())


def test_while_it_stops_nothing_changes() -> None:
    stage = Stage()
    stage.found, stage.stopping = BIGGER, True
    with pytest.raises(ValueError, match="stopping"):
        stage.ask()
    assert not stage.prepared
    stage.stopping = False

    def stop() -> None:
        stage.stopping = True

    stage.on_prepare = stop
    with pytest.raises(ValueError, match="stopping"):
        stage.ask()
    assert stage.prepared[0].closed
    assert not stage.applied


def test_two_at_once_come_one_after_the_other() -> None:
    stage = Stage()
    stage.found = BIGGER

    async def both() -> list[Outcome]:
        return list(await asyncio.gather(stage.reload.reload(), stage.reload.reload()))

    first, second = asyncio.run(both())
    assert (first.changed, second.changed) == (["a: 1 -> 2"], [])


def test_a_signal_says_it_in_the_log_and_several_that_wait_are_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.found = BIGGER

    async def signals() -> None:
        async with stage.lock:
            for _ in range(3):
                stage.reload.signalled()
            await asyncio.sleep(0)
            for _ in range(3):
                stage.reload.signalled()
        while len(stage.applied) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        stage.found = FastlbError("line 3: wrong")
        await stage.reload.and_tell()
        await stage.reload.close()

    with caplog.at_level("INFO"):
        asyncio.run(signals())
    assert stage.applied == [BIGGER, BIGGER]
    assert "reload: a: 1 -> 2" in caplog.text
    assert "the configuration stays as it is: line 3: wrong" in caplog.text


# -- watching


def test_a_changed_file_is_read_once_it_has_settled() -> None:
    settling = Settling((1, 1, 10))
    assert not settling.look((1, 1, 10), 0.0)
    assert not settling.look((2, 1, 3), 1.0)
    assert not settling.look((3, 1, 12), 1.0 + QUIET)  # it was still being written
    assert not settling.look(None, 5.0)
    assert not settling.look((3, 2, 12), 5.1)  # another file in its place
    assert settling.look((3, 2, 12), 5.1 + QUIET)
    assert not settling.look((3, 2, 12), 99.0)
    assert not settling.look((1, 1, 10), 100.0)
    assert not settling.look((3, 2, 12), 101.5)  # and back again: nothing to read
    assert not settling.look((3, 2, 12), 200.0)


def test_watching_without_a_file_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def changed() -> asyncio.Future[None]:
        raise AssertionError

    Watch(None, changed).set(True)
    assert "there is no configuration file to watch" in caplog.text


# -- auto scaling groups


def test_workers_are_told_how_to_hold_and_nothing_of_launch_templates() -> None:
    given = replace(
        BEFORE, auto_scaling_groups=(replace(WEB, hold_timeout=7.0, hold_requests=3), API)
    )
    told = with_holds(given)
    assert [one.hold for one in told.target_groups] == [Hold(7.0, 3), None]
    assert told.auto_scaling_groups == ()
    unknown = replace(BEFORE, auto_scaling_groups=())
    assert with_holds(unknown).target_groups == BEFORE.target_groups


def test_where_one_group_cannot_take_its_settings_over_none_does(tmp_path: Path) -> None:
    both = (
        TargetGroup(name="a", auto_scaling_group="web"),
        TargetGroup(name="b", auto_scaling_group="api"),
    )
    before = replace(BEFORE, target_groups=both)
    scaling = Scaling(
        before,
        {"a", "b"},
        SimpleNamespace(path=tmp_path),  # type: ignore[arg-type]
        SimpleNamespace(percentile=lambda histogram, share: None),  # type: ignore[arg-type]
        lambda: False,
    )

    def check(web: AutoScalingGroup, api: AutoScalingGroup, used: str = "ab") -> None:
        scaling.check(replace(before, auto_scaling_groups=(web, api)), set(used))

    bigger = replace(WEB, max=9)
    nobody = replace(TRUE, user="nobody-of-this-name")
    with pytest.raises(FastlbError, match="there is no user"):
        check(bigger, replace(API, launch_template=nobody))
    absent = replace(API, launch_template=replace(TRUE, command=("no-such-program",)))
    why = r'auto_scaling_groups\.api\.launch_template: there is no program "no-such-program"'
    with pytest.raises(FastlbError, match=why):
        check(bigger, absent)
    check(bigger, absent, "a")  # nobody could ask its instances
    swapped = replace(before, target_groups=(replace(both[0], auto_scaling_group="api"), both[1]))
    with pytest.raises(FastlbError, match="which cannot change while it runs"):
        scaling.check(swapped, {"a"})
    assert scaling.groups["web"].settings == WEB
    assert list(tmp_path.iterdir()) == []
    given = replace(before, auto_scaling_groups=(replace(WEB, max=9, min=2), API))
    scaling.check(given, {"a", "b"})
    scaling.reload(given, {"a", "b"})
    assert scaling.groups["web"].desired == 2
