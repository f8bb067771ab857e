"""`fastlb activity`: what the auto scaling groups did, with cause and outcome."""

from __future__ import annotations

import argparse

from fastlb.cli.reading import add_reading, read
from fastlb.cli.usage import CommandParser
from fastlb.cli.waiting import GROUP, of_group


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb activity [GROUP] [-n N] [--follow] [--json] [--name NAME]"
    parser.take(GROUP)
    add_reading(parser)


def activity(arguments: argparse.Namespace) -> int:
    from fastlb.cli.history_view import activity as view
    from fastlb.cli.history_view import end_of

    return read(arguments, of_group(arguments, "activity"), view, end_of)
