"""`fastlb reload`: let an instance read its configuration anew; wrong ones change nothing.

What is configured and not in force, since it was rolled back before, is no success of --wait.
"""

from __future__ import annotations

import argparse
import sys

from fastlb.cli.asking import Supervisor
from fastlb.cli.waiting import add_wait, newest_activity, refuse_lone_timeout, wait_for
from fastlb.cli.wording import clean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_wait(parser)


def reload(arguments: argparse.Namespace) -> int:
    refuse_lone_timeout(arguments, "reload")
    supervisor = Supervisor(arguments.name)
    since = newest_activity(supervisor) if arguments.wait else 0
    answer = supervisor.ask({"command": "reload"})
    for line in str(answer["said"]).split("\n"):
        print(clean(line), flush=True)
    not_in_force = answer.get("not_in_force", [])
    for text in not_in_force:
        print(f"fastlb: {clean(text)}", file=sys.stderr, flush=True)
    if arguments.wait:
        status = supervisor.ask({"command": "status"})
        groups = [one["name"] for one in status["auto_scaling_groups"]]
        wait_for(supervisor, groups, since, arguments.timeout)
        return 1 if not_in_force else 0
    return 0
