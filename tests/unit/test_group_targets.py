"""When a target is really out of use: workers that lag, hang, die, or belong to somebody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import pytest

from fastlb.auto_scaling.targets import RegisteredTarget, Registrar
from fastlb.control_plane.group_targets import GroupTargets, InstanceTarget, Parts
from fastlb.control_plane.publication import Publication
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.totals import Totals
from fastlb.errors import FastlbError
from fastlb.model.address import Address
from fastlb.model.configuration import Configuration
from fastlb.model.target_group import TargetGroup
from fastlb.model.target_health import CheckFailed, CheckPassed, RequestFailed
from fastlb.target_table.counters import HISTOGRAM, Cell, Counters, Worker, block, bucket_of
from fastlb.target_table.layout import Snapshot
from fastlb.target_table.writer import TableWriter

ROWS = 3


class Stage:
    """A registry, its publications, and the rows of workers that a test writes."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.writer = TableWriter()
        self.registry = TargetRegistry(
            [TargetGroup(name="web")], {"web"}, lambda: self.publication.changed()
        )
        self.publication = Publication(
            self.writer,
            lambda: Snapshot(Configuration(), 1, self.registry.entries(), (0,)),
            lambda: None,
        )
        self.strangers = False
        self.probed = 0
        self.all = GroupTargets(
            Parts(
                self.registry,
                cast("object", SimpleNamespace(see_new=self._see_new)),  # type: ignore[arg-type]
                self.publication,
                self.counters,
                Totals(self.counters, ROWS),
                ROWS,
                lambda: self.strangers,
            )
        )

    def _see_new(self) -> None:
        self.probed += 1

    def close(self) -> None:
        self.publication.end()
        self.counters.close()
        self.writer.close()

    def register(self, port: int = 9001) -> InstanceTarget:
        return self.all.register("web", Address(host="127.0.0.1", port=port), lambda: None)

    def set(self, row: int, cell: int, value: int) -> None:
        cells = self.counters.row(row)
        cells[cell] = value
        cells.release()

    def worker(self, row: int, generation: int | None = None) -> None:
        """It lives, acts on this generation of the table or on the newest, and has stored its counts."""
        self.set(row, Worker.PID, 100 + row)
        self.set(row, Worker.GENERATION, generation or self.writer.generation)
        self.set(row, Worker.BEAT_NS, time.monotonic_ns())

    def in_flight(self, row: int, many: int, index: int = 0) -> None:
        self.set(row, block(index) + Cell.IN_FLIGHT, many)

    async def published(self) -> int:
        """Once what has changed is published; its generation."""
        wanted = self.publication.next_generation
        async with asyncio.timeout(5):
            while self.writer.generation < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return wanted


def on_stage(scenario: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    """The test of a scenario."""

    async def play() -> None:
        stage = Stage()
        try:
            stage.publication.begin()
            await scenario(stage)
        finally:
            stage.close()

    def test() -> None:
        asyncio.run(play())

    test.__name__ = scenario.__name__  # type: ignore[attr-defined]
    return test


@on_stage
async def test_a_target_is_settled_when_all_have_seen_the_drain_and_nothing_is_in_flight(
    stage: Stage,
) -> None:
    target = stage.register()
    before = await stage.published()
    stage.worker(0)
    stage.worker(1)
    stage.in_flight(1, 2)
    target.drain()
    assert not target.settled, "not even published yet"
    await stage.published()
    assert not target.settled
    stage.worker(0)
    stage.in_flight(1, 0)
    assert not target.settled, "one lags: it may be giving it a request just now"
    stage.in_flight(1, 1)
    stage.worker(1)
    assert not target.settled, "it did"
    stage.in_flight(1, 0)
    assert target.settled
    stage.worker(2, before)
    assert not target.settled, "a new worker that has read no table yet is waited for as well"
    stage.worker(2, stage.writer.generation + 5)
    assert target.settled, "a newer one is as good"


@on_stage
async def test_a_hung_worker_is_waited_for_until_its_row_is_cleared(stage: Stage) -> None:
    target = stage.register()
    await stage.published()
    stage.worker(0)
    stage.worker(1)
    stage.in_flight(1, 3)
    target.drain()
    await stage.published()
    stage.worker(0)
    assert not target.settled
    stage.counters.clear_row(1, 1)
    assert target.settled


@on_stage
async def test_where_no_worker_lives_nobody_is_waited_for(stage: Stage) -> None:
    target = stage.register()
    target.drain()
    assert target.settled


@on_stage
async def test_while_workers_of_a_dead_supervisor_serve_nobody_is_settled(stage: Stage) -> None:
    target = stage.register()
    stage.strangers = True
    target.drain()
    await stage.published()
    assert not target.settled
    target.deregister()
    await stage.published()
    assert not target.forgotten
    stage.all.release_retired()
    assert stage.register(9002)._target.index == 1, "its column is not given away"
    stage.strangers = False
    assert target.forgotten


@on_stage
async def test_a_drain_of_one_that_drains_already_is_not_waited_for_anew(stage: Stage) -> None:
    target = stage.register()
    await stage.published()
    target.drain()
    await stage.published()
    stage.worker(0)
    target.drain()
    assert target.settled


@on_stage
async def test_a_column_comes_back_when_all_have_forgotten_it_and_nothing_is_in_flight(
    stage: Stage,
) -> None:
    target = stage.register()
    await stage.published()
    stage.worker(0)
    stage.in_flight(0, 1)
    stage.set(0, block(0) + Cell.REQUESTS, 7)
    target.deregister()
    await stage.published()
    assert not target.forgotten
    stage.all.release_retired()
    assert stage.register(9002)._target.index == 1
    await stage.published()
    stage.worker(0)
    assert target.forgotten
    stage.all.release_retired()
    assert stage.register(9003)._target.index == 2, "a request is still in flight"
    stage.in_flight(0, 0)
    stage.all.release_retired()
    stage.all.release_retired()
    assert stage.register(9005)._target.index == 3, "what it had counted is not stored yet"
    stage.worker(0)
    stage.all.release_retired()
    again = stage.register(9004)
    assert again._target.index == 0
    assert again.counts().requests == 0


@on_stage
async def test_changes_that_come_together_are_one_publication(stage: Stage) -> None:
    targets = [stage.register(9001 + number) for number in range(5)]
    before = await stage.published()
    for one in targets:
        one.drain()
        one.set_share(0.5)
    assert stage.publication.next_generation == before + 1
    await stage.published()
    stage.worker(0)
    assert all(one.settled for one in targets)


@on_stage
async def test_before_the_first_publication_the_first_one_is_waited_for(stage: Stage) -> None:
    other = Stage()
    try:
        target = other.register()
        other.worker(0, generation=0)
        target.drain()
        assert not target.settled
        other.publication.begin()
        other.worker(0)
        assert target.settled
    finally:
        other.close()


@on_stage
async def test_health_as_auto_scaling_sees_it(stage: Stage) -> None:
    heard = []
    target = stage.all.register("web", Address(host="127.0.0.1", port=1), lambda: heard.append(1))
    assert stage.probed == 1
    registered = target._target
    assert (target.sight().state, target.sight().failing) == ("initial", False)
    stage.registry.observe(registered, CheckPassed(1.0))
    assert (target.sight().state, len(heard)) == ("healthy", 1)
    stage.registry.observe(registered, RequestFailed(1, "reset", "by peer"))
    sight = target.sight()
    assert (sight.state, sight.failing) == ("unhealthy", False), "ejected, which is no failure yet"
    assert "last" not in sight.reason
    for at in range(10):
        stage.registry.observe(registered, CheckFailed(2.0 + at, "refused"))
    assert target.sight().failing
    target.deregister()
    told = len(heard)
    registered.changed()
    assert len(heard) == told, "who has left tells nobody"


@on_stage
async def test_what_it_did_is_summed_over_the_workers(stage: Stage) -> None:
    target = stage.register()
    for row in range(2):
        for cell, value in (
            (Cell.IN_FLIGHT, 1),
            (Cell.REQUESTS, 10),
            (Cell.ERRORS, 2),
            (Cell.STATUS_5XX, 3),
            (Cell.QUEUED, 4),
            (Cell.QUEUE_WAIT_US, 500_000),
            (HISTOGRAM + bucket_of(1000), 10),
        ):
            stage.set(row, block(0) + cell, value)
    counts = target.counts()
    assert (counts.in_flight, counts.requests, counts.failed) == (2, 20, 10)
    assert (counts.queued, counts.queue_wait, sum(counts.histogram)) == (8, 1.0, 20)
    p95 = stage.all.percentile(counts.histogram, 0.95)
    assert p95 == pytest.approx(0.001, rel=0.25)


@on_stage
async def test_the_same_address_twice_is_refused(stage: Stage) -> None:
    stage.register()
    with pytest.raises(FastlbError, match="registered twice"):
        stage.register()


@on_stage
async def test_it_is_what_auto_scaling_asks_for(stage: Stage) -> None:
    registrar: Registrar = stage.all
    target: RegisteredTarget = registrar.register("web", Address(path="/a"), lambda: None)
    target.deregister()


@on_stage
async def test_idle_is_when_all_have_seen_the_table_and_nothing_is_in_flight(stage: Stage) -> None:
    target = stage.register()._target
    before = await stage.published()
    stage.worker(0)
    assert stage.all.idle([target], before)
    stage.in_flight(0, 1)
    assert not stage.all.idle([target], before)
    stage.in_flight(0, 0)
    assert not stage.all.idle([target], before + 1)
    stage.strangers = True
    assert not stage.all.idle([target], before)
