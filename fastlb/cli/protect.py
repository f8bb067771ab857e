"""`fastlb protect`: an instance that no scale-in and no refresh may end."""

from __future__ import annotations

import argparse

from fastlb.cli.asking import Supervisor, add_name
from fastlb.cli.usage import CommandParser
from fastlb.cli.waiting import INSTANCE
from fastlb.cli.wording import clean


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb protect INSTANCE [--off] [--name NAME]"
    parser.take(INSTANCE)
    parser.add_argument("--off", action="store_true", help="protect it no more")
    add_name(parser)


def protect(arguments: argparse.Namespace) -> int:
    request = {"command": "protect", "instance": arguments.instance, "on": not arguments.off}
    print(clean(Supervisor(arguments.name).ask(request)["said"]))
    return 0
