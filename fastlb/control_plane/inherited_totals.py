"""What the instance did before another supervisor passed it on to this one: totals only ever grow.

The other one's workers go on counting in its memory until they have ended; so that is read until
then, and only the sums are kept after it. Knows no process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import astuple
from typing import Any

from fastlb.control_plane.totals import GROWING, TargetFigures, Totals
from fastlb.target_table.counters import Counters, Worker
from fastlb.target_table.layout import TargetEntry


class InheritedTotals:
    """`counters` are the other supervisor's, whose workers wrote the first `rows`; `entries` are its
    targets, `columns` those of its listeners by their keys. Owns the counters."""

    def __init__(
        self,
        counters: Counters,
        rows: int,
        entries: Iterable[TargetEntry],
        columns: Iterable[tuple[str, int]] = (),
    ) -> None:
        self._counters: Counters | None = counters
        self._rows = rows
        self._entries = {(one.group, one.address): one for one in entries}
        self._heads = dict.fromkeys(GROWING, 0)
        self._targets: dict[tuple[str, str], TargetFigures] = {}
        self._gone: dict[str, TargetFigures] = {}
        self._columns = dict(columns)
        self._listeners: dict[str, list[int]] = {}

    def add_dead(self, said: dict[str, Any]) -> None:
        """What the other one's `export` says, which no row shows."""
        for cell, value in said.get("heads", {}).items():
            self._heads[Worker[cell]] += int(value)
        for _, group, address, *figures in said.get("targets", ()):
            self._add((str(group), str(address)), TargetFigures(*figures))
        for group, *figures in said.get("gone", ()):
            self._gone[str(group)] = TargetFigures(*figures)
        for key, cells in said.get("listeners", {}).items():
            self._listeners[str(key)] = [int(cell) for cell in cells]

    def head(self, cell: Worker) -> int:
        return self._heads.get(cell, 0) + self._rows_head(cell)

    def target(self, group: str, address: str) -> TargetFigures | None:
        """None where nothing is known of it."""
        known = self._targets.get((group, address))
        entry = self._entries.get((group, address))
        if self._counters is None or entry is None:
            return known
        living = Totals(self._counters, self._rows).target(entry)
        if known is not None:
            living.add(known)
        return living

    def gone(self, group: str) -> TargetFigures | None:
        return self._gone.get(group)

    def forget(self, group: str, address: str) -> None:
        """That target is counted among those that are gone."""
        self._targets.pop((group, address), None)
        self._entries.pop((group, address), None)

    def listener(self, key: str) -> list[int] | None:
        """None where nothing is known of it."""
        known = self._listeners.get(key)
        column = self._columns.get(key)
        if self._counters is None or column is None:
            return known
        living = Totals(self._counters, self._rows).listener(key, column)
        if known is not None:
            living = [a + b for a, b in zip(living, known, strict=True)]
        return living

    def plain_listeners(self) -> dict[str, list[int]]:
        """Of all that are known, without the connections of the moment."""
        found = {}
        for key in self._columns.keys() | self._listeners.keys():
            cells = self.listener(key)
            if cells is not None:
                found[key] = [0, *cells[1:]]
        return found

    def plain_gone(self) -> list[tuple[Any, ...]]:
        return [(group, *astuple(one)) for group, one in self._gone.items()]

    def plain_targets(self) -> list[tuple[Any, ...]]:
        """As `Totals.left_by_dead` says them; no column of ours is theirs."""
        known = {**self._targets, **{key: self.target(*key) for key in self._entries}}
        return [(-1, *key, *astuple(one)) for key, one in known.items() if one and one.requests]

    def fold(self) -> None:
        """The last of those workers has ended: keep the sums, and let go of the memory."""
        if self._counters is None:
            return
        sums = {cell: self.head(cell) for cell in self._heads}
        for key in self._entries:
            found = self.target(*key)
            if found is not None:
                self._targets[key] = found
        self._listeners = self.plain_listeners()
        self._heads = sums
        self._entries = {}
        self._counters.close()
        self._counters = None

    def _add(self, key: tuple[str, str], figures: TargetFigures) -> None:
        self._targets.setdefault(key, TargetFigures()).add(figures)

    def _rows_head(self, cell: Worker) -> int:
        if self._counters is None:
            return 0
        return sum(self._counters.row(index)[cell] for index in range(self._rows))


def export(
    totals: Totals,
    before: InheritedTotals | None,
    registered: Collection[tuple[str, str]],
    listeners: Collection[tuple[str, int]],
) -> dict[str, Any]:
    """What a supervisor that gets our counters cannot see in them, `before` included: in all, for each of
    the targets that are `registered`, by group and address, and for each of the `listeners`, keys and
    columns."""
    plain = totals.left_by_dead(listeners)
    if before is None:
        return plain
    for cell in GROWING:
        plain["heads"][cell.name] += before.head(cell)
    plain["targets"] += [one for one in before.plain_targets() if (one[1], one[2]) in registered]
    gone = {str(group): TargetFigures(*figures) for group, *figures in plain["gone"]}
    for group, *figures in before.plain_gone():
        gone.setdefault(group, TargetFigures()).add(TargetFigures(*figures))
    plain["gone"] = [(group, *astuple(one)) for group, one in gone.items()]
    for key, cells in before.plain_listeners().items():
        ours = plain["listeners"].get(key, [0] * len(cells))
        plain["listeners"][key] = [a + b for a, b in zip(ours, cells, strict=True)]
    return plain
