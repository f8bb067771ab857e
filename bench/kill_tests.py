"""The kill tests for longer than the suite has time for, as a table of what they cost.

    python -m bench.kill_tests                     from the project's folder, some five minutes
    python -m bench.kill_tests --only hang flap    some of them
    python -m bench.kill_tests --rounds 5          everything so many times

Runs the cases of tests/scenarios: real processes on loopback, a load client that checks that each
answer is its request's own. A case that is not as it should be says so and the rest go on; the
status is then 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.scenarios.test_failover import (
    HTTP_CHECK,
    NO_CHECK,
    TCP_CHECK,
    assert_all_well,
    balanced,
    ejection,
    flap,
    graceful_restarts,
    hang,
    hang_under_all,
    idle_closes,
    kill_and_restart,
)
from tests.scenarios.test_stop import stop_under_load
from tests.scenarios.test_supervisor_death import takeovers
from tests.scenarios.test_worker_death import kill_worker, queued_at_dead_worker, spread
from tests.support.fastlb import FastlbProcess
from tests.support.load import LoadResult
from tests.support.processes import kill_all, new_run_root, processes_of
from tests.support.targets import DemoTarget

HANG_SECONDS = 8.0
CHECKS = {"HTTP check": HTTP_CHECK, "TCP check": TCP_CHECK, "no check": NO_CHECK}


@dataclass
class Row:
    """One line of the table."""

    case: str
    requests: int
    failed: int
    slowest: float
    more: str = ""

    def __str__(self) -> str:
        slowest = f"{self.slowest:8.3f}" if self.slowest else " " * 8
        return f"{self.case:46} {self.requests:9,} {self.failed:7} {slowest}  {self.more}"


Case = Callable[[Path, Path], Iterator[Row]]
"""Takes the root of run-time folders and a folder for unix sockets and files."""


def row(case: str, result: LoadResult, more: str = "") -> Row:
    return Row(case, result.requests, result.failed, result.max_latency, more)


def kill(root: Path, folder: Path) -> Iterator[Row]:
    for name, check in CHECKS.items():
        for where, sockets in (("ports", None), ("unix sockets", folder)):
            with balanced(root, *check, sockets=sockets) as case:
                result = kill_and_restart(case, rounds=6, connections=32)
            yield row(f"kill -9 a target x 6, {name}, {where}", result)


def flapping(root: Path, folder: Path) -> Iterator[Row]:
    for name, check in CHECKS.items():
        with balanced(root, *check, sockets=folder) as case:
            result = flap(case, 15, seed=2, connections=32)
        yield row(f"flap one x 15, {name}", result)


def hanging(root: Path, folder: Path) -> Iterator[Row]:
    for name in ("HTTP check", "TCP check"):
        with balanced(root, *CHECKS[name]) as case:
            result = hang(case.fastlb, case.targets[0], HANG_SECONDS, case.fastlb.port)
            assert_all_well(case.fastlb, result)
        a_second = result.succeeded / result.seconds
        more = f"{a_second * HANG_SECONDS:,.0f} in {HANG_SECONDS:g} s"
        yield row(f"kill -STOP one for 8 s, 16 clients, {name}", result, more)
    _, results = hang_under_all(root, folder, HANG_SECONDS)
    for name, result in results.items():
        yield row(f"  the same, 8 groups at once: {name}", result)


def ejecting(root: Path, folder: Path) -> Iterator[Row]:
    for _ in range(5):
        took, result = ejection(root)
        yield row("reset by a target", result, f"ejected everywhere in {took * 1000:.1f} ms")


def closing(root: Path, folder: Path) -> Iterator[Row]:
    for method in ("GET", "POST"):
        for least, most in ((0.05, 0.3), (0.2, 1.0)):
            closed, result = idle_closes(root, method, 20.0, least, most)
            name = f"idle connections closed at {least:g}-{most:g} s, {method}"
            yield row(name, result, f"{closed} closed by targets")


def graceful(root: Path, folder: Path) -> Iterator[Row]:
    with balanced(root, *HTTP_CHECK) as case:
        result = graceful_restarts(case, 9)
    yield row("graceful restarts x 9", result)


def worker(root: Path, folder: Path) -> Iterator[Row]:
    for connections in (16, 32, 64):
        with balanced(root, *HTTP_CHECK) as case:
            death, result = kill_worker(case.fastlb, connections)
        yield Row(
            f"kill -9 a worker of two, {connections} clients",
            result.requests,
            death.failed,
            result.max_latency,
            f"it held {death.connections}; replaced in {death.replaced:.2f} s, "
            f"slowest new connection {death.slowest_new * 1000:.0f} ms",
        )
    with (
        DemoTarget("demo") as target,
        FastlbProcess(root, targets=[target], workers=2) as fastlb,
    ):
        fastlb.wait_states()
        queued, waited = queued_at_dead_worker(fastlb, 200)
    more = f"{queued} queued at it, all answered {waited * 1000:.0f} ms after its end"
    yield Row("kill -9 a stopped worker", 200, 0, waited, more)


def evenness(root: Path, folder: Path) -> Iterator[Row]:
    for name, pause, asks in (("burst", 0.0, False), ("asking", 0.0, True), ("slow", 0.02, True)):
        with (
            DemoTarget("demo") as target,
            FastlbProcess(root, targets=[target], workers=4) as fastlb,
        ):
            fastlb.wait_states()
            found = spread(fastlb, 1000, pause, asks)
        yield Row(
            f"1,000 connections, 4 workers, {name}", 1000, 0, 0, f"fullest {found:.3f} x mean"
        )


def supervisor(root: Path, folder: Path) -> Iterator[Row]:
    found = takeovers(root, 10, 32)
    ready = ", ".join(f"{one:.1f}" for one in found.times)
    yield row("takeovers x 10, keep-alive clients", found.load, f"ready after {ready} s")
    yield Row(
        "takeovers x 10, new connections",
        found.new_connections,
        len(found.new_failures),
        found.slowest_new,
        f"old workers end within {max(found.ended):.2f} s",
    )


def stop(root: Path, folder: Path) -> Iterator[Row]:
    for _ in range(5):
        took, result = stop_under_load(root, 64)
        refused = result.failures.pop("connect", 0)
        yield row(
            "SIGTERM under load", result, f"ended in {took:.2f} s; {refused} refused after it"
        )


CASES: dict[str, Case] = {
    "kill": kill,
    "flap": flapping,
    "hang": hanging,
    "eject": ejecting,
    "close": closing,
    "graceful": graceful,
    "worker": worker,
    "even": evenness,
    "supervisor": supervisor,
    "stop": stop,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kill_tests", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    root = new_run_root()
    wrong = 0
    print(f"{'case':46} {'requests':>9} {'failed':>7} {'slowest':>8}")
    try:
        for _ in range(arguments.rounds):
            for name in arguments.only:
                folder = Path(tempfile.mkdtemp(prefix="s", dir=root))
                try:
                    for one in CASES[name](root, folder):
                        print(one, flush=True)
                except AssertionError as error:
                    wrong += 1
                    print(f"{name}: NOT AS IT SHOULD BE: {error}", flush=True)
    finally:
        kill_all(processes_of(root))
        shutil.rmtree(root)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
