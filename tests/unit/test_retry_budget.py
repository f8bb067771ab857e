"""The retry budget: never over 20 % or 3, nobody forgotten, whatever retries do when they run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastlb.data_plane.forwarding import Exchange
from fastlb.data_plane.retry_budget import RetryBudget
from fastlb.data_plane.target_runtime import TargetRuntime


def allowed(active: int) -> int:
    """20 % of the active requests, at least 3, in whole requests."""
    return max(3, active // 5)


@given(st.integers(0, 10000))
def test_never_more_at_once_than_allowed(active: int) -> None:
    budget = RetryBudget()
    budget.active = active
    for _ in range(allowed(active) + 5):
        budget.start(lambda: True)
    assert budget.running == budget.total == allowed(active)


@pytest.mark.parametrize("active", [0, 1, 14, 15, 16, 19, 20, 24, 25, 35, 55, 1000])
def test_shares_are_not_rounded_up(active: int) -> None:
    budget = RetryBudget()
    budget.active = active
    for _ in range(400):
        budget.start(lambda: True)
    assert budget.running == allowed(active)


def test_waiting_ones_run_in_their_order_when_others_end() -> None:
    budget = RetryBudget()
    ran: list[int] = []

    def retry(number: int) -> bool:
        ran.append(number)
        return True

    for number in range(10):
        budget.start(lambda number=number: retry(number))
    assert ran == [0, 1, 2]
    for ended in range(7):
        budget.end()
        assert ran == list(range(ended + 4))
    for _ in range(3):
        budget.end()
    assert budget.running == 0
    assert budget.total == 10


def test_moot_ones_are_skipped_and_cost_nothing() -> None:
    budget = RetryBudget()
    for _ in range(3):
        budget.start(lambda: True)
    ran: list[str] = []

    def moot() -> bool:
        ran.append("moot")
        return False

    def good() -> bool:
        ran.append("good")
        return True

    for retry in (moot, moot, good, moot, good):
        budget.start(retry)
    assert ran == []
    budget.end()
    assert ran == ["moot", "moot", "good"]
    assert (budget.running, budget.total) == (3, 4)
    budget.end()
    assert ran == ["moot", "moot", "good", "moot", "good"]


def test_a_moot_one_alone_leaves_nothing_running() -> None:
    budget = RetryBudget()
    budget.start(lambda: False)
    assert (budget.running, budget.total) == (0, 0)


def test_more_active_requests_make_room_at_the_next_start_or_end() -> None:
    budget = RetryBudget()
    for _ in range(10):
        budget.start(lambda: True)
    assert budget.running == 3
    budget.active = 25
    budget.end()
    assert budget.running == 5


def test_a_retry_that_is_over_before_start_returns_makes_room_for_the_next() -> None:
    # Its target refuses at once, or answers inside the call.
    budget = RetryBudget()
    ran: list[int] = []

    def short(number: int) -> bool:
        ran.append(number)
        budget.end()
        return True

    for number in range(20):
        budget.start(lambda number=number: short(number))
    assert ran == list(range(20))
    assert budget.running == 0
    assert budget.total == 20


def test_a_retry_that_starts_another_one_neither_starves_nor_exceeds() -> None:
    budget = RetryBudget()
    most = 0
    left = 50

    def again() -> bool:
        nonlocal most, left
        most = max(most, budget.running)
        if left:
            left -= 1
            budget.end()  # this try is over, as its target refused it: the next one waits in line
            budget.start(again)
            return True
        return True

    for _ in range(5):
        budget.start(again)
    while budget.running:
        budget.end()
    assert left == 0
    assert most <= 3


class BudgetMachine(RuleBasedStateMachine):
    """Starts, ends and moot ones in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = RetryBudget()
        self.waiting: list[int] = []
        self.moot: set[int] = set()
        self.running: list[int] = []
        self.next = 0
        self.ran = 0

    def run(self, number: int) -> bool:
        assert number == self.waiting.pop(0), "out of turn"
        if number in self.moot:
            return False
        assert len(self.running) < allowed(self.budget.active)
        self.running.append(number)
        self.ran += 1
        return True

    @rule()
    def start(self) -> None:
        number, self.next = self.next, self.next + 1
        self.waiting.append(number)
        self.budget.start(lambda: self.run(number))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def becomes_moot(self, data: st.DataObject) -> None:
        self.moot.add(data.draw(st.sampled_from(self.waiting)))

    @precondition(lambda self: self.running)
    @rule()
    def end(self) -> None:
        self.running.pop(0)
        self.budget.end()

    @rule(active=st.integers(0, 60))
    def load_changes(self, active: int) -> None:
        self.budget.active = active

    @invariant()
    def counted_right_and_nobody_waits_without_a_reason(self) -> None:
        assert self.budget.running == len(self.running)
        assert self.budget.total == self.ran
        if self.waiting:
            assert self.running, "all wait for nobody"

    def teardown(self) -> None:
        while self.running:
            self.end()
        assert not self.waiting


TestBudget = BudgetMachine.TestCase


@pytest.mark.parametrize(
    ("state", "others", "tried"),
    [
        ("healthy", True, "again"),
        ("draining", True, "elsewhere"),
        ("disabled", True, "elsewhere"),
        ("draining", False, "again"),
    ],
)
def test_a_target_that_was_drained_meanwhile_is_not_tried_again_where_others_are(
    state: str, others: bool, tried: str
) -> None:
    done = []
    exchange = SimpleNamespace(
        over=False,
        group=SimpleNamespace(choose=len if others else None),
        _elsewhere=lambda: done.append("elsewhere"),
        _try_again=lambda target, fresh: done.append("again"),
    )
    Exchange._again(cast("Exchange", exchange), cast("TargetRuntime", SimpleNamespace(state=state)))
    assert done == [tried]
