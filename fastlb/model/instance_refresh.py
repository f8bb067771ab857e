"""InstanceRefresh: how a group goes over to a new launch template, and when back. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastlb.model.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRefresh:
    """How a group's Instances are replaced by those of a new launch template; durations in seconds."""

    min_healthy: int = setting(
        100,
        "count",
        "percent of the desired capacity that stays in service",
        why="new before old: nobody notices a deploy",
        least=0,
        most=100,
    )
    max_healthy: int = setting(
        200,
        "count",
        "percent of the desired capacity that may run at once, old and new together",
        why="the quickest that is still new before old; less where memory is scarce",
        least=100,
        most=200,
    )
    bake_time: float = setting(
        30.0,
        "duration",
        "time to watch the new instances after the last old one has gone",
        why="long enough for an error share to show under some traffic",
        flag="--bake-time",
        least=0,
    )
    checkpoints: tuple[int, ...] = setting(
        (),
        "percents",
        "shares of replaced instances at which the refresh waits",
        why="the comparison with the old ones goes on all the time anyway",
    )
    checkpoint_delay: float = setting(
        3600.0,
        "duration",
        "time that it waits at each checkpoint",
        why="AWS's",
        least=0,
    )
    auto_rollback: bool = setting(
        True,
        "switch",
        "go back by itself where the new ones do not come up or answer worse",
        why="nobody watches every deploy",
    )
    max_error_rise: float = setting(
        5.0,
        "number",
        "percentage points by which the new ones' share of 5xx answers may exceed the old ones'",
        why="above chance, below what users would put up with",
        least=0,
        most=100,
    )
    max_p95_ratio: float = setting(
        2.0,
        "number",
        "how many times the old ones' p95 latency that of the new ones may be; 0 turns it off",
        why="cold caches cost less, a lost index costs more",
        least=0,
    )
    failed_launches: int = setting(
        2,
        "count",
        "launches in a row of the new template that may fail before it goes back",
        why="one may be bad luck",
        least=1,
        most=100,
    )


REFRESH_PROFILES: dict[str, dict[str, Any]] = {
    "local": {},
    "aws": {"min_healthy": 90, "max_healthy": 100, "auto_rollback": False, "bake_time": 0.0},
}
"""What InstanceRefresh settings are where a group's profile is named and they are not set."""
