"""`fastlb top`: a live view of an instance in the terminal; how it looks is in `top_view`."""

from __future__ import annotations

import argparse
import sys

from fastlb.cli.asking import add_name

LEAST_INTERVAL = 1.0
SORTS = (
    *("name", "state", "group", "requests", "errors", "4xx", "p50", "p95", "p99"),
    *("in-flight", "connections", "held", "healthy", "weight", "age", "cpu", "rss"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=_interval,
        default=LEAST_INTERVAL,
        help=f"between two looks (default {LEAST_INTERVAL:g}, which is the least)",
    )
    parser.add_argument(
        "--sort",
        metavar="KEY",
        choices=SORTS,
        default="",
        help=f"what sorts the tables that have it: {', '.join(SORTS)}",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="show everything once, plainly, and leave; a pipe gets that anyway",
    )


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not LEAST_INTERVAL <= seconds <= 3600:
        raise argparse.ArgumentTypeError(
            f'expected seconds from {LEAST_INTERVAL:g} to 3600, got "{text}"'
        )
    return seconds


def top(arguments: argparse.Namespace) -> int:
    """Raises FastlbError where no instance answers, or where it ends."""
    from rich.console import Console

    from fastlb.cli.admin_client import AdminClient
    from fastlb.cli.layout import Screen as Lines
    from fastlb.cli.top_header import Sight
    from fastlb.cli.top_screen import Screen, State, begin_trail
    from fastlb.cli.top_view import plain_frame

    client = AdminClient.of(arguments.name)
    overview, series = client.get("overview"), client.get("series?scope=all&span=5m")
    console = Console(highlight=False)
    live = console.is_terminal and sys.stdin.isatty() and not console.is_dumb_terminal
    if live and not arguments.once:
        return Screen(client, console, arguments.interval, arguments.sort).run(overview, series)
    state = State(overview, Sight())
    begin_trail(state, series)
    lines = Lines(sys.stdout)
    ascii = console.options.ascii_only
    lines.show(plain_frame(overview, state.trails, lines.width, arguments.sort, ascii))
    return 0
