"""Whose share grows, how it grows, and who gets the whole of it at once."""

from __future__ import annotations

import pytest

from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.slow_start import STEPS, advance, begin
from tests.support.scaling_fakes import instance, target_of


def newcomer(at: float = 100.0) -> Instance:
    return instance("new", at=at)


@pytest.mark.parametrize(
    ("others", "seconds", "slow"),
    [
        ([(0.0, 0.0)], 8.0, True),
        ([(0.0, 0.0)], 0.0, False),  # turned off
        ([], 8.0, False),  # alone
        ([(0.0, 8.0)], 8.0, False),  # beside one that is slow itself
        ([(0.0, 0.0), (99.0, 8.0)], 8.0, True),
        ([(100.5, 0.0)], 8.0, False),  # started together with it
    ],
)
def test_who_starts_slowly(others: list[tuple[float, float]], seconds: float, slow: bool) -> None:
    """Each of the others: since when in service, and its own slow start."""
    beside = []
    for at, own in others:
        one = instance("other", at=at)
        one.slow_start = own
        beside.append(one)
    new = newcomer()
    begin(new, beside, seconds)
    assert new.slow_start == (seconds if slow else 0.0)
    assert new.share == (1 / STEPS if slow else 1.0)
    assert target_of(new).shares == ([1 / STEPS] if slow else [])


def test_the_share_grows_in_steps_and_each_is_told_once() -> None:
    new = newcomer()
    begin(new, [instance("old")], 8.0)
    for tenth in range(120):
        advance([new, instance("pending", "pending")], 100.0 + tenth / 10)
        assert 0 < new.share <= 1
    assert target_of(new).shares == [step / STEPS for step in range(1, STEPS + 1)]
    assert (new.share, new.slow_start) == (1.0, 0.0)


def test_a_late_look_gives_what_is_due() -> None:
    new = newcomer()
    begin(new, [instance("old")], 8.0)
    advance([new], 104.0)
    assert new.share == 0.5
    advance([new], 1e6)
    assert target_of(new).shares == [1 / STEPS, 0.5, 1.0]


def test_who_returns_in_the_midst_of_it_begins_anew() -> None:
    # Its new target has the whole share until it is told another one.
    new = newcomer()
    begin(new, [instance("old")], 8.0)
    returned = instance("new", at=200.0)
    returned.share, returned.slow_start = new.share, new.slow_start
    begin(returned, [instance("old")], 8.0)
    assert target_of(returned).shares == [1 / STEPS]
    alone = instance("new", at=200.0)
    alone.share, alone.slow_start = new.share, new.slow_start
    begin(alone, [], 8.0)
    assert (alone.share, alone.slow_start, target_of(alone).shares) == (1.0, 0.0, [])
