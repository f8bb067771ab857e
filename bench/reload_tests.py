"""A hundred reloads in a row under load, as a table of what they cost.

    python -m bench.reload_tests                  from the project's folder, some two minutes
    python -m bench.reload_tests --reloads 30     fewer

64 keep-alive connections, each answer checked to be its request's own, and 50 WebSockets of a group
that no reload changes. Each reload changes a weight, a rule and a target, every tenth the number of
workers as well; after each it is asked whether the new rule acts. The status is 1 where a request
failed, a WebSocket was cut, or memory or open files grew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys

from tests.scenarios.test_reload_load import MEGABYTE, assert_flat, reloads
from tests.support.processes import kill_all, new_run_root, processes_of


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reload_tests",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--reloads", type=int, default=100, help="a multiple of 20, or under 10")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--websockets", type=int, default=50)
    arguments = parser.parse_args()
    root = new_run_root()
    try:
        found = reloads(root, arguments.reloads, arguments.connections, arguments.websockets)
        took = sorted(found.seconds)
        print(f"reloads                  {len(took)}")
        print(f"  seconds, median        {statistics.median(took):.3f}")
        print(f"  seconds, longest       {took[-1]:.3f}")
        print(f"requests                 {found.load.requests:,}")
        print(f"  failed                 {found.load.failed} {found.load.failures or ''}")
        print(f"  slowest, seconds       {found.load.max_latency:.3f}")
        print(f"WebSocket messages       {found.messages:,}")
        print(f"  WebSockets cut         {len(found.cut)} {found.cut[:3] or ''}")
        for what, (before, after), unit in (
            ("RSS, MiB", found.rss, MEGABYTE),
            ("open files", found.files, 1),
        ):
            print(f"{what}, before and after; the last is the supervisor")
            for first, last in zip(before, after, strict=True):
                print(f"  {first / unit:8.1f} {last / unit:8.1f}")
        print(f"load average             {os.getloadavg()[0]:.1f}")
        assert_flat(found)
    except AssertionError as error:
        print(f"NOT AS IT SHOULD BE: {error}")
        return 1
    finally:
        kill_all(processes_of(root))
        shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
