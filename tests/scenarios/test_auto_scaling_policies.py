"""Policies with real load and real figures: out while it lasts, in when it ends, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.load import LoadClient
from tests.support.processes import wait_until
from tests.support.scaling import ScaledFastlb, group_of

Start = Callable[..., LoadClient]


def tracking(metric: str, target: object) -> list[dict[str, object]]:
    return [{"type": "target_tracking", "metric": metric, "target": target}]


def test_out_by_requests_in_flight_and_in_again(run_root: Path, start_load: Start) -> None:
    web = group_of(min=1, max=3, policies=tracking("in_flight", 2))
    with ScaledFastlb(run_root, web) as fastlb:
        fastlb.wait_steady(1)
        idle = start_load(fastlb.port, connections=1, pause=0.05).started()
        load = start_load(fastlb.port, connections=8, path="/slow?ms=40").started()
        wait_until(lambda: fastlb.group()["in_service"] == 3, 30, "three in service")
        entry = fastlb.wait_activity("launch", "in service")
        assert entry["cause"].startswith("desired capacity ")
        assert "in_flight" in entry["cause"], entry
        assert "2 datapoints" in entry["cause"], entry
        shown = fastlb.group()["metrics"]
        assert [(one["metric"], one["target"]) for one in shown] == [("in_flight", 2)]

        fastlb.ask("suspend", process="scaling")
        result = load.stop()
        assert not result.failures, result
        assert fastlb.ask("settled", wait=2)["settled"]
        assert fastlb.group()["desired"] == 3, "scaling is suspended"
        fastlb.ask("resume")
        fastlb.wait_steady(1)
        entry = fastlb.wait_activity("terminate")
        assert "in_flight" in entry["cause"], entry
        result = idle.stop()
        assert not result.failures, result
        decisions = fastlb.ask("why")["entries"]
        assert any(one["inputs"].get("policies") for one in decisions), decisions
        fastlb.stop()


def test_out_by_cpu(run_root: Path, start_load: Start) -> None:
    web = group_of(min=1, max=2, policies=tracking("cpu", 30))
    with ScaledFastlb(run_root, web) as fastlb:
        fastlb.wait_steady(1)
        load = start_load(fastlb.port, connections=2, path="/burn?ms=40", pause=0.02).started()
        wait_until(lambda: fastlb.group()["desired"] == 2, 30, "the second one")
        fastlb.wait_steady(2)
        assert "cpu" in fastlb.wait_activity("launch", "in service")["cause"]
        result = load.stop()
        assert not result.failures, result
        fastlb.stop()


def test_out_by_the_rate_of_requests_and_a_step(run_root: Path, start_load: Start) -> None:
    steps = [{"from": 0, "to": "10000/min", "add": 1}, {"from": "10000/min", "add": 2}]
    policy = {"type": "step", "metric": "requests", "above": "600/min", "steps": steps}
    with ScaledFastlb(run_root, group_of(min=1, max=4, policies=[policy])) as fastlb:
        fastlb.wait_steady(1)
        load = start_load(fastlb.port, connections=1, pause=0.02).started()
        wait_until(lambda: fastlb.group()["desired"] >= 2, 30, "a step")
        assert "requests" in fastlb.group()["cause"]
        result = load.stop()
        assert not result.failures, result
        fastlb.stop()


def test_no_room_on_the_host(run_root: Path, start_load: Start) -> None:
    web = group_of(min=1, max=3, policies=tracking("in_flight", 1), host_memory_reserve="900GiB")
    with ScaledFastlb(run_root, web) as fastlb:
        fastlb.wait_steady(1)
        load = start_load(fastlb.port, connections=6, path="/slow?ms=50").started()
        entry = fastlb.wait_activity("scale out to ", "refused: memory would run out: ")
        assert "921600 MiB are kept free" in entry["outcome"]
        group = fastlb.group()
        assert group["desired"] == 1
        assert group["refused"].startswith("memory would run out: ")
        # What a person asks for is not launched into swap either.
        fastlb.ask("scale", desired=2)
        wait_until(lambda: "memory would run out" in fastlb.group()["blocked"], 30, "it says so")
        assert fastlb.group()["in_service"] == 1
        refusals = [one for one in fastlb.activity() if one["what"].startswith("scale out to ")]
        assert len(refusals) == 1, refusals
        assert fastlb.log().count("does not scale out") == 1
        result = load.stop()
        assert not result.failures, result
        fastlb.stop()
