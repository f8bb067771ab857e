"""What `fastlb activity`, `fastlb why` and `fastlb logs` share: their flags, JSON line by line; and of
the former two, asking for a history and following it.

Knows how to ask; how an entry looks is in `history_view`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from fastlb.cli.asking import Supervisor, add_name

if TYPE_CHECKING:
    from rich.text import Text

DEFAULT_LAST = 20
WAIT_SECONDS = 20.0
"""As long as the supervisor lets one request wait."""
MOST_OPEN = 500
"""Of the entries whose end is still to be shown; a request has 64 KiB."""

View = Callable[[Mapping[str, Any], int | None, date], "list[Text]"]


def add_reading(parser: argparse.ArgumentParser) -> None:
    add_following(
        parser, DEFAULT_LAST, f"how many of the last ones (default {DEFAULT_LAST}; 2000 are kept)"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, with all figures"
    )
    add_name(parser)


def add_following(parser: argparse.ArgumentParser, last: int, about: str) -> None:
    """-n with its default, and --follow."""
    parser.add_argument("-n", "--last", metavar="N", type=count_argument, default=last, help=about)
    parser.add_argument("--follow", "-f", action="store_true", help="show what comes, until Ctrl-C")


def as_json(records: Iterable[Mapping[str, Any]]) -> None:
    """One object a line, at once: whoever reads a pipe waits for them."""
    for one in records:
        print(json.dumps(one))
    sys.stdout.flush()


def count_argument(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f'expected a whole number of at least 0, got "{text}"')
    return int(text)


def read(
    arguments: argparse.Namespace, request: dict[str, Any], view: View, end: View | None = None
) -> int:
    """Show the last entries, and with --follow those that come. Raises FastlbError as the supervisor
    goes away.

    With `end`, an entry that had not ended when it was shown is shown once more when it has.
    """
    supervisor = Supervisor(arguments.name)
    show = _in_json if arguments.json else _on_screen(view, end)
    answer = supervisor.ask({**request, "last": arguments.last})
    show(answer["entries"], set())
    if not arguments.follow:
        if not answer["entries"] and not arguments.json:
            print("nothing so far")
        return 0
    newest: int = answer["newest"]
    under_way = _still_open(answer["entries"])
    while True:
        more: dict[str, Any] = {"after": newest}
        if end is not None:
            more["open"] = sorted(under_way)[-MOST_OPEN:]
        answer = supervisor.ask({**request, **more}, WAIT_SECONDS)
        entries = answer["entries"]
        show(entries, under_way)
        newest = max(newest, answer["newest"])
        under_way = (under_way - {one["number"] for one in entries}) | _still_open(entries)


def _still_open(entries: list[dict[str, Any]]) -> set[int]:
    return {one["number"] for one in entries if one["ended"] is None and not one["outcome"]}


Show = Callable[[list[dict[str, Any]], set[int]], None]
"""Shows entries; those of the given numbers were shown before."""


def _in_json(entries: list[dict[str, Any]], shown: set[int]) -> None:
    as_json(entries)


def _on_screen(view: View, end: View | None) -> Show:
    from fastlb.cli.layout import Screen

    screen = Screen(sys.stdout)

    def show(entries: list[dict[str, Any]], shown: set[int]) -> None:
        today = date.today()
        for one in entries:
            look = end if end is not None and one["number"] in shown else view
            screen.show(look(one, screen.width, today))

    return show
