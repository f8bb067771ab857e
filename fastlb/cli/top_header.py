"""The lines above the table of `fastlb top`: totals, the last minute, what is wrong, the views. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from fastlb.cli.layout import latency, span
from fastlb.cli.top_detail import troubles
from fastlb.cli.top_tables import VIEWS, Row, amount, percent, sized
from fastlb.cli.wording import clean

WIDE = 110
"""From this width on, tables have the columns that are for wide terminals."""
BARS = " ▁▂▃▄▅▆▇█"
ASCII_BARS = " .:-=+*%#"
HEADER_LINES = 7


@dataclass(frozen=True, slots=True)
class Trail:
    """Totals of the last minute, the oldest first."""

    requests: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    p99: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Sight:
    """What is looked at: which view, sorted how, which row; and what stands in the line for that."""

    view: int = 0
    sort: str = ""
    backwards: bool = False
    selected: str = ""
    help: bool = False
    question: str = ""
    said: str = ""
    failed: bool = False
    lost: str = ""
    """Why there is nothing new; "" while there is."""


def header(overview: Row, trail: Trail, sight: Sight, width: int, ascii: bool) -> list[Text]:
    """HEADER_LINES of them; the last two are about the table below."""
    return [
        _title(overview, sight, width),
        _totals(overview, width),
        _latency(overview),
        _sparks(trail, width, ascii),
        troubles(overview, width),
        _tabs(overview, sight, width),
        Text("─" * width if not ascii else "-" * width, "dim"),
    ]


def _title(overview: Row, sight: Sight, width: int) -> Text:
    host = overview["host"]
    left = Text.assemble(
        ("fastlb ", "bold"),
        (clean(str(overview["name"])), "bold cyan"),
        f"  up {span(overview['uptime_s'])}  host cpu {percent(host['cpu_percent'])} of "
        f"{host['cores']}, mem {percent(host['memory_percent'])}",
    )
    if overview["draining"]:
        left.append("  DRAINING", "bold yellow")
    clock = time.strftime("%H:%M:%S", time.localtime(overview["time"]))
    right = Text(f"LOST {clock}", "bold red") if sight.lost else Text(f"live {clock}", "green")
    return _ends(left, right, width)


def _ends(left: Text, right: Text, width: int) -> Text:
    left.truncate(max(width - len(right) - 1, 0))
    return Text.assemble(left, " " * (width - len(left) - len(right)), right)


def _totals(overview: Row, width: int) -> Text:
    totals = overview["totals"]
    status = totals["status"] or {}
    line = Text.assemble((f"{amount(totals['requests_per_s'])} req/s", "bold"))
    styles = {"4xx": "yellow", "5xx": "bold red"}
    for which in ("2xx", "3xx", "4xx", "5xx"):
        value = status.get(which)
        line.append(f"  {which} ", "dim")
        line.append(f"{amount(value):<5}", styles.get(which, "") if value else "")
    for name, key in (("err", "errors_per_s"), ("retry", "retries_per_s")):
        line.append(f"  {name} ", "dim")
        line.append(f"{amount(totals[key]):<4}")
    if width >= WIDE:
        line.append("  in ", "dim")
        line.append(f"{sized(totals['bytes_in_per_s'])}/s")
        line.append("  out ", "dim")
        line.append(f"{sized(totals['bytes_out_per_s'])}/s")
    return line


def _latency(overview: Row) -> Text:
    totals = overview["totals"]
    line = Text()
    for name in ("p50", "p95", "p99"):
        line.append(f"{name} ", "dim")
        line.append(f"{latency(totals[f'{name}_s']):<7}", "bold")
    line.append("in flight ", "dim")
    line.append(f"{amount(totals['in_flight']):<5}", "bold")
    line.append("connections ", "dim")
    line.append(f"{amount(connections(overview)):<5}", "bold")
    line.append("total ", "dim")
    line.append(amount(totals["requests_total"]))
    return line


def connections(overview: Row) -> float:
    known = overview["totals"].get("connections")
    if known is not None:
        return float(known)
    return float(sum(one["connections"] or 0 for one in overview["listeners"]))


def _sparks(trail: Trail, width: int, ascii: bool) -> Text:
    """Three small charts of the last minute, in whatever room there is; how high each goes where that is
    enough."""
    names = "last minute  req/s   5xx/s   p99 "
    tops = 3 * len(" to 12.3k") if width >= WIDE else 0
    each = min(60, (width - len(names) - tops) // 3)
    line = Text("last minute", "dim")
    for name, values, style, say in (
        ("req/s", trail.requests, "green", amount),
        ("5xx/s", trail.errors, "red", amount),
        ("p99", trail.p99, "cyan", latency),
    ):
        top = f" to {say(max(values, default=0))}" if tops else ""
        line.append(f"  {name}{top} ", "dim")
        line.append(sparkline(values, each, ascii), style)
    return line


def sparkline(values: Sequence[float], width: int, ascii: bool = False) -> str:
    """The last values, the greatest of each few where there are more than cells; 0 is blank."""
    bars = ASCII_BARS if ascii else BARS
    each = max(1, -(-len(values) // width))
    first = len(values) % each
    groups = [values[:first]] if first else []
    groups += [values[n : n + each] for n in range(first, len(values), each)]
    peaks = [max(one) for one in groups]
    top = max(peaks, default=0)
    steps = len(bars) - 1
    # Of what is not nothing at least something is seen.
    said = "".join(bars[min(math.ceil(one * steps / top), steps)] if top else " " for one in peaks)
    return said.rjust(width)


def _tabs(overview: Row, sight: Sight, width: int) -> Text:
    line = Text()
    for n, view in enumerate(VIEWS):
        name = f" {n + 1} {view.title} {len(view.rows(overview))} "
        line.append(name, "reverse bold" if n == sight.view else "")
    order = " reversed" if sight.backwards else ""
    right = Text(f"by {sight.sort or 'name'}{order}", "dim")
    return _ends(line, right, width) if len(line) + len(right) < width else line
