"""`fastlb resume`: let a group do again what `fastlb suspend` stopped."""

from __future__ import annotations

import argparse

from fastlb.cli.suspend import CHOICES, process_of
from fastlb.cli.usage import CommandParser, Word
from fastlb.cli.waiting import GROUP, add_wait, of_group, request_and_wait


def add_arguments(parser: CommandParser) -> None:
    parser.usage = f"fastlb resume [GROUP] [{CHOICES}] [--wait] [FLAGS]"
    parser.take(
        GROUP,
        Word(
            "process",
            "PROCESS",
            f"{CHOICES}; all of them where it is left out",
            True,
            read=process_of,
        ),
    )
    add_wait(parser)


def resume(arguments: argparse.Namespace) -> int:
    more = {} if arguments.process is None else {"process": arguments.process}
    return request_and_wait(arguments, of_group(arguments, "resume", **more))
