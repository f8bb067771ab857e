"""How long to wait before a dead worker is replaced. Pure: the clock is handed in."""

from __future__ import annotations

LONG_LIFE = 30.0
"""A worker that lived this long did not die of its start: its former deaths are forgotten."""
FIRST_DELAY = 0.1
LONGEST_DELAY = 10.0


class RestartDelay:
    """The crash-loop governor of one worker: no delay at first, then 0.1 s, 0.2 s, 0.4 s …"""

    def __init__(self) -> None:
        self.deaths = 0
        self._first_death = 0.0

    def died(self, now: float, lived: float) -> float:
        """Seconds to wait after a death at `now` of a process that had lived `lived` seconds."""
        if lived >= LONG_LIFE:
            self.deaths = 0
        if not self.deaths:
            self._first_death = now
        self.deaths += 1
        if self.deaths == 1:
            return 0.0
        doublings = min(self.deaths - 2, 16)
        return min(FIRST_DELAY * 2.0**doublings, LONGEST_DELAY)

    def span(self, now: float) -> float:
        """Seconds since the first of the deaths that still count."""
        return now - self._first_death if self.deaths else 0.0
