"""Which log lines `fastlb logs` shows, and how they look. Pure.

A record is a line of the kept log (`log_lines.JsonFormatter`), or what an instance printed into a file
of its own, which has no time and no level.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from rich.text import Text

from fastlb.auto_scaling.output_lines import shown
from fastlb.cli.wording import clean

LEVELS = ("debug", "info", "warning", "error", "critical")
STYLES = {"debug": "dim", "warning": "bold yellow", "error": "bold red", "critical": "bold red"}
SOURCE_WIDTH = 10
"""Of `supervisor`, `worker 12` and `i-0123abcd`."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to show. `since` is in seconds since 1970; `instances` are those of the wanted `group` or the
    one that was named, None for all."""

    level: str = "debug"
    since: float = 0.0
    group: str | None = None
    instances: Collection[str] | None = None

    def takes(self, record: Record) -> bool:
        level = record.get("level", "info")
        if level in LEVELS and LEVELS.index(level) < LEVELS.index(self.level):
            return False
        if self.since and time_of(record) < self.since:
            return False
        if self.group is not None and record.get("group") == self.group:
            return True
        return self.instances is None or record.get("instance") in self.instances


def parse(lines: Iterable[bytes]) -> list[Record]:
    """The records of a kept log; a line that was torn by its writer's death is left out."""
    found: list[Record] = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def printed(instance: str, group: str, line: bytes) -> Record:
    """A line of an instance's own file."""
    return {"source": instance, "instance": instance, "group": group, "message": shown(line)}


def time_of(record: Record) -> float:
    """Seconds since 1970; now and for ever where it has none."""
    try:
        return datetime.fromisoformat(record["time"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return float("inf")


def in_order(records: Iterable[Record]) -> list[Record]:
    """By their times: several processes write into the same file, each a moment after it logs."""
    return sorted(records, key=time_of)


def render(record: Record, today: date) -> list[Text]:
    """Time, level, source, message; a traceback under it."""
    source = str(record.get("instance") if _is_printed(record) else record.get("source", "?"))
    message = str(record.get("message", ""))
    if _is_printed(record):
        message = message.removeprefix(f"{source}: ")
    level = str(record.get("level", ""))
    line = Text.assemble(
        (f"{_clock(record, today)}  ", "dim"),
        (f"{clean(level).upper():7}  ", STYLES.get(level, "")),
        (f"{clean(source):{SOURCE_WIDTH}}  ", "cyan"),
    )
    first, *more = message.split("\n")
    line.append(clean(first))
    more += str(record.get("traceback", "")).splitlines()
    return [line, *(Text("    " + clean(one), "dim") for one in more)]


def _is_printed(record: Record) -> bool:
    """Whether an instance said it, and not fastlb of it."""
    return record.get("logger", "fastlb.instance") == "fastlb.instance" and "instance" in record


def _clock(record: Record, today: date) -> str:
    at = time_of(record)
    if at == float("inf"):
        return " " * 12
    moment = datetime.fromtimestamp(at)
    text = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"
    return text if moment.date() == today else f"{moment:%Y-%m-%d} {text}"
