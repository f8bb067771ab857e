"""The end of an instance: what is in flight is finished, clients are told, and nothing is left."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastlb.control_plane.stop_signals import AGAIN_AFTER
from tests.support.fastlb import FastlbProcess
from tests.support.load import HALF_BUSY, LoadClient, LoadResult
from tests.support.processes import wait_until
from tests.support.raw_client import RawClient
from tests.support.targets import AppTarget, DemoTarget, LightTarget

from .test_failover import HTTP_CHECK, balanced, light, wait_served
from .test_worker_death import Probes

GET = b"GET %b HTTP/1.1\r\nHost: stop\r\n\r\n"


def wait_in_flight(fastlb: FastlbProcess, count: int) -> None:
    def in_flight() -> int:
        return sum(one["in_flight"] for one in fastlb.targets().values())

    wait_until(lambda: in_flight() >= count, 30, f"{count} requests in flight")


@contextmanager
def slow_requests(
    fastlb: FastlbProcess, count: int, milliseconds: int
) -> Iterator[list[RawClient]]:
    """Clients whose request is at a target."""
    clients = [RawClient(fastlb.port, 15) for _ in range(count)]
    try:
        for one in clients:
            one.send([GET % f"/slow?ms={milliseconds}".encode()])
        wait_in_flight(fastlb, count)
        yield clients
    finally:
        for one in clients:
            one.socket.close()


def assert_gone(fastlb: FastlbProcess) -> None:
    assert not (fastlb.run_dir / fastlb.name).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_is_finished(run_root: Path, number: signal.Signals) -> None:
    with LightTarget("demo") as target, FastlbProcess(run_root, targets=[target], workers=2) as one:
        one.wait_states()
        with slow_requests(one, 8, 1000) as clients, RawClient(one.port) as idle:
            idle.send([GET % b"/"])
            assert idle.answer().status == 200
            began = time.monotonic()
            one.stop(signal_number=number)
            took = time.monotonic() - began
            for client in clients:
                answer = client.answer()
                assert answer.status == 200
                assert answer.complete
                assert answer.fields("connection") == ["close"]
            assert idle.socket.recv(100) == b""
        assert took < 15.0
        assert_gone(one)


def stop_under_load(
    root: Path,
    connections: int = 32,
    pace: Mapping[str, Any] | None = None,
    app: type[AppTarget] = DemoTarget,
) -> tuple[float, LoadResult]:
    """Seconds that a stop takes under load, and what became of the requests."""
    with (
        balanced(root, *HTTP_CHECK, pace=pace, app=app) as case,
        case.load(connections=connections) as load,
    ):
        load.started()
        wait_served(case.fastlb, 1000 if pace is None else 300)
        began = time.monotonic()
        case.fastlb.stop()
        took = time.monotonic() - began
        result = load.stop()
        assert_gone(case.fastlb)
    # Once nobody listens any more, new connections are refused, and nothing else happens to anyone.
    assert result.failures.keys() <= {"connect"}, result
    assert all("ConnectionRefused" in one for one in result.samples), result
    return took, result


def test_a_stop_under_load_fails_no_request_that_came_before_it(run_root: Path) -> None:
    took, _ = stop_under_load(run_root, pace=HALF_BUSY, app=LightTarget)
    assert took < 15.0


def test_new_connections_are_answered_or_refused_and_nothing_between(run_root: Path) -> None:
    """Whoever was let in before the listener closed gets an answer."""
    with light(run_root, *HTTP_CHECK) as case:
        with Probes(case.fastlb.port).running(8) as probes:
            wait_until(lambda: len(probes.taken) > 200, 30, "answers")
            case.fastlb.stop()
        kinds = {re.sub(r"\W.*", "", text) for _, text in probes.failures}
        assert kinds <= {"ConnectionRefusedError"}, probes.failures[:5]


def test_a_stuck_request_ends_at_the_drain_timeout(run_root: Path) -> None:
    with (
        LightTarget("demo") as target,
        FastlbProcess(run_root, "--drain-timeout", "1s", targets=[target], workers=2) as one,
    ):
        one.wait_states()
        with slow_requests(one, 2, 60_000) as clients:
            began = time.monotonic()
            one.stop()
            took = time.monotonic() - began
            assert 0.9 < took < 15.0
            for client in clients:
                assert_ended(client)
        assert_gone(one)


def assert_ended(client: RawClient) -> None:
    """The connection is over, by an end or a reset, without an answer."""
    try:
        assert client.socket.recv(100) == b""
    except ConnectionResetError:
        pass


def test_a_second_signal_ends_at_once(run_root: Path) -> None:
    with LightTarget("demo") as target, FastlbProcess(run_root, targets=[target], workers=2) as one:
        one.wait_states()
        with slow_requests(one, 2, 60_000):
            one.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "SIGTERM: stopping" in one.log(), 30, "the stop has begun")
            with pytest.raises(subprocess.TimeoutExpired):
                one.process.wait(AGAIN_AFTER)
            began = time.monotonic()
            one.stop()
            assert time.monotonic() - began < 15.0
            assert "SIGTERM again: ending at once" in one.log()
            assert "cut 2 requests on 2 connections" in one.log()
        assert_gone(one)


def test_signals_after_the_last_word_do_not_change_the_end(run_root: Path) -> None:
    with LightTarget("demo") as target, FastlbProcess(run_root, targets=[target], workers=1) as one:
        one.wait_states()
        deadline = time.monotonic() + 30
        one.process.send_signal(signal.SIGTERM)
        while " stopped" not in one.log() and time.monotonic() < deadline:
            pass  # what is tested lasts for milliseconds after that
        while one.process.poll() is None and time.monotonic() < deadline:
            one.process.send_signal(signal.SIGTERM)
        assert one.process.poll() == 0, one.log()
        assert_gone(one)


def test_a_stop_while_targets_are_dead_or_hang(run_root: Path) -> None:
    """Nothing that a target does or does not do holds up the end."""
    with light(run_root, "--drain-timeout", "1s") as case:
        fastlb = case.fastlb
        with LoadClient(fastlb.port, connections=8, **HALF_BUSY) as load:
            load.started()
            case.targets[0].kill()
            case.targets[1].stop()
            wait_served(fastlb, 100)
            began = time.monotonic()
            fastlb.stop()
            assert time.monotonic() - began < 15.0
            load.process.kill()
        assert_gone(fastlb)


def test_a_stale_run_time_folder_does_not_block_a_start(run_root: Path) -> None:
    """Everybody was killed: what they left is cleared away."""
    with LightTarget("demo") as target:
        with FastlbProcess(run_root, targets=[target], workers=2) as first:
            run_dir = first.run_dir
            assert list((run_dir / "t").glob("*.sock"))
        assert list((run_dir / "t").glob("*.sock")), "kill -9 leaves them"
        with FastlbProcess(run_root, targets=[target], workers=2, run_dir=run_dir) as second:
            second.wait_states()
            assert len(list((run_dir / "t").glob("worker-*.sock"))) == 2
            second.stop()
        assert_gone(second)
