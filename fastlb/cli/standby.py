"""`fastlb standby`: take an instance out of service and keep it running, to look into it."""

from __future__ import annotations

import argparse

from fastlb.cli.on_instance import add_on_instance, on_instance
from fastlb.cli.usage import CommandParser


def add_arguments(parser: CommandParser) -> None:
    add_on_instance(
        parser,
        "replace",
        "launch another one in its place; without it the desired number is one less",
    )


def standby(arguments: argparse.Namespace) -> int:
    return on_instance(arguments, "standby", "replace")
