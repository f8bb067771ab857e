"""What one run of a load costs: CPU of a process tree and of the whole machine, latency, memory.

A cell is what was found of one contestant in one round. Knows no configuration.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.loads import Hold, Load, Outcome, prepared
from bench.processes import BenchError

Cell = dict[str, float]
"""By name of the figure, see `cell` and `idle_cell`; what was not measured is left out."""
SETTLE_SECONDS = 0.3
WARM_CONNECTIONS = 100
DISTURBED = 0.1
"""Cores that other processes may use during a cell."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How often and how long: rounds, seconds of a cell, tries of a cell that others disturb."""

    rounds: int
    seconds: int
    tries: int


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds: of a process tree, of its first process alone, of the whole machine, and of the part of
    the machine's that is none of ours (not of this process or one that it has started)."""

    user: float
    system: float
    first: float
    machine: float
    others: float

    def __sub__(self, before: CpuTimes) -> CpuTimes:
        return CpuTimes(
            self.user - before.user,
            self.system - before.system,
            self.first - before.first,
            self.machine - before.machine,
            self.others - before.others,
        )


class Tree:
    """A proxy's first process and all below it; none at all for "no proxy".

    To be made once the proxy has answered: before, its workers may not have been started.
    """

    def __init__(self, pid: int | None) -> None:
        first = psutil.Process(pid) if pid else None
        self._processes = [first, *first.children(recursive=True)] if first else []

    def cpu(self) -> CpuTimes:
        """Raises BenchError where one of them is gone: its time would be missing."""
        try:
            times = [one.cpu_times() for one in self._processes]
        except psutil.NoSuchProcess as gone:
            raise BenchError(f"process {gone.pid} of the proxy ended under the load") from None
        now = psutil.cpu_times()
        charged = now.user + now.nice + now.system
        return CpuTimes(
            user=sum(one.user for one in times),
            system=sum(one.system for one in times),
            first=times[0].user + times[0].system if times else 0.0,
            machine=charged + now.irq + now.softirq,
            others=charged - _our_seconds(),
        )

    def rss(self) -> int:
        """Bytes; pages that two processes share count for both."""
        return sum(one.memory_info().rss for one in self._processes)


def _our_seconds() -> float:
    """Of this process, its living descendants and its children that have ended."""
    own = psutil.Process()
    ours = own.cpu_times()
    total = ours.user + ours.system + ours.children_user + ours.children_system
    for one in own.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return float(total)


def cell(outcome: Outcome, spent: CpuTimes, rss: int, cores: int) -> Cell:
    """Per request (round trip, MB): `user`, `system`, `cpu` (both), `first` (of the first process: the
    supervisor's or master's share), `busy` (whole machine) in µs. `rate` is a second's requests, `share`
    how much of its cores the proxy used, `rss` bytes, `p50`, `p99`, `p999` µs, `others` how many cores
    processes that have nothing to do with the bench have used meanwhile."""
    each = 1e6 / outcome.count
    found = {
        "rate": outcome.count / outcome.seconds,
        "busy": spent.machine * each,
        "others": max(spent.others, 0.0) / outcome.seconds,
    }
    for name in ("p50", "p99", "p999"):
        value = getattr(outcome, name)
        if value is not None:
            found[name] = value
    if rss:
        found |= {
            "user": spent.user * each,
            "system": spent.system * each,
            "cpu": (spent.user + spent.system) * each,
            "first": spent.first * each,
            "share": (spent.user + spent.system) / outcome.seconds / cores,
            "rss": rss,
        }
    return found


def measure(
    load: Load,
    port: int,
    pid: int | None,
    load_cores: Sequence[int],
    proxy_cores: int,
    effort: Effort,
    folder: Path,
) -> Cell:
    """One cell; up to `effort.tries` times where other processes were in the way, and the best of
    these. Raises BenchError where anything failed."""
    if isinstance(load, Hold):
        return _idle_cell(load, port, pid, load_cores, folder)
    found: list[Cell] = []
    while len(found) < effort.tries and not any(one["others"] < DISTURBED for one in found):
        found.append(_loaded_cell(load, port, pid, load_cores, proxy_cores, effort.seconds, folder))
    return min(found, key=lambda one: one["others"])


def _loaded_cell(
    load: Load,
    port: int,
    pid: int | None,
    load_cores: Sequence[int],
    proxy_cores: int,
    seconds: int,
    folder: Path,
) -> Cell:
    with prepared(load, port, load_cores, seconds, folder) as ready:
        tree = Tree(pid)
        before = tree.cpu()
        outcome = ready.run()
        spent = tree.cpu() - before
        rss = tree.rss()
    return cell(outcome, spent, rss, proxy_cores)


def _idle_cell(load: Hold, port: int, pid: int | None, cores: Sequence[int], folder: Path) -> Cell:
    """`rss`, and `idle_bytes`: what each held connection adds to it."""
    with prepared(Hold(WARM_CONNECTIONS), port, cores, 1, folder):
        pass  # what is allocated once, by the first few, is not the price of a connection
    time.sleep(SETTLE_SECONDS)
    tree = Tree(pid)
    before = tree.rss()
    with prepared(load, port, cores, 1, folder):
        time.sleep(SETTLE_SECONDS)
        after = tree.rss()
    return {"rss": after, "idle_bytes": (after - before) / load.connections}
