"""`fastlb status`: what the supervisor of an instance says of it; how it looks is in `status_view`."""

from __future__ import annotations

import argparse
import sys

from fastlb.cli.asking import Supervisor, add_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    parser.add_argument(
        "--json", action="store_true", help="the supervisor's answer as it is, for programs"
    )


def status(arguments: argparse.Namespace) -> int:
    supervisor = Supervisor(arguments.name)
    request = {"command": "status"}
    if arguments.json:
        print(supervisor.line(request))
        return 0
    from fastlb.cli.layout import Screen
    from fastlb.cli.status_view import render

    screen = Screen(sys.stdout)
    screen.show(render(supervisor.ask(request), screen.width))
    return 0
