"""The long runs of auto scaling, as a table of figures.

    python -m bench.scaling_tests                      from the project's folder, some six minutes
    python -m bench.scaling_tests --only step refresh  some of them
    python -m bench.scaling_tests --quick              fewer rounds, no wait for a scale-in

Real processes on loopback, a load client that checks that each answer is its request's own. A case
that is not as it should be says so, with the end of fastlb's log, and the rest go on; the status is
then 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import SubprocessError

from bench.scaling_group import Row
from bench.scaling_life import adoption, cost, from_zero, nothing_left
from bench.scaling_load import by_command, killing, load_step, refreshes
from tests.support.processes import kill_all, new_run_root, processes_of

Case = Callable[[Path, bool], Iterator[Row]]
"""Takes the root of run-time folders, and whether to be quick."""

CASES: dict[str, Case] = {
    "step": load_step,
    "command": by_command,
    "refresh": refreshes,
    "zero": from_zero,
    "supervisor": adoption,
    "left": nothing_left,
    "kill": killing,
    "cost": cost,
}


def run(name: str, root: Path, quick: bool) -> bool:
    """Whether the case was as it should be."""
    began = time.monotonic()
    well = True
    try:
        for one in CASES[name](root, quick):
            print(one, flush=True)
    except (AssertionError, OSError, SubprocessError) as error:
        well = False
        print(f"{name}: NOT AS IT SHOULD BE: {error}", flush=True)
    finally:
        kill_all(processes_of(root))
    load = os.getloadavg()[0]
    print(f"    ({name}: {time.monotonic() - began:.0f} s, load average {load:.1f})", flush=True)
    return well


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling_tests",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    root = new_run_root()
    print(f"{'case':46} {'requests':>9} {'failed':>7} {'slowest':>8}")
    try:
        well = [run(name, root, arguments.quick) for name in arguments.only]
    finally:
        kill_all(processes_of(root))
        shutil.rmtree(root)
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
