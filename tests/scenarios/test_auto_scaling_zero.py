"""Groups that end their last instance when idle: whoever comes is held until one is up. And targets
that are no instances beside those that are."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.load import LoadClient, run_load
from tests.support.processes import wait_until
from tests.support.scaling import DEMO, ScaledFastlb, gone, group_of
from tests.support.targets import LightTarget

Start = Callable[..., LoadClient]
IDLE = {"min": 0, "idle_timeout": "0.5s"}


def asleep(fastlb: ScaledFastlb) -> None:
    """Wait until it has no instance at all."""
    wait_until(lambda: not fastlb.group()["instances"], 30, "the last instance has ended")


@pytest.fixture(scope="module")
def running(run_root: Path) -> Iterator[ScaledFastlb]:
    with ScaledFastlb(run_root, group_of(max=2, **IDLE), workers=2) as one:
        yield one
        one.stop()


@pytest.fixture
def fastlb(running: ScaledFastlb) -> ScaledFastlb:
    """Without an instance."""
    asleep(running)
    running.forget_activity()
    return running


def test_the_first_request_is_held(fastlb: ScaledFastlb) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", fastlb.port, timeout=30)) as connection:
        body = b"b" * 50_000
        connection.request("POST", "/echo?raw=1", body)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, body)
        assert fastlb.wait_activity("launch")["cause"] == (
            "desired capacity 0 -> 1: a request came while no instance was running"
        )
        pids = fastlb.pids()
        asleep(fastlb)
        gone(pids)
        cause = fastlb.wait_activity("terminate")["cause"]
        assert re.search(r"no request for 0\.\d s \(idle_timeout\)$", cause), cause
        # The client's connection has outlived the instance.
        connection.request("GET", "/")
        assert connection.getresponse().status == 200


def test_many_are_held_at_once(fastlb: ScaledFastlb) -> None:
    result = run_load(fastlb.port, connections=20, count=20)
    assert (result.requests, result.succeeded) == (20, 20), result
    assert [one["what"][:6] for one in fastlb.activity()].count("launch") == 1


def test_requests_all_the_time_while_it_falls_asleep(fastlb: ScaledFastlb) -> None:
    """Each pause is about as long as the idle time."""
    result = run_load(fastlb.port, connections=1, count=4, pause=0.52)
    assert (result.requests, result.succeeded) == (4, 4), result


def test_scaled_to_zero_by_hand_under_load(fastlb: ScaledFastlb, start_load: Start) -> None:
    load = start_load(fastlb.port, connections=4, pause=0.005).started()
    for _ in range(2):
        fastlb.wait_steady(1)
        fastlb.ask("scale", desired=0)
        wait_until(lambda: fastlb.group()["desired"] == 1, 30, "it is woken")
    result = load.stop()
    assert not result.failures, result


def test_none_comes_in_time(run_root: Path) -> None:
    web = group_of(command=[*DEMO, "--crash-at-start"], hold_timeout="0.4s", **IDLE)
    with ScaledFastlb(run_root, web) as fastlb:
        answer = httpx.get(fastlb.url)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "no instance in time" in answer.text
        assert fastlb.group()["desired"] == 1
        fastlb.stop()


def test_tcp_connections_are_held(run_root: Path) -> None:
    web = group_of(**IDLE)
    with ScaledFastlb(run_root, web, listen=["tcp://127.0.0.1:0"]) as fastlb:
        asleep(fastlb)
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", fastlb.port), 30) as one:
                one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = b""
                while piece := one.recv(65536):
                    answer += piece
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
            asleep(fastlb)
        with socket.create_connection(("127.0.0.1", fastlb.port), 30):
            # An open connection keeps it up, though nothing is said on it.
            (id,) = fastlb.wait_steady(1)
            entry = fastlb.wait_activity("launch")
            wait_until(
                lambda: fastlb.instances()[id]["age_s"] > 1.5, 30, "it outlives its idle time"
            )
            assert entry["what"] == f"launch {id}"
        asleep(fastlb)
        fastlb.stop()


def test_targets_beside_instances(
    run_root: Path, start_light: Callable[..., LightTarget], start_load: Start
) -> None:
    """They share the load, and where the instances have all ended the target serves alone."""
    still = start_light("still")
    web = group_of(target_group={"targets": [still.address]}, max=2, **IDLE)
    with ScaledFastlb(run_root, web) as fastlb:
        fastlb.ask("scale", desired=2)
        fastlb.wait_steady(2)
        fastlb.wait_states()
        load = start_load(fastlb.port, connections=6, path="/slow?ms=20").started()
        wait_until(lambda: _served(fastlb) == 3, 30, "all three serve")
        fastlb.ask("scale", desired=0)
        asleep(fastlb)
        result = load.stop()
        assert not result.failures, result
        assert len(result.by_target) == 3
        before = fastlb.group()["desired"]
        assert httpx.get(fastlb.url).headers["x-demo-worker"] == "still"
        assert before == fastlb.group()["desired"] == 0
        still.kill()
        # Now there is nobody but a new instance.
        answer = httpx.get(fastlb.url)
        assert answer.status_code == 200
        assert answer.headers["x-demo-worker"] != "still"
        fastlb.stop()


def _served(fastlb: ScaledFastlb) -> int:
    return sum(one["requests"] > 0 for one in fastlb.targets().values())
