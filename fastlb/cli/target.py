"""`fastlb target add` and `fastlb target remove`: targets that come and go without a configuration."""

from __future__ import annotations

import argparse
from typing import Any

from fastlb.cli.on_target import add_idle_wait, add_target, ask_on_target
from fastlb.cli.usage import CommandParser, Word
from fastlb.cli.weight import weight_of
from fastlb.config.read_groups import target_from_text
from fastlb.errors import ConfigError

ACTIONS = ("add", "remove")


def action_of(text: str) -> str:
    if text not in ACTIONS:
        raise ValueError(f'expected add or remove, got "{text}"')
    return text


def address_of(text: str) -> str:
    if "," in text:
        raise ValueError(f'expected an address; --weight and --backup are flags, got "{text}"')
    return str(target_from_text(text).address)


def add_arguments(parser: CommandParser) -> None:
    parser.usage = "fastlb target add|remove GROUP ADDRESS [FLAGS]"
    parser.take(
        Word(
            "action",
            "add|remove",
            "whether it comes, or goes when nothing is in flight there, after drain_timeout at the "
            "latest",
            read=action_of,
        ),
        Word("group", "GROUP", "name of the target group"),
        Word("target", "ADDRESS", "HOST:PORT or unix:/path", read=address_of),
    )
    parser.epilog = (
        "What was added lasts over a reload and a new supervisor, until it is removed or\n"
        "fastlb is stopped. What was removed and is configured stays out as long; add brings\n"
        "it back.\n"
        "A removed target has drain_timeout (30s if not set) for the requests that it has. Then\n"
        "it is gone from its group; what it still has goes on, and --wait waits for that."
    )
    parser.add_argument(
        "--weight", metavar="N", type=_weight, help="of a target that is added (default 1)"
    )
    parser.add_argument(
        "--backup",
        action="store_true",
        help="of a target that is added: requests only while no other is healthy",
    )
    add_idle_wait(parser)
    add_target(parser, group=False, force=True)


def _weight(text: str) -> int:
    try:
        return int(weight_of(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected a weight from 0 to 999, got "{text}"') from None


def target(arguments: argparse.Namespace) -> int:
    adding = arguments.action == "add"
    flags = ("wait", "force") if adding else ("weight", "backup")
    wrong = [f"--{name}" for name in flags if getattr(arguments, name) not in (None, False)]
    if wrong:
        raise ConfigError([f"target {arguments.action}: {', '.join(wrong)} says nothing here"])
    said: dict[str, Any] = {}
    if arguments.weight is not None:
        said["weight"] = arguments.weight
    if arguments.backup:
        said["backup"] = True
    return ask_on_target(arguments, f"target_{arguments.action}", **said)
