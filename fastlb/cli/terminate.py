"""`fastlb terminate`: end one instance, drained first."""

from __future__ import annotations

import argparse

from fastlb.cli.usage import CommandParser
from fastlb.cli.waiting import INSTANCE, add_wait, request_and_wait


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb terminate INSTANCE [--decrement] [--wait] [FLAGS]"
    parser.take(INSTANCE)
    parser.add_argument(
        "--decrement",
        action="store_true",
        help="make the desired number one less; without it another one is launched in its place",
    )
    add_wait(parser)


def terminate(arguments: argparse.Namespace) -> int:
    request = {
        "command": "terminate",
        "instance": arguments.instance,
        "decrement": arguments.decrement,
    }
    return request_and_wait(arguments, request)
