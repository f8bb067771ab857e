"""How many requests may be on a second try at once. Pure but for the callbacks.

A failing target must not double the load on the others: 20 % of the active requests, at least 3, may hold
a place (Envoy's budget); the owner says when a place is free again. A retry over the budget waits for its
turn; it is not failed, since a client that waits a little is better served than one that gets a 502.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

SHARE = 0.2
LEAST = 3


class RetryBudget:
    """One a worker. `active` is kept by the owner: requests in flight, retries included."""

    __slots__ = ("_waiting", "active", "running", "total")

    def __init__(self) -> None:
        self.active = 0
        self.running = 0
        self.total = 0
        self._waiting: deque[Callable[[], bool]] = deque()

    def start(self, retry: Callable[[], bool]) -> None:
        """Run `retry` now or as soon as the budget allows; it returns False where it has become moot."""
        self._waiting.append(retry)
        self._run()

    def end(self) -> None:
        """A retry that returned True is over."""
        self.running -= 1
        if self._waiting:
            self._run()

    def _run(self) -> None:
        while self._waiting and self.running < max(LEAST, int(SHARE * self.active)):
            self.running += 1
            self.total += 1
            if not self._waiting.popleft()():
                self.running -= 1
                self.total -= 1
