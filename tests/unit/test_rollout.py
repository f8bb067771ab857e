"""From one launch template to another: deploys, ways back, and the version in force after each."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.launch_governor import LaunchGovernor
from fastlb.auto_scaling.rollout import Rollout
from fastlb.history import Entry, History
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.instance_refresh import InstanceRefresh
from fastlb.model.launch_template import LaunchTemplate
from fastlb.target_table.counters import percentile
from tests.support.scaling_fakes import FakeFleet, instance, target_of


class Stage:
    """A group whose Instances a test replaces by hand."""

    def __init__(self, *instances: Instance, **preferences: object) -> None:
        self.settings = AutoScalingGroup(
            name="web",
            launch_template=LaunchTemplate(command=("v1",)),
            refresh=InstanceRefresh(bake_time=10.0, **preferences),  # type: ignore[arg-type]
        )
        self.fleet = FakeFleet(*instances)
        self.governor = LaunchGovernor()
        self.activities, self.decisions = History(), History()
        self.changes = 0
        self.now = 0.0
        self.rollout = self.another()

    def another(self) -> Rollout:
        return Rollout(
            self.settings,
            self.fleet,  # type: ignore[arg-type]
            self.governor,
            lambda histogram, share: percentile(list(histogram), share),
            self.activities,
            self.decisions,
            self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def deploy(self, command: str) -> None:
        template = LaunchTemplate(command=(command,))
        self.settings = replace(self.settings, launch_template=template)
        self.rollout.settings = self.settings
        assert self.rollout.templates.changed(template)
        self.rollout.deploy()

    def advance(self, seconds: float = 0.0) -> set[str]:
        self.now += seconds
        desired = len(self.fleet.in_state("in_service"))
        step = self.rollout.advance(lambda one: one.state == "in_service", desired, self.now)
        return set(step.doomed)

    def replace(self, old: str, new: str | None = None) -> None:
        """The old one is gone, and one of the version in force is in its place."""
        run = self.rollout.run
        for one in self.fleet.in_state("in_service"):
            if one.id == old:
                if run is not None:
                    run.see_leaving(one)
                self.fleet.instances.remove(one)
        if new is not None:
            self.fleet.instances.append(instance(new, version=self.version))

    def fail(self, times: int = 2) -> None:
        for _ in range(times):
            self.governor.failed(self.version, self.now, self.now)

    @property
    def version(self) -> int:
        return self.rollout.templates.version

    @property
    def entries(self) -> list[Entry]:
        return self.activities.after(0)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(one.what, one.outcome) for one in self.entries]


def two() -> Stage:
    return Stage(instance("a", at=1.0), instance("b", at=2.0))


def test_a_deploy_replaces_all_and_is_done_after_the_bake_time() -> None:
    stage = two()
    assert stage.advance() == set()
    stage.deploy("v2")
    assert (stage.version, stage.rollout.templates.current.command) == (2, ("v2",))
    assert stage.advance() == {"a", "b"}
    stage.replace("a", "c")
    assert stage.advance() == {"b"}
    stage.replace("b", "d")
    assert stage.advance() == set()
    assert stage.rollout.run is not None
    assert stage.rollout.run.refresh.phase == "baking"
    stage.advance(9.9)
    assert stage.rollout.run is not None
    stage.advance(0.1)
    assert stage.rollout.run is None
    assert stage.version == 2
    [(what, outcome)] = stage.outcomes
    assert what == "instance refresh to v2"
    assert outcome.startswith("done; too few requests to judge by")
    assert stage.entries[0].ended is not None


def test_failed_launches_bring_it_back_and_the_bad_ones_go() -> None:
    stage = two()
    stage.deploy("v2")
    stage.advance()
    stage.replace("a", "c")
    stage.fail()
    assert stage.advance() == {"c"}, "in the same look, or others could be taken for surplus"
    assert (stage.version, stage.rollout.going_back) == (1, True)
    assert stage.rollout.templates.configured == 2
    assert stage.rollout.templates.not_in_force.startswith(
        "v2 is configured, and was rolled back: "
    )
    stage.replace("c", "d")
    stage.advance()
    assert (stage.rollout.run, stage.version) == (None, 1)
    why = "2 launches in a row of version 2 failed"
    assert stage.outcomes == [
        ("instance refresh to v2", f"rolled back: {why}"),
        ("rollback to v1", f"done; rolled back: {why}"),
    ]
    [decision] = stage.decisions.after(0)
    assert (decision.what, decision.cause) == ("roll back from v2 to v1", why)


def test_a_worse_version_is_found_out_by_what_it_answers() -> None:
    stage = Stage(instance("a"), instance("b"))
    target_of(stage.fleet.instances[0]).count(requests=1000, failed=900)
    stage.deploy("v2")
    stage.advance()
    stage.replace("b", "c")
    target_of(stage.fleet.instances[0]).count(requests=1200, failed=900)
    stage.advance()
    assert stage.rollout.run is not None
    target_of(stage.fleet.instances[1]).count(requests=100, failed=50)
    stage.advance()
    assert (stage.version, stage.rollout.going_back) == (1, True)
    [decision] = stage.decisions.after(0)
    assert decision.inputs["old"] == {"requests": 200, "failed": 0, "p95": None}
    assert decision.inputs["new"] == {"requests": 100, "failed": 50, "p95": None}


def test_after_a_rollback_a_deploy_goes_forward_again() -> None:
    stage = two()
    stage.deploy("v2")
    stage.fail()
    stage.advance()
    stage.advance()
    assert (stage.rollout.run, stage.version) == (None, 1)
    stage.deploy("v3")
    assert (stage.version, stage.advance()) == (3, {"a", "b"})
    stage.fail()
    stage.advance()
    assert stage.version == 1


def test_what_a_superseded_deploy_left_is_no_good_version() -> None:
    # v2 was never seen to be well: from v3 the way back leads to v1, and v2 goes as well.
    stage = two()
    stage.deploy("v2")
    stage.advance()
    stage.replace("a", "c")
    stage.deploy("v3")
    assert stage.outcomes[0] == ("instance refresh to v2", "superseded")
    assert (stage.version, stage.advance()) == (3, {"b", "c"})
    stage.fail()
    stage.advance()
    assert stage.version == 1
    assert stage.advance() == {"c"}


def test_a_deploy_in_the_midst_of_a_way_back_replaces_both() -> None:
    stage = two()
    stage.deploy("v2")
    stage.advance()
    stage.replace("a", "c")
    stage.rollout.roll_back("asked for")
    assert stage.rollout.going_back
    stage.deploy("v3")
    assert (stage.version, stage.advance()) == (3, {"b", "c"})
    stage.rollout.roll_back("asked for")
    assert (stage.version, stage.advance()) == (1, {"c"})


def test_many_deploys_in_a_row_do_not_forget_the_good_version() -> None:
    stage = two()
    for number in range(2, 12):
        stage.deploy(f"v{number}")
    stage.fail()
    stage.advance()
    assert stage.version == 1
    assert stage.rollout.templates.current.command == ("v1",)


def test_cancelled_it_stays_where_it_is_and_launches_use_the_version_before() -> None:
    stage = two()
    stage.deploy("v2")
    stage.advance()
    stage.replace("a", "c")
    stage.rollout.end("cancelled")
    assert (stage.rollout.run, stage.version, stage.advance()) == (None, 1, set())
    assert stage.outcomes == [("instance refresh to v2", "cancelled")]
    assert stage.rollout.templates.not_in_force == (
        "v2 is configured, and its refresh was cancelled"
    )
    assert [one.id for one in stage.rollout.others()] == ["c"]
    stage.rollout.end("cancelled")
    assert len(stage.entries) == 1


def test_what_a_cancelled_one_left_can_be_rolled_back() -> None:
    stage = two()
    stage.deploy("v2")
    stage.advance()
    stage.replace("a", "c")
    stage.rollout.end("cancelled")
    stage.rollout.roll_back("asked for")
    assert (stage.version, stage.rollout.going_back, stage.advance()) == (1, True, {"c"})
    stage.replace("c", "d")
    stage.advance()
    assert (stage.rollout.run, stage.rollout.others()) == (None, [])
    assert stage.outcomes[-1] == ("rollback to v1", "done; rolled back: asked for")
    assert stage.rollout.templates.rolled_back == {2: "asked for"}


def test_of_a_cancelled_rollback_the_bad_ones_go_that_are_over() -> None:
    stage = two()
    stage.deploy("v2")
    stage.advance()
    for old, new in (("a", "c"), ("b", "d")):
        stage.replace(old, new)
    stage.rollout.roll_back("asked for")
    stage.advance()
    stage.fleet.instances.append(instance("e", version=1, at=9.0))
    assert stage.rollout.cancel(2) == 1
    assert [bool(one.doomed) for one in stage.fleet] == [True, False, False]
    assert (stage.version, stage.rollout.templates.rolled_back) == (1, {2: "asked for"})
    stage.rollout.roll_back("asked for again")
    assert stage.advance() == {"c", "d"}


def test_nothing_is_rolled_back_where_all_is_in_force() -> None:
    stage = two()
    stage.rollout.roll_back("asked for")
    assert (stage.rollout.run, stage.entries, stage.rollout.templates.rolled_back) == (None, [], {})


def test_a_bad_version_that_is_tried_again_and_cancelled_is_bad_still() -> None:
    stage = two()
    stage.deploy("v2")
    stage.fail()
    stage.advance()
    stage.advance()
    why = "2 launches in a row of version 2 failed"
    stage.rollout.refresh("asked for with --force")
    assert (stage.version, stage.advance()) == (2, {"a", "b"})
    stage.replace("a", "c")
    stage.rollout.end("cancelled")
    assert stage.version == 1
    assert stage.rollout.templates.rolled_back == {2: why}
    stage.rollout.roll_back("asked for")
    assert stage.rollout.templates.rolled_back == {2: why}, "what was found out says more"


def test_a_bad_version_that_ends_well_is_good() -> None:
    stage = two()
    stage.deploy("v2")
    stage.fail()
    stage.advance()
    stage.advance()
    stage.rollout.refresh("asked for with --force")
    stage.advance()
    stage.replace("a", "c")
    stage.replace("b", "d")
    stage.advance()
    stage.advance(10.0)
    assert (stage.rollout.run, stage.version) == (None, 2)
    assert stage.rollout.templates.rolled_back == {}
    stage.deploy("v3")
    assert stage.rollout.run is not None
    assert stage.rollout.run.refresh.source == 2


def test_before_any_version_has_worked_there_is_nothing_to_go_back_to() -> None:
    stage = Stage(instance("a", "pending"))
    stage.advance()
    stage.deploy("v2")
    stage.advance()
    stage.fail()
    stage.advance()
    assert (stage.rollout.run, stage.version) == (None, 2)
    assert stage.outcomes[-1][1] == "stopped: 2 launches in a row of version 2 failed"
    stage.fleet.instances = [instance("b", version=2)]
    stage.advance()
    assert stage.rollout.templates.proven == 2


def test_the_last_change_is_what_began_or_ended_last() -> None:
    stage = two()
    assert stage.rollout.last_change is None
    stage.deploy("v2")
    assert stage.rollout.last_change is not None
    assert stage.rollout.last_change.what == (
        "instance refresh to v2: launch template v2 is configured"
    )
    stage.rollout.end("cancelled")
    assert stage.rollout.last_change.what == "instance refresh to v2: cancelled"


def test_a_refresh_of_the_same_template_has_nowhere_to_go_back_to() -> None:
    stage = two()
    stage.rollout.refresh("asked for")
    assert stage.advance() == {"a", "b"}
    stage.replace("a", "c")
    assert stage.advance() == {"b"}, "the new ones are of the same version, and stay"
    stage.fail()
    stage.advance()
    assert (stage.rollout.run, stage.version) == (None, 1)
    [(_, outcome)] = stage.outcomes
    assert outcome == "stopped: 2 launches in a row of version 1 failed"


def test_without_auto_rollback_it_goes_on() -> None:
    stage = Stage(instance("a"), auto_rollback=False)
    stage.deploy("v2")
    stage.fail(4)
    assert stage.advance() == {"a"}
    assert stage.version == 2


def test_an_empty_group_is_refreshed_in_its_bake_time() -> None:
    stage = Stage()
    stage.deploy("v2")
    stage.advance()
    stage.advance(10.0)
    assert (stage.rollout.run, stage.version) == (None, 2)


def test_who_is_protected_is_left() -> None:
    first, second, third = (instance(name, at=float(n)) for n, name in enumerate("abc"))
    first.protected = True
    stage = Stage(first, second, third)
    stage.deploy("v2")
    assert stage.advance() == {"b", "c"}
    second.protected = True
    assert stage.advance() == {"c"}


def test_a_new_try_begins_without_the_failures_of_the_last() -> None:
    stage = two()
    stage.governor.failed(2, 0.0, 0.0)
    stage.governor.failed(2, 0.0, 0.0)
    stage.deploy("v2")
    assert stage.governor.failures(2) == 0
    stage.advance()
    assert not stage.rollout.going_back


def test_each_change_is_reported_to_be_saved() -> None:
    stage = two()
    for act in (
        lambda: stage.deploy("v2"),
        lambda: stage.rollout.roll_back("asked for"),
        lambda: stage.rollout.end("cancelled"),
    ):
        before = stage.changes
        act()
        assert stage.changes > before


@pytest.mark.parametrize("back", [False, True])
def test_a_successor_goes_on_with_it(back: bool) -> None:
    stage = two()
    stage.deploy("v2")
    stage.advance()
    stage.replace("a", "c")
    if back:
        stage.rollout.roll_back("asked for")
    assert stage.rollout.run is not None
    refresh = stage.rollout.run.refresh
    plain = json.loads(json.dumps(refresh.plain()))
    templates = stage.rollout.templates
    stage.rollout = stage.another()
    stage.rollout.templates = templates
    stage.rollout.resume(plain)
    assert stage.rollout.run is not None
    assert stage.rollout.run.refresh == refresh
    assert stage.rollout.going_back == back
    assert stage.advance() == ({"c"} if back else {"b"})
    assert stage.entries[-1].cause == "goes on after the supervisor was replaced"
    what = "rollback to v1" if back else "instance refresh to v2"
    assert stage.entries[-1].what == what


def test_a_refresh_that_cannot_be_read_is_forgotten_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = two()
    stage.deploy("v2")
    stage.rollout.run = None
    stage.rollout.resume({"source": 1})
    assert (stage.rollout.run, stage.version) == (None, 1)
    assert "group web: its refresh is forgotten: KeyError('old')" in caplog.text
