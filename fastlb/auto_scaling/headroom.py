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

    def fitting(
        self, more: int, rss: int, *, cpu_limit: float | None, reserve: int
    ) -> tuple[int, str]:
        """How many of `more` Instances of `rss` bytes there is room for, and why not all.

        `cpu_limit` None leaves the CPU out: what is to be replaced had its share of it.
        """
        host = self.host
        if host is None:
            return more, ""
        if cpu_limit is not None and host.cpu_percent is not None and host.cpu_percent > cpu_limit:
            return 0, (
                f"the host's CPU is saturated: {host.cpu_percent:.0f} % of all cores, "
                f"the limit is {cpu_limit:g} %"
            )
        if not rss:
            return more, ""
        fits = max((host.memory_available - reserve) // rss, 0)
        if fits >= more:
            return more, ""
        return fits, (
            f"memory would run out: {host.memory_available // MIB} MiB are available, "
            f"{reserve // MIB} MiB are kept free, an instance takes {rss // MIB} MiB"
        )
