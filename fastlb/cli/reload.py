"""`fastlb reload`: let an instance read its configuration anew; wrong ones change nothing."""

from __future__ import annotations

import argparse

from fastlb.cli.asking import Supervisor
from fastlb.cli.waiting import add_wait, newest_activity, refuse_lone_timeout, wait_for
from fastlb.cli.wording import clean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_wait(parser)


def reload(arguments: argparse.Namespace) -> int:
    refuse_lone_timeout(arguments, "reload")
    supervisor = Supervisor(arguments.name)
    since = newest_activity(supervisor) if arguments.wait else 0
    for line in str(supervisor.ask({"command": "reload"})["said"]).split("\n"):
        print(clean(line), flush=True)
    if arguments.wait:
        status = supervisor.ask({"command": "status"})
        groups = [one["name"] for one in status["auto_scaling_groups"]]
        wait_for(supervisor, groups, since, arguments.timeout)
    return 0
