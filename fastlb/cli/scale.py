"""`fastlb scale`: how many instances a group should have."""

from __future__ import annotations

import argparse
import re

from fastlb.cli.usage import CommandParser, Word
from fastlb.cli.waiting import GROUP, add_wait, of_group, request_and_wait


def desired_of(text: str) -> int:
    """Raises ValueError for what is no number."""
    if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
        raise ValueError(f'expected a number of instances, got "{text}"')
    return int(text)


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb scale [GROUP] N [--wait [--timeout TIME]] [--name NAME]"
    parser.take(
        GROUP,
        Word(
            "desired",
            "N",
            "instances that it should have, from its min to its max",
            read=desired_of,
        ),
    )
    add_wait(parser)


def scale(arguments: argparse.Namespace) -> int:
    return request_and_wait(arguments, of_group(arguments, "scale", desired=arguments.desired))
