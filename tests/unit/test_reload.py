"""A reload takes over what can change and refuses the rest as a whole; and holds are told to workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastlb.control_plane.reload import Reload, fixed_differences
from fastlb.control_plane.scaling import Scaling, with_holds
from fastlb.errors import ConfigError, FastlbError
from fastlb.model.auto_scaling import AutoScalingGroup, LaunchTemplate
from fastlb.model.configuration import Configuration
from fastlb.model.target_group import Hold, TargetGroup

TRUE = LaunchTemplate(command=("true",))
WEB = AutoScalingGroup(name="web", launch_template=TRUE)
API = AutoScalingGroup(name="api", launch_template=TRUE)
BEFORE = Configuration(
    target_groups=(TargetGroup(name="a", auto_scaling_group="web"), TargetGroup(name="b")),
    auto_scaling_groups=(WEB, API),
)
BIGGER = replace(BEFORE, auto_scaling_groups=(replace(WEB, max=9), API))


class Stage:
    def __init__(self) -> None:
        self.found: Configuration | FastlbError = BEFORE
        self.applied: list[Configuration] = []
        self.fails: FastlbError | None = None
        self.left: list[str] = []
        self.reload = Reload(BEFORE, self.load, self.apply, lambda: self.left)

    def load(self) -> Configuration:
        if isinstance(self.found, FastlbError):
            raise self.found
        return self.found

    def apply(self, configuration: Configuration) -> list[str]:
        if self.fails is not None:
            raise self.fails
        self.applied.append(configuration)
        return ["auto_scaling_groups.web: max"] if configuration is BIGGER else []


def test_what_changed_is_said() -> None:
    stage = Stage()
    nothing = {"said": "nothing has changed", "changed": [], "not_in_force": []}
    assert stage.reload.answer({}) == nothing
    stage.found = BIGGER
    what = "auto_scaling_groups.web: max"
    assert stage.reload.answer({})["said"] == f"changed: {what}"
    stage.left = ["group web: v2 was rolled back"]
    said = stage.reload.answer({})
    assert said["said"] == f"changed: {what}; group web: v2 was rolled back"
    assert said["not_in_force"] == stage.left
    assert stage.applied == [BEFORE, BIGGER, BIGGER]


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (BIGGER, []),
        (replace(BEFORE, auto_scaling_groups=(API, WEB)), []),
        (replace(BEFORE, workers=7, log_level="debug"), ["workers", "log_level"]),
        (replace(BEFORE, target_groups=()), ["target_groups"]),
        (replace(BEFORE, auto_scaling_groups=(WEB,)), ["auto_scaling_groups.api"]),
        (
            replace(BIGGER, auto_scaling_groups=(WEB, AutoScalingGroup(name="new"))),
            ["auto_scaling_groups.api", "auto_scaling_groups.new"],
        ),
    ],
)
def test_what_cannot_change_is_named_and_nothing_is_changed(
    found: Configuration, names: list[str]
) -> None:
    assert sorted(fixed_differences(BEFORE, found)) == sorted(names)
    stage = Stage()
    stage.found = found
    if not names:
        stage.reload.reload()
        return
    with pytest.raises(ValueError, match="cannot change while it runs") as caught:
        stage.reload.reload()
    assert all(name in str(caught.value) for name in names)
    assert not stage.applied
    stage.found = BIGGER
    stage.reload.reload()


@pytest.mark.parametrize(
    "error", [FastlbError("fastlb.toml: no such file"), ConfigError(["min: 5", "max: 3"])]
)
def test_what_cannot_be_read_or_applied_is_said(error: FastlbError) -> None:
    stage = Stage()
    stage.found = error
    with pytest.raises(ValueError, match=str(error)):
        stage.reload.reload()
    assert not stage.applied
    stage.found, stage.fails = BIGGER, error
    with pytest.raises(ValueError, match=str(error)):
        stage.reload.reload()


def test_without_a_configuration_there_is_nothing_to_read() -> None:
    with pytest.raises(ValueError, match="no configuration that could be read anew"):
        Reload(BEFORE, None, lambda found: []).reload()


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
    scaling = Scaling(
        Configuration(
            target_groups=(
                TargetGroup(name="a", auto_scaling_group="web"),
                TargetGroup(name="b", auto_scaling_group="api"),
            ),
            auto_scaling_groups=(WEB, API),
        ),
        {"a", "b"},
        SimpleNamespace(path=tmp_path),  # type: ignore[arg-type]
        SimpleNamespace(registry=None, strangers=lambda: False),  # type: ignore[arg-type]
    )
    nobody = replace(TRUE, user="nobody-of-this-name")
    wanted = (replace(WEB, max=9), replace(API, launch_template=nobody))
    with pytest.raises(FastlbError, match="there is no user"):
        scaling.reload(replace(BEFORE, auto_scaling_groups=wanted))
    absent = (WEB, replace(API, launch_template=replace(TRUE, command=("no-such-program",))))
    why = r'auto_scaling_groups\.api\.launch_template: there is no program "no-such-program"'
    with pytest.raises(FastlbError, match=why):
        scaling.reload(replace(BEFORE, auto_scaling_groups=absent))
    assert scaling.groups["web"].settings == WEB
    assert list(tmp_path.iterdir()) == []
    said = scaling.reload(replace(BEFORE, auto_scaling_groups=(replace(WEB, max=9, min=2), API)))
    assert said == ["auto_scaling_groups.web: min, max"]
    assert scaling.groups["web"].desired == 2
