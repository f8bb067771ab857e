"""A soak: a million checked requests, with the workers' memory and open files sampled on the way.

    python -m bench.soak                        from the project's folder, some minutes
    python -m bench.soak --requests 100000      a shorter one
    python -m bench.soak --kill                 a target is killed and started again all the while

At the end both must be flat: the last samples are no more than those of the first fifth, plus 3 %
of the memory. The status is 1 where they are not, or where a request failed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.fastlb import FastlbProcess
from tests.support.load import LoadClient
from tests.support.processes import (
    kill_all,
    new_run_root,
    open_files,
    processes_of,
    resident_bytes,
)
from tests.support.targets import DemoTarget

MIB = 1 << 20
GROWTH = 1.03
LOADS = (
    {"path": "/"},
    {"path": "/echo", "method": "POST", "body_bytes": 2000},
    {"path": "/bytes/20000"},
)
"""What the load clients ask for, in turns."""


@dataclass
class Sample:
    """Of all workers, at one moment."""

    at: float
    requests: int
    rss: list[int]
    files: list[int]

    def __str__(self) -> str:
        rss = " ".join(f"{one / MIB:6.2f}" for one in self.rss)
        files = " ".join(f"{one:4}" for one in self.files)
        return f"{self.at:7.1f} s {self.requests:10,} requests   RSS {rss} MiB   files {files}"


def take(fastlb: FastlbProcess, begun: float) -> Sample:
    status = fastlb.status()
    pids = [one["pid"] for one in status["workers"]]
    return Sample(
        time.monotonic() - begun,
        status["totals"]["requests"],
        [resident_bytes(pid) for pid in pids],
        [open_files(pid) for pid in pids],
    )


def kill_now_and_then(target: DemoTarget, ending: threading.Event) -> None:
    while not ending.wait(2.0):
        target.restart()


def grown(samples: list[Sample]) -> list[str]:
    """What is not flat, in words."""
    first = samples[: max(len(samples) // 5, 1)]
    last = samples[-max(len(samples) // 10, 1) :]
    found = []
    for worker in range(len(samples[0].rss)):
        before = max(one.rss[worker] for one in first)
        after = min(one.rss[worker] for one in last)
        if after > before * GROWTH:
            found.append(f"worker {worker}: {before / MIB:.2f} MiB became {after / MIB:.2f} MiB")
        files = max(one.files[worker] for one in first)
        if min(one.files[worker] for one in last) > files:
            found.append(f"worker {worker}: {files} open files became {last[-1].files[worker]}")
    return found


def soak(root: Path, requests: int, connections: int, workers: int, kill: bool) -> bool:
    """Whether all was well."""
    with ExitStack() as stack:
        folder = root / "sockets"
        folder.mkdir()
        targets = [
            stack.enter_context(DemoTarget(f"demo-{i}", folder / f"{i}.sock")) for i in range(3)
        ]
        fastlb = stack.enter_context(
            FastlbProcess(root, "--health-path", "/health", targets=targets, workers=workers)
        )
        fastlb.wait_states()
        share = requests // len(LOADS)
        loads = [
            stack.enter_context(
                LoadClient(fastlb.port, count=share, connections=connections, **load)
            )
            for load in LOADS
        ]
        for load in loads:
            load.started()
        ending = threading.Event()
        killing = threading.Thread(target=kill_now_and_then, args=(targets[0], ending))
        if kill:
            killing.start()
        begun = time.monotonic()
        samples: list[Sample] = []
        pause = max(requests / 200_000, 0.5)
        try:
            while any(load.process.poll() is None for load in loads):
                samples.append(take(fastlb, begun))
                print(samples[-1], flush=True)
                time.sleep(pause)
        finally:
            ending.set()
            if kill:
                killing.join()
        results = [load.wait() for load in loads]
        for result in results:
            print(result)
        wrong = grown(samples)
        for line in wrong:
            print("NOT FLAT:", line)
        failed = sum(result.failed for result in results)
        if kill:
            # What a killed target had of them may have been done: nobody may send it a second time.
            once = [result for result, load in zip(results, LOADS, strict=True) if "method" in load]
            lost = sum(result.failures.get("status-502", 0) for result in once)
            failed -= lost
            print(f"{lost} POSTs were at a target that was killed, and answered 502")
        done = sum(result.requests for result in results)
        print(f"{done:,} requests in {time.monotonic() - begun:.0f} s, {failed} failed")
        fastlb.stop()
    return not failed and not wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=20, help="of each of three clients")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill", action="store_true", help="kill -9 a target every 2 s")
    arguments = parser.parse_args()
    root = new_run_root()
    try:
        good = soak(
            root, arguments.requests, arguments.connections, arguments.workers, arguments.kill
        )
    finally:
        kill_all(processes_of(root))
        shutil.rmtree(root)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
