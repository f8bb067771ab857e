"""A worker's view of the targets: counts in shared memory, doubts, picks, and steps from table to table."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb.data_plane.target_runtime import TargetRuntime, TargetTable
from fastlb.model.configuration import Configuration
from fastlb.model.target_group import ALGORITHMS, Algorithm, Hold, TargetGroup
from fastlb.target_table.counters import (
    HISTOGRAM,
    ROW,
    Cell,
    Counters,
    block,
    bucket_bounds,
    bucket_of,
)
from fastlb.target_table.layout import Snapshot, TargetEntry
from fastlb.target_table.pipe import Evidence, Wanted

ROW_OF_OURS = 1
WORKERS = 3


class Timer:
    def __init__(self, delay: float, callback: Callable[[], None]) -> None:
        self.delay = delay
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as doubts need."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(delay, callback))
        return self.timers[-1]

    def fire(self) -> float:
        """Call the one timer that waits; returns its delay."""
        (timer,) = [timer for timer in self.timers if not timer.cancelled]
        self.timers.clear()
        timer.callback()
        return timer.delay


class Pool:
    def __init__(self) -> None:
        self.forgot = 0
        self.closed = False

    def forget(self) -> None:
        self.forgot += 1

    def close(self) -> None:
        self.closed = True


class World:
    """A table of one worker among three, and what it told others."""

    def __init__(self, counters: Counters) -> None:
        self.loop = Loop()
        self.counters = counters
        self.reports: list[Evidence | Wanted] = []
        self.made: list[TargetRuntime] = []
        self.table = TargetTable(
            cast(asyncio.AbstractEventLoop, self.loop),
            counters,
            ROW_OF_OURS,
            self.reports.append,
            self._new,
        )

    def _new(self, target: TargetRuntime) -> None:
        target.pool = Pool()
        self.made.append(target)

    def apply(self, *entries: TargetEntry, groups: tuple[TargetGroup, ...] = ()) -> None:
        config = Configuration(
            workers=WORKERS, target_groups=groups or (TargetGroup(name="web", retries=2),)
        )
        self.table.apply(Snapshot(config, 1, entries, tuple(range(WORKERS))))

    def cell(self, target: int, cell: Cell, row: int = ROW_OF_OURS) -> int:
        return self.counters.cells[row * ROW + block(target) + cell]

    def picks(self, times: int, group: str = "web") -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(times):
            target = self.table.groups[group].pick("192.0.2.1", ())
            found["-" if target is None else target.key] += 1
        return found


def entry(index: int, **changes: object) -> TargetEntry:
    plain = TargetEntry(index, "web", f"127.0.0.1:{9000 + index}", 1, False, "healthy")
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture
def world() -> Iterator[World]:
    counters = Counters()
    made = World(counters)
    yield made
    made.table.bytes.release()
    counters.close()


# -- counts


def test_load_is_what_all_workers_have_in_flight(world: World) -> None:
    world.apply(entry(0), entry(7))
    target = world.table.targets[7]
    target.begin()
    target.begin()
    assert target.load() == 2
    assert world.cell(7, Cell.IN_FLIGHT) == 2, "others see it at once"
    for row, load in ((0, 5), (2, 11)):
        world.counters.cells[row * ROW + block(7) + Cell.IN_FLIGHT] = load
    world.counters.cells[90 * ROW + block(7) + Cell.IN_FLIGHT] = 1000  # no worker of ours
    assert target.load() == 18
    assert world.table.targets[0].load() == 0
    target.end(0.5)
    assert target.load() == 17
    assert world.cell(7, Cell.IN_FLIGHT) == 1


def test_more_workers_are_seen_when_the_table_names_them(world: World) -> None:
    world.apply(entry(0))
    world.counters.cells[5 * ROW + block(0) + Cell.IN_FLIGHT] = 4
    assert world.table.targets[0].load() == 0
    config = Configuration(workers=WORKERS, target_groups=(TargetGroup(name="web"),))
    world.table.apply(Snapshot(config, 1, (entry(0),), (0, 5, 2)))
    assert world.table.targets[0].load() == 4


def test_counts_are_stored_at_the_tick(world: World) -> None:
    world.apply(entry(3))
    target = world.table.targets[3]
    target.begin()
    target.sent(100)
    target.received(40)
    target.received(2)
    target.connection_opened()
    target.count_error()
    target.status_5xx += 1
    target.end(0.003)
    assert world.cell(3, Cell.REQUESTS) == 0
    before = time.monotonic_ns()
    world.table.flush()
    wanted = {
        Cell.IN_FLIGHT: 0,
        Cell.REQUESTS: 1,
        Cell.ERRORS: 1,
        Cell.STATUS_5XX: 1,
        Cell.CONNECTIONS: 1,
        Cell.BYTES_IN: 42,
        Cell.BYTES_OUT: 100,
        Cell.WAITING: 0,
    }
    assert {cell: world.cell(3, cell) for cell in wanted} == wanted
    assert before <= world.cell(3, Cell.LAST_BYTE_NS) <= time.monotonic_ns()
    histogram = world.counters.histogram(3, WORKERS)
    assert sum(histogram) == 1
    low, high = bucket_bounds(histogram.index(1))
    assert low <= 3000 < high
    assert HISTOGRAM + bucket_of(3000) < HISTOGRAM + len(histogram)


def test_only_our_own_row_is_written(world: World) -> None:
    world.apply(entry(3))
    target = world.table.targets[3]
    target.begin()
    target.received(1)
    target.end(1.0)
    world.table.flush()
    cells = world.counters.cells
    for index in range(world.counters.cells.nbytes // 8 // ROW):
        touched = any(cells[index * ROW + block(3) : index * ROW + block(4)])
        assert touched is (index == ROW_OF_OURS)
    ours = world.counters.row(ROW_OF_OURS)
    assert not any(ours[block(2) : block(3)])
    assert not any(ours[block(4) : block(5)])


def test_what_did_not_change_is_not_stored_again(world: World) -> None:
    world.apply(entry(0), entry(1))
    world.table.targets[0].begin()
    world.table.targets[0].end(None)
    assert [target.index for target in world.table.dirty] == [0]
    world.table.flush()
    assert world.table.dirty == []
    last_byte = world.cell(0, Cell.LAST_BYTE_NS)
    world.table.flush()
    assert world.cell(0, Cell.LAST_BYTE_NS) == last_byte == 0


def test_who_waits_for_a_first_byte_is_known_at_the_tick(world: World) -> None:
    world.apply(entry(0))
    target = world.table.targets[0]
    target.begin()
    target.begin()
    world.table.flush()
    since = world.cell(0, Cell.WAITING_SINCE_NS)
    assert world.cell(0, Cell.WAITING) == 2
    assert 0 < since <= time.monotonic_ns()
    target.received(10)
    target.answering += 1
    world.table.flush()
    assert world.cell(0, Cell.WAITING) == 1
    assert world.cell(0, Cell.WAITING_SINCE_NS) == since
    target.answering -= 1
    target.end(0.1)
    target.end(None)
    world.table.flush()
    assert world.cell(0, Cell.WAITING) == world.cell(0, Cell.WAITING_SINCE_NS) == 0


def test_a_stream_that_begins_after_a_tick_is_not_waited_for(world: World) -> None:
    # A TCP connection is being opened at the tick, and says nothing when it is open.
    world.apply(entry(0))
    target = world.table.targets[0]
    target.begin()
    world.table.flush()
    assert world.cell(0, Cell.WAITING) == 1
    target.answering += 1
    target.connection_opened()
    world.table.flush()
    assert world.cell(0, Cell.WAITING) == 0


@settings(max_examples=50)
@given(st.floats(0, 400), st.integers(1, 5))
def test_latencies_go_to_the_bucket_that_holds_them(seconds: float, times: int) -> None:
    counters = Counters()
    world = World(counters)
    world.apply(entry(0))
    for _ in range(times):
        world.table.targets[0].begin()
        world.table.targets[0].end(seconds)
    world.table.flush()
    assert counters.histogram(0, WORKERS)[bucket_of(int(seconds * 1e6))] == times
    world.table.bytes.release()
    counters.close()


# -- doubt


def test_a_failed_target_is_doubted_at_once_and_reported(world: World) -> None:
    world.apply(entry(0, epoch=4), entry(1))
    target = world.table.targets[0]
    target.failed("refused", "connection refused on 127.0.0.1:9000")
    assert world.reports == [Evidence(0, 4, "refused", "connection refused on 127.0.0.1:9000")]
    assert world.picks(10) == {"127.0.0.1:9001": 10}
    target.failed("reset", "x")
    assert len(world.reports) == 2
    assert len(world.loop.timers) == 1
    assert target.errors == 2
    assert not world.table.groups["web"].fail_open


def test_an_error_that_is_no_evidence_changes_no_choice(world: World) -> None:
    world.apply(entry(0), entry(1))
    world.table.targets[0].count_error()
    assert world.reports == []
    assert len(world.picks(10)) == 2


def test_a_doubt_ends_by_itself_later_each_time(world: World) -> None:
    world.apply(entry(0), entry(1))
    target = world.table.targets[0]
    delays = []
    for _ in range(8):
        target.failed("refused", "x")
        assert target.doubted
        delays.append(world.loop.fire())
        assert not target.doubted
        assert len(world.picks(10)) == 2
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_doubt_ends_with_the_supervisors_verdict(world: World) -> None:
    world.apply(entry(0), entry(1))
    target = world.table.targets[0]
    target.failed("refused", "x")
    world.apply(entry(0), entry(1))
    assert target.doubted, "the same table says nothing new"
    world.apply(entry(0, state="unhealthy"), entry(1))
    assert not target.doubted
    assert world.loop.timers[0].cancelled
    assert world.picks(10) == {"127.0.0.1:9001": 10}
    world.apply(entry(0, epoch=1), entry(1))
    assert len(world.picks(10)) == 2


def test_a_doubt_ends_where_the_target_has_passed_a_check_since(world: World) -> None:
    world.apply(entry(0, epoch=3), entry(1))
    target = world.table.targets[0]
    target.failed("reset", "x")
    world.apply(entry(0, epoch=4), entry(1))
    assert not target.doubted
    target.failed("reset", "x")
    assert world.loop.timers[-1].delay == 1.0, "a new row of doubts"
    assert world.reports[-1].epoch == 4


def test_doubting_all_is_failing_open(world: World) -> None:
    world.apply(entry(0), entry(1))
    for target in world.table.targets.values():
        target.failed("refused", "x")
    assert world.table.groups["web"].fail_open
    assert len(world.picks(10)) == 2


def test_a_target_that_is_known_to_be_bad_is_not_doubted(world: World) -> None:
    world.apply(entry(0, state="unhealthy"), entry(1))
    world.table.targets[0].failed("refused", "x")
    assert not world.table.targets[0].doubted
    assert world.loop.timers == []


# -- picks


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_who_was_tried_is_not_picked_again(world: World, algorithm: Algorithm) -> None:
    group = TargetGroup(name="web", algorithm=algorithm)
    world.apply(*(entry(index, weight=index + 1) for index in range(3)), groups=(group,))
    pick = world.table.groups["web"].pick
    for client in map(str, range(20)):
        tried: list[TargetRuntime] = []
        for _ in range(3):
            target = pick(client, tried)
            assert target is not None
            assert target not in tried
            tried.append(target)
        assert pick(client, tried) is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_second_tries_do_not_all_go_to_one_target(world: World, algorithm: Algorithm) -> None:
    random.seed(7)
    group = TargetGroup(name="web", algorithm=algorithm)
    world.apply(*(entry(index) for index in range(4)), groups=(group,))
    failed = [world.table.targets[0]]
    found: Counter[int] = Counter()
    for client in range(90):
        target = world.table.groups["web"].pick(f"192.0.2.{client}", failed)
        assert target is not None
        target.begin()
        found[target.index] += 1
    assert set(found) == {1, 2, 3}
    assert min(found.values()) > 10


def test_where_nobody_is_left_nobody_is_picked(world: World) -> None:
    world.apply()
    assert world.picks(1) == {"-": 1}
    world.apply(
        entry(0, state="draining"),
        entry(1, state="unused"),
        entry(2, weight=0),
        entry(3, state="disabled"),
    )
    assert world.picks(1) == {"-": 1}
    assert world.table.groups["web"].pick("", [world.table.targets[0]]) is None


def test_a_suspect_gets_nothing_while_others_can(world: World) -> None:
    world.apply(entry(0, suspect=True), entry(1))
    assert world.picks(10) == {"127.0.0.1:9001": 10}
    world.apply(entry(0), entry(1))
    assert len(world.picks(10)) == 2


def test_a_backup_gets_nothing_while_a_primary_can(world: World) -> None:
    world.apply(entry(0), entry(1, backup=True))
    assert world.picks(10) == {"127.0.0.1:9000": 10}
    world.table.targets[0].failed("refused", "x")
    assert world.picks(10) == {"127.0.0.1:9001": 10}
    world.apply(entry(0, epoch=1), entry(1, backup=True))
    assert world.picks(10) == {"127.0.0.1:9000": 10}


# -- from table to table


def test_a_target_that_stays_keeps_its_state(world: World) -> None:
    world.apply(entry(0), entry(1))
    target = world.table.targets[0]
    pool = target.pool
    target.begin()
    world.apply(entry(0, weight=5, state="draining", backup=True, suspect=True))
    assert world.table.targets == {0: target}
    assert (target.pool, target.in_flight) == (pool, 1)
    assert (target.weight, target.state, target.backup, target.suspect) == (
        5,
        "draining",
        True,
        True,
    )
    assert len(world.made) == 2


def test_a_target_that_goes_is_closed(world: World) -> None:
    world.apply(entry(0), entry(1))
    gone = world.table.targets[1]
    gone.failed("refused", "x")
    world.apply(entry(0))
    assert gone.pool.closed
    assert all(timer.cancelled for timer in world.loop.timers)
    assert world.picks(5) == {"127.0.0.1:9000": 5}


def test_another_address_in_the_same_column_is_another_target(world: World) -> None:
    world.apply(entry(0))
    old = world.table.targets[0]
    world.apply(entry(0, address="unix:/run/app.sock"))
    new = world.table.targets[0]
    assert new is not old
    assert old.pool.closed
    assert not new.pool.closed
    assert new.address.is_unix
    assert world.picks(3) == {"unix:/run/app.sock": 3}


def test_what_was_learned_of_a_target_is_forgotten_with_its_epoch(world: World) -> None:
    world.apply(entry(0))
    pool = world.table.targets[0].pool
    world.apply(entry(0, state="unhealthy"))
    assert pool.forgot == 0
    world.apply(entry(0, epoch=1))
    assert pool.forgot == 1


def test_groups_come_change_and_go(world: World) -> None:
    web, api = TargetGroup(name="web"), TargetGroup(name="api")
    world.apply(entry(0), entry(1, group="api"), groups=(web, api))
    assert world.picks(2, "api") == {"127.0.0.1:9001": 2}
    moved = world.table.targets[1]
    changed = TargetGroup(name="web", algorithm="round_robin", response_timeout=5.0)
    world.apply(entry(0), entry(1), groups=(changed,))
    assert set(world.table.groups) == {"web"}
    assert world.table.targets[1] is moved
    assert moved.group is world.table.groups["web"]
    assert moved.group.settings is changed
    assert world.picks(10) == {"127.0.0.1:9000": 5, "127.0.0.1:9001": 5}
    world.apply(entry(0), entry(1, group="api"), groups=(changed,))
    assert moved.pool.closed, "of a group that is not there"


def test_round_robin_goes_on_where_it_was_through_tables_that_change_nothing(world: World) -> None:
    group = TargetGroup(name="web", algorithm="round_robin")
    entries = [entry(index) for index in range(3)]
    found: Counter[str] = Counter()
    for _ in range(30):
        world.apply(*entries, groups=(group,))
        found += world.picks(1)
    assert set(found.values()) == {10}


def test_a_weight_that_changes_counts(world: World) -> None:
    group = TargetGroup(name="web", algorithm="round_robin")
    world.apply(entry(0), entry(1), groups=(group,))
    assert set(world.picks(10).values()) == {5}
    world.apply(entry(0, weight=4), entry(1), groups=(group,))
    assert world.picks(10) == {"127.0.0.1:9000": 8, "127.0.0.1:9001": 2}


# -- groups that hold requests while no instance is there

HOLDING = (TargetGroup(name="web", hold=Hold(30.0, 100)),)


def test_an_instance_gets_nothing_before_its_first_passed_check(world: World) -> None:
    world.apply(entry(0, state="initial"), entry(1, state="draining"), groups=HOLDING)
    assert world.picks(1) == {"-": 1}
    assert not world.table.groups["web"].can_take(())
    world.apply(entry(0, state="initial"), entry(2, state="unhealthy"), groups=HOLDING)
    assert world.picks(1) == {"127.0.0.1:9002": 1}, "a wrong verdict must not be an outage"
    world.apply(entry(0, state="initial"))
    assert world.picks(1) == {"127.0.0.1:9000": 1}, "without holding it is all there is"


@pytest.mark.parametrize(
    ("kinds", "left"),
    [(("refused",), 0), (("reset",), 1), (("timeout",), 1), (("reset", "refused", "reset"), 0)],
)
def test_an_only_instance_gets_nothing_once_it_refused(
    world: World, kinds: tuple[str, ...], left: int
) -> None:
    world.apply(entry(0), groups=HOLDING)
    target, group = world.table.targets[0], world.table.groups["web"]
    for kind in kinds:
        target.failed(kind, "gone")
    assert world.picks(1) == ({"127.0.0.1:9000": 1} if left else {"-": 1})
    assert not group.can_take((target,)), "it would fail the same request again"
    assert group.can_take(()) is bool(left)
    world.loop.fire()
    assert group.can_take((target,)), "who is no longer doubted may be asked again"
    target.failed("refused", "gone")
    world.apply(entry(0, epoch=1), groups=HOLDING)
    assert group.can_take((target,))
    assert world.picks(1) == {"127.0.0.1:9000": 1}


def test_without_holding_an_only_target_that_refused_is_asked_again(world: World) -> None:
    world.apply(entry(0))
    world.table.targets[0].failed("refused", "gone")
    assert world.picks(1) == {"127.0.0.1:9000": 1}


def test_waits_are_counted_for_the_target_that_ended_them(world: World) -> None:
    world.apply(entry(3))
    target = world.table.targets[3]
    for wait in (0.5, 1.25):
        target.begin_held(wait)
        target.begin()
    world.table.flush()
    assert world.cell(3, Cell.QUEUED) == 2
    assert world.cell(3, Cell.QUEUE_WAIT_US) == 1_750_000
    totals = world.counters.target(3, WORKERS)
    assert (totals.queued, totals.queue_wait_us, totals.requests) == (2, 1_750_000, 2)
