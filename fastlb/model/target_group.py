"""TargetGroup and Target: who answers requests. Knows no Listener and no socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastlb.model.address import Address
from fastlb.model.health_check import HealthCheck
from fastlb.model.settings import setting

Algorithm = Literal[
    "least_outstanding_requests", "round_robin", "weighted_random", "source_ip_hash"
]
ALGORITHMS: tuple[Algorithm, ...] = (
    "least_outstanding_requests",
    "round_robin",
    "weighted_random",
    "source_ip_hash",
)

TargetState = Literal["initial", "healthy", "unhealthy", "draining", "disabled", "unused"]
OUT_OF_USE: tuple[TargetState, ...] = ("draining", "disabled", "unused")
"""In which a target gets nothing new, however badly off its group is."""

MOST_WEIGHT = 999


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a TargetGroup. `backup` targets get traffic only while no primary is eligible."""

    address: Address
    weight: int = 1
    backup: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """How Workers hold requests while no target can take them, since one is being started:
    `seconds` at the longest, `requests` of each Worker at the most. A target of such a group gets
    nothing before its first passed check, also not by failing open."""

    seconds: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetGroup:
    """Targets that answer alike, and how requests reach them; durations in seconds."""

    name: str
    targets: tuple[Target, ...] = ()
    auto_scaling_group: str | None = None
    """Whose Instances are targets too, beside `targets`."""
    hold: Hold | None = None
    """Set by the control plane for a group with an AutoScalingGroup, never by a user."""
    health_check: HealthCheck = field(default_factory=HealthCheck)
    algorithm: Algorithm = setting(
        "least_outstanding_requests",
        "choice",
        "how a target is chosen",
        why="it evens out slow requests and slow targets by itself",
        flag="--algorithm",
        choices=ALGORITHMS,
    )
    connect_timeout: float = setting(
        2.0,
        "duration",
        "time for a connection to a target to open",
        why="a target on the same host answers in microseconds, or its accept queue is full",
        flag="--connect-timeout",
        least=0.01,
    )
    response_timeout: float = setting(
        60.0,
        "duration",
        "longest silence of a target before and in its answer",
        why="AWS's and nginx's",
        flag="--response-timeout",
        least=0.05,
    )
    retries: int = setting(
        1,
        "count",
        "other targets that are tried for a request that may be sent again",
        why="a second failure in a row is rarely one target's fault",
        flag="--retries",
        least=0,
        most=10,
    )
    keepalive_timeout: float = setting(
        4.0,
        "duration",
        "longest idle time of a pooled connection to a target; learned to be shorter from targets",
        why="closes before uvicorn's and node's 5 s do, so that no request meets a closing connection",
        least=0,
    )
    stall_timeout: float = setting(
        1.0,
        "duration",
        "silence on every busy connection after which a target is suspect; 0 turns it off",
        why="a hung process accepts connections and answers nothing; its clients wait this long",
        least=0,
    )
