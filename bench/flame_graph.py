"""Where a request's time goes in a worker: a flame graph, and shares by function and by library.

    python -m bench.flame_graph [WORKLOAD] [--seconds 5]

py-spy samples the worker under a load of wrk's and writes an SVG; where perf is installed it tells what
the kernel and each library take. Not named `profile`: the standard library has a module of that name,
which this one would hide from programs that are started in this folder. Knows no data plane.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil

from bench.loads import Wrk, check, prepared
from bench.processes import BenchError, find_program
from bench.proxies import FASTLB
from bench.report import as_table
from bench.run import Contestant, connections_at_most, cores_of, started
from bench.targets import serving
from bench.workloads import WORKLOADS, Workload

RESULTS = Path(__file__).parent / "results"
RATE = 400
SHOWN = 30
NAMES = [one.name for one in WORKLOADS if isinstance(one.load, Wrk) and one.pinned]


def shares(folded: Iterable[str]) -> list[tuple[str, float, float]]:
    """From folded stacks (`a;b;c COUNT`): function, share of samples in itself, and with what it
    calls; the most in itself first. Lines are stripped, so that a function is one entry."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    total = 0
    for line in folded:
        stack, _, count = line.rpartition(" ")
        if not stack:
            continue
        names = [_function(frame) for frame in stack.split(";")]
        own[names[-1]] += int(count)
        for name in set(names):
            whole[name] += int(count)
        total += int(count)
    return [(name, own[name] / total, whole[name] / total) for name, _ in _ranked(own, whole)]


def _ranked(own: Counter[str], whole: Counter[str]) -> list[tuple[str, int]]:
    return sorted(whole.items(), key=lambda one: (-own[one[0]], -one[1], one[0]))


def _function(frame: str) -> str:
    """`name (fastlb/data_plane/x.py:12)` without the line and the folders."""
    name, _, place = frame.partition(" (")
    file = place.rstrip(")").rpartition(":")[0] or place.rstrip(")")
    return f"{name} ({file.rpartition('/')[2]})" if file else name


def busiest_child(pid: int) -> int:
    """The worker: the child of the supervisor that has used most CPU."""
    children = psutil.Process(pid).children()
    if not children:
        raise BenchError("fastlb has no worker")

    def used(one: psutil.Process) -> float:
        times = one.cpu_times()
        return float(times.user + times.system)

    return max(children, key=used).pid


def _tool(command: Sequence[str], seconds: int) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    if done.returncode:
        raise BenchError(f"{' '.join(command)}\n{(done.stdout + done.stderr).strip()[-1000:]}")
    return done.stdout


def record_stacks(py_spy: str, pid: int, seconds: int, form: str, file: Path) -> None:
    """py-spy's samples, as `flamegraph` or `raw`. Raises BenchError."""
    # --nonblocking: a worker that is stopped at each sample would be another one.
    command = [py_spy, "record", "--nonblocking", "--pid", str(pid), "--rate", str(RATE)]
    command += ["--duration", str(seconds), "--format", form, "--output", str(file)]
    _tool(command, seconds)


def record_libraries(perf: str, pid: int, seconds: int, data: Path, results: Path) -> None:
    """perf's shares by library and by symbol, as perf-dso.txt and perf-symbol.txt. Raises BenchError."""
    command = [perf, "record", "-F", "999", "-g", "-p", str(pid), "-o", str(data)]
    _tool([*command, "--", "sleep", str(seconds)], seconds)
    for sort in ("dso", "symbol"):
        report = [perf, "report", "-i", str(data), "--stdio", "--no-children", "-g", "none"]
        text = _tool([*report, "--fields", f"overhead,{sort}", "--percent-limit", "0.5"], 60)
        lines = [one for one in text.splitlines() if one.strip() and one[0] != "#"]
        (results / f"perf-{sort}.txt").write_text("\n".join(lines) + "\n")


def _find_py_spy() -> str | None:
    """Beside the interpreter that runs this, or in the PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def profile(workload: Workload, py_spy: str, perf: str | None, seconds: int, results: Path) -> None:
    """Record a worker under the workload, into files in `results`. Raises BenchError."""
    cores = cores_of(sorted(os.sched_getaffinity(0)))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastlb-bench-")))
        folder.chmod(0o755)
        targets = stack.enter_context(serving(workload.setup, cores.load, folder))
        contestant = Contestant(FASTLB.name, FASTLB, workload.setup)
        fastlb = stack.enter_context(
            started(contestant, targets, folder, cores, True, connections_at_most())
        )
        check(workload.load, fastlb.port)
        assert fastlb.pid is not None
        worker = busiest_child(fastlb.pid)

        def load(watch: Callable[[], None]) -> None:
            with (
                # A second more at each end, in which the recorder starts and ends.
                prepared(workload.load, fastlb.port, cores.load, seconds + 2, folder) as ready,
                ThreadPoolExecutor(1) as pool,
            ):
                running = pool.submit(ready.run)
                watch()
                outcome = running.result()
            print(f"{workload.title}: {outcome.count / outcome.seconds:,.0f} requests/s meanwhile")

        for form, file in (("flamegraph", "flame.svg"), ("raw", "stacks.txt")):
            load(partial(record_stacks, py_spy, worker, seconds, form, results / file))
        if perf is None:
            print("skipped: perf is not installed (Debian: linux-perf)")
        else:
            load(partial(record_libraries, perf, worker, seconds, folder / "perf.data", results))
            print(f"\n{(results / 'perf-dso.txt').read_text()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("workload", nargs="?", choices=NAMES, default="browser", metavar="WORKLOAD")
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    py_spy = _find_py_spy()
    if py_spy is None:
        print("skipped: py-spy is not installed (pip install -e '.[bench]')")
        return 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    workload = next(one for one in WORKLOADS if one.name == options.workload)
    results = RESULTS / f"profile-{workload.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    results.mkdir(parents=True)
    profile(workload, py_spy, find_program("perf"), options.seconds, results)
    found = shares((results / "stacks.txt").read_text().splitlines())
    rows = [["Python function", "itself", "with callees"]]
    rows += [[name, f"{own:.1%}", f"{whole:.1%}"] for name, own, whole in found[:SHOWN]]
    print(f"{as_table(rows)}\n\nwritten: {os.path.relpath(results)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"error: {error}")
