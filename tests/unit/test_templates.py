"""Which launch template launches use: whatever refreshes come to, one that has shown that it works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.auto_scaling.records import GroupRecord, Records
from fastlb.auto_scaling.templates import KEPT, Templates
from fastlb.model.launch_template import LaunchTemplate


def template(name: str) -> LaunchTemplate:
    return LaunchTemplate(command=(name,))


def test_the_first_is_version_1_and_in_force() -> None:
    templates = Templates(template("a"))
    assert (templates.version, templates.configured, templates.newest) == (1, 1, 1)
    assert (templates.proven, templates.not_in_force) == (0, "")
    assert templates.current == templates.of(1) == template("a")
    assert not templates.changed(template("a"))
    assert templates.changed(template("b"))


def test_one_that_is_configured_is_in_force_only_when_it_is_said_so() -> None:
    templates = Templates(template("a"))
    assert templates.add(template("b")) == 2
    assert templates.current == template("a")
    assert (templates.configured, templates.newest) == (2, 2)
    assert not templates.changed(template("b"))
    assert templates.changed(template("a")), "back to the former text is a change too"
    templates.lead_to(2)
    assert templates.current == template("b")


def test_the_oldest_are_forgotten_but_for_those_that_are_needed() -> None:
    templates = Templates(template("1"))
    templates.add(template("2"))
    templates.lead_to(2)
    templates.prove()
    templates.lead_to(1)
    for number in range(3, 12):
        assert templates.add(template(str(number))) == number
        assert templates.current == template("1")
    assert set(templates.all()) == {1, 2, *range(12 - KEPT, 12)}
    assert templates.of(3) == template("1"), "the one in force stands in for a forgotten one"


def test_a_successor_takes_all_up_or_nothing() -> None:
    known = GroupRecord(
        desired=1, version=2, configured=3, newest=4, templates={2: template("b"), 3: template("c")}
    )
    templates = Templates(template("a"))
    templates.take_up(known)
    assert (templates.version, templates.configured, templates.newest) == (2, 3, 4)
    assert templates.current == template("b")
    assert not templates.changed(template("c"))
    torn = GroupRecord(desired=1, version=9, configured=9, newest=9, templates={})
    other = Templates(template("a"))
    other.take_up(torn)
    assert other.current == template("a")


def proven() -> Templates:
    templates = Templates(template("v1"))
    templates.prove()
    return templates


def refresh(templates: Templates, how: str) -> None:
    """To what is configured, until it ends `how`."""
    target = templates.configured
    good = templates.way_back(target)
    templates.lead_to(target)
    if how == "done":
        templates.prove()
    templates.leave()
    if how == "rolled back" and good != target:
        templates.give_up(target, "it failed")
        templates.lead_to(good)
        templates.prove()
        templates.leave()


def test_in_a_refresh_launches_use_its_version_and_after_it_the_proven_one() -> None:
    templates = proven()
    assert templates.add(template("v2")) == 2
    assert templates.version == 1
    templates.lead_to(2)
    assert (templates.version, templates.current.command) == (2, ("v2",))
    templates.leave()
    assert (templates.version, templates.proven) == (1, 1)
    refresh(templates, "done")
    assert (templates.version, templates.proven, templates.not_in_force) == (2, 2, "")


def test_a_rolled_back_one_is_marked_until_it_ends_well() -> None:
    templates = proven()
    templates.add(template("v2"))
    refresh(templates, "rolled back")
    assert (templates.version, templates.rolled_back) == (1, {2: "it failed"})
    assert templates.not_in_force == "v2 is configured, and was rolled back: it failed"
    refresh(templates, "cancelled")
    assert (templates.version, templates.rolled_back) == (1, {2: "it failed"})
    refresh(templates, "done")
    assert (templates.version, templates.rolled_back) == (2, {})


def test_another_template_is_not_marked() -> None:
    templates = proven()
    templates.add(template("v2"))
    refresh(templates, "rolled back")
    templates.add(template("v3"))
    assert templates.configured == 3
    assert 3 not in templates.rolled_back
    assert templates.way_back(3) == 1


def test_while_none_is_proven_launches_use_what_is_configured() -> None:
    templates = Templates(template("v1"))
    templates.add(template("v2"))
    assert templates.way_back(2) == 2
    refresh(templates, "cancelled")
    assert (templates.version, templates.not_in_force) == (2, "")


@pytest.mark.parametrize("count", [KEPT, 3 * KEPT])
def test_of_many_versions_the_proven_one_is_kept_and_marks_are_bounded(count: int) -> None:
    templates = proven()
    for _ in range(count):
        templates.add(template("bad"))
        refresh(templates, "rolled back")
    assert templates.current.command == ("v1",)
    assert set(templates.rolled_back) < set(templates.all())
    assert len(templates.all()) <= KEPT + 2


@given(st.lists(st.sampled_from(["deploy", "cancelled", "done", "rolled back"]), max_size=40))
def test_whatever_happens_launches_use_a_proven_one(happened: list[str]) -> None:
    templates = proven()
    for what in happened:
        if what == "deploy":
            templates.add(template(f"v{templates.newest + 1}"))
        else:
            refresh(templates, what)
        assert templates.version == templates.proven
        assert templates.proven not in templates.rolled_back
        assert {templates.version, templates.configured} <= set(templates.all())
        assert bool(templates.not_in_force) == (templates.configured != templates.version)


def record_of(templates: Templates) -> GroupRecord:
    return GroupRecord(
        desired=1,
        version=templates.version,
        configured=templates.configured,
        proven=templates.proven,
        newest=templates.newest,
        templates=templates.all(),
        rolled_back=templates.rolled_back,
    )


def test_a_successor_knows_what_is_proven_and_what_was_rolled_back(tmp_path: Path) -> None:
    templates = proven()
    templates.add(template("v2"))
    refresh(templates, "rolled back")
    templates.lead_to(2)
    records = Records(tmp_path)
    records.save_group("web", record_of(templates))
    known = records.group("web")
    assert known is not None
    successor = Templates(template("v2"))
    successor.take_up(known)
    assert (successor.version, successor.proven, successor.configured) == (2, 1, 2)
    assert successor.rolled_back == {2: "it failed"}
    assert not successor.changed(template("v2"))
    successor.leave()
    assert successor.version == 1


def test_without_them_in_its_record_a_group_goes_on(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.save_group("web", record_of(proven()))
    path = tmp_path / "group-web.json"
    plain = json.loads(path.read_text())
    del plain["proven"], plain["rolled_back"]
    path.write_text(json.dumps(plain))
    known = records.group("web")
    assert known is not None
    assert (known.proven, known.rolled_back) == (0, {})
