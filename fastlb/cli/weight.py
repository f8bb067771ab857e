"""`fastlb weight`: how much of its group's requests a target gets."""

from __future__ import annotations

import argparse

from fastlb.cli.on_target import TARGET, add_target, ask_on_target
from fastlb.cli.usage import CommandParser, Word
from fastlb.errors import ConfigError
from fastlb.model.target_override import parse_weight


def weight_of(text: str) -> str:
    """As it was typed. Raises ValueError for what is no weight."""
    parse_weight(text)
    return text


WEIGHT = Word(
    "weight",
    "N",
    "a whole number, or percent of the configured weight such as 50%; 0 is no new requests",
    optional=True,
    read=weight_of,
)


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb weight TARGET (N | N%% | --reset) [--reason TEXT] [FLAGS]"
    parser.take(TARGET, WEIGHT)
    parser.add_argument("--reset", action="store_true", help="back to the configured weight")
    add_target(parser, force=True)


def weight(arguments: argparse.Namespace) -> int:
    if arguments.reset == (arguments.weight is not None):
        raise ConfigError(["weight: expected a weight such as 3 or 50%, or --reset"])
    said = {"reset": True} if arguments.reset else {"weight": arguments.weight}
    return ask_on_target(arguments, "weight", **said)
