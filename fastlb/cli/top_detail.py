"""What `fastlb top` says of one row, and of what is wrong. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from fastlb.auto_scaling.metric_wording import figure
from fastlb.cli.layout import latency, span, wrapped
from fastlb.cli.top_tables import (
    GROUPS,
    INSTANCES,
    LISTENERS,
    TARGETS,
    Row,
    amount,
    instance_state,
    percent,
    sized,
    target_state,
)
from fastlb.cli.wording import clean, counted
from fastlb.model.scaling_policy import METRICS


def detail(view: int, row: Row, overview: Row, width: int | None) -> list[Text]:
    """The lines about one row of a view."""
    if view == GROUPS:
        return _group(row, width)
    if view == TARGETS:
        return _target(row, width)
    if view == INSTANCES:
        return _instance(row, overview, width)
    if view == LISTENERS:
        text = (
            f"{row['key']}  {counted(row['rules'], 'rule')}, {amount(row['requests_total'])} requests, "
            f"in {sized(row['bytes_in_per_s'])}/s, out {sized(row['bytes_out_per_s'])}/s"
        )
        return _lines(text, width, "bold")
    text = (
        f"worker {row['index']}  {amount(row['requests_total'])} requests in all, "
        f"p95 {latency(row['p95_s'])}, {amount(row['accepted_per_s'])} connections/s, "
        f"memory {sized(row['rss_bytes'])}, in {sized(row['bytes_in_per_s'])}/s, "
        f"out {sized(row['bytes_out_per_s'])}/s, "
        f"{amount(row['retries_per_s'])} retries/s"
    )
    return _lines(text, width, "bold")


def others(view: int, rows: Sequence[Row], width: int | None) -> list[Text]:
    """What is to be said of rows beside the selected one, where there is room: groups that scale, why
    targets are not well."""
    lines: list[Text] = []
    if view == GROUPS:
        for row in rows:
            if row["scaling"] is not None:
                lines += _group(row, width)
    elif view == TARGETS:
        for row in rows:
            if row["state"] not in ("healthy", "initial") or row["suspect"]:
                name = row["instance"] or row["address"]
                said = f"{name} {_state_and_reason(row)}"
                lines += _lines(said, width, "red" if row["state"] == "unhealthy" else "")
    return lines


def _lines(text: str, width: int | None, style: str = "") -> list[Text]:
    return wrapped(text, width, "", style)


def _group(row: Row, width: int | None) -> list[Text]:
    scaling = row["scaling"]
    if scaling is None:
        about = f"{row['name']}  {row['algorithm'].replace('_', ' ')}, no auto scaling group"
        return _lines(about, width, "bold")
    counts = [f"{scaling['in_service']} in service"]
    counts += [
        f"{scaling[state]} {state}"
        for state in ("pending", "terminating", "standby")
        if scaling[state]
    ]
    lines = _lines(
        f"{scaling['name']}  auto scaling: {scaling['desired']} desired "
        f"({scaling['min']}-{scaling['max']}), {', '.join(counts)}",
        width,
        "bold",
    )
    for policy in scaling["policies"]:
        value, target = policy["value"], policy["target"]
        past = value is not None and target is not None and value > target
        said = f"{policy['metric']} {metric(policy, value)} of {metric(policy, target)}"
        lines += _lines(said, width, "bold yellow" if past else "")
    for style, text in _scaling_troubles(scaling):
        lines += _lines(text, width, style)
    last = scaling["last_decision"]
    if last is not None:
        at = f"{time.strftime('%H:%M:%S', time.localtime(last['time']))} " if last["time"] else ""
        cause = f": {last['cause']}" if last["cause"] else ""
        lines += _lines(f"last decision: {at}{last['what']}{cause}", width)
    return lines


def metric(policy: Row, value: float | None) -> str:
    """In the unit of the metric, as policies are written."""
    if value is None:
        return "?"
    name = policy["metric"]
    if name == "cpu":
        return f"{value:.0f} %"
    return figure(name, value) if name in METRICS else f"{amount(value)} {policy['unit']}"


def _scaling_troubles(scaling: Row) -> list[tuple[str, str]]:
    said = []
    if scaling["suspended"]:
        said.append(("bold yellow", f"suspended: {', '.join(scaling['suspended'])}"))
    if scaling.get("blocked"):
        said.append(("bold red", f"no launch: {scaling['blocked']}"))
    if scaling.get("refused"):
        said.append(("bold yellow", f"no scale-out: {scaling['refused']}"))
    if scaling["refresh"]:
        said.append(("cyan", refresh(scaling["refresh"])))
    return said


def refresh(one: dict[str, Any]) -> str:
    said = f"{one.get('what', 'refresh')}, {str(one.get('phase', '')).replace('_', ' ')}"
    if "instances" in one and "left" in one:
        said += f": {one['instances'] - one['left']} of {one['instances']} replaced"
    return said


def _target(row: Row, width: int | None) -> list[Text]:
    """Its reason first: that is what the table has no room for."""
    instance = f" (instance {row['instance']})" if row["instance"] else ""
    lines = _lines(f"{row['address']}{instance} in {row['group']}", width, "bold")
    override = f"; {row['override']}" if row["override"] else ""
    bad = target_state(row) == "unhealthy"
    lines += _lines(f"{_state_and_reason(row)}{override}", width, "bold red" if bad else "")
    if row["state"] == "standby":  # no target at the moment
        return lines
    figures = (
        f"weight {row['weight']}{', backup' if row['backup'] else ''}, "
        f"{amount(row['connections'])} connections, p95 {latency(row['p95_s'])}, "
        f"{amount(row['requests_total'])} requests in all, errors {amount(row['errors_per_s'])}/s"
    )
    return lines + _lines(figures, width)


def _state_and_reason(row: Row) -> str:
    lasted = "" if row["since_s"] is None else f" for {span(row['since_s'])}"
    return f"{target_state(row)}{lasted}: {row['reason']}"


def _instance(row: Row, overview: Row, width: int | None) -> list[Text]:
    protected = ", protected" if row["protected"] else ""
    lines = _lines(
        f"{row['id']}  {instance_state(row)}{protected}  {row['address']}", width, "bold"
    )
    if row.get("reason"):
        lines += _lines(str(row["reason"]), width)
    target = next((one for one in overview["targets"] if one["instance"] == row["id"]), None)
    if target is not None:
        lines += _lines(
            f"{amount(target['requests_per_s'])} req/s, p50 {latency(row['p50_s'])}, "
            f"p95 {latency(row['p95_s'])}, p99 {latency(row['p99_s'])}, "
            f"{amount(target['in_flight'])} in flight, "
            f"cpu {percent(row['cpu_percent'])}",
            width,
        )
    return lines


def troubles(overview: Row, width: int) -> Text:
    """What to look at first, in one line; that all is well where it is."""
    said = _troubles(overview)
    if not said:
        targets = len(overview["targets"])
        return Text(f"all {counted(targets, 'target')} well" if targets else "no targets", "green")
    shown = clean(said[0])
    for n, one in enumerate(said[1:], 1):
        longer = f"{shown}; {clean(one)}"
        if len(longer) > width - len("! ; 99 more"):
            shown = f"{_cut(shown, width - len('! ; 99 more'))}; {len(said) - n} more"
            break
        shown = longer
    return Text("! " + _cut(shown, width - 2), "bold red")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _troubles(overview: Row) -> list[str]:
    said = []
    for group in overview["groups"]:
        if group["fail_open"]:
            said.append(f"{group['name']} FAILS OPEN: no target is healthy")
        elif group["targets"] and not group["healthy"]:
            said.append(f"{group['name']}: no target is healthy")
        if group["held"]:
            said.append(f"{group['name']}: {counted(group['held'], 'request')} held")
    workers = [one for one in overview["workers"] if one["state"] in ("hung", "dead")]
    said += [f"worker {one['index']} is {one['state']}" for one in workers]
    for one in overview["auto_scaling"]:
        if one.get("blocked"):
            said.append(f"{one['name']}: no launch: {one['blocked']}")
    unhealthy = [one for one in overview["targets"] if one["state"] == "unhealthy"]
    said += [f"{one['instance'] or one['address']} unhealthy: {one['reason']}" for one in unhealthy]
    suspects = sum(one["suspect"] and one["state"] != "unhealthy" for one in overview["targets"])
    if suspects:
        said.append(f"{counted(suspects, 'suspect')}")
    return said
