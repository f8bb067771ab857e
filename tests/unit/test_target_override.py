"""What operators say of targets, on top of the configuration: weights, who is a target, what is kept."""

from __future__ import annotations

import json
import logging
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.operator_overrides import FILE, OperatorOverrides
from fastlb.errors import FastlbError
from fastlb.model.address import Address, parse_address, parse_target_address
from fastlb.model.target_group import Target, TargetGroup
from fastlb.model.target_override import (
    NOTHING,
    Added,
    Key,
    OutOfUse,
    Override,
    Removed,
    WeightOverride,
    applied,
    key_of,
    parse_weight,
    pruned,
)

names = st.sampled_from(["a", "b", "c"])
addresses = st.sampled_from(["127.0.0.1:1", "127.0.0.1:2", "localhost:3", "unix:/run/x"])
reasons = st.text(max_size=8)
times = st.floats(0, 2e9)
overrides = st.builds(
    Override,
    out=st.none() | st.builds(OutOfUse, st.sampled_from(["drained", "disabled"]), times, reasons),
    weight=st.none()
    | st.builds(WeightOverride, st.integers(0, 999), st.booleans(), times, reasons),
    added=st.none() | st.builds(Added, st.integers(0, 999), st.booleans(), times, reasons),
    removed=st.none() | st.builds(Removed, times, reasons),
).filter(lambda one: one != NOTHING)
said = st.dictionaries(st.tuples(names, addresses), overrides, max_size=6)
targets = st.builds(Target, addresses.map(parse_address), st.integers(0, 9), st.booleans())
groups = st.lists(
    st.builds(
        TargetGroup,
        name=names,
        targets=st.lists(targets, max_size=3, unique_by=lambda one: str(one.address)).map(tuple),
        auto_scaling_group=st.none() | st.just("asg"),
    ),
    max_size=3,
    unique_by=lambda one: one.name,
)


def as_they_are(address: Address, group: str) -> Address:
    return address


@given(groups, said)
def test_what_is_about_nobody_is_dropped_and_said_and_the_rest_stays(
    groups: list[TargetGroup], said: dict[Key, Override]
) -> None:
    kept, dropped = pruned(groups, said)
    named = {key_of(one.name, target) for one in groups for target in one.targets}
    scaled = {one.name for one in groups if one.auto_scaling_group}
    for key, override in kept.items():
        assert key[0] in {one.name for one in groups}
        assert key in named or override.added or key[0] in scaled
        assert override.removed is None or key in named
        assert override.added is None or key not in named
        assert said[key].out == override.out
        assert said[key].weight == override.weight
    assert pruned(groups, kept) == (kept, [])
    changed = {key for key in said if kept.get(key) != said[key]}
    assert len(dropped) == len(changed)


@given(groups, said)
def test_the_targets_are_those_configured_without_the_removed_and_with_the_added(
    groups: list[TargetGroup], said: dict[Key, Override]
) -> None:
    kept, _ = pruned(groups, said)
    added = {key: Target(parse_address(key[1])) for key, one in kept.items() if one.added}
    made = applied(groups, kept, added)
    found = [key_of(one.name, target) for one in made for target in one.targets]
    named = {key_of(one.name, target) for one in groups for target in one.targets}
    removed = {key for key, one in kept.items() if one.removed}
    assert len(found) == len(set(found))
    assert set(found) == (named - removed) | set(added)
    assert applied(groups, {}, {}) == tuple(groups)


@given(said)
def test_a_new_supervisor_finds_what_was_said(
    tmp_path_factory: pytest.TempPathFactory, said: dict[Key, Override]
) -> None:
    folder = tmp_path_factory.mktemp("o")
    first = OperatorOverrides(folder)
    for key, override in said.items():
        assert first.set(key, override) == ""
    second = OperatorOverrides(folder)
    assert {key: second.at(key) for key in said} == said
    for key in said:
        second.set(key, NOTHING)
    assert os.listdir(folder) == [], "nothing said, nothing left"


@pytest.mark.parametrize(
    ("raw", "found"),
    [(3, (3, False)), ("0", (0, False)), ("999", (999, False)), ("50%", (50, True))],
)
def test_weights_are_read(raw: object, found: tuple[int, bool]) -> None:
    assert parse_weight(raw) == found


@pytest.mark.parametrize("raw", ["", "-1", "1000", "1.5", "x", "10001%", "%", True, None, 1.0, "٣"])
def test_what_is_no_weight_is_refused(raw: object) -> None:
    with pytest.raises(ValueError, match="expected a weight from 0 to 999"):
        parse_weight(raw)


def test_percent_are_of_the_configured_weight() -> None:
    half = WeightOverride(50, True, 0.0)
    assert half.of(4) == 2
    assert half.of(1) == Fraction(1, 2)
    assert half.of(0) == 0
    assert WeightOverride(7, False, 0.0).of(4) == 7


def test_a_target_s_address_has_a_port_and_a_host() -> None:
    assert str(parse_target_address(":9001")) == "127.0.0.1:9001"
    assert str(parse_target_address("unix:/run/x")) == "unix:/run/x"
    with pytest.raises(ValueError, match="a port from 1 to 65535"):
        parse_target_address("127.0.0.1:0")


def group(*addresses: str, name: str = "web") -> TargetGroup:
    return TargetGroup(name=name, targets=tuple(Target(parse_address(one)) for one in addresses))


def test_a_configuration_that_no_longer_names_a_target_ends_its_override(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fastlb.targets")
    kept = OperatorOverrides(tmp_path)
    kept.take([group("127.0.0.1:1", "127.0.0.1:2")], as_they_are)
    kept.set(("web", "127.0.0.1:1"), Override(out=OutOfUse("drained", 1.0)))
    kept.set(("web", "127.0.0.1:3"), Override(added=Added(2, True, 1.0)))
    (web,) = kept.take([group("127.0.0.1:2")], as_they_are)
    assert web.targets == (
        Target(parse_address("127.0.0.1:2")),
        Target(parse_address("127.0.0.1:3"), 2, True),
    )
    assert kept.at(("web", "127.0.0.1:1")) == NOTHING
    assert caplog.messages == [
        'target 127.0.0.1:1 of group web: "drained" is dropped: it is configured no more'
    ]
    assert OperatorOverrides(tmp_path).at(("web", "127.0.0.1:1")) == NOTHING


def test_an_added_target_that_cannot_be_any_more_does_not_keep_fastlb_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def resolve(address: Address, group: str) -> Address:
        if address.host == "gone":
            raise FastlbError("cannot resolve 'gone'")
        return Address("127.0.0.1", address.port)

    kept = OperatorOverrides(tmp_path)
    kept.set(("web", "gone:9"), Override(added=Added(1, False, 1.0)))
    kept.set(("web", "127.0.0.1:3"), Override(added=Added(1, False, 1.0)))
    (web,) = kept.take([group("localhost:3")], resolve)
    assert [str(one.address) for one in web.targets] == ["localhost:3"]
    assert [message.partition(" is added no more: ")[2] for message in caplog.messages] == [
        "cannot resolve 'gone'",
        "it is configured as localhost:3",
    ]


def test_an_added_target_may_stand_in_for_a_removed_one(tmp_path: Path) -> None:
    kept = OperatorOverrides(tmp_path)
    kept.set(("web", "localhost:3"), Override(removed=Removed(1.0)))
    kept.set(("web", "127.0.0.1:3"), Override(added=Added(5, False, 1.0)))
    (web,) = kept.take(
        [group("localhost:3")], lambda address, group: Address("127.0.0.1", address.port)
    )
    assert web.targets == (Target(parse_address("127.0.0.1:3"), 5),)


def test_a_target_that_has_left_keeps_nothing_but_its_removal(tmp_path: Path) -> None:
    kept = OperatorOverrides(tmp_path)
    key = ("web", "127.0.0.1:1")
    target = Target(parse_address(key[1]))
    kept.set(key, Override(out=OutOfUse("drained", 1.0), removed=Removed(2.0)))
    kept.left("web", target)
    assert kept.at(key) == Override(removed=Removed(2.0))
    kept.set(key, Override(weight=WeightOverride(2, False, 1.0)))
    kept.keep(set())
    assert kept.at(key) == NOTHING


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "targets": []}',
        '{"version": 1, "targets": [{"group": "g", "address": "x", "override": {}}]}',
        '{"version": 1, "targets": [{"group": "g", "address": "a:1", "override": {"is": "X"}}]}',
        '{"version": 1, "targets": [{"group": "g", "address": "a:1", "override": {"is": "Override"}}]}',
    ],
)
def test_a_file_that_cannot_be_read_is_set_aside_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / FILE).write_text(text)
    kept = OperatorOverrides(tmp_path)
    assert "what operators said of targets is lost" in caplog.messages[0]
    assert (tmp_path / "overrides.unreadable").read_text() == text
    assert kept.set(("web", "a:1"), Override(removed=Removed(1.0))) == ""
    assert json.loads((tmp_path / FILE).read_text())["version"] == 1


def test_what_cannot_be_written_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = OperatorOverrides(tmp_path / "gone")
    trouble = kept.set(("web", "a:1"), Override(removed=Removed(1.0)))
    assert trouble.startswith("it will not outlive this supervisor: ")
    assert kept.at(("web", "a:1")).removed is not None, "but it holds"
