"""Which column of the counters each Listener has. Knows no socket and nothing of what is counted.

A listener that goes keeps its column, so that its counts are there when it comes back, until all
columns are taken: then the one that went first gives its own away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastlb.errors import FastlbError
from fastlb.target_table.counters import LISTENERS


class ListenerColumns:
    """By `listener_key`. `given_away` is told of each column that another listener gets."""

    def __init__(self, given_away: Callable[[int], None] = lambda column: None) -> None:
        self._columns: dict[str, int] = {}
        """Those that are there at the end, the one that went first at the begin."""
        self._given_away = given_away

    def assign(self, listeners: Iterable[str]) -> None:
        """These are there from now on. Raises FastlbError where they are too many: then nothing has
        changed."""
        there = list(dict.fromkeys(listeners))
        if len(there) > LISTENERS:
            raise FastlbError(f"{len(there)} listeners: at most {LISTENERS} can be")
        for key in there:
            if key in self._columns:
                self._columns[key] = self._columns.pop(key)
        for key in there:
            if key not in self._columns:
                self._columns[key] = self._free()

    def _free(self) -> int:
        if len(self._columns) < LISTENERS:
            return len(self._columns)
        oldest = next(iter(self._columns))
        column = self._columns.pop(oldest)
        self._given_away(column)
        return column

    def __getitem__(self, key: str) -> int:
        return self._columns[key]

    def items(self) -> tuple[tuple[str, int], ...]:
        return tuple(self._columns.items())
