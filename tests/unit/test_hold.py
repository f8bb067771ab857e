"""HoldQueue with a clock of its own: who waits, who is let go in which order, who is told when."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb.data_plane.hold import AT_ONCE, LOOK_SECONDS, WANTED_APART, HoldQueue
from fastlb.errors import RequestError
from fastlb.model.target_group import Hold

HOLD = Hold(30.0, 1000)


class Handle:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop's clock and calls, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.soon: list[Handle] = []
        self._later: list[tuple[float, int, Handle]] = []
        self._count = 0

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> Handle:
        self.soon.append(Handle(callback))
        return self.soon[-1]

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        self._count += 1
        handle = Handle(callback)
        heapq.heappush(self._later, (self.now + delay, self._count, handle))
        return handle

    def turn(self) -> None:
        """One turn of the loop."""
        soon, self.soon = self.soon, []
        for handle in soon:
            handle.callback()

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self._later and self._later[0][0] <= end:
            self.now, _, handle = heapq.heappop(self._later)
            if not handle.cancelled:
                handle.callback()
        self.now = end

    @property
    def timers(self) -> int:
        return sum(not handle.cancelled for _, _, handle in self._later)


class One:
    """A held one that notes what becomes of it."""

    def __init__(self, world: World, name: int = 0, tried: Sequence[str] = ()) -> None:
        self.world = world
        self.name = name
        self.waited = 0.0
        self.tried = tried
        self.left = False
        self.fails = False
        self.error: RequestError | None = None
        self.released: list[float] = []

    def has_left(self) -> bool:
        return self.left

    def on_released(self, seconds: float) -> None:
        self.released.append(seconds)
        self.world.order.append(self.name)
        if self.fails:
            raise RuntimeError("a bug")

    def on_hold_over(self, error: RequestError) -> None:
        self.error = error


class World:
    def __init__(self) -> None:
        self.loop = Loop()
        self.open = False
        self.told: list[float] = []
        self.order: list[int] = []
        self.queue = HoldQueue(self.loop, self.can_take, self.tell)

    def can_take(self, tried: Sequence[str]) -> bool:
        return self.open and "all" not in tried

    def tell(self) -> None:
        self.told.append(self.loop.now)

    def hold(self, count: int, hold: Hold = HOLD) -> list[One]:
        ones = [One(self, number) for number in range(count)]
        for one in ones:
            self.queue.add(one, hold)
        return ones


@pytest.fixture
def world() -> World:
    return World()


def test_released_in_their_order_a_slice_each_turn(world: World) -> None:
    ones = world.hold(2 * AT_ONCE + 1)
    world.loop.pass_time(2.5)
    world.open = True
    world.queue.refresh()
    assert world.order == [], "not from inside of what found the change"
    world.loop.turn()
    assert world.order == list(range(AT_ONCE))
    world.queue.refresh()
    while world.loop.soon:
        world.loop.turn()
    assert world.order == list(range(2 * AT_ONCE + 1))
    assert ones[0].released == [2.5]
    assert ones[0].waited == 2.5
    assert len(world.queue) == 0


def test_nothing_is_let_go_that_no_target_can_take(world: World) -> None:
    first, second = One(world, 1, tried=("all",)), One(world, 2)
    world.queue.add(first, HOLD)
    world.queue.add(second, HOLD)
    world.queue.refresh()
    world.loop.turn()
    assert world.order == []
    world.open = True
    world.queue.refresh()
    world.loop.turn()
    assert world.order == [2]
    assert len(world.queue) == 1


def test_the_first_may_find_that_the_target_is_gone(world: World) -> None:
    ones = world.hold(3)
    world.open = True

    def close(seconds: float) -> None:
        world.open = False

    ones[0].on_released = close  # type: ignore[method-assign]
    world.queue.refresh()
    world.loop.turn()
    assert len(world.queue) == 2


def test_one_that_fails_keeps_no_other_waiting(world: World) -> None:
    ones = world.hold(3)
    ones[0].fails = True
    world.open = True
    world.queue.refresh()
    with pytest.raises(RuntimeError):
        world.loop.turn()
    world.loop.turn()
    assert world.order == [0, 1, 2]


def test_a_target_that_is_well_again_when_the_wait_begins(world: World) -> None:
    world.open = True
    world.hold(1)
    world.loop.turn()
    assert world.order == [0]


def test_time_held_before_counts(world: World) -> None:
    one = One(world)
    assert world.queue.add(one, HOLD) == 30.0
    world.loop.pass_time(12.0)
    assert world.queue.left(one) == 18.0
    world.open = True
    world.queue.refresh()
    world.loop.turn()
    world.open = False
    world.loop.pass_time(100.0)
    assert world.queue.add(one, HOLD) == 18.0
    world.queue.leave(one)
    one.waited = 30.0
    with pytest.raises(RequestError, match="no instance in time"):
        world.queue.add(one, HOLD)


def test_who_has_left_makes_room(world: World) -> None:
    hold = Hold(30.0, 3)
    ones = world.hold(3, hold)
    with pytest.raises(RequestError, match="3 requests are held already") as refused:
        world.queue.add(One(world, 3), hold)
    assert refused.value.status == 503
    ones[0].left = ones[2].left = True
    with pytest.raises(RequestError):
        world.queue.add(One(world, 4), hold)  # not looked at for each: a flood would cost too much
    world.loop.pass_time(LOOK_SECONDS)
    world.queue.add(One(world, 5), hold)
    assert [one.error is not None for one in ones] == [True, False, True]
    assert len(world.queue) == 2


def test_a_closed_queue_ends_all_and_holds_nothing(world: World) -> None:
    ones = world.hold(3)
    world.queue.close("it stops")
    for one in ones:
        assert one.error is not None
        assert (one.error.status, one.error.detail) == (503, "it stops")
    with pytest.raises(RequestError, match="it stops"):
        world.hold(1)
    assert world.loop.timers == 0


def test_told_at_once_then_each_second_while_somebody_waits(world: World) -> None:
    ones = world.hold(2)
    assert world.told == [1000.0]
    world.loop.pass_time(2.5)
    assert world.told == [1000.0, 1001.0, 1002.0]
    for one in ones:
        world.queue.leave(one)
    assert world.loop.timers == 0
    world.loop.pass_time(0.3)
    one = world.hold(1)[0]  # after a while without anybody: the group may have gone to zero
    assert world.told[3:] == [1002.8]
    world.queue.leave(one)
    world.hold(1)
    assert len(world.told) == 4, "but no flood"
    world.loop.pass_time(WANTED_APART)
    assert world.told[4:] == [1002.8 + WANTED_APART]


STEPS = st.lists(
    st.one_of(
        st.just(("hold",)),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("open"), st.booleans()),
        st.tuples(st.just("pass"), st.floats(0.0, 2.0)),
        st.just(("turn",)),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(STEPS)
def test_whatever_happens(steps: list[tuple[str, object]]) -> None:
    world = World()
    hold = Hold(30.0, 5)
    waiting: list[One] = []
    for number, (what, *how) in enumerate(steps):
        if what == "hold":
            one = One(world, number)
            try:
                world.queue.add(one, hold)
                waiting.append(one)
            except RequestError:
                assert len(waiting) == 5
        elif what == "leave" and waiting:
            world.queue.leave(waiting.pop(int(str(how[0])) % len(waiting)))
        elif what == "open":
            world.open = bool(how[0])
            world.queue.refresh()
        elif what == "pass":
            world.loop.pass_time(float(str(how[0])))
        elif what == "turn":
            world.loop.turn()
        waiting = [one for one in waiting if not one.released]
        assert len(world.queue) == len(waiting) <= 5
        assert world.loop.timers == bool(waiting), "a timer only while somebody waits"
    assert world.order == sorted(world.order)
    pauses = [b - a for a, b in zip(world.told, world.told[1:], strict=False)]
    assert all(pause >= WANTED_APART - 1e-9 for pause in pauses)
    while world.loop.soon:
        world.loop.turn()
    if world.open:
        assert len(world.queue) == 0
