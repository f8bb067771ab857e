"""Whether the host has room for one more Instance: it is finite, unlike a cloud.

Looked at once a period for all groups. Decides from figures; reads them through `usage`.
"""

from __future__ import annotations

from collections.abc import Callable

from fastlb.auto_scaling.usage import Host, HostMeter

MIB = 1024 * 1024
FRESH = 1.0
"""Seconds between two looks: several groups share one."""


class Headroom:
    """`cpu_limit` in percent of all cores, `reserve` in bytes; of the group that asks."""

    def __init__(self, meter: Callable[[], Host] | None = None) -> None:
        self._look = meter or HostMeter().look
        self._looked = 0.0
        self.host: Host | None = None

    def look(self, now: float) -> None:
        if self.host is None or now - self._looked >= FRESH:
            self.host = self._look()
            self._looked = now

    def saturated(self, cpu_limit: float) -> bool:
        """Whether the host's CPU is over the limit."""
        percent = self.host.cpu_percent if self.host is not None else None
        return percent is not None and percent > cpu_limit

    def saturation(self, cpu_limit: float) -> str:
        """How much it is over, for a person."""
        percent = (self.host.cpu_percent if self.host is not None else None) or 0.0
        return (
            f"the host's CPU is saturated: {percent:.0f} % of all cores, the limit is "
            f"{cpu_limit:g} %"
        )

    def fitting(
        self, more: int, rss: int, *, cpu_limit: float | None, reserve: int
    ) -> tuple[int, str]:
        """How many of `more` Instances of `rss` bytes there is room for, and why not all.

        `cpu_limit` None leaves the CPU out: what is to be replaced had its share of it.
        """
        host = self.host
        if host is None:
            return more, ""
        if cpu_limit is not None and self.saturated(cpu_limit):
            return 0, self.saturation(cpu_limit)
        if not rss:
            return more, ""
        fits = max((host.memory_available - reserve) // rss, 0)
        if fits >= more:
            return more, ""
        return fits, (
            f"memory would run out: {host.memory_available // MIB} MiB are available, "
            f"{reserve // MIB} MiB are kept free, an instance takes {rss // MIB} MiB"
        )
