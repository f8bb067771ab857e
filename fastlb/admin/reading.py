"""What the admin server is made from: one Reading, everything about an instance at one moment.

The control plane makes it (`Source`). Counters in it only grow, whatever dies, and gauges are as of the
moment. What cannot be known of a scope is None. Knows nothing of where figures come from.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(slots=True)
class Counts:
    """Of one scope. `statuses` are answers by their first digit, 1 to 5. `histogram` holds latencies,
    all buckets packed into one number, so that sums and differences are one operation."""

    requests: int = 0
    errors: int | None = 0
    bytes_in: int = 0
    bytes_out: int = 0
    connections: int = 0
    in_flight: int | None = None
    statuses: tuple[int, int, int, int, int] | None = None
    status_5xx: int | None = None
    """Where the other classes are not counted."""
    retries: int | None = None
    histogram: int | None = None
    accepted: int | None = None
    queued: int | None = None
    queue_wait_us: int | None = None
    latency_us: int | None = None
    """The sum of what the histogram holds."""


@dataclass(slots=True)
class ListenerReading:
    key: str
    protocol: str
    rules: int
    counts: Counts


@dataclass(slots=True)
class GroupReading:
    """`healthy` and `targets` count its targets. `held` are requests that wait for an instance."""

    name: str
    algorithm: str
    fail_open: bool
    healthy: int
    targets: int
    held: int | None
    counts: Counts


@dataclass(slots=True)
class TargetReading:
    group: str
    address: str
    instance: str | None
    state: str
    suspect: bool
    reason: str
    since_s: float
    weight: int | float
    backup: bool
    override: str | None
    counts: Counts


@dataclass(slots=True)
class WorkerReading:
    """`cpu_seconds` and `rss` are None where the process cannot be looked at."""

    index: int
    pid: int
    state: str
    restarts: int
    cpu_seconds: float | None
    rss: int | None
    held: int
    accept_pauses: int
    counts: Counts


@dataclass(slots=True)
class Reading:
    """`at` is monotonic, `time` is since 1970; `auto_scaling` is what `fastlb status` says of the groups."""

    at: float
    time: float
    name: str
    version: str
    pid: int
    uptime: float
    draining: bool
    host_cpu_percent: float | None
    host_memory_percent: float | None
    cores: int
    cpu_seconds: float | None
    """Of the supervisor; so is `rss`."""
    rss: int | None
    totals: Counts
    rejected: int
    log_dropped: int
    """Lines of the access log that were lost."""
    open_files: int | None
    most_open_files: int
    """Of the supervisor."""
    started: float
    """Since 1970."""
    listeners: list[ListenerReading] = field(default_factory=list)
    groups: list[GroupReading] = field(default_factory=list)
    targets: list[TargetReading] = field(default_factory=list)
    workers: list[WorkerReading] = field(default_factory=list)
    auto_scaling: list[dict[str, Any]] = field(default_factory=list)


class Entry(Protocol):
    """One decision or activity."""

    @property
    def number(self) -> int: ...
    @property
    def ended(self) -> float | None: ...
    def plain(self) -> dict[str, Any]: ...


class Entries(Protocol):
    """A history: those with a greater number, the oldest first."""

    def after(self, number: int) -> Sequence[Entry]: ...


class Source(Protocol):
    """Where readings come from."""

    @property
    def activities(self) -> Entries: ...

    @property
    def decisions(self) -> Entries: ...

    def read(self) -> Reading: ...

    def latencies(self, histogram: int, shares: Sequence[float]) -> list[float] | None:
        """In seconds, under which these shares lie; None of an empty histogram."""
        ...

    def buckets(self, histogram: int) -> list[tuple[float, int]]:
        """Of each bucket its upper bound in seconds, growing, and how many lie in it."""
        ...

    def names(self, kind: str) -> Collection[str]:
        """Those that there are: of auto scaling groups (`group`), or instances' ids (`instance`)."""
        ...
