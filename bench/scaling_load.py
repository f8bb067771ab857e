"""Cases of auto scaling in which instances come and go under load, and no request may fail."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.scaling_group import (
    Row,
    ScalingGroup,
    configuration,
    configure,
    demo,
    kill,
    row,
    scaling_group,
    timeline,
)
from tests.support.load import LoadClient, LoadResult
from tests.support.processes import wait_until

GET: dict[str, Any] = {}
POST: dict[str, Any] = {"method": "POST", "path": "/echo", "body_bytes": 2000}
BY_VERSION = {"target_header": "x-demo-version"}
CONNECTIONS = 16
STEP_LOAD = {"connections": 2, "path": "/burn?ms=5"}
"""One instance answers 200 a second of these at most, and then uses all of one core."""
TRICKLE = {"connections": 1, "path": "/burn?ms=5", "pause": 0.2}
STEP_SECONDS = 45.0
SCALE_IN_SECONDS = 200.0
"""Of the default periods: 15 datapoints of 5 s, and the warm-up of whoever came last."""
KILL_EVERY = 0.5


@contextmanager
def loaded(group: ScalingGroup, **options: Any) -> Iterator[LoadClient]:
    """Constant load, from its first answer on."""
    with LoadClient(group.port, **{"connections": CONNECTIONS, **options}) as load:
        yield load.started()


def assert_none_failed(result: LoadResult) -> None:
    assert result.failed == 0, str(result)


def load_step(root: Path, quick: bool) -> Iterator[Row]:
    """The default periods under a step of load, up and down again."""
    flags = ("--min", "1", "--max", "4", "--scale", "cpu=50", "--", *demo(place="{port}"))
    with scaling_group(root, "", *flags) as group, loaded(group, **TRICKLE) as trickle:
        # The step comes when there is something that it is a step from.
        wait_until(lambda: group.status()["metrics"][0]["value"] is not None, 30, "a datapoint")
        known = {one["address"] for one in group.status()["instances"]}
        after = len(group.activity())
        began, clock = time.time(), time.monotonic()

        def served_by_a_new_one() -> bool:
            targets = group.fastlb.targets()
            return any(one["requests"] for at, one in targets.items() if at not in known)

        with LoadClient(group.port, seconds=STEP_SECONDS, **STEP_LOAD) as load:
            wait_until(served_by_a_new_one, STEP_SECONDS, "a request to a new instance", 0.05)
            took = time.monotonic() - clock
            burst = load.wait()
        high, ended = group.status()["desired"], time.monotonic()
        if not quick:
            group.wait_steady(1, SCALE_IN_SECONDS)
        down = time.monotonic() - ended
        calm = trickle.stop()
        told = timeline(group.activity(after), began)
        yield row(
            "load step (2 clients of /burn?ms=5, cpu=50)", burst, f"served by new: {took:.1f} s"
        )
        more = "scale-in left out" if quick else f"{high} -> 1 in {down:.1f} s after the load"
        yield row("  trickle through all of it", calm, more, told)
        assert_none_failed(burst)
        assert_none_failed(calm)


def by_command(root: Path, quick: bool) -> Iterator[Row]:
    """1 -> 4 -> 1 again and again under constant load."""
    text = configuration(demo(), min=1, max=4)
    for name, options in (("GET", GET), ("POST", POST)):
        ups: list[float] = []
        downs: list[float] = []
        with scaling_group(root, text) as group, loaded(group, **options) as load:
            for _ in range(5 if quick else 20):
                for times, count in ((ups, 4), (downs, 1)):
                    began = time.monotonic()
                    group.scale(count)
                    times.append(time.monotonic() - began)
            result = load.stop()
            more = f"up {spread(ups)}, down {spread(downs)}"
            yield row(f"1 -> 4 -> 1 x {len(ups)} by command, {name}", result, more)
            assert_none_failed(result)


def spread(times: list[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(times):.3f} ({min(times):.3f}-{max(times):.3f}) s"


@dataclass
class Deploy:
    """One instance refresh under load, when it was over."""

    took: float
    load: LoadResult
    ends: list[str]
    """When the refresh and the rollback ended, if there was one, and how."""
    versions: set[int]
    """Of the launch template: those in force and in service."""


@contextmanager
def deployed(root: Path, *flags: str) -> Iterator[Deploy]:
    """From the first launch template to one of the demo app with these flags: three instances,
    short periods."""

    def text(*more: str) -> str:
        return configuration(
            demo(*more),
            min=3,
            max=3,
            warmup="2s",
            slow_start="2s",
            health_check_grace="5s",
            refresh={"bake_time": "5s"},
        )

    with (
        scaling_group(root, text("--version", "1"), instances=3) as group,
        loaded(group, **BY_VERSION) as load,
    ):
        began, wall = time.monotonic(), time.time()
        configure(group, text("--version", "2", *flags))
        wait_until(lambda: group.status()["refresh"] is None, 120, "the end of the refresh")
        took = time.monotonic() - began
        group.wait_steady(3)
        ends = [
            f"{one['ended'] - wall:.1f} s: {one['what']}: {one['outcome']}"
            for one in group.activity()
            if one["what"].startswith(("instance refresh", "rollback"))
        ]
        status = group.status()
        versions = {status["version"], *(one["version"] for one in status["instances"])}
        yield Deploy(took, load.stop(), ends, versions)


def refreshes(root: Path, quick: bool) -> Iterator[Row]:
    """To a good version, to one that answers 500, to one that never becomes healthy."""
    with deployed(root) as good:
        yield row("refresh to a good version", good.load, f"{good.took:.1f} s", good.ends)
        assert good.versions == {2}, good.versions
        assert_none_failed(good.load)

    with deployed(root, "--fail", "500") as bad:
        seen = bad.load.statuses.get("500", 0)
        others = bad.load.failed - seen
        share = f"{100 * seen / bad.load.requests:.2f} %"
        more = f"{seen} saw it ({share}); back after {bad.took:.1f} s"
        name = "refresh to one that answers 500"
        yield Row(name, bad.load.requests, others, bad.load.max_latency, more, bad.ends)
        assert bad.versions == {1}, bad.versions
        assert others == 0, str(bad.load)

    with deployed(root, "--health-status", "503") as never:
        seen = never.load.by_target.get("2", 0)
        more = f"{seen} saw it; back after {never.took:.1f} s"
        yield row("refresh to one that is never healthy", never.load, more, never.ends)
        assert never.versions == {1}, never.versions
        assert seen == 0, str(never.load)
        assert_none_failed(never.load)


def killing(root: Path, quick: bool) -> Iterator[Row]:
    """kill -9 of a random one of three, every half second."""
    chance = random.Random(7)
    killed = 0
    text = configuration(demo(), min=3, max=3)
    with scaling_group(root, text, instances=3) as group, loaded(group) as load:
        after = len(group.activity())
        # A clock of its own: the next kill is due whether or not somebody has come back.
        due = time.monotonic()
        until = due + (5 if quick else 15)
        while due < until:
            time.sleep(max(due - time.monotonic(), 0))
            due += KILL_EVERY
            living = list(group.in_service().values())
            if living:
                kill(chance.choice(living))
                killed += 1
        ended = time.monotonic()
        group.wait_steady(3, 90)
        whole = time.monotonic() - ended
        result = load.stop()
        launches = sum(one["what"].startswith("launch ") for one in group.activity(after))
        more = f"{killed} killed, {launches} launched; whole again {whole:.1f} s after the last"
        yield row("kill -9 a random one of 3 every 0.5 s", result, more)
        assert_none_failed(result)
