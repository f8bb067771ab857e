"""The tables of `fastlb top`: which columns each view has, how a cell reads, what sorts it. Pure.

Rows are the plain values of the overview; nothing is changed in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastlb.cli.layout import age, latency, size
from fastlb.cli.wording import clean

Row = Mapping[str, Any]
NONE = "-"
WORST_FIRST = ("unhealthy", "dead", "hung", "disabled", "draining", "standby", "unused", "initial")
STYLES = {
    "healthy": "green",
    "running": "green",
    "in service": "green",
    "initial": "yellow",
    "pending": "yellow",
    "starting": "yellow",
    "suspect": "bold yellow",
    "unhealthy": "bold red",
    "dead": "bold red",
    "hung": "bold red",
    "disabled": "magenta",
    "draining": "cyan",
    "standby": "cyan",
    "ended": "dim",
    "unused": "dim",
}


@dataclass(frozen=True, slots=True)
class Column:
    """`key` names it for sorting; `most` sorts the greatest first; `wide` needs a wide terminal;
    `known` says of a row whether the figure is ever known: a column that no row knows is left out."""

    key: str
    head: str
    cell: Callable[[Row], str]
    value: Callable[[Row], Any]
    most: bool = False
    wide: bool = False
    known: Callable[[Row], bool] = lambda row: True


@dataclass(frozen=True, slots=True)
class View:
    """One table. The first column takes the room that the others leave."""

    title: str
    rows: Callable[[Row], Sequence[Row]]
    name: Callable[[Row], str]
    columns: tuple[Column, ...]


def amount(value: float | None) -> str:
    """`0`, `0.04`, `3.2`, `412`, `12.3k`: five characters at most."""
    if value is None:
        return NONE
    if value >= 1e6:
        return f"{value / 1e6:.1f}M"
    if value >= 1e4:
        return f"{value / 1e3:.1f}k" if value < 1e5 else f"{value / 1e3:.0f}k"
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f}%"


def sized(value: float | None) -> str:
    return NONE if value is None else size(value)


def status_class(row: Row, which: str) -> float | None:
    return (row.get("status") or {}).get(which)


def target_state(row: Row) -> str:
    """A suspect that is still healthy is shown as what it is closer to."""
    return "suspect" if row["suspect"] and row["state"] == "healthy" else str(row["state"])


def instance_state(row: Row) -> str:
    """The life cycle's state; of one in service that is not well, its health."""
    state = str(row["state"])
    if state == "in_service" and row["health"] not in ("healthy", ""):
        return str(row["health"])
    return {"in_service": "in service", "terminating": "draining"}.get(state, state)


def target_name(row: Row) -> str:
    return str(row["instance"] or row["address"])


def target_key(row: Row) -> str:
    return f"{row['group']}/{row['address']}"


def _badness(row: Row) -> tuple[int, int]:
    state = row["state"]
    rank = WORST_FIRST.index(state) if state in WORST_FIRST else len(WORST_FIRST)
    return rank, 0 if row.get("suspect") else 1


def _figure(key: str, head: str, name: str, say: Callable[[Any], str] = amount) -> Column:
    return Column(key, head, lambda row: say(row.get(name)), lambda row: row.get(name), most=True)


def _class(which: str) -> Column:
    def value(row: Row) -> float | None:
        return status_class(row, which)

    key = "errors" if which == "5xx" else which
    return Column(key, f"{which.upper()}/S", lambda row: amount(value(row)), value, most=True)


def _text(key: str, head: str, name: str, wide: bool = False) -> Column:
    return Column(key, head, lambda row: clean(str(row[name])), lambda row: row[name], wide=wide)


REQUESTS = _figure("requests", "REQ/S", "requests_per_s")
IN_FLIGHT = _figure("in-flight", "IN-FL", "in_flight")
CONNECTIONS = _figure("connections", "CONNS", "connections")
P50, P95, P99 = (
    _figure(f"p{n}", f"P{n}", f"p{n}_s", lambda value: f"{latency(value):>6}") for n in (50, 95, 99)
)
WIDE_P50, WIDE_P95 = replace(P50, wide=True), replace(P95, wide=True)
CPU = _figure("cpu", "CPU", "cpu_percent", percent)
RSS = _figure("rss", "RSS", "rss_bytes", sized)
IN = _figure("in", "IN/S", "bytes_in_per_s", sized)
OUT = _figure("out", "OUT/S", "bytes_out_per_s", sized)


def _healthy(row: Row) -> str:
    return f"{row['healthy']}/{row['targets']}{'!' if row['fail_open'] else ''}"


def _scaled(row: Row) -> str:
    scaling = row["scaling"]
    if scaling is None:
        return NONE
    return f"{scaling['in_service']}/{scaling['desired']} of {scaling['min']}-{scaling['max']}"


def _latency_known(row: Row) -> bool:
    """Of a listener that shares its groups with another one it is not."""
    return bool(row["latency_known"])


def _groups(overview: Row) -> list[Row]:
    """Each with the auto scaling group that feeds it, if one does."""
    scaled = {one.get("target_group") or one["name"]: one for one in overview["auto_scaling"]}
    return [{**one, "scaling": scaled.get(one["name"])} for one in overview["groups"]]


def _targets(overview: Row) -> list[Row]:
    """And the instances in standby: they are registered nowhere, but whoever drained one here looks for
    it here, and brings it back from here."""
    rows = list(overview["targets"])
    there = {one["instance"] for one in rows}
    places = {
        one["name"]: one.get("target_group") or one["name"] for one in overview["auto_scaling"]
    }
    for one in overview["instances"]:
        if one["state"] == "standby" and one["id"] not in there:
            row = {key: one.get(key) for key in ("address", "state")}
            row |= {"instance": one["id"], "group": places.get(one["group"], one["group"])}
            row |= {"suspect": False, "override": None, "backup": False, "since_s": None}
            rows.append({**row, "reason": "drained and kept running: u brings it back"})
    return rows


VIEWS = (
    View(
        "Groups",
        _groups,
        lambda row: str(row["name"]),
        (
            _text("name", "GROUP", "name"),
            Column("healthy", "HEALTHY", _healthy, lambda row: row["healthy"] - row["targets"]),
            _figure("held", "HELD", "held"),
            REQUESTS,
            _class("5xx"),
            P50,
            WIDE_P95,
            P99,
            IN_FLIGHT,
            Column("scaling", "IN SERVICE", _scaled, _scaled),
        ),
    ),
    View(
        "Listeners",
        lambda overview: list(overview["listeners"]),
        lambda row: str(row["key"]),
        (
            _text("name", "LISTENER", "key"),
            CONNECTIONS,
            REQUESTS,
            _class("4xx"),
            _class("5xx"),
            *(replace(one, known=_latency_known) for one in (P50, WIDE_P95, P99)),
            replace(IN, wide=True),
            replace(OUT, wide=True),
        ),
    ),
    View(
        "Targets",
        _targets,
        target_key,
        (
            Column("name", "TARGET", lambda row: clean(target_name(row)), target_name),
            Column("state", "STATE", target_state, _badness),
            _text("group", "GROUP", "group"),
            _figure("weight", "W", "weight"),
            REQUESTS,
            _class("5xx"),
            P50,
            WIDE_P95,
            P99,
            IN_FLIGHT,
            replace(CONNECTIONS, wide=True),
            _text("reason", "REASON", "reason", wide=True),
        ),
    ),
    View(
        "Instances",
        lambda overview: list(overview["instances"]),
        lambda row: str(row["id"]),
        (
            _text("name", "INSTANCE", "id"),
            Column("state", "STATE", instance_state, instance_state),
            _text("group", "GROUP", "group"),
            Column("pid", "PID", lambda row: str(row["pid"] or NONE), lambda row: row["pid"]),
            _figure("age", "AGE", "age_s", age),
            Column(
                *("version", "VER"),
                lambda row: f"v{row['template_version']}",
                lambda row: row["template_version"],
            ),
            WIDE_P50,
            WIDE_P95,
            P99,
            CPU,
            RSS,
        ),
    ),
    View(
        "Workers",
        lambda overview: list(overview["workers"]),
        lambda row: str(row["index"]),
        (
            _text("name", "WORKER", "index"),
            Column("pid", "PID", lambda row: str(row["pid"]), lambda row: row["pid"]),
            _text("state", "STATE", "state"),
            CONNECTIONS,
            replace(_figure("accepted", "ACC/S", "accepted_per_s"), wide=True),
            REQUESTS,
            _class("5xx"),
            P50,
            WIDE_P95,
            P99,
            IN_FLIGHT,
            CPU,
            replace(RSS, wide=True),
        ),
    ),
)
GROUPS, LISTENERS, TARGETS, INSTANCES, WORKERS = range(len(VIEWS))
LEFT = {"name", "state", "group", "reason", "scaling"}
"""Columns of text; what is counted stands on the right."""
SORT_KEYS = tuple(dict.fromkeys(column.key for view in VIEWS for column in view.columns))
DEFAULT_SORT = ("name", "name", "state", "state", "name")


def sorted_rows(view: View, overview: Row, key: str, backwards: bool) -> list[Row]:
    """Those of the view by one of its columns; by its first one where it has no such column. What is
    not known comes last; what is alike, by name."""
    column = next((one for one in view.columns if one.key == key), view.columns[0])
    rows = sorted(view.rows(overview), key=lambda row: _natural(view.name(row)))
    known = [row for row in rows if column.value(row) is not None]
    unknown = [row for row in rows if column.value(row) is None]
    if column.key == "name":
        known.sort(key=lambda row: _natural(str(column.value(row))), reverse=backwards)
    else:
        known.sort(key=column.value, reverse=column.most is not backwards)
    return known + unknown


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Numbers in a text by their size: target 9 comes before target 10."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for letter in f"{text}\0":
        if letter.isascii() and letter.isdigit():
            digits += letter
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, letter))
    return parts
