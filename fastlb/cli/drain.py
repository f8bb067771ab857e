"""`fastlb drain`: no new requests to a target, while those that it has finish."""

from __future__ import annotations

import argparse

from fastlb.cli.on_target import TARGET, add_idle_wait, add_target, ask_on_target
from fastlb.cli.usage import CommandParser


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb drain TARGET [--wait [--timeout TIME]] [--reason TEXT] [FLAGS]"
    parser.take(TARGET)
    parser.epilog = (
        "Its checks go on, so that `fastlb undrain` has it back at once where it is well.\n"
        "It stays drained over a reload and a new supervisor, until it is undrained, the\n"
        "configuration names it no more, or fastlb is stopped. Of an instance it is standby."
    )
    add_idle_wait(parser)
    add_target(parser, force=True)


def drain(arguments: argparse.Namespace) -> int:
    return ask_on_target(arguments, "drain")
