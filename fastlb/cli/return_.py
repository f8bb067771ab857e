"""`fastlb return`: bring an instance back into service from standby."""

from __future__ import annotations

import argparse

from fastlb.cli.on_instance import add_on_instance, on_instance
from fastlb.cli.usage import CommandParser


def add_arguments(parser: CommandParser) -> None:
    add_on_instance(parser)


def return_(arguments: argparse.Namespace) -> int:
    return on_instance(arguments, "return")
