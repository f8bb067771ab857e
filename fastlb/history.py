"""What was decided, when and why: a bounded ring of entries, for `fastlb why` and `fastlb activity`.

Knows nothing of what is decided. Whoever decides adds an entry with its inputs; whoever shows them
reads those after a number, or waits for the next. Kept in a file as well, a line for each entry and
one more when it ends, so that a supervisor that takes over knows what was before it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger("fastlb")

MOST_ENTRIES = 2000
"""Of each history; the oldest make room."""

Kind = Literal["scaling", "health", "routing", "activity"]


@dataclass(slots=True)
class Entry:
    """One decision. `outcome` may be set later, as an activity ends; `number` only grows.

    `inputs` are the figures that it was taken from, plain values.
    """

    number: int
    at: float
    """Seconds since 1970."""
    kind: Kind
    subject: str
    """Whom it is about: a group, an instance, a target."""
    what: str
    cause: str
    inputs: dict[str, Any] = field(default_factory=dict)
    outcome: str = ""
    ended: float | None = None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "number": self.number,
            "at": self.at,
            "kind": self.kind,
            "subject": self.subject,
            "what": self.what,
            "cause": self.cause,
            "inputs": self.inputs,
            "outcome": self.outcome,
            "ended": self.ended,
        }


class History:
    """The newest entries, the oldest first; those of `file` where there are some."""

    def __init__(
        self,
        file: Path | None = None,
        most: int = MOST_ENTRIES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._entries: deque[Entry] = deque(maxlen=most)
        self._clock = clock
        self._number = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._file = file
        self._lines = 0
        self._trouble = ""
        if file is not None:
            self._read(file)

    def add(
        self,
        kind: Kind,
        subject: str,
        what: str,
        cause: str,
        inputs: Mapping[str, Any] | None = None,
        outcome: str = "",
    ) -> Entry:
        self._number += 1
        entry = Entry(
            self._number, self._clock(), kind, subject, what, cause, dict(inputs or {}), outcome
        )
        self._entries.append(entry)
        self._write(entry)
        self._wake()
        return entry

    def end(self, entry: Entry, outcome: str) -> None:
        """What became of it."""
        entry.outcome = outcome
        entry.ended = self._clock()
        self._write(entry)
        self._wake()

    def forget(self) -> None:
        """Remove the file; what is in memory stays."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._file = None

    def after(self, number: int, subject: str | None = None) -> list[Entry]:
        """The entries with a greater number, of one subject or of all."""
        return [
            one
            for one in self._entries
            if one.number > number and (subject is None or one.subject == subject)
        ]

    async def wait(self, seconds: float) -> None:
        """Until an entry is added or ends, or for `seconds`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait({waiter}, timeout=seconds)
        finally:
            self._waiting.discard(waiter)
            waiter.cancel()

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    # -- the file

    def _read(self, file: Path) -> None:
        found: dict[int, Entry] = {}
        try:
            lines = file.read_text().splitlines()
        except OSError:
            return  # mostly there is none
        for line in lines:
            try:
                entry = Entry(**json.loads(line))
                found[entry.number] = entry
            except (ValueError, TypeError):
                continue  # the last one is torn where its writer was killed
        self._lines = len(lines)
        for entry in found.values():
            if not entry.outcome and entry.kind == "activity":
                entry.outcome = "not seen to its end: the supervisor was replaced"
            self._entries.append(entry)
        self._number = max(found, default=0)

    def _write(self, entry: Entry) -> None:
        """Raises nothing: a full disk costs the history and no more."""
        if self._file is None:
            return
        try:
            if self._lines >= 4 * (self._entries.maxlen or MOST_ENTRIES):
                new = self._file.with_suffix(".new")
                _append(new, list(self._entries), os.O_TRUNC)
                os.replace(new, self._file)
                self._lines = len(self._entries)
            else:
                _append(self._file, [entry], os.O_APPEND)
                self._lines += 1
            self._trouble = ""
        except OSError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.error("the history cannot be kept in %s: %s", self._file, error)


def _append(file: Path, entries: list[Entry], flag: int) -> None:
    data = "".join(json.dumps(one.plain()) + "\n" for one in entries)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(data)
