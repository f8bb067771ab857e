"""What `fastlb standby`, `return` and `terminate` share: one instance, at most one switch, and --wait."""

from __future__ import annotations

import argparse

from fastlb.cli.usage import CommandParser
from fastlb.cli.waiting import INSTANCE, add_wait, request_and_wait


def add_on_instance(parser: CommandParser, switch: str = "", help: str = "") -> None:
    """The arguments; `switch` is a word that may be said beside the instance."""
    said = f" [--{switch}]" if switch else ""
    parser.usage = f"{parser.prog} INSTANCE{said} [--wait [--timeout TIME]] [--name NAME]"
    parser.take(INSTANCE)
    if switch:
        parser.add_argument(f"--{switch}", action="store_true", help=help)
    add_wait(parser)


def on_instance(arguments: argparse.Namespace, command: str, *switches: str) -> int:
    """Ask for it, and wait where that is wanted. Raises FastlbError."""
    said = {switch: getattr(arguments, switch) for switch in switches}
    request = {"command": command, "instance": arguments.instance, **said}
    return request_and_wait(arguments, request)
