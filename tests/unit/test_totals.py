"""What dead workers did is not forgotten, and the status says all that it promises."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from fastlb.control_plane.listener_columns import ListenerColumns
from fastlb.control_plane.status import Status, describe_action, describe_check
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.totals import Totals
from fastlb.control_plane.worker_pool import Worker
from fastlb.errors import FastlbError
from fastlb.model.address import parse_address
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.listener import FixedResponse, Forward, Listener, Redirect, WeightedGroup
from fastlb.model.target_group import Target, TargetGroup
from fastlb.target_table.counters import (
    HISTOGRAM,
    LISTENERS,
    Cell,
    Counters,
    ListenerCell,
    block,
    bucket_of,
    listener_block,
)
from fastlb.target_table.counters import Worker as Head
from fastlb.target_table.layout import TargetEntry

ROWS = 2


@pytest.fixture
def counters() -> Iterator[Counters]:
    made = Counters()
    yield made
    made.close()


def entry(index: int, address: str) -> TargetEntry:
    return TargetEntry(index, "web", address, 1, False, "healthy")


def work(counters: Counters, row: int, target: int, requests: int) -> None:
    """What a worker writes that served `requests` from one target, each in 1 ms, and holds one."""
    cells = counters.row(row)
    cells[Head.REQUESTS] += requests
    cells[Head.CONNECTIONS] = 1
    at = block(target)
    cells[at + Cell.REQUESTS] += requests
    cells[at + Cell.ERRORS] += 1
    cells[at + Cell.IN_FLIGHT] = 1
    cells[at + HISTOGRAM + bucket_of(1000)] += requests
    cells.release()


def test_totals_survive_deaths_and_what_was_held_does_not(counters: Counters) -> None:
    totals = Totals(counters, ROWS)
    one, other = entry(0, "127.0.0.1:1"), entry(1, "127.0.0.1:2")
    for life in range(1, 4):
        work(counters, 0, 0, requests=5)
        work(counters, 1, 1, requests=1)
        assert totals.head(Head.REQUESTS) == 5 * life + life
        assert totals.head(Head.CONNECTIONS) == 2
        held = [counters.row(row)[block(row) + Cell.IN_FLIGHT] for row in (0, 1)]
        assert [totals.in_flight([one, other], row) for row in (0, 1)] == held
        assert totals.in_flight([one, other]) == sum(held) > 0
        assert totals.in_flight([]) == 0
        totals.absorb(0, [one, other])
        assert totals.head(Head.REQUESTS) == 5 * life + life
        assert totals.head(Head.CONNECTIONS) == 1
        assert counters.target(0, ROWS).in_flight == 0
        found = totals.target(one)
        assert (found.requests, found.errors) == (5 * life, life)
        assert sum(found.histogram) == 5 * life
        assert totals.target(other).requests == life
    counters.clear_row(1, targets=2)


def test_an_index_that_another_target_got_does_not_inherit(counters: Counters) -> None:
    totals = Totals(counters, ROWS)
    work(counters, 0, 0, requests=5)
    totals.absorb(0, [entry(0, "127.0.0.1:1")])
    assert totals.target(entry(0, "127.0.0.1:9")).requests == 0


def test_what_a_group_did_does_not_go_with_its_targets(counters: Counters) -> None:
    totals = Totals(counters, ROWS)
    work(counters, 0, 0, requests=5)
    work(counters, 1, 0, requests=2)
    leaving = entry(0, "127.0.0.1:1")
    totals.absorb(0, [leaving])
    registry = TargetRegistry(
        (TargetGroup(name="web", targets=(Target(parse_address("127.0.0.1:1")),)),),
        {"web"},
        lambda: None,
    )
    registry.released = totals.retire
    registry.deregister(0)
    assert [one.address for one in registry.leaving()] == ["127.0.0.1:1"]
    assert totals.gone("web") is None
    registry.release(0, counters, ROWS)
    assert registry.leaving() == ()
    gone = totals.gone("web")
    assert gone is not None
    assert (gone.requests, gone.errors, sum(gone.histogram)) == (7, 2, 7)
    assert totals.target(leaving).requests == 0


def test_a_listeners_counts_survive_its_workers_and_its_absence(counters: Counters) -> None:
    totals = Totals(counters, ROWS)
    columns = ListenerColumns(totals.forget_listener)
    columns.assign(["http://a:1", "http://b:1"])
    at = listener_block(columns["http://b:1"])
    for row in range(ROWS):
        counters.row(row)[at + ListenerCell.REQUESTS] = 3
        counters.row(row)[at + ListenerCell.CONNECTIONS] = 1
    totals.absorb(0, (), listeners=[column for _, column in columns.items()])
    columns.assign(["http://a:1"])
    columns.assign(["http://c:1", "http://b:1"])
    assert len({column for _, column in columns.items()}) == 3
    found = totals.listener("http://b:1", columns["http://b:1"])
    assert (found[ListenerCell.REQUESTS], found[ListenerCell.CONNECTIONS]) == (6, 1)
    assert totals.listener("http://c:1", columns["http://c:1"]) == [0] * len(found)


def test_a_listener_column_is_given_away_only_where_none_is_free() -> None:
    given_away: list[int] = []
    columns = ListenerColumns(given_away.append)
    columns.assign(f"http://a:{port}" for port in range(LISTENERS))
    columns.assign(f"http://a:{port}" for port in range(1, LISTENERS))
    assert given_away == []
    columns.assign([f"http://a:{port}" for port in range(1, LISTENERS)] + ["tcp://new:1"])
    assert given_away == [0]
    assert columns["tcp://new:1"] == 0
    with pytest.raises(FastlbError, match="257 listeners"):
        columns.assign(f"http://b:{port}" for port in range(LISTENERS + 1))


@dataclass
class Fake:
    configuration: Configuration
    registry: TargetRegistry
    counters: Counters
    totals: Totals
    scaling: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(status=list))
    workers: tuple[Worker, ...] = (Worker(0, "running", os.getpid()), Worker(1))
    slots: tuple[int, ...] = (0, 0, 1)
    hung: frozenset[int] = frozenset()
    draining: bool = False
    overrides: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(removed=lambda group: [])
    )
    changes: list[None] = field(default_factory=list)


def test_the_status_is_what_was_agreed(counters: Counters) -> None:
    group = TargetGroup(name="web", targets=(Target(parse_address("127.0.0.1:9001"), 2),))
    listener = Listener(
        protocol="http",
        address=parse_address("127.0.0.1:8080"),
        default=Forward((WeightedGroup("web"),)),
    )
    configuration = Configuration(listeners=(listener,), target_groups=(group,), workers=2)
    registry = TargetRegistry((group,), {"web"}, lambda: None)
    totals = Totals(counters, ROWS)
    work(counters, 0, 0, requests=10)
    status = Status(Fake(configuration, registry, counters, totals), pid=7)
    answer = json.loads(json.dumps(status.answer()))
    assert answer["name"] == "default"
    assert answer["pid"] == 7
    assert answer["listeners"] == [
        {"address": "http://127.0.0.1:8080", "default": "forward web", "rules": 0}
    ]
    assert answer["totals"]["requests"] == 10
    (shown,) = answer["target_groups"]
    assert shown["fail_open"] is True
    assert shown["health_check"] == "TCP connect every 2 s"
    (target,) = shown["targets"]
    assert target["requests"] == 10
    assert target["weight"] == 2
    assert target["state"] == "initial"
    assert (target["override"], target["overrides"], shown["removed"]) == (None, [], [])
    assert target["p50_s"] == pytest.approx(0.001, rel=0.25)
    first, second = answer["workers"]
    assert first["slots"] == [0, 1]
    assert first["rss_bytes"] > 0
    assert (second["state"], second["pid"], second["slots"]) == ("dead", 0, [2])
    assert status.answer()["workers"][0]["cpu_percent"] == first["cpu_percent"]


def test_descriptions() -> None:
    two = Forward((WeightedGroup("a", 9), WeightedGroup("b", 1)))
    assert describe_action(two) == "forward a 9, b 1"
    assert describe_action(Redirect(status=301)) == "redirect 301"
    assert describe_action(FixedResponse(status=404)) == "fixed response 404"
    assert describe_check(HealthCheck(enabled=False)) == "off"
    check = HealthCheck(path="/up", matcher=((200, 200), (300, 399)), interval=0.5)
    assert describe_check(check) == "GET /up every 0.5 s expects 200,300-399"
