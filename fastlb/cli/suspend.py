"""`fastlb suspend`: let a group launch, terminate or scale no more until `fastlb resume`."""

from __future__ import annotations

import argparse

from fastlb.cli.asking import Supervisor, add_name
from fastlb.cli.usage import CommandParser, Word, near
from fastlb.cli.waiting import GROUP, of_group
from fastlb.cli.wording import clean
from fastlb.model.auto_scaling import SUSPENDABLE

CHOICES = "|".join(SUSPENDABLE)
MEANINGS = (
    "launch: start instances; terminate: end those over the desired number; scaling: policies"
)


def process_of(text: str) -> str:
    """Raises ValueError for what cannot be suspended."""
    if text not in SUSPENDABLE:
        known = ", ".join(SUSPENDABLE[:-1])
        raise ValueError(
            f'expected {known} or {SUSPENDABLE[-1]}, got "{text}"{near(text, SUSPENDABLE)}'
        )
    return text


def add_arguments(parser: CommandParser) -> None:
    parser.usage = f"fastlb suspend [GROUP] {CHOICES} [--name NAME]"
    parser.take(GROUP, Word("process", "PROCESS", MEANINGS, read=process_of))
    add_name(parser)


def suspend(arguments: argparse.Namespace) -> int:
    request = of_group(arguments, "suspend", process=arguments.process)
    print(clean(Supervisor(arguments.name).ask(request)["said"]))
    return 0
