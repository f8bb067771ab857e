"""How `fastlb status` looks: listeners, target groups with their targets, workers, totals.

Pure. In a pipe each target is one line, its reason last; on a narrow terminal the reason stands on a
line of its own. Auto scaling groups are `scaling_view`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from fastlb.cli import scaling_view
from fastlb.cli.layout import INDENT, age, latency, size, span, table, wrapped
from fastlb.cli.wording import clean, counted

STYLES = {
    "healthy": "green",
    "initial": "yellow",
    "suspect": "bold yellow",
    "unhealthy": "bold red",
    "draining": "cyan",
    "disabled": "cyan",
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
LONGEST_ADDRESS = 21

Names = Mapping[str, str]
"""By the address of a target: the id of the instance that listens there."""


def render(document: dict[str, Any], width: int | None) -> list[Text]:
    """The lines; `width` None is a pipe, where a line may be as long as it likes."""
    head = Text.assemble(
        ("fastlb ", "bold"),
        (clean(document["name"]), "bold"),
        f"  pid {document['pid']}, up {span(document['uptime_s'])}, ",
        f"version {clean(document['version'])}",
    )
    if document["draining"]:
        head.append("  DRAINING", "bold yellow")
    lines = [head, Text()]
    lines += table(
        ("LISTENER", "DEFAULT", "RULES"),
        [[one["address"], one["default"], str(one["rules"])] for one in document["listeners"]],
        (2,),
        STYLES,
    )
    scaled = document["auto_scaling_groups"]
    names = {one["address"]: one["id"] for group in scaled for one in group["instances"]}
    now = document["started"] + document["uptime_s"]
    for group in document["target_groups"]:
        lines += [Text(), *_group(group, names, now, width)]
        for one in scaled:
            if one["target_group"] == group["name"]:
                lines += [Text(), *scaling_view.render(one, width)]
    lines += [Text(), *_workers(document["workers"])]
    lines += [Text(), *wrapped(_totals(document["totals"]), width)]
    return lines


def _group(group: dict[str, Any], names: Names, now: float, width: int | None) -> list[Text]:
    head = Text(clean(group["name"]), "bold")
    if group["fail_open"]:
        head.append("  FAIL OPEN: no target is healthy, all of them get traffic", "bold red")
    elif group["targets"] and all(map(_gets_nothing, group["targets"])):
        head.append("  OUT OF USE: no target gets requests", "bold red")
    about = wrapped(f"{group['algorithm']}; health check: {group['health_check']}", width)
    targets = group["targets"]
    for one in group.get("removed", ()):
        about += wrapped(f"without {one['address']}: {_overridden(one, now)}", width, style="cyan")
    if not targets:
        return [head, *about, Text(INDENT + "no targets", "yellow")]
    if width is None:
        rows = [
            [_with_notes(names.get(one["address"], one["address"]), one), *_figures(one)]
            for one in targets
        ]
        heads, *lines = table(TARGET_HEADS, rows, (2, 3, 4, 5, 6), STYLES)
        heads.append(INDENT + "REASON")
        placed = [
            line.append(INDENT + clean(_reason(one, now)))
            for line, one in zip(lines, targets, strict=True)
        ]
        return [head, *about, heads, *placed]
    rows = [[_short(one["address"], names), *_figures(one)] for one in targets]
    heads, *lines = table(TARGET_HEADS, rows, (2, 3, 4, 5, 6), STYLES)
    placed = []
    for line, one, row in zip(lines, targets, rows, strict=True):
        # An instance's socket is where its id says; a port is found nowhere else.
        named = one["address"] in names and one["address"].startswith("unix:")
        name = "" if named or row[0] == one["address"] else one["address"]
        remark = "; ".join(part for part in (name, _with_notes(_reason(one, now), one)) if part)
        placed += [line, *wrapped(remark, width, INDENT * 3)]
    return [head, *about, heads, *placed]


def _gets_nothing(target: dict[str, Any]) -> bool:
    return target["state"] in ("draining", "disabled") or not target["weight"]


def _short(address: str, names: Names) -> str:
    """What leaves room for the figures: an instance's id, or of a long address the end."""
    if address in names:
        return names[address]
    return address if len(address) <= LONGEST_ADDRESS else "…" + address[1 - LONGEST_ADDRESS :]


def _reason(target: dict[str, Any], now: float) -> str:
    """Why a target is in its state; a suspect one gets no more until it answers."""
    stalls = "stalls" if target["suspect"] else ""
    return "; ".join(filter(None, [_overridden(target, now), stalls, target["reason"]]))


def _overridden(target: dict[str, Any], now: float) -> str:
    """What operators said of it, `now` being seconds since 1970."""
    return "; ".join(
        f"{part['what']} by an operator {age(max(now - part['since'], 0))} ago"
        + (f" ({part['reason']})" if part["reason"] else "")
        for part in target.get("overrides", ())
    )


def _with_notes(text: str, target: dict[str, Any]) -> str:
    notes = [f"weight {target['weight']:g}"] if target["weight"] != 1 else []
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
    return table(WORKER_HEADS, rows, (1, 3, 4, 5, 6, 7, 8), STYLES)


def _totals(totals: dict[str, Any]) -> str:
    statuses = {
        key.removeprefix("status_"): number
        for key, number in sorted(totals.items())
        if key.startswith("status_") and number
    }
    answers = ", ".join(f"{number} {status}" for status, number in statuses.items())
    final = sum(number for status, number in statuses.items() if status != "1xx")
    # What is refused before it is a request (400, 431, ...) is answered and not counted as one.
    dropped = totals.get("log_lines_dropped", 0)
    lost = f"; {counted(dropped, 'line')} of the access log lost" if dropped else ""
    unread = " (some to what was refused before it was a request)"
    return (
        f"{counted(totals['requests'], 'request')}, {totals['in_flight']} in flight on "
        f"{counted(totals['connections'], 'connection')}; "
        f"answers: {answers or 'none'}{unread if final > totals['requests'] else ''}; "
        f"{counted(totals['errors'], 'error')}, {counted(totals['retries'], 'retry')}, "
        f"{counted(totals['rejected'], 'connection')} rejected, "
        f"{size(totals['bytes_in'])} in, {size(totals['bytes_out'])} out{lost}"
    )
