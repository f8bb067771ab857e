"""Who accepts from which slot, and when a dead worker is tried again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.control_plane.restart_delay import RestartDelay
from fastlb.control_plane.slot_assignment import (
    RELIEF_BURST,
    Relief,
    ReliefBudget,
    assign_slots,
    home_of,
)

indexes = st.integers(0, 7)


@given(
    slots=st.integers(1, 24),
    workers=st.integers(1, 8),
    connections=st.dictionaries(indexes, st.integers(0, 5000)),
    current=st.lists(indexes, max_size=24),
    relief=st.lists(st.tuples(indexes, st.integers(0, 30)).map(lambda one: Relief(*one))),
)
def test_every_slot_has_a_living_worker(
    slots: int,
    workers: int,
    connections: dict[int, int],
    current: list[int],
    relief: list[Relief],
) -> None:
    result = assign_slots(slots, range(workers), connections, current[:slots], relief)
    assert len(result) == slots
    if connections:
        assert set(result) <= set(connections)
    else:
        assert result == tuple(home_of(slot, range(workers)) for slot in range(slots))


@given(st.integers(1, 8), st.integers(1, 24), st.data())
def test_nothing_moves_without_a_reason(workers: int, slots: int, data: st.DataObject) -> None:
    homes = tuple(home_of(slot, range(workers)) for slot in range(slots))
    counts = {index: data.draw(st.integers(0, 100)) for index in range(workers)}
    assert assign_slots(slots, range(workers), counts, homes) == homes


def test_a_dead_workers_slot_passes_to_the_least_loaded_and_back() -> None:
    lent = assign_slots(3, range(3), {0: 10, 2: 5}, (0, 1, 2))
    assert lent == (0, 2, 2)
    assert assign_slots(3, range(3), {0: 10, 1: 0, 2: 5}, lent) == (0, 1, 2)


def test_the_slots_of_several_dead_workers_are_spread() -> None:
    assert assign_slots(6, range(6), {0: 0, 1: 0}, (0, 1, 2, 3, 4, 5)) == (0, 1, 0, 1, 0, 1)


def test_more_slots_than_workers_are_spread() -> None:
    assert assign_slots(5, range(2), {0: 0, 1: 0}, ()) == (0, 1, 0, 1, 0)


def test_relief_moves_a_slot_to_a_really_lower_worker() -> None:
    assert assign_slots(2, range(2), {0: 300, 1: 200}, (0, 1), [Relief(0, 0)]) == (1, 1)
    assert assign_slots(2, range(2), {0: 300, 1: 299}, (0, 1), [Relief(0, 0)]) == (0, 1)
    assert assign_slots(2, range(2), {0: 2, 1: 1}, (0, 1), [Relief(0, 0)]) == (0, 1)


def test_relief_in_the_long_run_is_seldom() -> None:
    budget = ReliefBudget(0.0)
    assert [budget.take(0.0) for _ in range(RELIEF_BURST + 1)] == [True] * RELIEF_BURST + [False]
    assert sum(budget.take(at / 100) for at in range(1000)) == 99


def test_relief_for_a_slot_of_somebody_else_is_stale() -> None:
    assert assign_slots(2, range(2), {0: 300, 1: 0}, (0, 1), [Relief(0, 1)]) == (0, 1)


def test_a_lent_slot_goes_home_when_its_worker_has_room() -> None:
    assert assign_slots(2, range(2), {0: 300, 1: 250}, (1, 1)) == (1, 1)
    assert assign_slots(2, range(2), {0: 275, 1: 275}, (1, 1)) == (0, 1)


def test_a_borrower_that_is_over_itself_gives_back_at_once() -> None:
    assert assign_slots(2, range(2), {0: 290, 1: 300}, (1, 1)) == (0, 1)


def test_a_borrower_that_is_over_does_not_give_back_to_one_that_is_over_too() -> None:
    counts = {0: 400, 1: 350, 2: 10}
    assert assign_slots(3, range(3), counts, (1, 1, 2)) == (2, 1, 2)


@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_long_lived_connections_are_even(seed: int) -> None:
    """As the workers do it: one that is over its share by a twentieth asks to be relieved."""
    chance = random.Random(seed)
    counts = dict.fromkeys(range(4), 0)
    slots = assign_slots(4, range(4), counts, ())
    for number in range(1000):
        holder = slots[chance.randrange(4)]
        counts[holder] += 1
        mean = sum(counts.values()) / 4
        if counts[holder] > mean * 1.05 + 1:
            asked = [Relief(holder, slot) for slot in range(4) if slots[slot] == holder]
            slots = assign_slots(4, range(4), counts, slots, asked)
        if number % 50 == 0:
            slots = assign_slots(4, range(4), counts, slots)
    assert max(counts.values()) <= 1.1 * 250


def test_restart_delays_grow_and_a_long_life_forgets_them() -> None:
    delay = RestartDelay()
    delays = [delay.died(float(at), 1.0) for at in range(11)]
    assert delays == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10]
    assert delay.span(10.0) == 10.0
    assert delay.died(100.0, 30.0) == 0
    assert delay.died(101.0, 1.0) == 0.1
