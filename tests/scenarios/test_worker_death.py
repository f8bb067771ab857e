"""kill -9 of workers under load: what they held fails, and nothing else; and how evenly they hold.

Each case is a function that returns what it measured, so that bench/kill_tests.py can run the same
for longer.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.fastlb import FastlbProcess
from tests.support.load import HALF_BUSY, LoadClient, LoadResult, run_load
from tests.support.processes import alive, open_files, wait_until
from tests.support.targets import LightTarget

from .test_failover import HTTP_CHECK, assert_nothing_in_flight, light, total_requests, wait_served

SOON = 3.0
"""Seconds. On a machine with nothing else to do it is one."""
UNEVEN = 1.1
PROBE_PAUSE = 0.005
"""Of the tests' own probes: some hundreds of new connections a second, and the processors are free."""


@dataclass
class Probes:
    """New connections, one after the other, each with one request: how long each took."""

    port: int
    pause: float = 0.0
    """Seconds between two of a thread."""
    taken: list[tuple[float, float]] = field(default_factory=list)
    """(when it began, seconds to the whole answer)"""
    failures: list[tuple[float, str]] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self, threads: int = 4) -> Iterator[Probes]:
        running = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for one in running:
            one.start()
        try:
            yield self
        finally:
            self.stop()
            for one in running:
                one.join(10)

    def stop(self) -> None:
        """Begin no more."""
        self._ending.set()

    def slowest_since(self, moment: float) -> float:
        return max((took for began, took in self.taken if began + took >= moment), default=0.0)

    def _run(self) -> None:
        while not self._ending.wait(self.pause):
            began = time.monotonic()
            try:
                with socket.create_connection(("127.0.0.1", self.port), 10) as one:
                    one.sendall(b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
                    answer = b""
                    while piece := one.recv(65536):
                        answer += piece
            except OSError as error:
                self.failures.append((began, repr(error)))
                continue
            if answer.startswith(b"HTTP/1.1 200 "):
                self.taken.append((began, time.monotonic() - began))
            else:
                self.failures.append((began, repr(answer[:100])))


@dataclass
class Death:
    """What the death of one worker cost."""

    connections: int
    """That it held when it was killed."""
    failed: int
    slowest_new: float
    """Seconds of the slowest request on a new connection, those queued at the dead one included."""
    replaced: float
    """Seconds until the replacement was ready."""


def kill_worker(
    fastlb: FastlbProcess,
    connections: int = 32,
    pace: Mapping[str, Any] | None = None,
    probe_pause: float = 0.0,
) -> tuple[Death, LoadResult]:
    """kill -9 worker 0 under a load of keep-alive clients and of new connections."""
    with (
        LoadClient(fastlb.port, connections=connections, **(pace or {})) as load,
        Probes(fastlb.port, probe_pause).running() as probes,
    ):
        load.started()
        wait_served(fastlb, 500)
        # Held at the least: those that the probes have open come and go.
        held = fastlb.status()["workers"][0]["connections"] + 4
        pid = fastlb.kill_worker(0)
        at = time.monotonic()

        def replaced() -> bool:
            first = fastlb.status()["workers"][0]
            return bool(first["state"] == "running" and first["pid"] != pid)

        wait_until(replaced, 30, "the replacement")
        replaced_after = time.monotonic() - at
        wait_served(fastlb, 500)
        result = load.stop()
    assert not alive(pid)
    assert result.failures.keys() <= {"reset", "closed", "cut"}, result
    assert result.failed <= held, f"{result}\n{fastlb.log()}"
    # A probe fails where the dead worker had it in hand: one a thread at the most.
    assert len(probes.failures) <= 4, probes.failures
    assert all(began <= at for began, _ in probes.failures), (at, probes.failures)
    assert_nothing_in_flight(fastlb)
    death = Death(
        held, result.failed + len(probes.failures), probes.slowest_since(at), replaced_after
    )
    return death, result


def test_a_killed_worker_costs_only_what_it_held(run_root: Path) -> None:
    with light(run_root, *HTTP_CHECK) as case:
        death, _ = kill_worker(case.fastlb, pace=HALF_BUSY, probe_pause=PROBE_PAUSE)
        assert death.replaced < SOON, case.fastlb.log()
        # Who queued at the dead worker was served by the other at once.
        assert death.slowest_new < SOON, case.fastlb.log()


def test_what_queues_at_a_hung_and_then_killed_worker_is_served(run_root: Path) -> None:
    """Connections that wait at the slot of a worker which accepts nothing are not lost with it."""
    with LightTarget("demo") as target:
        fastlb = FastlbProcess(run_root, targets=[target], workers=2)
        with fastlb:
            fastlb.wait_states()
            _, waits = queued_at_dead_worker(fastlb, 60)
            assert waits < SOON, fastlb.log()


def queued_at_dead_worker(fastlb: FastlbProcess, count: int) -> tuple[int, float]:
    """How many of `count` new connections had queued at a stopped worker, and how long after its
    kill the last of them was answered."""
    pid = fastlb.worker_pids()[0]
    os.kill(pid, signal.SIGSTOP)
    clients = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", fastlb.port), 5)
        one.sendall(b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
        clients.append(one)
    # The other worker answers those of its own slot; the rest wait.
    answered: set[int] = set()

    def look() -> int:
        for number, one in enumerate(clients):
            if number not in answered:
                one.settimeout(0)
                try:
                    if one.recv(65536).startswith(b"HTTP/1.1 200 "):
                        answered.add(number)
                except BlockingIOError:
                    continue
        return len(answered)

    wait_until(lambda: look() >= count // 10, 30, "answers of the living worker")
    quiet_since, seen = time.monotonic(), look()
    while time.monotonic() - quiet_since < 0.1:
        if look() != seen:
            quiet_since, seen = time.monotonic(), look()
    queued = count - seen
    assert queued, "nothing queued at the stopped worker"
    os.kill(pid, signal.SIGKILL)
    at = time.monotonic()
    wait_until(lambda: look() == count, 30, "all answers", every=0.001)
    waited = time.monotonic() - at
    for one in clients:
        one.close()
    return queued, waited


# --- how evenly workers hold connections ----------------------------------------------------------


@pytest.fixture
def many_files() -> Iterator[None]:
    """The test's own limit of open files, raised for its thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def spread(fastlb: FastlbProcess, count: int, pause: float, asks: bool) -> float:
    """Open long-lived connections; the fullest worker's share as a multiple of the mean."""
    held = []
    try:
        for number in range(count):
            one = socket.create_connection(("127.0.0.1", fastlb.port), 10)
            held.append(one)
            if asks:
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if pause and number % 10 == 9:
                time.sleep(pause)  # the pace of the openings

        def counts() -> list[int]:
            return [one["connections"] for one in fastlb.status()["workers"]]

        wait_until(lambda: sum(counts()) == count, 30, f"{count} connections are accepted")
        found = counts()
        return max(found) / (sum(found) / len(found))
    finally:
        for one in held:
            one.close()


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(
    ("pause", "asks"), [(0.0, False), (0.0, True), (0.01, True)], ids=["burst", "asking", "slow"]
)
def test_long_lived_connections_are_spread_evenly(run_root: Path, pause: float, asks: bool) -> None:
    with LightTarget("demo") as target, FastlbProcess(run_root, targets=[target], workers=4) as one:
        one.wait_states()
        assert spread(one, 1000, pause, asks) <= UNEVEN, one.status()["workers"]


# --- again and again ------------------------------------------------------------------------------


def test_a_crash_looping_worker_is_restarted_ever_later(run_root: Path) -> None:
    with light(run_root, count=1) as case:
        fastlb = case.fastlb
        with LoadClient(fastlb.port, connections=8, **HALF_BUSY) as load:
            load.started()
            for _ in range(4):
                pid = fastlb.worker_pids()[0]
                fastlb.kill_worker(0)

                def another(old: int = pid) -> bool:
                    one = fastlb.status()["workers"][0]
                    return bool(one["state"] == "running" and one["pid"] != old)

                wait_until(another, 30, "the replacement")
            result = load.stop()
        assert result.failures.keys() <= {"reset", "closed", "cut"}, result
        assert fastlb.status()["workers"][0]["restarts"] == 4
        assert fastlb.status()["workers"][1]["restarts"] == 0
        assert "worker 0 died 4 times in" in fastlb.log()
        # What the log states: how long a start takes is the machine's affair.
        assert re.findall(r"next try in (.*) s", fastlb.log()) == ["0.1", "0.2", "0.4"]
        assert_nothing_in_flight(fastlb)


def test_workers_leak_no_descriptor(run_root: Path, tmp_path: Path) -> None:
    """After loads, deaths of targets and of clients a worker holds what it held before."""
    with ExitStack() as stack:
        targets = [stack.enter_context(LightTarget(f"demo-{i}")) for i in range(3)]
        path = tmp_path / "fastlb.toml"
        addresses = ", ".join(f'"{one}"' for one in targets)
        path.write_text(
            "[[listeners]]\n"
            'address = "http://127.0.0.1:0"\n'
            'default = { forward = "web" }\n'
            "[target_groups.web]\n"
            f"targets = [{addresses}]\n"
            'keepalive_timeout = "200ms"\n'
            'health_check = { path = "/health" }\n'
        )
        fastlb = stack.enter_context(
            FastlbProcess(run_root, "--config", str(path), listen=(), workers=2)
        )
        fastlb.wait_states()
        assert run_load(fastlb.port, count=600, connections=32).failed == 0
        # Workers store their counts ten times a second: before that, nobody seems to have been there.
        wait_until(lambda: total_requests(fastlb) == 600, 30, "all are counted")
        idle = settled_files(fastlb)
        for _ in range(3):
            with LoadClient(fastlb.port, connections=32, **HALF_BUSY) as load:
                load.started()
                wait_served(fastlb, 300)
                load.process.kill()  # 32 clients are gone in the midst of it
            targets[0].restart()
        assert run_load(fastlb.port, count=600, connections=32).failed == 0
        wait_until(lambda: settled_files(fastlb) == idle, 30, f"workers hold {idle} files again")


def settled_files(fastlb: FastlbProcess) -> list[int]:
    """Open files of the workers once no client is there and the pools' idle connections are closed."""

    def nobody() -> bool:
        status = fastlb.status()
        pooled = sum(one["connections"] for one in fastlb.targets().values())
        return not pooled and not status["totals"]["connections"]

    wait_until(nobody, 30, "no connection is left")
    return [open_files(pid) for pid in fastlb.worker_pids()]
