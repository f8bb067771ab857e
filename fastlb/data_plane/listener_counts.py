"""What one Listener's connections did in this worker: counted in Python, stored at each tick.

Every connection holds its Listener's counts, so that counting costs what a plain attribute does; the
worker's own totals are the sums over its listeners. Knows no socket and no protocol.
"""

from __future__ import annotations

from fastlb.target_table.counters import ListenerCell, listener_block


class ListenerCounts:
    """One Listener's. `column` is where they are stored, -1 while the table names none."""

    __slots__ = (
        "accepted",
        "bytes_in",
        "bytes_out",
        "column",
        "connections",
        "errors",
        "requests",
        "statuses",
    )

    def __init__(self) -> None:
        self.column = -1
        self.requests = self.errors = self.accepted = self.connections = 0
        self.bytes_in = self.bytes_out = 0
        self.statuses = [0] * 6
        """By the first digit of an answer's status."""

    def store(self, row: memoryview) -> None:
        """Write them into the worker's row."""
        if self.column < 0:
            return
        at = listener_block(self.column)
        row[at + ListenerCell.CONNECTIONS] = self.connections
        row[at + ListenerCell.ACCEPTED] = self.accepted
        row[at + ListenerCell.REQUESTS] = self.requests
        first = at + ListenerCell.STATUS_1XX
        for offset, count in enumerate(self.statuses[1:]):
            row[first + offset] = count
        row[at + ListenerCell.ERRORS] = self.errors
        row[at + ListenerCell.BYTES_IN] = self.bytes_in
        row[at + ListenerCell.BYTES_OUT] = self.bytes_out
