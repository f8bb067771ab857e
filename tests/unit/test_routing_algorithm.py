"""Who is eligible, and that each algorithm chooses among them as it says, by oracles and by counting."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastlb.data_plane.routing_algorithm import (
    LONGEST_CYCLE,
    SCANNED,
    chooser,
    eligible,
    rendezvous,
    smooth_cycle,
)
from fastlb.model.target_group import ALGORITHMS, Algorithm, TargetState


@dataclass(eq=False)
class Target:
    index: int
    weight: int = 1
    busy: int = 0
    backup: bool = False
    state: TargetState = "healthy"
    suspect: bool = False
    doubted: bool = False
    key: str = ""

    def __post_init__(self) -> None:
        self.key = self.key or f"127.0.0.1:{9000 + self.index}"

    def load(self) -> int:
        return self.busy


def group(weights: list[int], loads: list[int] | None = None) -> list[Target]:
    return [
        Target(index, weight, busy)
        for index, (weight, busy) in enumerate(
            zip(weights, loads or [0] * len(weights), strict=True)
        )
    ]


def counts(algorithm: Algorithm, targets: list[Target], times: int, turn: int = 0) -> list[int]:
    """How often each target is chosen while nothing else changes."""
    choose = chooser(algorithm, targets, turn)
    found = Counter(choose("192.0.2.1").index for _ in range(times))
    return [found[target.index] for target in targets]


# -- who is eligible


def test_healthy_primaries_are_eligible_alone() -> None:
    good = [Target(0), Target(1)]
    others = [
        Target(2, backup=True),
        Target(3, state="unhealthy"),
        Target(4, state="initial"),
        Target(5, state="draining"),
        Target(6, state="unused"),
        Target(7, suspect=True),
        Target(8, doubted=True),
        Target(9, weight=0),
    ]
    assert eligible([*others, *good]) == (good, False)


@pytest.mark.parametrize(
    "gone",
    [
        Target(0, state="unhealthy"),
        Target(0, state="initial"),
        Target(0, state="draining"),
        Target(0, suspect=True),
        Target(0, doubted=True),
        Target(0, weight=0),
    ],
)
def test_backups_are_eligible_when_no_primary_is(gone: Target) -> None:
    backups = [Target(1, backup=True), Target(2, backup=True)]
    assert eligible([gone, *backups, Target(3, backup=True, suspect=True)]) == (backups, False)


def test_a_suspect_is_asked_before_those_that_are_known_to_be_dead() -> None:
    suspect, dead = Target(0, suspect=True), Target(1, state="unhealthy")
    assert eligible([dead, suspect]) == ([suspect], True)


def test_where_all_are_bad_all_are_asked_but_those_that_leave() -> None:
    bad = [
        Target(0, state="unhealthy"),
        Target(1, state="initial"),
        Target(2, doubted=True),
        Target(3, state="unhealthy", backup=True),
    ]
    leaving = [Target(4, state="draining"), Target(5, state="unused"), Target(6, weight=0)]
    assert eligible([*leaving, *bad]) == (bad, True)
    assert eligible(leaving) == ([], True)
    assert eligible([]) == ([], True)


states = st.sampled_from(["initial", "healthy", "unhealthy", "draining", "disabled", "unused"])
any_target = st.builds(
    Target,
    index=st.integers(0, 99),
    weight=st.integers(0, 2),
    backup=st.booleans(),
    state=states,
    suspect=st.booleans(),
    doubted=st.booleans(),
)


@given(st.lists(any_target, max_size=6))
def test_a_better_target_is_never_left_out_for_a_worse_one(targets: list[Target]) -> None:
    def rank(target: Target) -> int:
        if target.weight == 0 or target.state in ("draining", "disabled", "unused"):
            return 4
        if target.state != "healthy" or target.doubted:
            return 3
        if target.suspect:
            return 2
        return 1 if target.backup else 0

    found, fail_open = eligible(targets)
    best = min(map(rank, targets), default=4)
    if best == 4:
        assert found == []
    elif best == 3:
        assert found == [target for target in targets if rank(target) <= 3]
    else:
        assert found == [target for target in targets if rank(target) == best]
    assert fail_open is (best >= 2)


# -- all algorithms


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_target_gets_all(algorithm: Algorithm) -> None:
    assert counts(algorithm, group([3]), 5) == [5]


@given(
    st.sampled_from(ALGORITHMS),
    st.lists(st.integers(1, 300), min_size=1, max_size=40),
    st.integers(0, 200),
)
def test_whoever_is_chosen_is_one_of_them_for_every_turn(
    algorithm: Algorithm, weights: list[int], turn: int
) -> None:
    targets = group(weights)
    choose = chooser(algorithm, targets, turn)
    for number in range(2 * len(targets)):
        assert choose(str(number)) in targets


# -- round robin


@pytest.mark.parametrize(
    ("weights", "cycle"),
    [
        ([5, 1, 1], "aabacaa"),
        ([1], "a"),
        ([7], "a"),
        ([1, 1, 1], "abc"),
        ([2, 1], "aba"),
        ([100, 100], "ab"),
        ([4, 3, 2], "abcabacba"),
    ],
)
def test_smooth_cycle_is_nginx_s(weights: list[int], cycle: str) -> None:
    assert "".join("abc"[position] for position in smooth_cycle(weights)) == cycle


weights_of_some = st.lists(st.integers(1, 50), min_size=1, max_size=8)


@given(weights_of_some)
def test_each_is_in_the_cycle_as_often_as_its_weight(weights: list[int]) -> None:
    divisor = math.gcd(*weights)
    cycle = smooth_cycle(weights)
    assert Counter(cycle) == {at: weight // divisor for at, weight in enumerate(weights)}


@given(weights_of_some)
def test_the_cycle_is_spread(weights: list[int]) -> None:
    # At every moment each has had its share, to less than the number of targets.
    cycle = smooth_cycle(weights)
    seen = [0] * len(weights)
    for number, position in enumerate(cycle, 1):
        seen[position] += 1
        for at, weight in enumerate(weights):
            assert abs(seen[at] - number * weight / sum(weights)) < max(2, len(weights))


@given(st.lists(st.integers(1, 50), min_size=2, max_size=2))
def test_of_two_each_gets_its_share_to_one_at_every_moment(weights: list[int]) -> None:
    seen = 0
    for number, position in enumerate(smooth_cycle(weights), 1):
        seen += position == 0
        assert abs(seen - number * weights[0] / sum(weights)) <= 1


@pytest.mark.parametrize("weights", [[1000, 999], [65535, 1], [10007, 20011, 30011]])
def test_a_long_cycle_is_cut_and_nearly_right(weights: list[int]) -> None:
    cycle = smooth_cycle(weights)
    assert len(cycle) <= LONGEST_CYCLE + len(weights)
    found = Counter(cycle)
    for at, weight in enumerate(weights):
        assert found[at] >= 1
        assert found[at] / len(cycle) == pytest.approx(weight / sum(weights), abs=0.001)


@given(weights_of_some, st.integers(0, 9), st.integers(1, 3))
def test_round_robin_goes_through_whole_cycles(weights: list[int], turn: int, cycles: int) -> None:
    parts = [weight // math.gcd(*weights) for weight in weights]
    found = counts("round_robin", group(weights), cycles * sum(parts), turn)
    assert found == [cycles * part for part in parts]


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 8])
def test_workers_begin_round_robin_at_different_targets(size: int) -> None:
    firsts = {chooser("round_robin", group([1] * size), turn)("").index for turn in range(size)}
    assert len(firsts) == size


# -- least outstanding requests


def least_oracle(targets: list[Target]) -> set[int]:
    """Who may be chosen: the least loads by weight; idle targets are alike."""
    if len({target.weight for target in targets}) == 1:
        cost = {target.index: float(target.busy) for target in targets}
    else:
        cost = {t.index: (t.busy + 1) / t.weight if t.busy else 0.0 for t in targets}
    least = min(cost.values())
    return {index for index, value in cost.items() if value == least}


@pytest.mark.parametrize("loads", [[50, 3], [3, 50], [50, 3, 20], [1, 2, 3], [3, 2, 1], [2, 0, 2]])
@pytest.mark.parametrize("weight", [1, 5])
def test_the_least_is_chosen_in_whatever_order_they_stand(loads: list[int], weight: int) -> None:
    least = loads.index(min(loads))
    found = counts("least_outstanding_requests", group([weight] * len(loads), loads), 20)
    assert found[least] == 20


loads_and_weights = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 8)), min_size=2, max_size=SCANNED
)


@given(loads_and_weights, st.integers(0, 64), st.booleans())
@example([(1, 50), (1, 3)], 0, True)
@example([(1, 3), (1, 50)], 0, True)
@example([(2, 50), (1, 3)], 0, False)
@example([(1, 3), (2, 50)], 0, False)
def test_the_chosen_has_the_least_load_for_its_weight(
    pairs: list[tuple[int, int]], turn: int, equal: bool
) -> None:
    weights = [1 if equal else weight for weight, _ in pairs]
    targets = group(weights, [load for _, load in pairs])
    choose = chooser("least_outstanding_requests", targets, turn)
    for _ in range(3 * len(targets)):
        chosen = choose("")
        assert chosen.index in least_oracle(targets)
        chosen.busy += 1


@given(st.lists(st.integers(0, 3), min_size=2, max_size=10), st.integers(0, 10))
def test_ties_are_shared_evenly(loads: list[int], turn: int) -> None:
    targets = group([1] * len(loads), loads)
    tied = least_oracle(targets)
    found = counts("least_outstanding_requests", targets, 12 * len(tied), turn)
    for target in targets:
        share = found[target.index]
        assert abs(share - 12) <= 1 if target.index in tied else share == 0


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_single_requests_are_spread_by_weight(weights: list[int]) -> None:
    # One request at a time: each time all targets are idle.
    parts = [weight // math.gcd(*weights) for weight in weights]
    found = counts("least_outstanding_requests", group(weights), 2 * sum(parts))
    assert found == [2 * part for part in parts]


@given(st.lists(st.integers(1, 9), min_size=3, max_size=6))
def test_no_idle_target_starves_while_another_is_busy(weights: list[int]) -> None:
    targets = group(weights, [1] + [0] * (len(weights) - 1))
    found = counts("least_outstanding_requests", targets, 10 * sum(weights))
    assert found[0] == 0
    assert min(found[1:]) > 0


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_under_load_the_loads_are_as_the_weights(weights: list[int]) -> None:
    targets = group(weights)
    choose = chooser("least_outstanding_requests", targets, 0)
    total = 20 * sum(weights)
    for _ in range(total):
        choose("").busy += 1
    for target in targets:
        assert target.busy == pytest.approx(20 * target.weight, abs=len(targets) + 1)


@pytest.mark.parametrize("weights", [[1] * 100, [1, 2] * 50])
def test_a_large_group_is_looked_at_in_turns(weights: list[int]) -> None:
    targets = group(weights, [5] * 100)
    targets[70].busy = 0
    found = counts("least_outstanding_requests", targets, 300)
    assert found[70] > 0
    for target in targets:
        target.busy = 0
    choose = chooser("least_outstanding_requests", targets, 0)
    for _ in range(sum(weights) * 4):
        choose("").busy += 1
    for target in targets:
        assert target.busy == pytest.approx(4 * target.weight, abs=2)


# -- weighted random


@pytest.mark.parametrize("weights", [[1, 1], [1, 2, 3], [9, 1], [1] * 10])
def test_weighted_random_is_as_the_weights(weights: list[int]) -> None:
    random.seed(42)
    times = 20000
    found = counts("weighted_random", group(weights), times)
    for count, weight in zip(found, weights, strict=True):
        share = weight / sum(weights)
        assert abs(count - times * share) < 5 * math.sqrt(times * share * (1 - share))


@pytest.mark.parametrize("drawn", [0.0, 1.0 - 2.0**-53])
def test_the_ends_of_the_random_range_choose_the_first_and_the_last(
    monkeypatch: pytest.MonkeyPatch, drawn: float
) -> None:
    monkeypatch.setattr("fastlb.data_plane.routing_algorithm.random", lambda: drawn)
    for weights in ([1, 1, 1], [3, 7], [1, 2**20 - 1]):
        found = counts("weighted_random", group(weights), 1)
        assert found[-1 if drawn else 0] == 1


# -- source ip hash

CLIENTS = [f"198.51.{high}.{low}" for high in range(20) for low in range(100)]


def placed(targets: list[Target], turn: int = 0) -> dict[str, str]:
    choose = chooser("source_ip_hash", targets, turn)
    return {client: choose(client).key for client in CLIENTS}


def test_a_client_stays_with_its_target_on_every_worker() -> None:
    targets = group([1, 2, 3])
    again = group([1, 2, 3])[::-1]
    assert placed(targets) == placed(targets) == placed(again, turn=7)


@pytest.mark.parametrize("leaves", range(4))
def test_when_a_target_goes_only_its_clients_move(leaves: int) -> None:
    targets = group([1, 2, 1, 3])
    before = placed(targets)
    gone = targets[leaves].key
    after = placed([target for target in targets if target.key != gone])
    for client, target in before.items():
        assert (after[client] == target) is (target != gone)


def test_when_a_weight_grows_clients_move_to_that_target_only() -> None:
    before = placed(group([1, 1, 1]))
    after = placed(group([1, 2, 1]))
    moved = {client for client in CLIENTS if before[client] != after[client]}
    assert moved
    assert {after[client] for client in moved} == {"127.0.0.1:9001"}


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 2, 3], [9, 1]])
def test_clients_are_spread_by_weight(weights: list[int]) -> None:
    found = Counter(placed(group(weights)).values())
    for target in group(weights):
        share = target.weight / sum(weights)
        bound = 5 * math.sqrt(len(CLIENTS) * share * (1 - share))
        assert abs(found[target.key] - len(CLIENTS) * share) < bound


def test_what_is_remembered_of_clients_is_bounded() -> None:
    targets = group([1, 1])
    choose = chooser("source_ip_hash", targets, 0)
    first = choose("first")
    for number in range(20001):
        choose(str(number))
    assert choose("first") is first
    assert choose.__closure__ is not None
    remembered = [c.cell_contents for c in choose.__closure__ if isinstance(c.cell_contents, dict)]
    assert 0 < len(remembered[0]) <= 10000


@given(st.text(), st.text(), st.integers(1, 1000))
def test_the_score_is_finite_and_grows_with_the_weight(
    client: str, target: str, weight: int
) -> None:
    client, target = (text.encode("ascii", "replace").decode() for text in (client, target))
    score = rendezvous(client, target, weight)
    assert 0 < score < math.inf
    assert rendezvous(client, target, weight + 1) > score


@pytest.mark.parametrize("digest", [b"\0" * 8, b"\xff" * 8])
def test_the_ends_of_the_hash_have_a_score(monkeypatch: pytest.MonkeyPatch, digest: bytes) -> None:
    class Hash:
        def __init__(self, data: bytes, digest_size: int) -> None:
            assert digest_size == 8

        def digest(self) -> bytes:
            return digest

    monkeypatch.setattr("fastlb.data_plane.routing_algorithm.blake2b", Hash)
    assert 0 < rendezvous("a", "b", 1) < math.inf


def test_a_large_group_of_odd_weights_is_spread_as_evenly_and_soon_enough() -> None:
    weights = [1 + index % 7 for index in range(500)]
    began = time.process_time()
    cycle = smooth_cycle(weights)
    assert time.process_time() - began < 0.5
    assert Counter(cycle) == dict(enumerate(weights))
    for position in (5, 6, 12):  # each comes again after about its share of the cycle
        places = [at for at, found in enumerate(cycle) if found == position]
        gaps = [b - a for a, b in itertools.pairwise(places)]
        assert all(abs(gap - len(cycle) / weights[position]) <= len(weights) for gap in gaps)
