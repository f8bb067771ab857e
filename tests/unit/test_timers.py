"""The timer wheel with a loop whose time the test makes: never early, at most a tick late."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastlb.data_plane.timers import NEVER, TICK, TimerWheel

START = 1234.56
SLACK = 1e-6
"""Of floats: a tick's own time is a product."""


class Handle:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as the wheel knows."""

    def __init__(self) -> None:
        self.now = START
        self.calls: list[tuple[float, Callable[[], None], Handle]] = []
        self.failures: list[BaseException] = []
        self.raises = True

    def call_exception_handler(self, context: dict[str, BaseException]) -> None:
        self.failures.append(context["exception"])
        if self.raises:  # an assertion of the tests themselves must not be taken for a bug at bay
            raise context["exception"]

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        handle = Handle()
        self.calls.append((self.now + delay, callback, handle))
        return handle

    def run_until(self, end: float, late: float = 0.0) -> None:
        """Call what is due until `end`, each call `late` seconds late."""
        while True:
            self.calls = [call for call in self.calls if not call[2].cancelled]
            due = [call for call in self.calls if call[0] + late <= end]
            if not due:
                break
            first = min(due, key=lambda call: call[0])
            self.calls.remove(first)
            self.now = max(self.now, first[0] + late)
            first[1]()
        self.now = max(self.now, end)


class Item:
    """Something with a deadline; `then` is done when it fires."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.deadline = 0.0
        self.armed_at = NEVER
        self.fired: list[float] = []
        self.then = then

    def on_deadline(self, now: float) -> None:
        assert self.armed_at == NEVER
        self.fired.append(now)
        self.then()


class Clock:
    """A wheel that runs, and its loop."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.ticks = 0
        self.wheel = TimerWheel(cast(asyncio.AbstractEventLoop, self.loop), self.tick)
        self.wheel.start()

    def tick(self) -> None:
        self.ticks += 1

    def held(self) -> int:
        return sum(map(len, self.wheel._buckets.values()))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_fires_once_in_time(clock: Clock) -> None:
    item = Item()
    clock.wheel.arm(item, START + 0.5)
    clock.loop.run_until(START + 0.5 - SLACK)
    assert item.fired == []
    clock.loop.run_until(START + 10)
    assert len(item.fired) == 1
    assert item.fired[0] == pytest.approx(START + 0.5, abs=2 * TICK)


# The wheel looks at most a tick after an item's tick, which ends at most a tick after the deadline.
@given(st.floats(0, 30), st.floats(0, 1), st.floats(0, 0.3))
def test_never_early_and_hardly_late_wherever_the_ticks_fall(
    delay: float, offset: float, late: float
) -> None:
    clock = Clock()
    clock.loop.run_until(START + offset)
    item = Item()
    deadline = clock.loop.now + delay
    clock.wheel.arm(item, deadline)
    clock.loop.run_until(deadline + 2)
    assert len(item.fired) == 1
    assert deadline <= item.fired[0] <= deadline + 2 * TICK + SLACK


def test_a_wheel_that_ran_on_time_is_at_most_a_tick_late() -> None:
    clock = Clock()
    for step in range(1, 40):
        item = Item()
        deadline = START + step * 0.037
        clock.wheel.arm(item, deadline)
        fires_at = item.armed_at
        assert deadline - SLACK <= fires_at <= deadline + TICK + SLACK


def test_a_deadline_moved_later_costs_no_second_place(clock: Clock) -> None:
    item = Item()
    clock.wheel.arm(item, START + 0.5)
    first = item.armed_at
    for step in range(1, 50):
        clock.loop.run_until(START + step * 0.05)
        clock.wheel.arm(item, clock.loop.now + 0.5)
        assert clock.held() == 1
    assert item.fired == []
    assert item.armed_at > first
    clock.loop.run_until(START + 10)
    assert len(item.fired) == 1
    assert item.fired[0] >= START + 49 * 0.05 + 0.5


def test_a_deadline_moved_earlier_is_kept(clock: Clock) -> None:
    item = Item()
    clock.wheel.arm(item, START + 60)
    clock.wheel.arm(item, START + 0.3)
    assert clock.held() == 1
    clock.loop.run_until(START + 0.3 + 2 * TICK)
    assert len(item.fired) == 1
    clock.loop.run_until(START + 100)
    assert len(item.fired) == 1


def test_a_deadline_in_the_past_fires_at_the_next_tick(clock: Clock) -> None:
    item = Item()
    clock.wheel.arm(item, START - 100)
    clock.loop.run_until(START + TICK + SLACK)
    assert len(item.fired) == 1


def test_a_deadline_that_is_stored_directly_counts(clock: Clock) -> None:
    # As connections do: later than what is armed needs no call.
    item = Item()
    clock.wheel.arm(item, START + 0.2)
    item.deadline = START + 1.0
    clock.loop.run_until(START + 1.0 - SLACK)
    assert item.fired == []
    clock.loop.run_until(START + 1.0 + 2 * TICK)
    assert len(item.fired) == 1


def test_what_is_disarmed_does_not_fire_and_is_not_held(clock: Clock) -> None:
    item = Item()
    clock.wheel.arm(item, START + 60)
    gone = weakref.ref(item)
    clock.wheel.disarm(item)
    clock.wheel.disarm(item)
    assert clock.held() == 0
    clock.wheel.arm(item, START + 0.2)
    clock.wheel.disarm(item)
    clock.loop.run_until(START + 70)
    assert item.fired == []
    del item
    gc.collect()
    assert gone() is None


def test_what_has_fired_is_not_held(clock: Clock) -> None:
    item = Item()
    clock.wheel.arm(item, START + 0.2)
    clock.loop.run_until(START + 1)
    gone = weakref.ref(item)
    del item
    gc.collect()
    assert gone() is None


def test_buckets_of_the_past_are_not_kept(clock: Clock) -> None:
    for step in range(100):
        item = Item()
        clock.wheel.arm(item, clock.loop.now + 1)
        clock.wheel.disarm(item)
        clock.loop.run_until(START + step * TICK)
    assert len(clock.wheel._buckets) <= 12


def test_it_may_be_armed_anew_when_it_fires(clock: Clock) -> None:
    item = Item()
    item.then = lambda: clock.wheel.arm(item, clock.wheel.now + 1)
    clock.wheel.arm(item, START + 1)
    clock.loop.run_until(START + 10)
    assert 8 <= len(item.fired) <= 10
    gaps = [b - a for a, b in zip(item.fired, item.fired[1:], strict=False)]
    assert all(1 - SLACK <= gap <= 1 + 2 * TICK + SLACK for gap in gaps)


def test_arming_for_now_when_firing_does_not_spin(clock: Clock) -> None:
    item = Item()
    item.then = lambda: clock.wheel.arm(item, clock.wheel.now)
    clock.wheel.arm(item, START + 0.2)
    clock.loop.run_until(START + 2)
    assert len(item.fired) <= clock.ticks + 1


@pytest.mark.parametrize("count", [2, 5])
def test_whoever_fires_may_disarm_the_others_of_its_tick(clock: Clock, count: int) -> None:
    items = [Item() for _ in range(count)]
    for item in items:
        item.then = lambda: [clock.wheel.disarm(other) for other in items]
        clock.wheel.arm(item, START + 0.5)
    clock.loop.run_until(START + 5)
    assert sum(len(item.fired) for item in items) == 1
    assert clock.held() == 0


@pytest.mark.parametrize("move", [-0.5, 0.0, 0.01, 1.0])
def test_whoever_fires_may_move_the_others_of_its_tick(clock: Clock, move: float) -> None:
    items = [Item() for _ in range(4)]
    moved: list[Item] = []

    def move_others() -> None:
        if not moved:
            moved.extend(item for item in items if not item.fired)
            for item in moved:
                clock.wheel.arm(item, START + 0.5 + move)

    for item in items:
        item.then = move_others
        clock.wheel.arm(item, START + 0.5)
    clock.loop.run_until(START + 5)
    assert len(moved) == 3
    for item in moved:
        assert len(item.fired) == 1
        assert item.fired[0] >= START + 0.5 + move
    assert clock.held() == 0


def test_after_a_long_stop_all_that_is_still_silent_fires_once(clock: Clock) -> None:
    items = [Item() for _ in range(50)]
    for step, item in enumerate(items):
        clock.wheel.arm(item, START + step * 0.1)
    clock.loop.now = START + 100  # a process that was stopped
    clock.loop.run_until(START + 106)
    assert [len(item.fired) for item in items] == [1] * 50


def test_a_stop_of_the_process_counts_for_nobody(clock: Clock) -> None:
    silent, heard, begun = items = [Item() for _ in range(3)]
    for item in (silent, heard):
        clock.wheel.arm(item, START + 1)
    clock.loop.now = START + 100
    # The loop reads before its first tick: the wheel still says what time it was before the stop.
    clock.wheel.arm(begun, clock.wheel.now + 2)
    clock.loop.run_until(START + 100 + SLACK)
    assert not any(item.fired for item in items)
    clock.wheel.disarm(heard)
    clock.loop.run_until(START + 103)
    assert silent.fired[0] == pytest.approx(START + 101, abs=2 * TICK)
    assert begun.fired[0] == pytest.approx(START + 102, abs=2 * TICK)
    assert not heard.fired


def test_deadlines_pass_where_every_tick_is_late(clock: Clock) -> None:
    item = Item()
    clock.wheel.arm(item, START + 2)
    clock.loop.run_until(START + 10, late=0.8)
    assert len(item.fired) == 1


def test_each_tick_calls_its_owner_and_stop_ends_it(clock: Clock) -> None:
    clock.loop.run_until(START + 10 * TICK + SLACK)
    assert clock.ticks == 10
    assert clock.wheel.now == pytest.approx(START + 1)
    clock.wheel.stop()
    clock.wheel.stop()
    clock.loop.run_until(START + 5)
    assert clock.ticks == 10


class WheelMachine(RuleBasedStateMachine):
    """Anything in any order, compared with a plain record of deadlines."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.items = [Item() for _ in range(6)]
        self.wanted: dict[Item, float] = {}
        self.armed_at: dict[Item, float] = {}
        for item in self.items:
            item.then = self.fired(item)

    def fired(self, item: Item) -> Callable[[], None]:
        def check() -> None:
            now = item.fired[-1]
            assert item in self.wanted, "fired though nothing was armed"
            assert now >= self.wanted.pop(item), "fired early"

        return check

    @rule(at=st.integers(0, 5), delay=st.floats(-1, 5))
    def arm(self, at: int, delay: float) -> None:
        item = self.items[at]
        deadline = self.clock.loop.now + delay
        self.clock.wheel.arm(item, deadline)
        self.wanted[item] = deadline
        self.armed_at[item] = self.clock.loop.now

    @precondition(lambda self: self.wanted)
    @rule(at=st.integers(0, 5))
    def disarm(self, at: int) -> None:
        self.clock.wheel.disarm(self.items[at])
        self.wanted.pop(self.items[at], None)

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.clock.loop.run_until(self.clock.loop.now + seconds)

    @invariant()
    def nothing_is_overdue_and_nothing_held_in_vain(self) -> None:
        # What is armed for the past is due from when it was armed.
        for item, deadline in self.wanted.items():
            due = max(deadline, self.armed_at[item])
            assert self.clock.wheel.now < due + TICK + SLACK
        assert self.clock.held() == len(self.wanted)
        for item in self.items:
            assert (item.armed_at < NEVER) is (item in self.wanted)


TestWheel = WheelMachine.TestCase


def test_a_deadline_that_fails_takes_no_other_with_it(clock: Clock) -> None:
    clock.loop.raises = False
    items = [Item(fail) for _ in range(8)]
    for item in items:
        clock.wheel.arm(item, START + 0.5)
    clock.loop.run_until(START + 1)
    assert [len(item.fired) for item in items] == [1] * 8
    assert len(clock.loop.failures) == 8


def fail() -> None:
    raise RuntimeError("a bug")
