"""kill -9 of the supervisor under load: the workers serve on, and the next start takes over unnoticed.

Each case is a function that returns what it measured, so that bench/kill_tests.py can run the same
for longer.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.fastlb import FastlbProcess
from tests.support.load import HALF_BUSY, LoadClient, LoadResult, run_load
from tests.support.processes import (
    alive,
    children,
    kill_all,
    open_files,
    processes_of,
    wait_until,
)
from tests.support.targets import AppTarget, DemoTarget, LightTarget, free_port

from .test_failover import HTTP_CHECK, assert_all_well, light, wait_served
from .test_worker_death import PROBE_PAUSE, SOON, Probes


def wait_answers(probes: Probes, more: int) -> None:
    """Until so many more new connections were answered: without a supervisor nobody else counts."""
    before = len(probes.taken)
    wait_until(lambda: len(probes.taken) >= before + more, 30, f"{more} more answers")


def test_workers_serve_on_without_a_supervisor_and_survive_a_targets_death(run_root: Path) -> None:
    with (
        light(run_root, *HTTP_CHECK, pace=HALF_BUSY) as case,
        case.load(connections=16) as load,
        Probes(case.fastlb.port, PROBE_PAUSE).running() as probes,
    ):
        load.started()
        wait_served(case.fastlb, 200)
        case.fastlb.kill_supervisor()
        wait_answers(probes, 200)
        case.targets[0].kill()
        wait_answers(probes, 200)
        # Nobody probes it: the workers try it again by themselves.
        case.targets[0].start()
        result = load.stop()
        assert result.failed == 0, f"{result}\n{case.fastlb.log()}"
        wait_until(
            lambda: "demo-0" in run_load(case.fastlb.port, count=60).by_target, 30, "demo-0 is back"
        )
        assert probes.failures == []


def test_a_workers_death_without_a_supervisor_leaves_its_slot_served(run_root: Path) -> None:
    with (
        light(run_root, *HTTP_CHECK, pace=HALF_BUSY) as case,
        case.load(connections=32) as load,
        Probes(case.fastlb.port, PROBE_PAUSE).running() as probes,
    ):
        load.started()
        wait_served(case.fastlb, 200)
        status = case.fastlb.status()
        held = status["workers"][0]["connections"] + 4
        case.fastlb.kill_supervisor()
        wait_answers(probes, 100)
        os.kill(status["workers"][0]["pid"], signal.SIGKILL)
        at = time.monotonic()
        wait_answers(probes, 200)
        result = load.stop()
        assert result.failures.keys() <= {"reset", "closed", "cut"}, result
        assert result.failed <= held, result
        assert all(began <= at for began, _ in probes.failures), (at, probes.failures)
        assert len(probes.failures) <= 4
        assert probes.slowest_since(at) < SOON


def settled_files(fastlb: FastlbProcess) -> int:
    """Open files of the supervisor, without those of the checks that are under way just now."""
    return min(open_files(fastlb.pid) for _ in range(20))


@dataclass
class Takeovers:
    """What takeovers in a row cost."""

    times: list[float]
    """Seconds from a start to its readiness."""
    ended: list[float]
    """Seconds from there to the end of the last old worker."""
    load: LoadResult
    new_connections: int
    new_failures: list[tuple[float, str]]
    slowest_new: float


def takeovers(
    root: Path,
    count: int,
    connections: int = 16,
    pace: Mapping[str, Any] | None = None,
    probe_pause: float = 0.0,
    app: type[AppTarget] = DemoTarget,
) -> Takeovers:
    """Kill the supervisor and start the instance anew, `count` times, under one and the same load."""
    times, ended = [], []
    with ExitStack() as stack:
        targets = [stack.enter_context(app(f"demo-{i}")) for i in range(3)]
        current = stack.enter_context(FastlbProcess(root, *HTTP_CHECK, targets=targets, workers=2))
        current.wait_states()
        port, run_dir = current.port, current.run_dir
        load = stack.enter_context(LoadClient(port, connections=connections, **(pace or {})))
        load.started()
        probes = stack.enter_context(Probes(port, probe_pause).running())
        files: list[int] = []
        for _ in range(count):
            wait_answers(probes, 100)
            old = current.worker_pids()
            current.kill_supervisor()
            wait_answers(probes, 50)
            began = time.monotonic()
            current = stack.enter_context(
                FastlbProcess(
                    root,
                    *HTTP_CHECK,
                    targets=targets,
                    workers=2,
                    listen=[f"http://127.0.0.1:{port}"],
                    run_dir=run_dir,
                )
            )
            times.append(time.monotonic() - began)
            began = time.monotonic()
            wait_until(lambda pids=old: not any(map(alive, pids)), 30, "the end of the orphans")  # type: ignore[misc]
            ended.append(time.monotonic() - began)
            assert "taking over from a supervisor that died: 2 orphaned" in current.log()
            if not files:
                files.append(settled_files(current))
        wait_answers(probes, 100)
        result = load.stop()
        assert_all_well(current, result)
        # Whatever was taken over was let go again.
        wait_until(lambda: open_files(current.pid) <= files[0], 30, f"at most {files} open files")
        states = {one["state"] for one in current.targets().values()}
        assert states == {"healthy"}, states
        slowest = max(took for _, took in probes.taken)
        found = Takeovers(times, ended, result, len(probes.taken), list(probes.failures), slowest)
        # Not by `with`: the end of the current one must leave nothing of the former ones either.
        current.stop()
        assert not (run_dir / "t").exists()
        return found


def test_a_start_takes_over_without_a_refused_or_failed_request_again_and_again(
    run_root: Path,
) -> None:
    found = takeovers(run_root, 2, pace=HALF_BUSY, probe_pause=PROBE_PAUSE, app=LightTarget)
    assert found.new_failures == []
    assert found.slowest_new < SOON


def test_a_live_instance_is_not_taken_over(run_root: Path) -> None:
    with (
        light(run_root, *HTTP_CHECK, count=1, pace=HALF_BUSY) as case,
        case.load(connections=8) as load,
    ):
        load.started()
        second = FastlbProcess(
            run_root,
            targets=case.targets,
            listen=[f"http://127.0.0.1:{case.fastlb.port}"],
            run_dir=case.fastlb.run_dir,
            wait=False,
        )
        assert second.process.wait(30) == 1
        text = second.log()
        assert re.search(rf"'t' is running \(pid {case.fastlb.pid}\)", text), text
        assert "Traceback" not in text
        wait_served(case.fastlb, 200)
        assert_all_well(case.fastlb, load.stop())
        second._log.close()


def test_targets_states_survive_the_takeover(run_root: Path) -> None:
    """A target that is dead before and after gets no request in between."""
    with (
        light(run_root, *HTTP_CHECK, pace=HALF_BUSY) as case,
        case.load(connections=16) as load,
    ):
        load.started()
        case.targets[0].kill()
        case.fastlb.wait_state(case.targets[0], "unhealthy")
        case.fastlb.kill_supervisor()
        with FastlbProcess(
            run_root,
            *HTTP_CHECK,
            targets=case.targets,
            workers=2,
            listen=[f"http://127.0.0.1:{case.fastlb.port}"],
            run_dir=case.fastlb.run_dir,
        ) as second:
            states = {one["address"]: one["state"] for one in second.targets().values()}
            assert states[str(case.targets[0])] == "unhealthy"
            wait_served(second, 200)
            case.targets[0].start()
            second.wait_states()
            assert_all_well(second, load.stop())


def newborns(fastlb: FastlbProcess) -> list[int]:
    """Children of the supervisor that have its listening sockets and do not serve yet, stopped; none
    where they serve already."""

    def interpreters() -> list[int]:
        return [
            pid
            for pid in children(fastlb.pid)
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    found = wait_until(interpreters, 30, "a worker is born", every=0.002)
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    if any((fastlb.run_dir / fastlb.name).glob("worker-*.sock")):
        for pid in found:
            os.kill(pid, signal.SIGCONT)
        return []
    return found


def test_a_start_waits_for_workers_that_were_being_born_as_their_supervisor_died(
    run_root: Path,
) -> None:
    port = free_port()
    options: dict[str, Any] = {
        "targets": ["127.0.0.1:9"],
        "listen": [f"http://127.0.0.1:{port}"],
        "wait": False,
    }
    for _ in range(10):
        with FastlbProcess(run_root, **options) as first:
            held = newborns(first)
            if not held:
                continue
            first.kill_supervisor()
            with FastlbProcess(run_root, run_dir=first.run_dir, **options) as second:
                wait_until(lambda: "waiting 5 s at most for its workers" in second.log())
                for pid in held:
                    os.kill(pid, signal.SIGCONT)
                second.wait_ready()
                assert second.port == port
                second.stop()
            return
    raise AssertionError("no worker was caught before it served")


def test_an_address_that_others_have_is_said_to_be_in_use_after_a_death_too(run_root: Path) -> None:
    with FastlbProcess(run_root, targets=["127.0.0.1:9"]) as first:
        first.kill_supervisor()
        kill_all(processes_of(first.run_dir))
        with socket.create_server(("127.0.0.1", first.port)):
            again = FastlbProcess(
                run_root,
                targets=["127.0.0.1:9"],
                listen=[f"http://127.0.0.1:{first.port}"],
                run_dir=first.run_dir,
                wait=False,
            )
            with again:
                assert again.process.wait(30) == 1
                assert f"the address is in use by pid {os.getpid()}" in again.log()
