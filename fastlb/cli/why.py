"""`fastlb why`: the decisions of scaling, health and routing, with what they were taken from."""

from __future__ import annotations

import argparse

from fastlb.cli.reading import add_reading, read
from fastlb.cli.usage import CommandParser, Word

SUBJECT = Word(
    "about",
    "SUBJECT",
    "a target (its address, or its port), an instance's id or a group; without it everything",
    optional=True,
)


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb why [SUBJECT] [FLAGS]"
    parser.take(SUBJECT)
    add_reading(parser)


def why(arguments: argparse.Namespace) -> int:
    from fastlb.cli.history_view import decision

    about = {} if arguments.about is None else {"about": arguments.about}
    return read(arguments, {"command": "why", **about}, decision)
