"""`fastlb standby`: take an instance out of service and keep it running, to look into it."""

from __future__ import annotations

import argparse

from fastlb.cli.usage import CommandParser
from fastlb.cli.waiting import INSTANCE, add_wait, request_and_wait


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb standby INSTANCE [--replace] [--wait] [FLAGS]"
    parser.take(INSTANCE)
    parser.add_argument(
        "--replace",
        action="store_true",
        help="launch another one in its place; without it the desired number is one less",
    )
    add_wait(parser)


def standby(arguments: argparse.Namespace) -> int:
    request = {
        "command": "standby",
        "instance": arguments.instance,
        "replace": arguments.replace,
    }
    return request_and_wait(arguments, request)
