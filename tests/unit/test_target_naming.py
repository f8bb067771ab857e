"""Which target an operator means, and what it means for the group to lose it."""

from __future__ import annotations

import re

import pytest

from fastlb.control_plane.target_impact import impact_of_losing
from fastlb.control_plane.target_naming import Named, find
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.model.address import parse_address
from fastlb.model.target_group import Target, TargetGroup
from fastlb.model.target_health import CheckPassed
from fastlb.model.target_override import NOTHING, OutOfUse, Override, WeightOverride

KNOWN = [
    Named("web", "127.0.0.1:9001", "localhost:9001"),
    Named("web", "127.0.0.1:9002", "127.0.0.1:9002"),
    Named("api", "127.0.0.1:9002", "127.0.0.1:9002"),
    Named("api", "10.0.0.7:9001", "10.0.0.7:9001"),
    Named(
        "app", "unix:/run/f/i-0123abcd/app.sock", "unix:/run/f/i-0123abcd/app.sock", "i-0123abcd"
    ),
    Named("app", "unix:/run/one.sock", "unix:/run/one.sock"),
]


@pytest.mark.parametrize(
    ("word", "at"),
    [
        ("127.0.0.1:9001", 0),
        ("localhost:9001", 0),
        ("i-0123abcd", 4),
        ("unix:/run/one.sock", 5),
        ("/run/one.sock", 5),
        ("one.sock", 5),
    ],
)
def test_a_target_is_named_by_its_address_or_by_a_part(word: str, at: int) -> None:
    assert find(word, KNOWN) is KNOWN[at]


def test_a_port_is_enough_where_one_has_it() -> None:
    assert find("9001", KNOWN[:2]) is find(":9001", KNOWN[:2]) is KNOWN[0]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (
            "9001",
            '"9001" may be 127.0.0.1:9001 of group web or 10.0.0.7:9001 of group api: say more of it',
        ),
        ("9002", "target 127.0.0.1:9002 is in several groups: say which with --group (web, api)"),
        ("127.0.0.1:9003", 'there is no target "127.0.0.1:9003"; did you mean "127.0.0.1:9002"?'),
        ("one", "there are 127.0.0.1:9001 of group web, 127.0.0.1:9002 of group web, "),
    ],
)
def test_what_is_not_clear_is_refused(word: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        find(word, KNOWN)


def test_where_there_are_many_not_all_are_listed() -> None:
    many = [Named("g", f"10.0.0.{n}:80", f"10.0.0.{n}:80") for n in range(50)]
    with pytest.raises(ValueError, match="30 more"):
        find("nobody", many)
    with pytest.raises(ValueError, match="there is none"):
        find("nobody", [])


def lose(*states: str, at: int = 0, scaled: str | None = None) -> tuple[str, bool]:
    """Of targets that are `healthy`, `unhealthy`, `drained` or `weightless`, a `+` is a backup's: what
    it means to lose the one at `at`."""
    targets = tuple(
        Target(parse_address(f"127.0.0.1:{n + 1}"), backup=state.endswith("+"))
        for n, state in enumerate(states)
    )
    group = TargetGroup(name="web", targets=targets, auto_scaling_group=scaled)
    registry = TargetRegistry([group], {"web"}, lambda: None)
    for target, state in zip(registry, states, strict=True):
        if not state.startswith("unhealthy"):
            registry.observe(target, CheckPassed(1.0))
        override = {
            "drained": Override(out=OutOfUse("drained", 1.0)),
            "weightless": Override(weight=WeightOverride(0, False, 1.0)),
        }.get(state, NOTHING)
        registry.say(target.index, override, "", "")
    found = impact_of_losing(list(registry)[at], registry.members("web"))
    return found.said, found.outage


def test_losing_one_of_several_is_no_matter() -> None:
    assert lose("healthy", "healthy") == ("", False)
    assert lose("healthy", "healthy+", at=1) == ("", False)
    assert lose("drained", "unhealthy") == ("", False), "it gets nothing as it is"
    assert lose("weightless") == ("", False)


def test_losing_the_last_one_is_an_outage() -> None:
    nobody = "nobody is left in group web: each request to it is answered 503"
    assert lose("healthy") == (nobody, True)
    assert lose("healthy", "drained", "weightless") == (nobody, True)
    assert lose("unhealthy") == (nobody, True), "failing open ends with it"
    said = "group web fails open to the 1 target left, which is not healthy"
    assert lose("healthy", "unhealthy") == (said, True)
    assert lose("unhealthy", "unhealthy") == (said, False), "as it does now"
    assert lose("healthy", scaled="a") == (
        "requests to group web are held until an instance is there",
        True,
    )


def test_that_the_backups_take_over_is_said() -> None:
    said = "the backup targets of group web take its requests"
    assert lose("healthy", "healthy+") == (said, False)
