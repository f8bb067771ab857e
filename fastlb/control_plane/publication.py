"""When the target table is published: at once after a change, and a flood of changes together.

Knows neither what a snapshot holds nor who reads it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fastlb.errors import FastlbError
from fastlb.target_table.layout import Snapshot
from fastlb.target_table.writer import TableWriter

log = logging.getLogger("fastlb.table")

APART = 0.005
"""Least time between two publications; a worker reads one in less, even of a thousand targets."""


class Publication:
    """Publishes what `snapshot` makes; `published` is called after each.

    Before `begin` nothing is published: the workers wait for a first table that knows the targets'
    health.
    """

    def __init__(
        self,
        writer: TableWriter,
        snapshot: Callable[[], Snapshot],
        published: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._snapshot = snapshot
        self._published = published
        self._begun = False
        self._pending: asyncio.Handle | None = None
        self._last = 0.0

    @property
    def next_generation(self) -> int:
        """Of the table that will say what holds now, if it is not what the current one says."""
        return self._writer.generation + (0 if self._begun and self._pending is None else 1)

    def begin(self) -> None:
        """Publish for the first time, now. Raises FastlbError where that cannot be."""
        self._begun = True
        self._last = asyncio.get_running_loop().time()
        try:
            self._writer.publish(self._snapshot())
        except FastlbError as error:
            raise FastlbError(
                f"{error}: the configuration has too many rules or targets; use fewer or shorter ones"
            ) from error
        self._published()

    def changed(self) -> None:
        """What the table says changed: publish in this turn of the loop, or 5 ms after the last."""
        if not self._begun or self._pending is not None:
            return
        loop = asyncio.get_running_loop()
        due = self._last + APART
        if loop.time() >= due:
            self._pending = loop.call_soon(self._publish)
        else:
            self._pending = loop.call_at(due, self._publish)

    def _publish(self) -> None:
        self._pending = None
        self._last = asyncio.get_running_loop().time()
        try:
            self._writer.publish(self._snapshot())
        except FastlbError as error:
            log.error("the workers keep the table that they have: %s", error)
            return
        self._published()

    def end(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        self._begun = False
