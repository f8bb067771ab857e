"""Reloads in a row under load: each changes a weight, a rule and a target, some the number of workers.

The long run of it is bench.reload_tests.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.load import HALF_BUSY, LoadClient, LoadResult
from tests.support.processes import open_files, resident_bytes, wait_until
from tests.support.raw_client import RawClient
from tests.support.reloading import ReloadedFastlb, group, listener
from tests.support.targets import AppTarget, DemoTarget, LightTarget
from tests.support.websocket_crowd import WebSocketCrowd

MEGABYTE = 1 << 20


@dataclass
class Reloads:
    """What a row of reloads cost. Bytes and files are those of each worker that was there throughout,
    and of the supervisor at the end of each list, before and after."""

    load: LoadResult
    cut: list[str]
    messages: int
    seconds: list[float]
    """That each reload took."""
    rss: tuple[list[int], list[int]]
    files: tuple[list[int], list[int]]


def configuration(number: int, targets: list[AppTarget], every: int) -> list[str]:
    """The file as of reload `number`."""
    one, two, three, sockets = targets
    web = [{"address": str(one), "weight": 1 + number % 5}, two, *([three] if number % 2 else [])]
    rules: list[dict[str, object]] = [
        {"priority": 1, "path": ["/ws"], "forward": "sockets"},
        {
            "priority": 10 + number % 7,
            "path": ["/rule"],
            "fixed_response": {"status": 200, "body": str(number)},
        },
    ]
    return [
        f"workers = {2 + number // every % 2}\n",
        listener("http://127.0.0.1:0", "web", *rules),
        group("web", web, health_check={"path": "/health"}, keepalive_timeout="0.3s"),
        group("sockets", [sockets]),
    ]


def reloads(
    root: Path,
    count: int,
    connections: int = 64,
    websockets: int = 50,
    every: int = 10,
    pace: Mapping[str, Any] | None = None,
    app: type[AppTarget] = DemoTarget,
) -> Reloads:
    """`count` reloads in a row; `every` so many the number of workers changes, 2 to 3 and back."""
    assert count // every % 2 == 0, "the number of workers must come back to what it was"
    with ExitStack() as stack:
        targets = [stack.enter_context(app(name)) for name in ("one", "two", "three")]
        targets.append(stack.enter_context(DemoTarget("ws")))
        fastlb = stack.enter_context(ReloadedFastlb(root, *configuration(0, targets, every)))
        fastlb.wait_states()
        crowd = stack.enter_context(
            WebSocketCrowd(f"ws://127.0.0.1:{fastlb.port}/ws", websockets, 0.5)
        )
        for number in (1, 0):  # what the first load and the first reloads cost comes once
            with LoadClient(
                fastlb.port, connections=connections, seconds=0.5, **(pace or {})
            ) as warming:
                fastlb.reload(*configuration(number, targets, every))
                assert not warming.wait().failures
        pids = [*fastlb.worker_pids(), fastlb.pid]
        before = settled(fastlb, pids)
        seconds = []
        with LoadClient(fastlb.port, connections=connections, **(pace or {})) as load:
            load.started()
            for number in range(1, count + 1):
                begun = time.monotonic()
                said = fastlb.reload(*configuration(number, targets, every))
                seconds.append(time.monotonic() - begun)
                assert len(said) >= 3, said
                with RawClient(fastlb.port) as client:
                    client.send([b"GET /rule HTTP/1.1\r\nHost: a\r\n\r\n"])
                    assert client.answer().body == str(number).encode()
            result = load.stop()
        wait_until(lambda: len(fastlb.status()["workers"]) == 2, 40, "retired workers have ended")
        after = settled(fastlb, pids)
        cut = crowd.stop()
        assert [*fastlb.worker_pids(), fastlb.pid] == pids
        fastlb.stop()
        return Reloads(
            result,
            cut,
            crowd.messages,
            seconds,
            ([one[0] for one in before], [one[0] for one in after]),
            ([one[1] for one in before], [one[1] for one in after]),
        )


def settled(fastlb: ReloadedFastlb, pids: list[int]) -> list[tuple[int, int]]:
    """Resident bytes and open files of each, once no pooled connection is left but those of streams."""

    def pooled() -> bool:
        targets = fastlb.targets("web").values()
        return all(one["connections"] == 0 for one in targets)

    wait_until(pooled, 30, "the pools are empty")
    return [(resident_bytes(pid), open_files(pid)) for pid in pids]


def assert_flat(found: Reloads) -> None:
    assert not found.load.failures, str(found.load)
    assert not found.cut, found.cut
    for before, after in zip(*found.rss, strict=True):
        assert after < before + 4 * MEGABYTE, found.rss
    for before, after in zip(*found.files, strict=True):
        assert after <= before + 2, found.files


def test_reloads_under_load(run_root: Path) -> None:
    found = reloads(
        run_root, 4, connections=16, websockets=6, every=2, pace=HALF_BUSY, app=LightTarget
    )
    assert found.load.succeeded > 100
    assert_flat(found)
