"""Which Instances end at a scale-in, and in which order: pure. Knows no process and no target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is asked of an Instance that might end."""

    id: str
    version: int
    """Of its launch template."""
    in_flight: int
    launched_at: float
    """Monotonic seconds."""
    protected: bool
    ready: bool
    """In service, and its target gets requests."""


_KEYS: Mapping[str, Callable[[Candidate], float]] = {
    "oldest_launch_template": lambda one: one.version,
    "fewest_in_flight": lambda one: one.in_flight,
    "newest_instance": lambda one: -one.launched_at,
    "oldest_instance": lambda one: one.launched_at,
}
"""By each of TERMINATION_POLICIES, the Instance with the lowest goes first."""


def choose(candidates: Sequence[Candidate], policies: Sequence[str], count: int) -> list[str]:
    """The ids of at most `count` Instances, the first to end first.

    Protected ones are never among them, so that there may be fewer. Those that are not ready
    go first, the newest before: nobody is served by them. Then each policy decides among those
    that are equal by the policies before it, and the id where all are.
    """

    def rank(one: Candidate) -> tuple[bool, list[float], str]:
        if not one.ready:
            return False, [-one.launched_at], one.id
        return True, [_KEYS[policy](one) for policy in policies], one.id

    free = sorted((one for one in candidates if not one.protected), key=rank)
    return [one.id for one in free[: max(count, 0)]]
