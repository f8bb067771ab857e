"""`fastlb help`: topics that are about more than one command, and each command's own --help."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap

from fastlb.cli.usage import Word, near
from fastlb.errors import ConfigError
from fastlb.help import ORDER, topic

WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "fastlb help [TOPIC | COMMAND]"
    parser.take(  # type: ignore[attr-defined]
        Word("topic", "TOPIC", "a topic or a command; without one all are listed", optional=True)
    )


def help(arguments: argparse.Namespace) -> int:
    from fastlb.cli.main import COMMANDS, run

    wanted: str | None = arguments.topic
    if wanted is None:
        print(listed())
        return 0
    if wanted in ORDER:
        flags = f"\n`fastlb {wanted} --help` shows its flags.\n" if wanted in COMMANDS else ""
        show(topic(wanted) + flags)
        return 0
    if wanted in COMMANDS:
        return run([wanted, "--help"])
    known = [*ORDER, *COMMANDS]
    raise ConfigError([f'there is no topic "{wanted}"{near(wanted, known)}', *listed().split("\n")])


def listed() -> str:
    """All topics."""
    from fastlb.cli.main import COMMANDS

    lines = ["topics:", *_wrapped(ORDER), "commands:", *_wrapped(COMMANDS)]
    return "\n".join([*lines, "fastlb help TOPIC shows one, fastlb help COMMAND its flags."])


def _wrapped(names: object) -> list[str]:
    text = ", ".join(map(str, names))  # type: ignore[call-overload]
    return textwrap.wrap(
        text, 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )


def show(text: str) -> None:
    """On a terminal as it is meant to look; else as it is written."""
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    width = min(shutil.get_terminal_size().columns, WIDTH)
    Console(width=width).print(Markdown(text))
