"""A run as text: one table a workload, a summary with fastlb's ratios and goals; terminal and Markdown.

Pure: from results to lines.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence

from bench.figures import (
    FASTLB,
    Ratio,
    Result,
    Spread,
    added,
    cost,
    cpu_ratio,
    disturbed,
    figure,
    load_bound,
    rate_ratio,
    verdict,
)
from bench.loads import Hold
from bench.proxies import NO_PROXY
from bench.workloads import PEERS

NOTHING = "–"
MIB = 1 << 20
LOAD_BOUND = "no peer used its cores up: requests/s say little here, CPU does"
Row = list[str]
Column = Callable[[Result, str], str]

LEGEND = """\
Medians, in brackets the range over the rounds. *CPU* is user and system time of the proxy's whole process
tree for each request (round trip, MB); *first* is the part of it of the process that was started first:
fastlb's supervisor, nginx's master. *Busy* is what the whole machine spent, client and targets too. *Added*
is what the median latency has over that of no proxy. *Used* is how much of its cores the proxy used: where
that is far from 100 %, client and target were the limit."""


def number(value: float) -> str:
    """Three digits or so, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def with_range(found: Spread) -> str:
    """Median (low to high)."""
    return f"{number(found.median)} ({number(found.low)} – {number(found.high)})"


def ratio_text(ratio: Ratio | None) -> str:
    """Two digits and the range."""
    if ratio is None:
        return NOTHING
    found = ratio.spread
    return f"{found.median:.2f} ({found.low:.2f} – {found.high:.2f})"


def _plain(name: str, scale: float = 1.0, suffix: str = "") -> Column:
    def text(result: Result, contestant: str) -> str:
        found = figure(result.cells.get(contestant, ()), name)
        return NOTHING if found is None else number(found.median * scale) + suffix

    return text


def _ranged(name: str) -> Column:
    def text(result: Result, contestant: str) -> str:
        found = figure(result.cells.get(contestant, ()), name)
        return NOTHING if found is None else with_range(found)

    return text


def _first(result: Result, contestant: str) -> str:
    """Of the first process, where it is not the only one that works."""
    cells = result.cells.get(contestant, ())
    first, all_of_it = figure(cells, "first"), figure(cells, "cpu")
    if first is None or all_of_it is None or first.median > 0.999 * all_of_it.median:
        return NOTHING
    return number(first.median)


def _added(result: Result, contestant: str) -> str:
    found = None if contestant == NO_PROXY else added(result, contestant, "p50")
    return NOTHING if found is None else number(found)


def _used(result: Result, contestant: str) -> str:
    found = figure(result.cells.get(contestant, ()), "share")
    return NOTHING if found is None else f"{found.median:.0%}"


COLUMNS: Mapping[str, Column] = {
    "CPU µs": _ranged("cpu"),
    "user": _plain("user"),
    "system": _plain("system"),
    "first": _first,
    "busy µs": _plain("busy"),
    "used": _used,
    "p50 µs": _plain("p50"),
    "p99": _plain("p99"),
    "p99.9": _plain("p999"),
    "added": _added,
    "RSS MiB": _plain("rss", 1 / MIB),
}


def workload_rows(result: Result) -> list[Row]:
    """Head and one row a contestant."""
    if isinstance(result.workload.load, Hold):
        columns = {"bytes a connection": _ranged("idle_bytes"), "RSS MiB": COLUMNS["RSS MiB"]}
    else:
        columns = {f"{result.workload.unit}/s": _ranged("rate"), **COLUMNS}
    rows = [["", *columns]]
    for contestant in result.cells:
        rows.append([contestant, *(text(result, contestant) for text in columns.values())])
    return rows


def remarks(result: Result) -> list[str]:
    """Failures, who was left out, and what to know about the ratios."""
    lines = [f"FAILED: {name}: {why}" for name, why in result.failures.items()]
    if count := disturbed(result):
        lines.append(f"{count} cells were disturbed by other processes: figures are off")
    if load_bound(result):
        lines.append(f"* {LOAD_BOUND}")
    return lines


def verdict_text(result: Result) -> str:
    """The goal and whether it holds."""
    found = verdict(result)
    if found is None:
        return ""
    sign = "≥" if found.goal.kind == "rate" else "≤"
    bound = (
        f"{found.goal.bound:.2f}" if found.goal.kind != "idle_bytes" else f"{found.goal.bound:.0f}"
    )
    outcome = "not measured" if found.ratio is None else "holds" if found.holds else "short"
    return f"{sign} {bound} {outcome}"


SUMMARY_HEAD = ["workload", "fastlb", "best peer", "requests/s ratio", "CPU ratio", "cost", "goal"]


def summary_rows(results: Sequence[Result]) -> list[Row]:
    """Head and one row a workload: fastlb's figure, the best peer's, and the ratios."""
    return [SUMMARY_HEAD, *(_summary_row(result) for result in results)]


def _summary_row(result: Result) -> Row:
    workload = result.workload
    name, unit = ("idle_bytes", "B") if isinstance(workload.load, Hold) else ("rate", "/s")
    ours = figure(result.cells.get(FASTLB, ()), name)
    rate = rate_ratio(result)
    best = NOTHING
    if name == "rate" and rate is not None:
        theirs = figure(result.cells[rate.over], name)
        best = f"{rate.over} {number(theirs.median)}" if theirs else NOTHING
    elif name == "idle_bytes":
        peers = {
            peer: found.median
            for peer, cells in result.cells.items()
            if peer in PEERS and (found := figure(cells, name))
        }
        if peers:
            least = min(peers, key=lambda peer: peers[peer])
            best = f"{least} {number(peers[least])} {unit}"
    mark = " *" if rate is not None and load_bound(result) else ""
    return [
        workload.title,
        NOTHING if ours is None else f"{number(ours.median)} {unit}".replace(" /s", ""),
        best,
        ratio_text(rate) + mark,
        ratio_text(cpu_ratio(result)),
        ratio_text(cost(result)) if workload.base else "",
        verdict_text(result),
    ]


def width(text: str) -> int:
    """Columns of a terminal; combining marks take none."""
    return sum(1 for one in text if not unicodedata.combining(one))


def as_table(rows: Sequence[Row]) -> str:
    """For a terminal: the first column to the left, the others to the right."""
    widths = [max(width(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        first = row[0] + " " * (widths[0] - width(row[0]))
        others = (
            " " * (size - width(text)) + text
            for text, size in zip(row[1:], widths[1:], strict=True)
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def as_markdown_table(rows: Sequence[Row]) -> str:
    """As GitHub shows it."""
    head, *body = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def markdown(results: Sequence[Result], about: Mapping[str, str], plots: Sequence[str]) -> str:
    """The whole report. `about` is what was run and where, line by line; `plots` are file names."""
    skipped = sorted({why for result in results for why in result.skipped.values()})
    pieces = [
        "# fastlb beside nginx, HAProxy and no proxy",
        "\n".join(f"- {name}: {text}" for name, text in about.items()),
        *(f"- skipped: {why}" for why in skipped),
        as_markdown_table(summary_rows(results)),
        f"\\* {LOAD_BOUND}.",
        *(f"![{name}]({name})" for name in plots),
        LEGEND,
    ]
    for result in results:
        pieces.append(f"## {result.workload.title}")
        pieces.append(as_markdown_table(workload_rows(result)))
        if found := remarks(result):
            pieces.append("\n".join(f"- {line}" for line in found))
    return "\n\n".join(pieces) + "\n"
