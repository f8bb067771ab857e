"""Wrong tokens by the address that they come from: after a few it has to wait. Pure; time is given."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

MOST_FAILURES = 5
WITHIN = 60.0
"""Seconds; a failure counts so long, and so long waits who has had MOST_FAILURES."""
MOST_ADDRESSES = 4096
"""That are remembered; the ones that failed longest ago are forgotten."""


class Attempts:
    """`clock` is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[str, list[float]] = {}

    def barred(self, address: str) -> float:
        """Seconds that it has to wait; 0 for none."""
        failures = self._failures.get(_network(address), [])
        if len(failures) < MOST_FAILURES:
            return 0.0
        return max(failures[-MOST_FAILURES] + WITHIN - self._clock(), 0.0)

    def failed(self, address: str) -> None:
        network = _network(address)
        failures = self._failures.pop(network, [])
        if len(self._failures) >= MOST_ADDRESSES:
            del self._failures[next(iter(self._failures))]
        self._failures[network] = [*failures[1 - MOST_FAILURES :], self._clock()]

    def succeeded(self, address: str) -> None:
        self._failures.pop(_network(address), None)


def _network(address: str) -> str:
    """Of IPv6 the /64, which is what one client has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))
