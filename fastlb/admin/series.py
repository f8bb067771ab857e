"""What the last hour looked like: of each scope the last 5 minutes by the second, the hour by 10 s.

Bounded arrays of floats, written in place; NaN is "not known". Pure: the number of the second is given.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

FINE_STEP, FINE_POINTS = 1, 300
COARSE_STEP, COARSE_POINTS = 10, 360
KEYS = (
    "requests",
    "errors_4xx",
    "errors_5xx",
    "p50_s",
    "p95_s",
    "p99_s",
    "in_flight",
    "connections",
)
SCALING_KEYS = ("desired", "in_service", "metric")
PERCENTILES = {"p50_s": 0, "p95_s": 1, "p99_s": 2}
"""Of 10 s they are no means of seconds': whoever adds says them for both."""
NAN = math.nan


class Track:
    """One scope's rings, one fine and one coarse for each key."""

    __slots__ = ("coarse", "fine", "keys", "seen")

    def __init__(self, keys: tuple[str, ...] = KEYS) -> None:
        self.keys = keys
        self.fine = [array("f", [NAN]) * FINE_POINTS for _ in keys]
        self.coarse = [array("f", [NAN]) * COARSE_POINTS for _ in keys]
        self.seen = 0
        """The second of the last point."""


class Series:
    """All scopes. `begin` opens a second, `add` writes a scope's point of it."""

    def __init__(self) -> None:
        self._tracks: dict[str, Track] = {}
        self._second = 0
        self._first = 0

    def begin(self, second: int) -> int | None:
        """Open the point of this second. Returns the coarse step that is over with that, to `fold`.
        Seconds that were left out, since nobody looked, are not known."""
        last = self._second or second - 1
        self._first = self._first or second
        second = max(second, last + 1)
        missed = range(max(last + 1, second - FINE_POINTS + 1), second)
        over = last // COARSE_STEP
        steps = range(max(over + 1, second // COARSE_STEP - COARSE_POINTS), second // COARSE_STEP)
        for track in self._tracks.values():
            # Of a scope that is no more, also the place that is due again.
            for one in missed if track.seen == last else (*missed, second):
                for ring in track.fine:
                    ring[one % FINE_POINTS] = NAN
            for step in steps:
                for ring in track.coarse:
                    ring[step % COARSE_POINTS] = NAN
        self._second = second
        return over if second // COARSE_STEP != over else None

    def add(
        self,
        scope: str,
        values: Iterable[float | None],
        keys: tuple[str, ...] = KEYS,
    ) -> None:
        """A scope's values of the open second, in the order of `keys`."""
        track = self._tracks.get(scope)
        if track is None:
            track = self._tracks[scope] = Track(keys)
        track.seen = self._second
        at = self._second % FINE_POINTS
        for ring, value in zip(track.fine, values, strict=True):
            ring[at] = NAN if value is None else value

    def fold(self, step: int, percentiles: Mapping[str, tuple[float, float, float] | None]) -> None:
        """End a coarse step: means of its seconds, and the `percentiles` of scopes over all of it."""
        at = step % COARSE_POINTS
        begin = step * COARSE_STEP
        places = [second % FINE_POINTS for second in range(begin, begin + COARSE_STEP)]
        for scope, track in self._tracks.items():
            found = percentiles.get(scope)
            for key, fine, coarse in zip(track.keys, track.fine, track.coarse, strict=True):
                if key in PERCENTILES:
                    coarse[at] = NAN if found is None else found[PERCENTILES[key]]
                else:
                    known = [value for place in places if (value := fine[place]) == value]
                    coarse[at] = sum(known) / len(known) if known else NAN

    def forget(self) -> None:
        """Leave out scopes that have had no point for an hour."""
        oldest = self._second - COARSE_STEP * COARSE_POINTS
        self._tracks = {
            scope: track for scope, track in self._tracks.items() if track.seen > oldest
        }

    def answer(self, scope: str, span: str) -> dict[str, Any] | None:
        """The scope's series over `5m` or `1h`, the oldest point first; None of an unknown scope."""
        track = self._tracks.get(scope)
        if track is None:
            return None
        scaling = self._tracks.get(f"scaling:{scope}")
        if span == "5m":
            end = self._second
            first = max(end - FINE_POINTS + 1, self._first)
            places = [second % FINE_POINTS for second in range(first, end + 1)]
            step, stop = FINE_STEP, end
        else:
            last = self._second // COARSE_STEP - 1
            begin = max(last - COARSE_POINTS + 1, self._first // COARSE_STEP)
            places = [one % COARSE_POINTS for one in range(begin, last + 1)]
            step, stop = COARSE_STEP, (last + 1) * COARSE_STEP
        series: dict[str, list[float | None]] = {}
        for one in (track, scaling):
            if one is not None:
                rings = one.fine if span == "5m" else one.coarse
                series |= {
                    key: [_plain(ring[place]) for place in places]
                    for key, ring in zip(one.keys, rings, strict=True)
                }
        return {"step": step, "end": stop, "series": series}


def _plain(value: float) -> float | None:
    # As many digits as a float of four bytes has.
    return None if value != value else float(f"{value:.7g}")
