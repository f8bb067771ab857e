"""`fastlb refresh`: replace the instances of a group by new ones, or end or undo that."""

from __future__ import annotations

import argparse

from fastlb.cli.usage import CommandParser
from fastlb.cli.waiting import GROUP, add_wait, of_group, request_and_wait


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb refresh [GROUP] [--force | --cancel | --rollback] [--wait] [FLAGS]"
    parser.take(GROUP)
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--force",
        action="store_true",
        help="also where the configured template was rolled back before",
    )
    for name, help in (
        (
            "cancel",
            "end the refresh that is under way; what was replaced stays so, and launches use the "
            "template before it",
        ),
        (
            "rollback",
            "go back to the template before the refresh that is under way or was cancelled",
        ),
    ):
        action.add_argument(f"--{name}", dest="action", action="store_const", const=name, help=help)
    parser.set_defaults(action="start")
    add_wait(parser)


def refresh(arguments: argparse.Namespace) -> int:
    forced = {"force": True} if arguments.force else {}
    request = of_group(arguments, "refresh", action=arguments.action, **forced)
    return request_and_wait(arguments, request)
