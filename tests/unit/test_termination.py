"""Who ends first at a scale-in."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from fastlb.auto_scaling.termination import Candidate, choose
from fastlb.model.auto_scaling import PROFILES, TERMINATION_POLICIES, AutoScalingGroup

DEFAULT = AutoScalingGroup(name="web").termination_policy


def candidate(
    id: str,
    *,
    version: int = 1,
    in_flight: int = 0,
    launched_at: float = 0.0,
    protected: bool = False,
    ready: bool = True,
) -> Candidate:
    return Candidate(id, version, in_flight, launched_at, protected, ready)


def test_each_policy_alone() -> None:
    three = [
        candidate("a", version=2, in_flight=5, launched_at=1.0),
        candidate("b", version=1, in_flight=9, launched_at=2.0),
        candidate("c", version=2, in_flight=0, launched_at=3.0),
    ]
    expected = {
        "oldest_launch_template": ["b", "a", "c"],
        "fewest_in_flight": ["c", "a", "b"],
        "newest_instance": ["c", "b", "a"],
        "oldest_instance": ["a", "b", "c"],
    }
    assert set(expected) == set(TERMINATION_POLICIES)
    for policy, ids in expected.items():
        assert choose(three, [policy], 3) == ids


def test_the_next_policy_decides_among_equals_only() -> None:
    some = [
        candidate("a", version=2, in_flight=0, launched_at=9.0),
        candidate("b", version=1, in_flight=3, launched_at=1.0),
        candidate("c", version=1, in_flight=1, launched_at=1.0),
        candidate("d", version=1, in_flight=1, launched_at=2.0),
    ]
    assert choose(some, DEFAULT, 4) == ["d", "c", "b", "a"]
    assert choose(some, PROFILES["aws"]["termination_policy"], 4) == ["b", "c", "d", "a"]


def test_those_not_in_service_go_first_the_newest_before() -> None:
    some = [
        candidate("old", version=0),
        candidate("pending", version=5, launched_at=5.0, ready=False),
        candidate("newest", version=5, launched_at=6.0, ready=False),
    ]
    assert choose(some, DEFAULT, 3) == ["newest", "pending", "old"]


def test_protected_ones_never_even_if_too_few_are_left() -> None:
    some = [
        candidate("a", protected=True),
        candidate("b", protected=True, ready=False),
        candidate("c"),
    ]
    assert choose(some, DEFAULT, 3) == ["c"]
    assert choose(some[:2], DEFAULT, 1) == []


def test_ties_are_broken_by_id() -> None:
    some = [candidate(id) for id in "cab"]
    assert choose(some, DEFAULT, 2) == ["a", "b"]
    assert choose(some, [], 2) == ["a", "b"]


def test_nobody_where_nobody_is_to_end() -> None:
    assert choose([candidate("a")], DEFAULT, 0) == []
    assert choose([candidate("a")], DEFAULT, -1) == []
    assert choose([], DEFAULT, 3) == []


@given(
    st.lists(
        st.builds(
            Candidate,
            id=st.text("abc0123", min_size=1, max_size=3),
            version=st.integers(1, 2),
            in_flight=st.integers(0, 2),
            launched_at=st.sampled_from([0.0, 1.0]),
            protected=st.booleans(),
            ready=st.booleans(),
        ),
        unique_by=lambda one: one.id,
    ),
    st.permutations(TERMINATION_POLICIES),
    st.integers(0, 10),
    st.randoms(),
)
def test_the_order_of_the_candidates_does_not_matter(
    some: list[Candidate], policies: list[str], count: int, dice: random.Random
) -> None:
    ids = choose(some, policies, count)
    shuffled = some[:]
    dice.shuffle(shuffled)
    assert choose(shuffled, policies, count) == ids
    assert len(ids) == min(count, sum(not one.protected for one in some))
    assert choose(some, policies, count + 1)[:count] == ids
