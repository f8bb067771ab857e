"""`fastlb terminate`: end one instance, drained first."""

from __future__ import annotations

import argparse

from fastlb.cli.on_instance import add_on_instance, on_instance
from fastlb.cli.usage import CommandParser


def add_arguments(parser: CommandParser) -> None:
    add_on_instance(
        parser,
        "decrement",
        "make the desired number one less; without it another one is launched in its place",
    )


def terminate(arguments: argparse.Namespace) -> int:
    return on_instance(arguments, "terminate", "decrement")
