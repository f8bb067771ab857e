"""`fastlb disable`: no new requests to a target, and no health checks."""

from __future__ import annotations

import argparse

from fastlb.cli.on_target import TARGET, add_idle_wait, add_target, ask_on_target
from fastlb.cli.usage import CommandParser


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb disable TARGET [--wait [--timeout TIME]] [--reason TEXT] [FLAGS]"
    parser.take(TARGET)
    parser.epilog = (
        "As `fastlb drain`, and nobody checks it: for a target that is taken down. `fastlb\n"
        "enable` has it back after one passed check. Of an instance it is standby."
    )
    add_idle_wait(parser)
    add_target(parser, force=True)


def disable(arguments: argparse.Namespace) -> int:
    return ask_on_target(arguments, "disable")
