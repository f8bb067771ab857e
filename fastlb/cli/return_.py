"""`fastlb return`: bring an instance back into service from standby."""

from __future__ import annotations

import argparse

from fastlb.cli.usage import CommandParser
from fastlb.cli.waiting import INSTANCE, add_wait, request_and_wait


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb return INSTANCE [--wait [--timeout TIME]] [--name NAME]"
    parser.take(INSTANCE)
    add_wait(parser)


def return_(arguments: argparse.Namespace) -> int:
    return request_and_wait(arguments, {"command": "return", "instance": arguments.instance})
