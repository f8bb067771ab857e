"""Locust against each contestant in turn, headless and over several processes.

    python -m bench.locust_run [--users 56] [--seconds 10]

Locust's own HTML report and CSV files of each stay in bench/results/locust-TIME/, and a table beside
them. The contestants are pinned as in `python -m bench`. The status is 1 where a request failed.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.loads import Wrk, check
from bench.measure import Tree
from bench.processes import ROOT, BenchError, free_port, pinned
from bench.proxies import NO_PROXY, PROXIES, Setup
from bench.report import NOTHING, Row, as_markdown_table, as_table, number
from bench.run import Contestant, Cores, connections_at_most, cores_of, missing, started
from bench.targets import serving

RESULTS = Path(__file__).parent / "results"
GRACE_SECONDS = 60.0
HEAD = [
    "",
    "requests",
    "failed",
    "requests/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "proxy CPU µs",
    "used",
]


@dataclass(frozen=True, slots=True)
class Found:
    """Of one contestant: locust's figures by name of the request, and the proxy's CPU seconds."""

    figures: Mapping[str, Mapping[str, str]]
    cpu: float


def read_stats(lines: Iterable[str]) -> dict[str, dict[str, str]]:
    """Rows of locust's _stats.csv by name; the sum of all is `Aggregated`."""
    return {row["Name"]: row for row in csv.DictReader(lines)}


def total_row(contestant: str, found: Found) -> Row:
    """Of all requests of one contestant, under HEAD."""
    all_of_it = found.figures["Aggregated"]
    requests, rate = int(all_of_it["Request Count"]), float(all_of_it["Requests/s"])
    of_proxy = requests and contestant != NO_PROXY
    return [
        contestant,
        f"{requests:,}",
        all_of_it["Failure Count"],
        number(rate),
        *(all_of_it[name] for name in ("50%", "95%", "99%")),
        number(found.cpu / requests * 1e6) if of_proxy else NOTHING,
        f"{found.cpu / requests * rate:.0%}" if of_proxy else NOTHING,
    ]


def kind_rows(all_found: Mapping[str, Found]) -> list[Row]:
    """Head and one row for each kind of request: requests/s and p50 ms of each contestant."""
    names = sorted(
        {name for found in all_found.values() for name in found.figures if name != "Aggregated"}
    )
    rows = [["", *all_found]]
    for name in names:
        row = [name]
        for found in all_found.values():
            one = found.figures.get(name)
            row.append(f"{number(float(one['Requests/s']))} · {one['50%']} ms" if one else NOTHING)
        rows.append(row)
    return rows


def _run(
    one: Contestant, cores: Cores, folder: Path, results: Path, users: int, seconds: int
) -> Found:
    with ExitStack() as stack:
        targets = stack.enter_context(serving(Setup(), cores.load, folder))
        proxy = stack.enter_context(
            started(one, targets, folder, cores, True, connections_at_most())
        )
        check(Wrk(), proxy.port)
        prefix = results / one.name.replace(" ", "-")
        command = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            str(Path(__file__).with_name("locustfile.py")),
        ]
        command += ["--headless", "--only-summary", "--host", f"http://127.0.0.1:{proxy.port}"]
        command += ["--processes", str(max(len(cores.load), 2)), "--users", str(users)]
        command += ["--spawn-rate", str(users), "--run-time", f"{seconds}s", "--stop-timeout", "5"]
        command += ["--html", f"{prefix}.html", "--csv", str(prefix), "--exit-code-on-error", "0"]
        # Its master and workers talk to each other on loopback alone.
        port = str(free_port())
        command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port]
        command += ["--master-host", "127.0.0.1", "--master-port", port]
        tree = Tree(proxy.pid)
        before = tree.cpu()
        with open(f"{prefix}.log", "wb") as log:
            process = subprocess.Popen(
                pinned(cores.load, command),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                status = process.wait(seconds + GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                raise BenchError(f"locust did not end; see {prefix}.log") from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        spent = tree.cpu() - before
        stats = Path(f"{prefix}_stats.csv")
        if status or not stats.exists():
            raise BenchError(f"locust ended with status {status}; see {prefix}.log")
        return Found(read_stats(stats.read_text().splitlines()), spent.user + spent.system)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=56, help="of all kinds together")
    parser.add_argument("--seconds", type=int, default=10, help="for each contestant")
    options = parser.parse_args()
    if importlib.util.find_spec("locust") is None:
        print("skipped: locust is not installed (pip install -e '.[bench]')")
        return 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    cores = cores_of(sorted(os.sched_getaffinity(0)))
    results = RESULTS / f"locust-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    results.mkdir(parents=True)
    setup = Setup()
    taking_part = []
    for proxy in PROXIES:
        if why := missing(proxy, setup):
            print(f"skipped: {why}")
        else:
            taking_part.append(Contestant(proxy.name, proxy, setup))
    taking_part.append(Contestant(NO_PROXY, None, setup))
    all_found: dict[str, Found] = {}
    for one in taking_part:
        print(f"locust against {one.name}, {options.seconds} s ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="fastlb-bench-") as name:
            folder = Path(name)
            folder.chmod(0o755)
            all_found[one.name] = _run(one, cores, folder, results, options.users, options.seconds)
    rows = [HEAD, *(total_row(name, found) for name, found in all_found.items())]
    kinds = kind_rows(all_found)
    print(f"\n{as_table(rows)}\n\n{as_table(kinds)}\n\nwritten: {os.path.relpath(results)}")
    (results / "summary.md").write_text(
        "# Locust, the same users against each\n\n"
        f"{as_markdown_table(rows)}\n\n{as_markdown_table(kinds)}\n"
    )
    return int(
        any(int(found.figures["Aggregated"]["Failure Count"]) for found in all_found.values())
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"error: {error}")
