"""AutoScalingGroup: how many Instances there may be, of what, and when their number changes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastlb.model.instance_refresh import InstanceRefresh
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.scaling_policy import ScalingPolicy
from fastlb.model.settings import setting

TERMINATION_POLICIES = (
    "oldest_launch_template",
    "fewest_in_flight",
    "newest_instance",
    "oldest_instance",
)
SUSPENDABLE = ("launch", "terminate", "scaling")
"""What `fastlb suspend` can suspend of a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoScalingGroup:
    """Identical Instances of one LaunchTemplate, between `min` and `max`; durations in seconds."""

    name: str
    launch_template: LaunchTemplate = field(default_factory=LaunchTemplate)
    policies: tuple[ScalingPolicy, ...] = ()
    refresh: InstanceRefresh = field(default_factory=InstanceRefresh)
    min: int = setting(
        1,
        "count",
        "least instances; 0 lets it stop them all when idle",
        why="an app that is up",
        flag="--min",
        least=0,
        most=1000,
    )
    max: int = setting(
        1,
        "count",
        "most instances",
        why="no scaling unless it is asked for",
        flag="--max",
        least=1,
        most=1000,
    )
    desired: int | None = setting(
        None,
        "count",
        "instances to start with",
        why="min, from which the policies go on",
        least=0,
        most=1000,
        optional=True,
    )
    profile: str = setting(
        "local",
        "choice",
        "whose figures hold for what is not set",
        why="on one host an instance is up in a second, not in minutes",
        choices=("local", "aws"),
    )
    health_check_grace: float = setting(
        30.0,
        "duration",
        "time for a new instance to pass its first health check, before it is given up",
        why="kamal-proxy's deploy timeout; slow apps need more",
        flag="--health-check-grace",
        least=0.1,
    )
    warmup: float = setting(
        10.0,
        "duration",
        "time in service before an instance counts in the metrics; no scale-in meanwhile",
        why="caches and compilers are warm by then",
        flag="--warmup",
        least=0,
    )
    slow_start: float = setting(
        5.0,
        "duration",
        "time in which a new instance's share of the traffic grows to its full size",
        why="short, because scaling out is mostly urgent",
        flag="--slow-start",
        least=0,
    )
    drain_timeout: float = setting(
        30.0,
        "duration",
        "time for requests in flight before an instance is stopped",
        why="the same as at a stop of fastlb",
        least=0,
    )
    cooldown: float = setting(
        60.0,
        "duration",
        "pause after an activity of a simple scaling policy",
        why="a new instance has shown its effect by then",
        least=0,
    )
    period: float = setting(
        5.0,
        "duration",
        "time of one datapoint of the metrics",
        why="a load step is answered within 15 s",
        least=0.2,
    )
    datapoints_out: int = setting(
        3,
        "count",
        "datapoints in a row past the target that scale out",
        why="AWS's 3",
        least=1,
        most=1000,
    )
    datapoints_in: int = setting(
        15,
        "count",
        "datapoints in a row under 0.9 of the target that scale in",
        why="AWS's 15",
        least=1,
        most=1000,
    )
    termination_policy: tuple[str, ...] = setting(
        ("oldest_launch_template", "fewest_in_flight", "newest_instance"),
        "choices",
        "which instance goes first at a scale-in; the next one decides among equals",
        why="what is outdated first, then what costs the fewest users anything",
        choices=TERMINATION_POLICIES,
    )
    protect_new: bool = setting(
        False,
        "switch",
        "protect new instances from scale-in",
        why="AWS's",
    )
    idle_timeout: float = setting(
        300.0,
        "duration",
        "time without a request after which a group with min = 0 stops its last instance",
        why="Passenger's",
        flag="--zero-after",
        least=0.1,
    )
    hold_timeout: float = setting(
        30.0,
        "duration",
        "longest time that a request is held while no instance can take it; then 503",
        why="as long as a new instance may take",
        flag="--hold-timeout",
        least=0,
    )
    hold_requests: int = setting(
        100,
        "count",
        "requests that each worker holds at most; 503 for more",
        why="Passenger's queue",
        least=0,
        most=100000,
    )
    host_cpu_limit: float = setting(
        90.0,
        "number",
        "percent of all cores of the host above which no policy scales out",
        why="one more process adds no core",
        least=1,
        most=100,
    )
    host_memory_reserve: int = setting(
        256 * 1024 * 1024,
        "bytes",
        "memory of the host that no launch may use up",
        why="what a host needs to stay well",
        least=0,
    )


PROFILES: dict[str, dict[str, Any]] = {
    "local": {},
    "aws": {
        "health_check_grace": 300.0,
        "warmup": 300.0,
        "slow_start": 0.0,
        "drain_timeout": 300.0,
        "cooldown": 300.0,
        "period": 60.0,
        "datapoints_out": 3,
        "datapoints_in": 15,
        "termination_policy": ("oldest_launch_template", "oldest_instance"),
    },
}
"""What AutoScalingGroup settings are where the profile is named and they are not set; those of the
refresh are in REFRESH_PROFILES of `instance_refresh`."""
