"""Model values to plain ones and back: whole, through msgpack, and refused where the shape is another."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.model.address import Address
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.listener import (
    FixedResponse,
    Forward,
    Header,
    Listener,
    QueryPair,
    Redirect,
    Rule,
    WeightedGroup,
)
from fastlb.model.plain import from_plain, to_plain
from fastlb.model.target_group import ALGORITHMS, Target, TargetGroup

words = st.text(max_size=8)
tuples_of_words = st.lists(words, max_size=3).map(tuple)
seconds = st.floats(0, 1e6)
addresses = st.one_of(
    st.builds(Address, host=words, port=st.integers(0, 65535)), st.builds(Address, path=words)
)
groups = st.builds(WeightedGroup, words, st.integers(0, 999))
actions = st.one_of(
    st.builds(Forward, st.lists(groups, min_size=1, max_size=3).map(tuple)),
    st.builds(Redirect, status=st.integers(300, 399), host=words, query=words),
    st.builds(FixedResponse, status=st.integers(200, 599), body=words, content_type=words),
)
rules = st.builds(
    Rule,
    priority=st.integers(1, 50000),
    action=actions,
    host=tuples_of_words,
    path=tuples_of_words,
    method=tuples_of_words,
    header=st.lists(st.builds(Header, words, tuples_of_words), max_size=2).map(tuple),
    query=st.lists(st.builds(QueryPair, st.none() | words, words), max_size=2).map(tuple),
    source_ip=tuples_of_words,
)
listeners = st.builds(
    Listener,
    protocol=st.sampled_from(["http", "tcp"]),
    address=addresses,
    default=actions,
    rules=st.lists(rules, max_size=3).map(tuple),
    idle_timeout=seconds,
    max_body_bytes=st.none() | st.integers(0, 2**40),
    trusted_proxies=tuples_of_words,
)
target_groups = st.builds(
    TargetGroup,
    name=words,
    targets=st.lists(
        st.builds(Target, addresses, st.integers(0, 99), st.booleans()), max_size=3
    ).map(tuple),
    health_check=st.builds(HealthCheck, path=st.none() | words, interval=seconds),
    algorithm=st.sampled_from(ALGORITHMS),
    connect_timeout=seconds,
)
configurations = st.builds(
    Configuration,
    listeners=st.lists(listeners, max_size=2).map(tuple),
    target_groups=st.lists(target_groups, max_size=2).map(tuple),
    name=words,
    workers=st.integers(0, 64),
    drain_timeout=seconds,
)


@given(configurations)
def test_a_configuration_comes_back_whole(configuration: Configuration) -> None:
    plain = to_plain(configuration)
    assert from_plain(Configuration, plain) == configuration
    packed = msgpack.unpackb(msgpack.packb(plain))
    assert from_plain(Configuration, packed) == configuration


@given(configurations)
def test_what_is_plain_holds_no_dataclass_and_no_tuple(configuration: Configuration) -> None:
    def check(value: Any) -> None:
        assert not is_dataclass(value)
        assert not isinstance(value, tuple)
        if isinstance(value, dict):
            for key, inner in value.items():
                assert isinstance(key, str)
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)

    check(to_plain(configuration))


def test_every_field_is_carried() -> None:
    for value in (HealthCheck(), Rule(priority=1, action=FixedResponse()), Configuration()):
        assert set(to_plain(value)) == {"is"} | {item.name for item in fields(value)}


def test_a_whole_number_may_stand_for_a_duration() -> None:
    plain = to_plain(TargetGroup(name="web"))
    plain["connect_timeout"] = 2
    assert from_plain(TargetGroup, plain).connect_timeout == 2


@dataclass(frozen=True)
class Point:
    at: tuple[int, str]
    kind: Literal["a", "b"] = "a"
    near: Point | None = None


def test_pairs_literals_and_optional_values() -> None:
    point = Point((1, "x"), "b", Point((2, "y")))
    assert from_plain(Point, to_plain(point)) == point


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        "Configuration",
        {"is": "Listener"},
        lambda plain: plain.update({"is": "Listener"}),
        lambda plain: plain.update(workers="2"),
        lambda plain: plain.update(name=None),
        lambda plain: plain["target_groups"][0].update({"is": "Target"}),
        lambda plain: plain["target_groups"][0].update(connect_timeout="2"),
        lambda plain: plain["listeners"][0]["default"].update({"is": "Point"}),
        lambda plain: plain["listeners"][0].update(default=5),
        lambda plain: plain["listeners"][0].update(max_body_bytes={}),
    ],
)
def test_another_shape_is_refused(wrong: Any) -> None:
    good = Configuration(
        listeners=(Listener(protocol="http", address=Address("a", 1), default=FixedResponse()),),
        target_groups=(TargetGroup(name="web"),),
    )
    plain = copy.deepcopy(to_plain(good))
    if callable(wrong):
        wrong(plain)
    else:
        plain = wrong
    with pytest.raises(ValueError, match="expected"):
        from_plain(Configuration, plain)
