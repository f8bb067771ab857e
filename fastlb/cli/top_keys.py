"""What a key does in `fastlb top`: from the Sight and the key to the next Sight, and what is to be asked.

Pure. An action is first a question; only its answer makes a Request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from fastlb.cli.top_header import Sight
from fastlb.cli.top_tables import (
    DEFAULT_SORT,
    GROUPS,
    INSTANCES,
    TARGETS,
    VIEWS,
    Row,
    sorted_rows,
)
from fastlb.cli.top_view import position
from fastlb.cli.wording import clean

PAGE = 10
SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
    b"\x1b[Z": "back tab",
}
NAMES = {"\t": "tab", "\r": "enter", "\n": "enter", "\x1b": "escape", "k": "up", "j": "down"}
NAMES |= {"g": "home", "G": "end", "\x03": "q"}
MOVES = {"up": -1, "down": 1, "page up": -PAGE, "page down": PAGE, "home": -(10**9), "end": 10**9}


@dataclass(frozen=True, slots=True)
class Request:
    """A POST, and the question that comes before it."""

    path: str
    body: dict[str, Any]
    question: str


@dataclass(frozen=True, slots=True)
class Pressed:
    """What a key made: the next sight, the request that waits for its answer, what is to be sent now."""

    sight: Sight
    waiting: Request | None = None
    send: Request | None = None
    quit: bool = False


def keys_of(data: bytes) -> Iterator[str]:
    """The keys that a terminal has sent in one piece. What nobody knows is left out."""
    while data:
        found = next((one for one in SEQUENCES if data.startswith(one)), None)
        if found is not None:
            yield SEQUENCES[found]
            data = data[len(found) :]
        elif data[:1] == b"\x1b" and data[1:2] in (b"[", b"O"):
            end = next((n for n, byte in enumerate(data[2:], 2) if 0x40 <= byte <= 0x7E), len(data))
            data = data[end + 1 :]
        else:
            letter = chr(data[0])
            yield NAMES.get(letter, letter)
            data = data[1:]


def begin(view: int = 0, sort: str = "") -> Sight:
    """`sort` holds in every view that has such a column."""
    return Sight(view=view, sort=sort or DEFAULT_SORT[view])


def press(key: str, sight: Sight, waiting: Request | None, overview: Row) -> Pressed:
    """What becomes of it all with this key."""
    if waiting is not None:
        return _answered(key, sight, waiting, overview)
    if key == "q":
        return Pressed(sight, quit=True)
    if key in ("?", "h") or sight.help:
        return Pressed(replace(sight, help=not sight.help))
    calm = replace(sight, said="", failed=False)
    if key in ("tab", "back tab"):
        step = 1 if key == "tab" else -1
        return Pressed(_turn(calm, (sight.view + step) % len(VIEWS)))
    if key.isdecimal() and 1 <= int(key) <= len(VIEWS):
        return Pressed(_turn(calm, int(key) - 1))
    if key in MOVES:
        return Pressed(_move(calm, overview, MOVES[key]))
    if key == "s":
        columns = [one.key for one in VIEWS[sight.view].columns]
        at = columns.index(sight.sort) if sight.sort in columns else -1
        following = columns[(at + 1) % len(columns)]
        return Pressed(replace(calm, sort=following, backwards=False))
    if key == "r":
        return Pressed(replace(calm, backwards=not sight.backwards))
    if key in ("d", "u"):
        return _drain(key == "u", calm, overview)
    if key in ("+", "=", "-"):
        return _scale(-1 if key == "-" else 1, calm, overview)
    return Pressed(sight)


def _turn(sight: Sight, view: int) -> Sight:
    columns = [one.key for one in VIEWS[view].columns]
    kept = sight.sort if sight.sort in columns and sight.sort != DEFAULT_SORT[sight.view] else ""
    return replace(sight, view=view, sort=kept or DEFAULT_SORT[view], selected="", backwards=False)


def _rows(sight: Sight, overview: Row) -> list[Row]:
    return sorted_rows(VIEWS[sight.view], overview, sight.sort, sight.backwards)


def _move(sight: Sight, overview: Row, by: int) -> Sight:
    rows = _rows(sight, overview)
    if not rows:
        return sight
    at = max(0, min(position(rows, sight) + by, len(rows) - 1))
    return replace(sight, selected=VIEWS[sight.view].name(rows[at]))


def _selected(sight: Sight, overview: Row) -> Row | None:
    rows = _rows(sight, overview)
    return rows[position(rows, sight)] if rows else None


# -- actions


def _asked(sight: Sight, request: Request) -> Pressed:
    return Pressed(replace(sight, question=request.question, said=""), waiting=request)


def _refused(sight: Sight, why: str) -> Pressed:
    return Pressed(replace(sight, said=why, failed=True))


def _answered(key: str, sight: Sight, waiting: Request, overview: Row) -> Pressed:
    calm = replace(sight, question="")
    if key in ("y", "Y", "enter"):
        return Pressed(replace(calm, said="...", failed=False), send=waiting)
    if key in ("+", "=", "-") and "desired" in waiting.body:
        return _scale(-1 if key == "-" else 1, calm, overview, waiting)
    if key in ("n", "N", "escape", "q"):
        return Pressed(replace(calm, said="left as it is", failed=False))
    return Pressed(sight, waiting=waiting)


def _drain(back: bool, sight: Sight, overview: Row) -> Pressed:
    row = _selected(sight, overview)
    if row is None or sight.view not in (TARGETS, INSTANCES):
        return _refused(sight, "select a target (3) or an instance (4) to drain it")
    if sight.view == INSTANCES:
        action = "return" if back else "standby"
        named = clean(str(row["id"]))
        question = (
            f"Return {named} to service?"
            if back
            else f"Drain {named} and keep it running, in standby?"
        )
        return _asked(sight, Request(f"instances/{quote(str(row['id']))}/{action}", {}, question))
    name = clean(str(row["instance"] or row["address"]))
    body = {"target": row["address"], "group": row["group"]}
    if not back:
        question = f"Drain {name}? New requests go to others; those in flight end."
        return _asked(sight, Request("targets/drain", body, question))
    action = "enable" if row["state"] == "disabled" else "undrain"
    return _asked(sight, Request(f"targets/{action}", body, f"{action.capitalize()} {name}?"))


def _scale(by: int, sight: Sight, overview: Row, waiting: Request | None = None) -> Pressed:
    group = _scaling_of(sight, overview)
    if group is None:
        return _refused(sight, "select a group (1) or an instance (4) of auto scaling to scale it")
    wanted = int(waiting.body["desired"]) if waiting is not None else int(group["desired"])
    desired = max(group["min"], min(wanted + by, group["max"]))
    name = clean(str(group["name"]))
    if desired == group["desired"]:
        if waiting is not None:
            return Pressed(replace(sight, said="left as it is", failed=False))
        bounds = f"{group['min']} to {group['max']}"
        return _refused(sight, f"{name} has from {bounds} instances, and {desired} desired")
    question = f"Scale {name} from {group['desired']} to {desired}? (+ and - change it)"
    path = f"auto-scaling-groups/{quote(str(group['name']))}/scale"
    return _asked(sight, Request(path, {"desired": desired}, question))


def _scaling_of(sight: Sight, overview: Row) -> Row | None:
    """The auto scaling group that the selected row belongs to."""
    row = _selected(sight, overview)
    if row is None:
        return None
    if sight.view == GROUPS:
        scaling: Row | None = row["scaling"]
        return scaling
    for one in overview["auto_scaling"]:
        by_group = sight.view == INSTANCES and one["name"] == row["group"]
        feeds = (one.get("target_group") or one["name"]) == row.get("group")
        if by_group or (sight.view == TARGETS and row["instance"] and feeds):
            return dict(one)
    return None
