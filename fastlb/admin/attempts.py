"""Wrong tokens by the address that they come from: after a few it is told to wait. Pure; time is given.

Whoever has the right token must not suffer from others behind the same address, so that every token is
compared, also where wrong ones are refused. What bounds guessing is how many are compared a second.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

MOST_FAILURES = 5
WITHIN = 60.0
"""Seconds; a failure counts so long, and so long is told to wait who has had MOST_FAILURES."""
MOST_COMPARED = 10
COMPARED_WITHIN = 1.0
"""After so many wrong ones in so many seconds none is compared, not even a right one: more comes from no
mistaken program, and for a token of 16 characters so many guesses a second are none."""
MOST_ADDRESSES = 4096
"""That are remembered; the ones that failed longest ago are forgotten."""


class Attempts:
    """`clock` is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[str, list[float]] = {}

    def closed(self, address: str) -> float:
        """Seconds in which no token of this address is compared; 0 for none."""
        return self._wait(address, MOST_COMPARED, COMPARED_WITHIN)

    def barred(self, address: str) -> float:
        """Seconds that it is told to wait with wrong ones; 0 for none."""
        return self._wait(address, MOST_FAILURES, WITHIN)

    def _wait(self, address: str, most: int, within: float) -> float:
        failures = self._failures.get(_network(address), [])
        if len(failures) < most:
            return 0.0
        return max(failures[-most] + within - self._clock(), 0.0)

    def failed(self, address: str) -> None:
        network = _network(address)
        failures = self._failures.pop(network, [])
        if len(self._failures) >= MOST_ADDRESSES:
            del self._failures[next(iter(self._failures))]
        self._failures[network] = [*failures[1 - MOST_COMPARED :], self._clock()]


def _network(address: str) -> str:
    """Of IPv6 the /64, which is what one client has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))
