"""How a log record looks as a line: for a person, for systemd's journal, or as JSON with stable fields.

Whom a record is about is known from its arguments: one that has `log_fields` says it itself, and the
word before a placeholder (`worker %d`, `group %s`) names the others. Pure; knows no file and no process.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

FIELDS = ("worker", "target", "group", "instance", "listener")
"""Whom a record may be about; each is left out where it is nobody."""
PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))
"""From a level on: the syslog priority that the journal is told."""
_NAMED = re.compile(r"\b(worker|target|group|instance|listener) %[sd]|%(?:\.\d+)?[sdrgf]")

Document = dict[str, Any]


def human_formatter(source: str) -> logging.Formatter:
    """`2026-01-31 12:00:00.000 INFO    SOURCE: message`; the supervisor's source is empty."""
    return logging.Formatter(
        "%(asctime)s.%(msecs)03d %(levelname)-7s " + _prefix(source) + "%(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )


def _prefix(source: str) -> str:
    return f"{source}: ".replace("%", "%%") if source else ""


class JournalFormatter(logging.Formatter):
    """Each line behind its priority, as `sd-daemon(3)` has it. The time is the journal's to add."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in PRIORITIES if record.levelno >= level), 7)
        lines = self._inner.format(record).split("\n")
        return "\n".join(f"<{priority}>{line}" for line in lines)


def journal_formatter(source: str) -> logging.Formatter:
    return JournalFormatter(logging.Formatter(_prefix(source) + "%(message)s"))


class JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `message`, `pid`, `source`, what `FIELDS` name, and
    `traceback` where there is one. `worker` is the index of the one that writes, None the supervisor."""

    def __init__(self, pid: int, worker: int | None) -> None:
        super().__init__()
        self._pid = pid
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.document(record), separators=(",", ":"))

    def document(self, record: logging.LogRecord) -> Document:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found: Document = {
            "time": f"{second}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": self._pid,
            "source": "supervisor" if self._worker is None else f"worker {self._worker}",
            **fields_of(record),
        }
        if self._worker is not None:
            found["worker"] = self._worker
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return found


def fields_of(record: logging.LogRecord) -> Document:
    """Whom the record is about, as far as its template, arguments and `extra` say."""
    found: Document = {}
    arguments = record.args if isinstance(record.args, tuple) else ()
    template = record.msg if isinstance(record.msg, str) else ""
    placeholders = _NAMED.finditer(template.replace("%%", ""))
    for placeholder, argument in zip(placeholders, arguments, strict=False):
        said = getattr(argument, "log_fields", None)
        if isinstance(said, dict):
            found |= said
        elif placeholder[1]:
            found[placeholder[1]] = argument if isinstance(argument, int) else str(argument)
    for name in FIELDS:
        given = record.__dict__.get(name)
        if given is not None:
            found[name] = given
    return found
