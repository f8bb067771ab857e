"""fastlb beside nginx, HAProxy, Caddy and no proxy, in one run.

    python -m bench                        everything; bench/results/latest.{json,md} and plots
    python -m bench --quick                some workloads in under a minute, against bench/bounds.toml
    python -m bench --only get unix        these workloads
    python -m bench --against FOLDER       beside the fastlb of another checkout, and nobody else

The status is 1 where something failed, or where a ratio of a quick run is worse than its bound.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psutil

from bench import bounds, plots
from bench.figures import Result, as_plain
from bench.measure import Effort
from bench.processes import ROOT, BenchError, find_program
from bench.proxies import BEFORE, FASTLB, PROXIES, Proxy, before
from bench.report import (
    LOAD_BOUND,
    as_table,
    markdown,
    remarks,
    summary_rows,
    workload_rows,
)
from bench.run import Cores, contestants, cores_of, missing, run_workload
from bench.workloads import QUICK, WORKLOADS, Workload

RESULTS = Path(__file__).parent / "results"
ROUNDS, QUICK_ROUNDS = 5, 2
SECONDS = 1
TRIES = 4
BUSY_PERCENT = 10.0
REQUIRED = {"wrk": "wrk", "nginx": "nginx", "taskset": "util-linux"}
"""Programs without which nothing can be measured, and their Debian packages."""


class Progress:
    """One line that is written over, on a terminal; nothing elsewhere."""

    def __init__(self, cells: int) -> None:
        self._cells = cells
        self._done = 0
        self._begun = time.monotonic()
        self._shown = sys.stderr.isatty()

    def step(self, text: str) -> None:
        """Before each cell."""
        if self._shown:
            share = self._done / self._cells
            spent = time.monotonic() - self._begun
            left = f", {spent / share - spent:.0f} s left" if share > 0.02 else ""
            print(f"\r\033[K[{share:4.0%}{left}] {text}", end="", file=sys.stderr, flush=True)
        self._done += 1

    def clear(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    names = [one.name for one in WORKLOADS]
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=(__doc__ or "").partition("\n")[0],
        epilog="workloads: " + ", ".join(names),
    )
    parser.add_argument(
        "--quick", action="store_true", help="few workloads and rounds; exit 1 beyond bounds.toml"
    )
    parser.add_argument("--only", nargs="+", metavar="WORKLOAD", choices=names, default=[])
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="another checkout, as the only contestant"
    )
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, or {QUICK_ROUNDS} with --quick")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each cell; default 1")
    options = parser.parse_args(argv)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    if options.quick and options.against:
        parser.error("--quick is fastlb beside the other proxies; it goes without --against")
    return options


def chosen(only: Sequence[str], quick: bool) -> list[Workload]:
    """In the order of the table."""
    names = only or (QUICK if quick else [one.name for one in WORKLOADS])
    return [one for one in WORKLOADS if one.name in names]


def without_goal(workload: Workload) -> Workload:
    """The same work, for a comparison with what was before: goals are about the peers."""
    return replace(workload, goal=None, base=None, base_title="")


def _about(options: argparse.Namespace, cores: int) -> dict[str, str]:
    def first_line(*command: str, cwd: Path = ROOT) -> str:
        try:
            done = subprocess.run(
                command, cwd=cwd, capture_output=True, text=True, timeout=10, check=False
            )
        except OSError:
            return ""
        return (done.stdout + done.stderr).partition("\n")[0].strip()

    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    about = {
        "run": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {options.rounds} rounds of "
        f"{options.seconds} s, interleaved",
        "machine": f"{cores} cores, {model[0] if model else platform.machine()}, "
        f"Linux {platform.release()}",
        "fastlb": f"{first_line('git', 'describe', '--always', '--dirty') or 'no git'}, "
        f"Python {platform.python_version()}",
    }
    if options.against:
        before = first_line("git", "describe", "--always", "--dirty", cwd=options.against)
        return about | {BEFORE: before or str(options.against)}
    for name, flag in (("nginx", "-v"), ("haproxy", "-v"), ("caddy", "version")):
        if path := find_program(name):
            about[name] = first_line(path, flag)
    return about


def _warn_of_others() -> None:
    busy = psutil.cpu_percent(1.0)
    if busy > BUSY_PERCENT:
        print(f"warning: the machine is {busy:.0f} % busy with something else; figures will be off")


def _write(results: Sequence[Result], about: dict[str, str], latest: bool) -> Path:
    """A folder of this run; a whole run's is copied to latest.json, latest.md and latest-*.svg."""
    folder = RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    places = [(folder, "results", "")] + [(RESULTS, "latest", "latest-")] * latest
    for where, name, prefix in places:
        drawn = []
        try:
            if BEFORE not in about:  # the plots are of the peers
                drawn = plots.draw(results, where, prefix)
        except ImportError:
            print("no plots: matplotlib is not installed (pip install -e '.[bench]')")
        text = json.dumps({"about": about, "results": [as_plain(one) for one in results]}, indent=1)
        (where / f"{name}.json").write_text(text + "\n")
        (where / f"{name}.md").write_text(markdown(results, about, drawn))
    return folder


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _has_no_proxy(options: argparse.Namespace) -> bool:
    """Whether "no proxy" is shown beside the proxies."""
    return not (options.quick or options.against)


def _measured(
    workload: Workload,
    proxies: Sequence[Proxy],
    cores: Cores,
    options: argparse.Namespace,
    progress: Progress,
) -> Result:
    """One workload, with its progress and its table on the terminal."""

    def step(number: int, contestant: str) -> None:
        progress.step(f"{workload.title} · round {number} of {options.rounds} · {contestant}")

    effort = Effort(options.rounds, options.seconds, 1 if options.quick else TRIES)
    result = run_workload(workload, proxies, cores, effort, _has_no_proxy(options), step)
    progress.clear()
    print(f"\n{workload.title} ({workload.name})\n{as_table(workload_rows(result))}")
    for line in remarks(result):
        print(f"  {line}")
    sys.stdout.flush()
    return result


def main(argv: Sequence[str] | None = None) -> int:
    options = _arguments(argv)
    # An end by signal must end the proxies and targets, too.
    signal.signal(signal.SIGTERM, _stop)
    for program, package in REQUIRED.items():
        if find_program(program) is None:
            print(f"{program} is not installed (Debian: {package}); nothing can be measured")
            return 1
    cores = cores_of(sorted(os.sched_getaffinity(0)))
    workloads = chosen(options.only, options.quick)
    proxies: Sequence[Proxy] = PROXIES
    if options.against:
        workloads = [without_goal(one) for one in workloads]
        proxies = (FASTLB, before(options.against))
    people = {
        one.name: contestants(one, proxies, _has_no_proxy(options), missing) for one in workloads
    }
    about = _about(options, cores.count)
    print("\n".join(f"{name}: {text}" for name, text in about.items()))
    for why in sorted({why for _, skipped in people.values() for why in skipped.values()}):
        print(f"skipped: {why}")
    _warn_of_others()
    progress = Progress(sum(len(who) for who, _ in people.values()) * options.rounds)
    results: list[Result] = []
    complete = False
    try:
        for workload in workloads:
            results.append(_measured(workload, proxies, cores, options, progress))
        complete = True
        print(f"\n{as_table(summary_rows(results))}\n* {LOAD_BOUND}")
    finally:
        # What has been measured before an end by Ctrl-C or SIGTERM is worth keeping.
        if results:
            whole = complete and not (options.quick or options.only or options.against)
            print(f"\nwritten: {os.path.relpath(_write(results, about, latest=whole))}")
    failed = [f"{one.workload.name}: {name}" for one in results for name in one.failures]
    beyond = bounds.worse(results, bounds.load()) if options.quick else []
    for line in beyond:
        print(f"worse than its bound: {line}")
    if failed:
        print(f"failed: {'; '.join(failed)}")
    return 1 if failed or beyond else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
