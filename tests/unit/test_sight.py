"""A Reading is what the counters say, over all workers, dead and alive, and over targets that went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fastlb.admin.rates import rates
from fastlb.admin.reading import Reading
from fastlb.admin.sampler import Sampler
from fastlb.control_plane.listener_columns import ListenerColumns
from fastlb.control_plane.sight import Sight
from fastlb.control_plane.target_counts import ListenerLatencies
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.totals import Totals
from fastlb.control_plane.worker_pool import Worker
from fastlb.history import History
from fastlb.model.address import parse_address
from fastlb.model.configuration import Configuration
from fastlb.model.listener import Forward, Listener, WeightedGroup
from fastlb.model.target_group import Target, TargetGroup
from fastlb.target_table.counters import (
    HISTOGRAM,
    Cell,
    Counters,
    ListenerCell,
    block,
    bucket_of,
    listener_block,
    percentile,
)
from fastlb.target_table.counters import Worker as Head
from fastlb.target_table.handover import listener_key

ROWS = 3


class World:
    def __init__(self, targets: int = 2) -> None:
        addresses = [parse_address(f"127.0.0.1:{9000 + n}") for n in range(targets)]
        group = TargetGroup(name="web", targets=tuple(Target(one) for one in addresses))
        listener = Listener(
            protocol="http",
            address=parse_address("127.0.0.1:8080"),
            default=Forward((WeightedGroup("web"),)),
        )
        self.key = listener_key(listener)
        self.configuration = Configuration(listeners=(listener,), target_groups=(group,))
        self.counters = Counters()
        self.totals = Totals(self.counters, ROWS)
        self.columns = ListenerColumns()
        self.columns.assign([self.key])
        self.registry = TargetRegistry((group,), {"web"}, lambda: None)
        self.registry.released = self.totals.retire
        self.scaling: Any = SimpleNamespace(
            status=list, groups={}, activities=History(), decisions=History()
        )
        self.workers = tuple(Worker(index) for index in range(ROWS))
        self.hung: frozenset[int] = frozenset()
        self.draining = False
        self.pids = [100, 200, 300]
        self.sight = Sight(self)

    def work(self, row: int, target: int, *milliseconds: int) -> None:
        """What a worker writes that answered a request in each of these times."""
        cells = self.counters.row(row)
        cells[Head.PID] = self.pids[row]
        at = block(target)
        for one in milliseconds:
            cells[at + HISTOGRAM + bucket_of(one * 1000)] += 1
            cells[at + Cell.LATENCY_US] += one * 1000
        cells[at + Cell.REQUESTS] += len(milliseconds)
        place = listener_block(self.columns[self.key])
        cells[place + ListenerCell.STATUS_2XX] += len(milliseconds)
        cells[Head.STATUS_2XX] += len(milliseconds)
        cells[Head.REQUESTS] += len(milliseconds)
        cells.release()

    def dies(self, row: int) -> None:
        entries = (*self.registry.entries(), *self.registry.leaving())
        self.totals.absorb(row, entries, listeners=[self.columns[self.key]])
        self.pids[row] += 1

    def counted(self, reading: Reading | None = None) -> tuple[int, ...]:
        """Requests by listener, group, all; and what the group's histogram holds."""
        found = reading or self.sight.read()
        (listener,), (group,) = found.listeners, found.groups
        statuses = listener.counts.statuses
        assert statuses is not None
        assert group.counts.histogram is not None
        under = sum(count for _, count in self.sight.buckets(group.counts.histogram))
        return statuses[1], group.counts.requests, found.totals.requests, under


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.counters.close()


def test_nothing_is_lost_with_a_worker_or_a_target(world: World) -> None:
    world.work(0, 0, 1, 2, 3)
    world.work(1, 1, 10)
    assert world.counted() == (4, 4, 4, 4)
    world.dies(0)
    assert world.counted() == (4, 4, 4, 4)
    world.work(0, 0, 5)
    assert world.counted() == (5, 5, 5, 5)
    world.registry.deregister(0)
    assert world.counted() == (5, 5, 5, 5)
    world.work(2, 0, 7)  # what was in flight there still
    assert world.counted() == (6, 6, 6, 6)
    world.dies(2)
    assert world.counted() == (6, 6, 6, 6)
    world.registry.release(0, world.counters, ROWS)
    assert world.counted() == (6, 6, 6, 6)
    world.registry.register("web", Target(parse_address("127.0.0.1:9009")))
    reading = world.sight.read()
    assert world.counted(reading) == (6, 6, 6, 6)
    assert {one.address: one.counts.requests for one in reading.targets} == {
        "127.0.0.1:9001": 1,
        "127.0.0.1:9009": 0,
    }


def under(world: World, histogram: int | None) -> int:
    """How many a histogram holds."""
    assert histogram is not None
    return sum(count for _, count in world.sight.buckets(histogram))


def test_a_workers_histogram_is_what_its_row_adds(world: World) -> None:
    def held(reading: Reading) -> list[int]:
        return [under(world, one.counts.histogram) for one in reading.workers]

    world.work(0, 0, 1, 2, 3)
    world.work(1, 0, 10)
    world.work(1, 1, 10, 20)
    before = world.sight.read()
    assert held(before) == [3, 3, 0]
    world.work(0, 1, 4, 4, 4)
    now = world.sight.read()
    found = rates(before.workers[0].counts, now.workers[0].counts, 1.0, world.sight.latencies)
    assert found.percentiles is not None
    assert found.percentiles[0] == pytest.approx(0.004, rel=0.2)
    assert held(now) == [6, 3, 0]
    world.dies(0)
    assert held(world.sight.read()) == [6, 3, 0]
    world.work(0, 0, 5)
    assert held(world.sight.read()) == [7, 3, 0]
    world.dies(0)
    world.work(0, 0, 5, 500)  # its successor is at work before anybody looks
    assert held(world.sight.read()) == [9, 3, 0]
    world.registry.deregister(0)
    world.registry.release(0, world.counters, ROWS)
    world.registry.register("web", Target(parse_address("127.0.0.1:9009")))
    assert held(world.sight.read()) == [9, 3, 0]
    world.work(0, 0, 8)
    assert held(world.sight.read()) == [10, 3, 0]


def test_a_listener_has_the_latencies_of_the_groups_that_only_it_uses(world: World) -> None:
    before = world.sight.read()
    world.work(0, 0, 4, 4)
    now = world.sight.read()
    assert under(world, now.listeners[0].counts.histogram) == 2
    found = rates(before.listeners[0].counts, now.listeners[0].counts, 1.0, world.sight.latencies)
    assert found.percentiles is not None
    (one,) = world.configuration.listeners
    other = replace(one, address=parse_address("127.0.0.1:8081"))
    world.columns.assign([world.key, listener_key(other)])
    world.configuration = replace(world.configuration, listeners=(one, other))
    world.work(0, 0, 4)
    assert [listener.counts.histogram for listener in world.sight.read().listeners] == [None, None]


def test_listeners_histograms_only_grow_while_groups_change_hands() -> None:
    listeners = ListenerLatencies()
    assert listeners.look({"a": {"x"}, "b": {"y"}}, {"x": 5, "y": 7}) == {"a": 0, "b": 0}
    assert listeners.look({"a": {"x"}, "b": {"y"}}, {"x": 6, "y": 9}) == {"a": 1, "b": 2}
    # y becomes a's too, and z is new; what they held before is not a's.
    assert listeners.look({"a": {"x", "y", "z"}, "b": set()}, {"x": 6, "y": 10, "z": 3}) == {
        "a": 2,
        "b": None,
    }
    assert listeners.look({"a": {"x"}}, {"x": 8}) == {"a": 4}


def test_a_histogram_is_read_again_when_it_grew(world: World) -> None:
    for n in range(1, 6):
        world.work(n % ROWS, 0, n)
        for _ in range(3):
            assert world.counted()[3] == n
    reading = world.sight.read()
    assert reading.targets[0].counts.latency_us == 15_000


def test_a_histogram_that_is_written_after_the_sums_is_not_missed(world: World) -> None:
    cells = world.counters.row(0)
    at = block(0)
    cells[at + Cell.REQUESTS] = cells[at + Cell.LATENCY_US] = 1
    assert world.counted()[3] == 0
    cells[at + HISTOGRAM] = 1
    assert world.counted()[3] == 1
    cells.release()


def test_latencies_are_those_of_the_tables_own_percentile(world: World) -> None:
    times = [1, 1, 2, 3, 5, 8, 13, 21, 34, 200]
    world.work(0, 0, *times)
    histogram = world.sight.read().targets[0].counts.histogram
    assert histogram is not None
    found = world.sight.latencies(histogram, (0.1, 0.5, 0.95, 1.0))
    plain = world.counters.histogram(0, ROWS)
    assert found == [percentile(plain, share) for share in (0.1, 0.5, 0.95, 1.0)]
    assert world.sight.latencies(0, (0.5,)) is None


def test_rates_are_of_the_time_between_two_readings(world: World) -> None:
    before = world.sight.read()
    world.work(0, 0, 4, 4, 4, 4)
    now = world.sight.read()
    found = rates(before.totals, now.totals, 2.0, world.sight.latencies)
    assert found.requests == 2.0
    assert found.statuses == (0.0, 2.0, 0.0, 0.0, 0.0)
    assert found.percentiles is not None
    assert found.percentiles[0] == pytest.approx(0.004, rel=0.2)
    plain = found.plain()
    assert plain["status"]["2xx"] == 2.0
    assert plain["requests_total"] == 4
    of_target = rates(before.targets[0].counts, now.targets[0].counts, 2.0, world.sight.latencies)
    assert of_target.plain()["status"] == dict.fromkeys(("1xx", "2xx", "3xx", "4xx")) | {"5xx": 0.0}
    assert rates(None, now.totals, 1.0, world.sight.latencies).requests == 0.0


def test_the_sampler_keeps_a_series_of_each_scope(world: World) -> None:
    sampler = Sampler(world.sight)
    reading = world.sight.read()
    for _ in range(3):
        world.work(0, 1, 2, 2)
        before, reading = reading, world.sight.read()
        reading.at, reading.time = before.at + 1, before.time + 1
        sampler.take(reading)
    for scope in ("all", f"listener:{world.key}", "group:web", "target:web/127.0.0.1:9001"):
        found = sampler.series.answer(scope, "5m")
        assert found is not None
        if not scope.startswith("listener"):
            assert found["series"]["requests"][-2:] == [2.0, 2.0]
    overview = sampler.overview()
    assert overview is sampler.overview()
    (listener,) = overview["listeners"]
    assert listener["status"]["2xx"] == 2.0
    assert overview["targets"][1]["p50_s"] == pytest.approx(0.002, rel=0.2)
    assert overview["groups"][0]["healthy"] == 0
