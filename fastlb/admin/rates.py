"""From two Readings' Counts to what happened a second. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastlb.admin.reading import Counts

SHARES = (0.5, 0.95, 0.99)
PERCENTILES = ("p50_s", "p95_s", "p99_s")
"""What these are called, in seconds."""

Latencies = Callable[[int, Sequence[float]], list[float] | None]
"""`Source.latencies`."""


@dataclass(slots=True)
class Rates:
    """A second; percentiles are in seconds, of what was answered in that time; None is unknown."""

    requests: float
    statuses: tuple[float, ...] | None
    status_5xx: float | None
    errors: float | None
    retries: float | None
    percentiles: tuple[float, float, float] | None
    in_flight: int | None
    connections: int
    bytes_in: float
    bytes_out: float
    accepted: float | None
    total: int

    @property
    def status_4xx(self) -> float | None:
        return None if self.statuses is None else self.statuses[3]

    def latencies(self) -> dict[str, float | None]:
        """The percentiles as the API says them."""
        return dict(zip(PERCENTILES, self.percentiles or (None,) * len(PERCENTILES), strict=True))

    def plain(self) -> dict[str, Any]:
        """As the API says it."""
        status: dict[str, float | None]
        if self.statuses is not None:
            status = {f"{n}xx": one for n, one in enumerate(self.statuses, 1)}
        elif self.status_5xx is not None:
            status = {"1xx": None, "2xx": None, "3xx": None, "4xx": None, "5xx": self.status_5xx}
        else:
            status = dict.fromkeys(("1xx", "2xx", "3xx", "4xx", "5xx"))
        return {
            "requests_per_s": self.requests,
            "status": status,
            "errors_per_s": self.errors,
            "retries_per_s": self.retries,
            **self.latencies(),
            "in_flight": self.in_flight,
            "bytes_in_per_s": self.bytes_in,
            "bytes_out_per_s": self.bytes_out,
            "requests_total": self.total,
        }


def rates(before: Counts | None, now: Counts, seconds: float, latencies: Latencies) -> Rates:
    """What happened between two readings that are `seconds` apart. A scope that was not there before
    counts from its first reading on."""
    if before is None:
        before = now
    statuses: tuple[float, ...] | None = None
    status_5xx = _growth(before.status_5xx, now.status_5xx, seconds)
    if now.statuses is not None and before.statuses is not None:
        statuses = tuple(
            [_per_second(a, b, seconds) for a, b in zip(before.statuses, now.statuses, strict=True)]
        )
        status_5xx = statuses[4]
    return Rates(
        requests=_per_second(before.requests, now.requests, seconds),
        statuses=statuses,
        status_5xx=status_5xx,
        errors=_growth(before.errors, now.errors, seconds),
        retries=_growth(before.retries, now.retries, seconds),
        percentiles=percentiles(before.histogram, now.histogram, latencies),
        in_flight=now.in_flight,
        connections=now.connections,
        bytes_in=_per_second(before.bytes_in, now.bytes_in, seconds),
        bytes_out=_per_second(before.bytes_out, now.bytes_out, seconds),
        accepted=_growth(before.accepted, now.accepted, seconds),
        total=now.requests,
    )


def percentiles(
    before: int | None, now: int | None, latencies: Latencies
) -> tuple[float, float, float] | None:
    """In seconds, of what lies in the histogram now and did not before."""
    if now is None or before is None or now <= before:
        return None
    found = latencies(now - before, SHARES)
    if found is None:
        return None
    p50, p95, p99 = found
    return round(p50, 6), round(p95, 6), round(p99, 6)


def _growth(before: int | None, now: int | None, seconds: float) -> float | None:
    return None if before is None or now is None else _per_second(before, now, seconds)


def _per_second(before: int, now: int, seconds: float) -> float:
    # What was counted at a moment that two workers' ticks are apart may seem to shrink for a look.
    return round((now - before) / seconds, 2) if now > before and seconds > 0 else 0.0
