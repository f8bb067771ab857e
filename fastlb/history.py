"""What was decided, when and why: a bounded ring of entries, for `fastlb why` and `fastlb activity`.

Knows nothing of what is decided. Whoever decides adds an entry with its inputs; whoever shows them
reads those after a number, or waits for the next.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
    """The newest entries, the oldest first."""

    def __init__(self, most: int = MOST_ENTRIES, clock: Callable[[], float] = time.time) -> None:
        self._entries: deque[Entry] = deque(maxlen=most)
        self._clock = clock
        self._number = 0
        self._waiting: set[asyncio.Future[None]] = set()

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
        self._wake()
        return entry

    def end(self, entry: Entry, outcome: str) -> None:
        """What became of it."""
        entry.outcome = outcome
        entry.ended = self._clock()
        self._wake()

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
