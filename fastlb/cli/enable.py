"""`fastlb enable`: a disabled target is checked again, and gets requests once it passes."""

from __future__ import annotations

import argparse

from fastlb.cli.on_target import TARGET, add_target, ask_on_target
from fastlb.cli.usage import CommandParser


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb enable TARGET [--group GROUP] [--reason TEXT] [--name NAME]"
    parser.take(TARGET)
    add_target(parser)


def enable(arguments: argparse.Namespace) -> int:
    return ask_on_target(arguments, "enable")
