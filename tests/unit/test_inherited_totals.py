"""Totals go on over an upgrade, exactly, whoever still counts in the other supervisor's memory."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest

from fastlb.control_plane.inherited_totals import InheritedTotals, export
from fastlb.control_plane.totals import Totals
from fastlb.target_table.counters import HISTOGRAM, Cell, Counters, Worker, block, bucket_of
from fastlb.target_table.layout import TargetEntry

WEB = TargetEntry(3, "web", "127.0.0.1:1", 1, False, "healthy")
SAME_ELSEWHERE = TargetEntry(0, "web", "127.0.0.1:1", 1, False, "healthy")
KEY = ("web", "127.0.0.1:1")


@pytest.fixture
def memories() -> Iterator[list[Counters]]:
    made = [Counters() for _ in range(3)]
    yield made
    for one in made:
        try:
            one.close()
        except (OSError, ValueError):
            continue  # a fold has closed it


def work(counters: Counters, row: int, column: int, requests: int) -> None:
    cells = counters.row(row)
    cells[Worker.REQUESTS] += requests
    at = block(column)
    cells[at + Cell.REQUESTS] += requests
    cells[at + HISTOGRAM + bucket_of(1000)] += requests


def passed_on(totals: Totals, before: InheritedTotals | None = None) -> dict[str, object]:
    """As it comes over the socket."""
    said: dict[str, object] = msgpack.unpackb(msgpack.packb(export(totals, before, {KEY}, ())))
    return said


def test_what_dead_living_and_draining_workers_did_is_counted_once(
    memories: list[Counters],
) -> None:
    old, new, _ = memories
    totals = Totals(old, 2)
    work(old, 0, 3, 5)
    totals.absorb(0, [WEB])  # a worker died
    work(old, 0, 3, 7)
    work(old, 1, 3, 11)
    before = InheritedTotals(old, 2, [WEB])
    before.add_dead(passed_on(totals))
    after = Totals(new, 2)
    after.before = before
    assert after.head(Worker.REQUESTS) == 23
    work(old, 1, 3, 100)  # it drains, and still answers
    work(new, 0, 0, 1000)
    for _ in range(2):
        assert after.head(Worker.REQUESTS) == 1123
        figures = after.target(SAME_ELSEWHERE)
        assert figures.requests == 1123
        assert sum(figures.histogram) == 1123
        before.fold()  # the last one has ended
    assert after.head(Worker.CONNECTIONS) == 0


def test_upgrades_in_a_row_add_up(memories: list[Counters]) -> None:
    first, second, third = memories
    work(first, 0, 3, 1)
    one = InheritedTotals(first, 1, [WEB])
    one.add_dead(passed_on(Totals(first, 1)))
    totals = Totals(second, 1)
    totals.before = one
    work(second, 0, 0, 10)
    two = InheritedTotals(second, 1, [SAME_ELSEWHERE])
    two.add_dead(passed_on(totals, one))
    last = Totals(third, 1)
    last.before = two
    work(third, 0, 0, 100)
    assert last.head(Worker.REQUESTS) == 111
    assert last.target(SAME_ELSEWHERE).requests == 111
    one.fold()


def test_a_target_that_is_not_registered_any_more_is_not_passed_on(
    memories: list[Counters],
) -> None:
    first, second, _ = memories
    work(first, 0, 3, 4)
    before = InheritedTotals(first, 1, [WEB])
    said = export(Totals(second, 1), before, set(), ())
    assert said["targets"] == []
    assert said["heads"]["REQUESTS"] == 4
