"""Targets that are no Instances leave in the Instances' order, and after the drain timeout at the latest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastlb.control_plane.departures import Departures
from tests.unit.test_group_targets import Stage, on_stage


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@on_stage
async def test_it_is_gone_when_all_have_seen_that_and_nothing_is_in_flight(stage: Stage) -> None:
    target = stage.register()._target
    await stage.published()
    stage.worker(0)
    stage.in_flight(0, 1)
    departures = Departures(stage.all, stage.registry)
    departures.leave(target, 60.0)
    assert target.draining
    departures.leave(target, 0.0)  # who leaves already is not hurried
    stage.worker(0, await stage.published())
    await asyncio.sleep(0.05)
    assert len(stage.registry) == 1, "one request is in flight"
    stage.in_flight(0, 0)
    await until(lambda: not len(stage.registry))
    assert stage.register(9002)._target.index == 1, "its column may still be written"
    stage.worker(0, await stage.published())
    stage.all.release_retired()
    stage.worker(0)
    stage.all.release_retired()
    assert stage.register(9003)._target.index == 0
    await departures.close()


@on_stage
async def test_at_the_drain_timeout_it_goes_with_what_it_has_and_that_is_told(stage: Stage) -> None:
    told: list[tuple[str, str, str, str]] = []
    target = stage.register()._target
    stage.registry.told = lambda *what: told.append(what)
    stage.worker(0, await stage.published())
    stage.in_flight(0, 2)
    departures = Departures(stage.all, stage.registry)
    departures.leave(target, 0.05)
    stage.worker(0, await stage.published())
    await until(lambda: not len(stage.registry))
    stage.worker(0, await stage.published())
    await until(lambda: told[-1][2].startswith("left with"))
    assert told[-1] == (
        "routing",
        "127.0.0.1:9001",
        "left with 2 requests in flight",
        "the drain timeout of 0.05 s is over",
    )
    stage.all.release_retired()
    assert [one.index for one in stage.registry.leaving()] == [0], "its column is kept for them"
    await departures.close()


@on_stage
async def test_the_end_of_the_instance_waits_for_nobody(stage: Stage) -> None:
    target = stage.register()._target
    stage.worker(0, await stage.published())
    stage.in_flight(0, 1)
    departures = Departures(stage.all, stage.registry)
    departures.leave(target, 60.0)
    async with asyncio.timeout(10):
        await departures.close()
    assert len(stage.registry) == 1
