"""What auto scaling needs of whoever keeps the targets: registered, watched, drained, counted.

Protocols only; the control plane implements them over its registry, its health monitor and the
workers' counters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastlb.model.address import Address


@dataclass(frozen=True, slots=True)
class TargetSight:
    """What is known of a registered target's health."""

    state: str
    """As in the target table: initial, healthy, unhealthy, draining, unused."""
    failing: bool
    """Its checks fail for as long as the threshold asks: not merely ejected for a failed request."""
    reason: str


@dataclass(frozen=True, slots=True)
class TargetCounts:
    """What a target did since it was registered, and has now, over all workers."""

    in_flight: int
    requests: int
    failed: int
    """Answers of 5xx, and errors of the target such as a reset."""
    histogram: tuple[int, ...]
    """Of latencies, in the counters' buckets."""
    queued: int
    """Requests that had been held before they were given to it."""
    queue_wait: float
    """Seconds that those had waited, added up."""


class RegisteredTarget(Protocol):
    """One registration; nothing of it may be used after `deregister` but `forgotten`."""

    def set_share(self, share: float) -> None:
        """Give it `share` (over 0, up to 1) of what its weight would get."""

    def drain(self) -> None:
        """Publish that it gets nothing new."""

    @property
    def has_strangers(self) -> bool:
        """Whether workers of another supervisor may still have requests there, which nobody here sees;
        they end at their own drain timeout."""

    @property
    def settled(self) -> bool:
        """Whether every worker has seen the drain and nothing is in flight any more."""

    def deregister(self) -> None:
        """Take it out of the table."""

    @property
    def forgotten(self) -> bool:
        """Whether every worker has seen that."""

    def sight(self) -> TargetSight: ...

    def counts(self) -> TargetCounts: ...


class Registrar(Protocol):
    """Registers targets."""

    def register(
        self, group: str, address: Address, changed: Callable[[], None]
    ) -> RegisteredTarget:
        """`changed` is called after each change of its health. Raises FastlbError where it cannot be
        registered: twice the same address, no room."""

    def percentile(self, histogram: Sequence[int], share: float) -> float | None:
        """In seconds; None of nothing."""
