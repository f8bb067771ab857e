"""Launch templates by their versions: which are remembered, and which one is in force."""

from __future__ import annotations

from fastlb.auto_scaling.records import GroupRecord
from fastlb.auto_scaling.templates import KEPT, Templates
from fastlb.model.launch_template import LaunchTemplate


def template(name: str) -> LaunchTemplate:
    return LaunchTemplate(command=(name,))


def test_the_first_is_version_1_and_in_force() -> None:
    templates = Templates(template("a"))
    assert (templates.version, templates.configured, templates.newest) == (1, 1, 1)
    assert templates.current == templates.of(1) == template("a")
    assert not templates.changed(template("a"))
    assert templates.changed(template("b"))


def test_one_that_is_configured_is_in_force_only_when_it_is_said_so() -> None:
    templates = Templates(template("a"))
    assert templates.add(template("b"), source=1) == 2
    assert templates.current == template("a")
    assert (templates.configured, templates.newest) == (2, 2)
    assert not templates.changed(template("b"))
    assert templates.changed(template("a")), "back to the former text is a change too"
    templates.version = 2
    assert templates.current == template("b")


def test_the_oldest_are_forgotten_but_for_those_that_are_needed() -> None:
    templates = Templates(template("1"))
    for number in range(2, 12):
        added = templates.add(template(str(number)), source=2 if number > 2 else 1)
        assert added == number
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
