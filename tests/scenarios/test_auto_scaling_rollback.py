"""A launch template that was rolled back is not forgotten: not by a cancel, nor by another supervisor."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.load import LoadClient
from tests.support.processes import wait_until
from tests.support.scaling import DEMO, Refused, ScaledFastlb, group_of

Start = Callable[..., LoadClient]
GOOD = [*DEMO, "--version", "good"]
BAD = [*DEMO, "--version", "bad", "--fail", "500"]
STEPS = {"checkpoints": [50], "checkpoint_delay": "1h"}
"""It is found out at the checkpoint, or never: nobody waits so long."""


def web(command: list[str], **settings: Any) -> str:
    return group_of(command=command, refresh=STEPS, **({"min": 2, "max": 4} | settings))


def versions(fastlb: ScaledFastlb) -> list[int]:
    return sorted(one["version"] for one in fastlb.instances().values())


def wait_checkpoint(fastlb: ScaledFastlb) -> None:
    """One of the two is new, and the old one has gone."""

    def reached() -> bool:
        group = fastlb.group()
        refresh = group["refresh"] or {}
        return refresh.get("phase") == "waiting" and not group["draining"]

    wait_until(reached, 30, "the checkpoint")
    assert versions(fastlb) == [1, 2]


@pytest.fixture
def fastlb(run_root: Path, start_load: Start) -> Iterator[ScaledFastlb]:
    """Two instances of v1; v2 is configured, and was rolled back for what it answered."""
    with ScaledFastlb(run_root, web(GOOD)) as one:
        one.wait_steady(2)
        load = start_load(one.port, connections=4, pause=0.005)
        load.started()
        one.reload(web(BAD))
        one.wait_activity("rollback to v1", "done")
        one.wait_steady(2)
        load.stop()
        yield one


def test_again_only_by_force_and_launches_use_the_good_one(fastlb: ScaledFastlb) -> None:
    why = fastlb.wait_activity("instance refresh to v2", "rolled back")["outcome"]
    bad = f"v2 is configured, and was {why}"
    assert fastlb.group()["rolled_back"] == bad
    left = fastlb.reload(web(BAD))
    assert left["said"].startswith("nothing has changed")
    assert left["not_in_force"] == [
        f"group web: {bad}; launches use v1; on to v2: fastlb refresh web --force"
    ]
    with pytest.raises(
        Refused, match=r"was rolled back: .*; change the launch template, or .*--force"
    ):
        fastlb.ask("refresh")
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(fastlb.run_dir / fastlb.name / "admin.sock"))
    ) as client:
        path = "http://fastlb/api/v1/auto-scaling-groups/web/refresh"
        refused = client.post(path, json={})
        assert (refused.status_code, "--force" in refused.json()["error"]) == (409, True)
        begun = client.post(path, json={"force": True})
        assert (begun.status_code, begun.json()["group"]) == (200, "web")
    wait_checkpoint(fastlb)

    said = fastlb.ask("refresh", action="cancel")["said"]
    ways = "on to v2: fastlb refresh web --force; back to v1: fastlb refresh web --rollback"
    assert said == (
        "group web: the refresh is cancelled; what was replaced stays so, and launches use v1; "
        f"1 instance is of v2; {ways}"
    )
    group = fastlb.group()
    assert (group["version"], group["rolled_back"], group["refresh"]) == (1, bad, None)
    assert group["launches"] == f"launches use v1; 1 instance is of v2; {ways}"
    with pytest.raises(Refused, match="--force"):
        fastlb.ask("refresh")

    good = next(one for one in fastlb.instances().values() if one["version"] == 1)
    fastlb.ask("terminate", instance=good["id"])
    fastlb.wait_steady(2)
    assert versions(fastlb) == [1, 2], "what is launched for a terminated one is a good one"
    fastlb.ask("scale", desired=3)
    fastlb.wait_steady(3)
    assert versions(fastlb) == [1, 1, 2]
    crashed = next(one for one in fastlb.instances().values() if one["version"] == 2)
    os.kill(crashed["pid"], signal.SIGKILL)
    wait_until(lambda: versions(fastlb) == [1, 1, 1], 30, "a good one in place of the crashed one")
    assert fastlb.group()["launches"] == "launches use v1; on to v2: fastlb refresh web --force"
    assert httpx.get(fastlb.url).status_code == 200
    fastlb.stop()


def test_a_cancelled_one_is_rolled_back_and_a_new_supervisor_knows_it(
    fastlb: ScaledFastlb,
) -> None:
    bad = fastlb.group()["rolled_back"]
    fastlb.ask("refresh", force=True)
    wait_checkpoint(fastlb)
    fastlb.ask("refresh", action="cancel")
    fastlb.kill_supervisor()
    with ScaledFastlb(
        fastlb.run_dir.parent,
        config=fastlb.config,
        run_dir=fastlb.run_dir,
        listen=[f"http://127.0.0.1:{fastlb.port}"],
    ) as second:
        second.wait_steady(2)
        group = second.group()
        assert (group["version"], group["rolled_back"]) == (1, bad)
        assert group["cause"] == "as before the supervisor was replaced"
        with pytest.raises(Refused, match="--force"):
            second.ask("refresh")
        second.ask("refresh", action="rollback")
        second.wait_activity("rollback to v1", "done")
        second.wait_steady(2)
        assert versions(second) == [1, 1]
        group = second.group()
        assert group["cause"].startswith("rollback to v1: done")
        assert group["rolled_back"] == bad
        record = json.loads((second.run_dir / second.name / "group-web.json").read_text())
        assert (record["proven"], list(record["rolled_back"])) == (1, ["2"])
        # Another template is another one: it needs no force, and the way back leads to the good one.
        second.reload(web([*GOOD, "--start-delay", "0.1"]))
        assert second.group()["refresh"]["from"] == 1
        second.stop()
