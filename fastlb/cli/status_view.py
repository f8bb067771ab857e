"""How `fastlb status` looks: text for a terminal of 80 columns or more, or for a pipe.

Pure but for the writing. In a pipe each target is one line, its reason last; on a narrow terminal
the reason stands on a line of its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from fastlb.cli.wording import counted

STYLES = {
    "healthy": "green",
    "initial": "yellow",
    "suspect": "bold yellow",
    "unhealthy": "bold red",
    "draining": "cyan",
    "unused": "dim",
    "running": "green",
    "starting": "yellow",
    "ended": "dim",
    "dead": "bold red",
    "hung": "bold red",
}
TARGET_HEADS = ("TARGET", "STATE", "IN-FLIGHT", "REQUESTS", "ERRORS", "P50", "P99")
WORKER_HEADS = (
    *("WORKER", "PID", "STATE", "CONNS", "IN-FLIGHT", "REQUESTS"),
    *("CPU", "RSS", "RESTARTS"),
)
INDENT = "  "
SHORTEST_REASON = 24
LONGEST_ADDRESS = 21


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would leave with status 1; that nobody reads on is no failure."""
        raise


def show(document: dict[str, Any], out: TextIO) -> None:
    console = _Console(file=out, highlight=False)
    width = console.width if console.is_terminal else None
    for line in render(document, width):
        console.print(line, soft_wrap=True)


def render(document: dict[str, Any], width: int | None) -> list[Text]:
    """The lines; `width` None is a pipe, where a line may be as long as it likes."""
    groups = document["target_groups"]
    head = Text.assemble(
        ("fastlb ", "bold"),
        (_clean(document["name"]), "bold"),
        f"  pid {document['pid']}, up {span(document['uptime_s'])}, ",
        f"version {_clean(document['version'])}",
    )
    if document["draining"]:
        head.append("  DRAINING", "bold yellow")
    lines = [head, Text()]
    lines += _table(
        ("LISTENER", "DEFAULT", "RULES"),
        [[one["address"], one["default"], str(one["rules"])] for one in document["listeners"]],
        right=(2,),
    )
    for group in groups:
        lines += [Text(), *_group(group, width)]
    lines += [Text(), *_workers(document["workers"])]
    totals = document["totals"]
    lines += [Text(), *_wrapped(_totals(totals), width, "")]
    return lines


def _group(group: dict[str, Any], width: int | None) -> list[Text]:
    head = Text.assemble((_clean(group["name"]), "bold"))
    if group["fail_open"]:
        head.append("  FAIL OPEN: no target is healthy, all of them get traffic", "bold red")
    about = _wrapped(
        f"{group['algorithm']}; health check: {_clean(str(group['health_check']))}", width, ""
    )
    targets = group["targets"]
    if not targets:
        return [head, *about, Text(INDENT + "no targets", "yellow")]
    if width is None:
        rows = [[_with_notes(one["address"], one), *_figures(one)] for one in targets]
        heads, *lines = _table(TARGET_HEADS, rows, right=(2, 3, 4, 5, 6))
        heads.append(INDENT + "REASON")
        placed = [
            line.append(INDENT + _clean(_reason(one)))
            for line, one in zip(lines, targets, strict=True)
        ]
        return [head, *about, heads, *placed]
    rows = [[_short(one["address"]), *_figures(one)] for one in targets]
    heads, *lines = _table(TARGET_HEADS, rows, right=(2, 3, 4, 5, 6))
    placed = []
    for line, one, row in zip(lines, targets, rows, strict=True):
        name = "" if row[0] == one["address"] else one["address"]
        remark = "; ".join(part for part in (name, _with_notes(_reason(one), one)) if part)
        placed += [line, *_wrapped(_clean(remark), width, INDENT * 2)]
    return [head, *about, heads, *placed]


def _short(address: str) -> str:
    """An address that leaves room for the figures: of a long one the end says most."""
    return address if len(address) <= LONGEST_ADDRESS else "…" + address[1 - LONGEST_ADDRESS :]


def _reason(target: dict[str, Any]) -> str:
    """Why a target is in its state; a suspect one gets no more until it answers."""
    return "; ".join(filter(None, ["stalls" if target["suspect"] else "", target["reason"]]))


def _with_notes(text: str, target: dict[str, Any]) -> str:
    notes = [f"weight {target['weight']}"] if target["weight"] != 1 else []
    notes += ["backup"] if target["backup"] else []
    return f"{text} ({', '.join(notes)})" if notes else text


def _figures(target: dict[str, Any]) -> list[str]:
    return [
        "suspect" if target["suspect"] and target["state"] == "healthy" else target["state"],
        str(target["in_flight"]),
        str(target["requests"]),
        str(target["errors"]),
        latency(target["p50_s"]),
        latency(target["p99_s"]),
    ]


def _workers(workers: Sequence[dict[str, Any]]) -> list[Text]:
    rows = [
        [
            str(one["index"]),
            str(one["pid"]),
            one["state"],
            str(one["connections"]),
            str(one["in_flight"]),
            str(one["requests"]),
            f"{one['cpu_percent']:.0f}%",
            size(one["rss_bytes"]),
            str(one["restarts"]),
        ]
        for one in workers
    ]
    return _table(WORKER_HEADS, rows, right=(1, 3, 4, 5, 6, 7, 8))


def _totals(totals: dict[str, Any]) -> str:
    statuses = {
        key.removeprefix("status_"): number
        for key, number in sorted(totals.items())
        if key.startswith("status_") and number
    }
    answers = ", ".join(f"{number} {status}" for status, number in statuses.items())
    final = sum(number for status, number in statuses.items() if status != "1xx")
    # What is refused before it is a request (400, 431, ...) is answered and not counted as one.
    unread = " (some to what was refused before it was a request)"
    return (
        f"{counted(totals['requests'], 'request')}, {totals['in_flight']} in flight on "
        f"{counted(totals['connections'], 'connection')}; "
        f"answers: {answers or 'none'}{unread if final > totals['requests'] else ''}; "
        f"{counted(totals['errors'], 'error')}, {counted(totals['retries'], 'retry')}, "
        f"{counted(totals['rejected'], 'connection')} rejected, "
        f"{size(totals['bytes_in'])} in, {size(totals['bytes_out'])} out"
    )


def _table(heads: Sequence[str], rows: list[list[str]], right: Sequence[int]) -> list[Text]:
    """The heads and one line a row; columns as wide as their widest cell."""
    rows = [[_clean(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in [heads, *rows]) for n in range(len(heads))]

    def line(cells: Sequence[str], style: str | None = None) -> Text:
        made = Text()
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            made.append(INDENT)
            padded = cell.rjust(width) if n in right else cell.ljust(width)
            made.append(padded, style or STYLES.get(cell.split(" ")[0]))
        made.rstrip()
        return made

    return [line(heads, "dim"), *(line(row) for row in rows)]


def _wrapped(text: str, width: int | None, indent: str) -> list[Text]:
    indent = INDENT + indent
    if width is None:
        return [Text(indent + text)]
    room = max(width - len(indent), SHORTEST_REASON)
    return [Text(indent + part) for part in textwrap.wrap(text, room)]


def _clean(text: str) -> str:
    """A reason may quote what a target sent: nothing of it may steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def latency(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1e3:.2f}ms"
    return f"{seconds * 1e3:.0f}ms" if seconds < 1 else f"{seconds:.1f}s"


def size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f}{unit}" if unit == "B" or number >= 100 else f"{number:.1f}{unit}"


def span(seconds: float) -> str:
    """The two largest units of a time, as a person says it."""
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m")]
    said = [f"{number} {unit}" for number, unit in [*parts, (whole % 60, "s")]]
    first = next((n for n, (number, _) in enumerate(parts) if number), 3)
    return " ".join(said[first : first + 2])
