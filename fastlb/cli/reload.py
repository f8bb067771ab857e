"""`fastlb reload`: let an instance read its configuration anew; wrong ones change nothing.

Says a line for each change, once all workers act on it. What is configured and not in force, since it
was rolled back before, is no success of --wait.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fastlb.cli.asking import Supervisor
from fastlb.cli.waiting import add_wait, newest_activity, refuse_lone_timeout, wait_for
from fastlb.cli.wording import clean
from fastlb.errors import ConfigError

IN_FORCE_SECONDS = 24.0
"""The supervisor's own times are shorter: for names to resolve, and for workers to act."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the new configuration and say what would change; change nothing",
    )
    add_wait(parser)


def reload(arguments: argparse.Namespace) -> int:
    refuse_lone_timeout(arguments, "reload")
    if arguments.dry_run and arguments.wait:
        raise ConfigError(["reload: --wait: a dry run changes nothing that could be waited for"])
    supervisor = Supervisor(arguments.name)
    since = newest_activity(supervisor) if arguments.wait else 0
    request: dict[str, Any] = {"command": "reload"}
    if arguments.dry_run:
        request["dry_run"] = True
    answer = supervisor.ask(request, IN_FORCE_SECONDS)
    for line in str(answer["said"]).split("\n"):
        print(clean(line), flush=True)
    late = answer.get("late", [])
    for text in late:
        print(f"fastlb: {clean(text)}", file=sys.stderr, flush=True)
    not_in_force = answer.get("not_in_force", [])
    for text in not_in_force:
        print(f"fastlb: {clean(text)}", file=sys.stderr, flush=True)
    if arguments.wait:
        status = supervisor.ask({"command": "status"})
        groups = [one["name"] for one in status["auto_scaling_groups"]]
        wait_for(supervisor, groups, since, arguments.timeout)
        return 1 if not_in_force or late else 0
    return 1 if late else 0
