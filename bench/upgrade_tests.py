"""Upgrades in place under constant load, as a table of what they cost.

    python -m bench.upgrade_tests                  from the project's folder, about a minute
    python -m bench.upgrade_tests --upgrades 100   for longer
    python -m bench.upgrade_tests --kills 20       the old, the new or both supervisors killed in the midst

64 keep-alive clients whose answers are checked to be their own, new connections beside them, and 50
WebSockets that echo all the while. A request that failed, a WebSocket that was cut, memory or open files
that grew, or a count that is not the clients' is said; the status is 1 then.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tests.scenarios.test_upgrade import Upgrades, kill_in_the_midst, upgrades
from tests.support.processes import kill_all, new_run_root, processes_of

MIB = 1 << 20
GROWTH = 1.05
FILES = 12
"""Open files more or fewer that say nothing: checks and new connections are under way."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.upgrade_tests", description=__doc__)
    parser.add_argument("--upgrades", type=int, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--sockets", type=int, default=50)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    root = new_run_root()
    try:
        if arguments.kills:
            show_kills(root, arguments.kills, arguments.seed)
            return 0
        found = upgrades(root, arguments.upgrades, arguments.connections, arguments.sockets)
    except AssertionError as error:
        print(f"NOT AS IT SHOULD BE: {error}")
        return 1
    finally:
        kill_all(processes_of(root))
        shutil.rmtree(root)
    show(found)
    wrong = [*grown("supervisor", found.supervisor), *grown("workers", found.workers)]
    clients = found.load.requests + len(found.probes.taken) + arguments.sockets
    missing = clients - found.counted
    if missing > 0:
        wrong.append(f"{missing} requests of {clients} are not counted")
    for line in wrong:
        print(f"NOT AS IT SHOULD BE: {line}")
    return 1 if wrong else 0


def show(found: Upgrades) -> None:
    load, probes = found.load, found.probes
    slowest = max(took for _, took in probes.taken)
    print(f"upgrades            {len(found.seconds):9}  {seconds(found.seconds)} s each")
    print(
        f"keep-alive requests {load.requests:9,}  {load.failed} failed, slowest {load.max_latency:.3f} s"
    )
    print(
        f"new connections     {len(probes.taken):9,}  {len(probes.failures)} failed, "
        f"slowest {slowest:.3f} s"
    )
    print(f"WebSocket echoes    {found.echoes:9,}  no WebSocket was cut")
    print(f"counted by status   {found.counted:9,}")
    for name, samples in (("supervisor", found.supervisor), ("workers", found.workers)):
        rss = " ".join(f"{rss / MIB:.1f}" for rss, _ in samples)
        files = " ".join(str(files) for _, files in samples)
        print(f"{name}: RSS {rss} MiB; open files {files}")


def show_kills(root: Path, kills: int, seed: int) -> None:
    found = kill_in_the_midst(root, kills, 16, seed)
    load, probes = found.load, found.probes
    who = ", ".join(f"{name} {count}" for name, count in found.in_charge.items())
    print(
        f"kills in the midst  {kills:9}  in charge after it: {who}; the same instances all the while"
    )
    print(
        f"keep-alive requests {load.requests:9,}  {load.failed} failed, slowest {load.max_latency:.3f} s"
    )
    print(f"new connections     {len(probes.taken):9,}  {len(probes.failures)} failed")


def seconds(taken: list[float]) -> str:
    return f"{min(taken):.1f} to {max(taken):.1f}"


def grown(name: str, samples: list[tuple[int, int]]) -> list[str]:
    """What is not flat from the first upgrade to the last, in words."""
    (rss, files), (last_rss, last_files) = samples[0], samples[-1]
    found = []
    if last_rss > rss * GROWTH:
        found.append(f"{name}: {rss / MIB:.1f} MiB grew to {last_rss / MIB:.1f}")
    if last_files > files + FILES:
        found.append(f"{name}: {files} open files grew to {last_files}")
    return found


if __name__ == "__main__":
    sys.exit(main())
