"""How an auto scaling group looks in `fastlb status`: what it should be, what it is, its instances.

Pure; from the plain values that `auto_scaling.group_status` answers. In a pipe each instance is one
line, its notes last; on a terminal the notes stand on a line of their own.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text

from fastlb.auto_scaling.metric_wording import figure
from fastlb.cli.layout import INDENT, age, size, table, wrapped
from fastlb.cli.wording import clean

HEADS = ("ID", "PID", "STATE", "AGE", "VER", "CPU", "RSS", "IN-FLIGHT", "REQ/MIN")
RIGHT = (1, 3, 5, 6, 7, 8)
STYLES = {
    "in service": "green",
    "pending": "yellow",
    "initial": "yellow",
    "standby": "cyan",
    "draining": "cyan",
    "suspect": "bold yellow",
    "unhealthy": "bold red",
}
STATES = {"in_service": "in service", "terminating": "draining"}
"""Where the word for a person is another."""


def render(group: dict[str, Any], width: int | None) -> list[Text]:
    """The lines of one group."""
    lines = wrapped(_headline(group), width, "")
    if lines:
        lines[0].stylize("bold", 0, len(clean(group["name"])))
    lines += wrapped(_template(group), width)
    if group.get("rolled_back"):
        lines += _said(group["rolled_back"], width, "bold red")
    if group.get("launches"):
        lines += wrapped(group["launches"], width, style="bold yellow")
    lines += wrapped(f"last change: {group['cause']}", width)
    lines += _metrics(group["metrics"], group.get("host"), width)
    for style, text in _troubles(group):
        lines += _said(text, width, style)
    if group["refresh"] is not None:
        lines += wrapped(_refresh(group["refresh"]), width, style="cyan")
    if group["last_decision"]:
        lines += wrapped(f"last decision: {group['last_decision']}", width)
    return [*lines, *_instances(group["instances"], width)]


def _said(text: str, width: int | None, style: str) -> list[Text]:
    """One text; what it quotes of an app's output has lines of its own."""
    first, *printed = text.split("\n")
    lines = wrapped(first, width, style=style)
    for line in filter(None, map(str.strip, printed)):
        lines += wrapped(line, width, INDENT * 2, "dim")
    return lines


def _headline(group: dict[str, Any]) -> str:
    counts = [f"{group['in_service']} in service"]
    counts += [
        f"{group[state]} {state}" for state in ("pending", "standby", "draining") if group[state]
    ]
    return (
        f"{group['name']}  auto scaling group: {group['desired']} desired "
        f"({group['min']}-{group['max']}), {', '.join(counts)}"
    )


def _template(group: dict[str, Any]) -> str:
    said = f"launch template v{group['version']}"
    if group["configured_version"] != group["version"]:
        said += f" (v{group['configured_version']} is configured)"
    return said


def _metrics(
    metrics: list[dict[str, Any]], host: dict[str, Any] | None, width: int | None
) -> list[Text]:
    """Each metric beside what it is held against; past it, it stands out. Then what the host has."""
    shown = [_metric(one) for one in metrics]
    for said in shown[:-1]:
        said.append(",")
    if host is not None:
        if shown:
            shown[-1].append(";")
        shown.append(Text(_host(host)))
    lines: list[Text] = []
    for said in shown:
        if lines and (width is None or len(lines[-1]) + 1 + len(said) <= width):
            lines[-1] += Text(" ") + said
        else:
            lines.append(Text(INDENT) + said)
    return lines


def _metric(one: dict[str, Any]) -> Text:
    metric, value, bound = one["metric"], one["value"], one["target"]
    past = value is not None and value > bound
    between = "of" if one["policy"] == "TargetTracking" else "at a threshold of"
    return Text.assemble(
        f"{metric} ",
        ("?" if value is None else _amount(metric, value), "bold yellow" if past else ""),
        f" {between} {_amount(metric, bound)}{' %' if metric == 'cpu' else ''}",
    )


def _host(host: dict[str, Any]) -> str:
    """Its CPU is not known at the first look."""
    cpu = host["cpu_percent"]
    busy = "" if cpu is None else f"cpu {cpu:.0f} %, "
    return f"host: {busy}{size(host['memory_available'])} free"


def _amount(metric: Any, value: float) -> str:
    """As a policy says it, but what is large without a fraction."""
    if metric == "rss":
        return f"{value / 1048576:.0f} MiB"
    return f"{value:.0f}" if metric == "cpu" else figure(metric, value)


def _troubles(group: dict[str, Any]) -> list[tuple[str, str]]:
    """What keeps the group from doing what it otherwise would, each with its style."""
    said = []
    if group["suspended"]:
        said.append(("bold yellow", f"suspended: {', '.join(group['suspended'])}"))
    if group["blocked"]:
        said.append(("bold red", f"no launch: {group['blocked']}"))
    if group.get("last_failure"):
        said.append(("red", f"last failure: {group['last_failure']}"))
    if group["quarantined"] and "quarantined" not in group["blocked"]:
        said.append(("bold red", f"launch template v{group['version']} is quarantined"))
    if group["refused"]:
        said.append(("bold yellow", f"no scale-out: {group['refused']}"))
    return said


def _refresh(refresh: dict[str, Any]) -> str:
    replaced = refresh["instances"] - refresh["left"]
    source = "" if refresh["from"] == refresh["to"] else f" from v{refresh['from']}"
    said = (
        f"{refresh['what']}{source}, {refresh['phase'].replace('_', ' ')}: "
        f"{replaced} of {refresh['instances']} replaced"
    )
    return f"{said}; {refresh['judgement']}" if refresh["judgement"] else said


def _instances(instances: list[dict[str, Any]], width: int | None) -> list[Text]:
    if not instances:
        return [Text(INDENT + "no instances", "yellow")]
    heads, *lines = table(HEADS, [_figures(one) for one in instances], RIGHT, STYLES)
    if width is None:
        heads.append(INDENT + "NOTES")
        placed = []
        for line, one in zip(lines, instances, strict=True):
            line.append(INDENT + clean(_notes(one)))
            line.rstrip()
            placed.append(line)
        return [heads, *placed]
    placed = []
    for line, one in zip(lines, instances, strict=True):
        placed += [line, *wrapped(_notes(one), width, INDENT * 3)]
    return [heads, *placed]


def _figures(one: dict[str, Any]) -> list[str]:
    cpu, rss, requests = one["cpu_percent"], one["rss_bytes"], one["requests_per_minute"]
    return [
        one["id"],
        str(one["pid"]) if one["pid"] else "-",
        _state(one),
        age(one["age_s"]),
        f"v{one['version']}",
        "-" if cpu is None else f"{cpu:.0f}%",
        "-" if rss is None else size(rss),
        str(one["in_flight"]),
        "-" if requests is None else f"{requests:.0f}",
    ]


def _state(one: dict[str, Any]) -> str:
    """The life cycle's state; of one in service that is not well, its health."""
    state: str = one["state"]
    if state == "in_service" and one["health"] not in ("healthy", ""):
        return str(one["health"])
    return STATES.get(state, state)


def _notes(one: dict[str, Any]) -> str:
    notes = ["protected"] if one["protected"] else []
    if one["state"] == "in_service" and one["share"] < 1:
        notes.append(f"slow start: {one['share']:.0%} of its share")
    if one["doomed"]:
        notes.append(f"to be replaced: {one['reason']}")
    elif _state(one) != "in service":
        notes.append(one["reason"])
    return "; ".join(filter(None, notes))
