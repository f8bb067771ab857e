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
import random
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.scenarios.test_upgrade import Upgrades, start_takeover, upgrades, wait_log, wait_pid
from tests.scenarios.test_worker_death import Probes
from tests.support.fastlb import FastlbProcess
from tests.support.load import LoadClient, LoadResult
from tests.support.processes import kill_all, new_run_root, processes_of, wait_until
from tests.support.scaling import ScaledFastlb, gone, group_of

MIB = 1 << 20
GROWTH = 1.05
FILES = 12
"""Open files more or fewer that say nothing: checks and new connections are under way."""


@dataclass
class Chaos:
    """What kills in the midst of takeovers cost."""

    load: LoadResult
    probes: Probes
    in_charge: dict[str, int]
    """How often who was in charge after it: old, new, or nobody, so that one had to be started."""


def kill_in_the_midst(root: Path, rounds: int, connections: int, seed: int) -> Chaos:
    """Begin a takeover and kill one of the two, or both, at a random moment, `rounds` times."""
    chance = random.Random(seed)
    found = {"old": 0, "new": 0, "nobody": 0}
    with ExitStack() as stack:
        fastlb = stack.enter_context(ScaledFastlb(root, group_of(min=2, max=3), workers=2))
        instances = {id: one["pid"] for id, one in fastlb.wait_steady(2).items()}
        load = stack.enter_context(LoadClient(fastlb.port, connections=connections)).started()
        probes = stack.enter_context(Probes(fastlb.port).running(2))
        # From the second on the port must be said: who starts after both were killed has to know it.
        fastlb.command[fastlb.command.index("http://127.0.0.1:0")] = (
            f"http://127.0.0.1:{fastlb.port}"
        )
        # One in peace, to know how long it takes.
        current = start_takeover(fastlb)
        wait_log(fastlb, "handing over")
        began = time.monotonic()
        assert fastlb.process.wait(60) == 0
        took = time.monotonic() - began
        wait_pid(fastlb, current.pid)
        for _ in range(rounds):
            begun = fastlb.log().count("handing over")
            second = start_takeover(fastlb)
            wait_log(fastlb, "handing over", begun + 1)
            time.sleep(chance.uniform(0, 1.2 * took))
            victims = chance.choice([[current], [second], [second], [current, second]])
            for one in victims:
                one.kill()
                one.wait()
            pids = {"old": current, "new": second}
            who = wait_until(lambda: who_serves(fastlb, pids), 60, "somebody in charge, or nobody")  # noqa: B023
            found[who] += 1
            current = start_takeover(fastlb) if who == "nobody" else pids[who]
            wait_pid(fastlb, current.pid)
            status = fastlb.wait_steady(2)
            assert {id: one["pid"] for id, one in status.items()} == instances, fastlb.log()
        result = load.stop()
        probes.stop()
        assert result.failed == 0, f"{result}\n{fastlb.log()}"
        assert probes.failures == [], fastlb.log()
        current.terminate()
        assert current.wait(60) == 0
        gone(instances.values())
        wait_until(lambda: not processes_of(fastlb.run_dir), 60, "nobody is left")
    return Chaos(result, probes, found)


def who_serves(fastlb: FastlbProcess, candidates: dict[str, subprocess.Popen[bytes]]) -> str:
    """Who of them is in charge and alone; `nobody` where both have ended; "" while it is not decided."""
    living = {name: one for name, one in candidates.items() if one.poll() is None}
    if not living:
        return "nobody"
    if len(living) == 2:
        return ""
    ((name, one),) = living.items()
    try:
        return name if fastlb.status()["pid"] == one.pid else ""
    except (OSError, ValueError):
        return ""


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
    """What is not flat, in words: the median of the last upgrades against that of the first, since two
    processes that did the same differ by more than what is looked for."""
    some = max(len(samples) // 3, 1)
    rss, files = (median(one) for one in zip(*samples[:some], strict=True))
    last_rss, last_files = (median(one) for one in zip(*samples[-some:], strict=True))
    found = []
    if last_rss > rss * GROWTH:
        found.append(f"{name}: {rss / MIB:.1f} MiB grew to {last_rss / MIB:.1f}")
    if last_files > files + FILES:
        found.append(f"{name}: {files:g} open files grew to {last_files:g}")
    return found


if __name__ == "__main__":
    sys.exit(main())
