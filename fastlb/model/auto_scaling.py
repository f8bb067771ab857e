"""AutoScalingGroup, LaunchTemplate, ScalingPolicy, InstanceRefresh: what scales, from what, and how.

Pure: knows no process, no clock and no counter. What the policies decide is in
`auto_scaling.scaling_policy`; a cron expression is read by `model.schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fastlb.model.settings import setting

Metric = Literal["cpu", "requests", "in_flight", "rss", "queue_wait"]
METRICS: tuple[Metric, ...] = ("cpu", "requests", "in_flight", "rss", "queue_wait")
"""Means over the in-service Instances that are warmed: `cpu` in percent of one core, `requests` a
minute, `in_flight` requests, `rss` in bytes, `queue_wait` in seconds."""

AdjustmentType = Literal["change_in_capacity", "exact_capacity", "percent_change_in_capacity"]
ADJUSTMENT_TYPES: tuple[AdjustmentType, ...] = (
    "change_in_capacity",
    "exact_capacity",
    "percent_change_in_capacity",
)
Comparison = Literal["above", "below"]
TERMINATION_POLICIES = (
    "oldest_launch_template",
    "fewest_in_flight",
    "newest_instance",
    "oldest_instance",
)
STOP_SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH")
SUSPENDABLE = ("launch", "terminate", "scaling")
"""What `fastlb suspend` can suspend of a group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchTemplate:
    """How one Instance is started: the local counterpart of a machine image.

    In `command` and in the values of `env`, `{socket}`, `{port}` and `{instance}` stand for the unix
    socket or the port that the Instance must listen on, and for its id; other braces are left alone.
    """

    command: tuple[str, ...] = setting(
        (),
        "texts",
        "program and arguments; `{socket}` or `{port}` is where it must listen",
        why="there is no app that everybody runs",
    )
    shell: bool = setting(
        False,
        "switch",
        "run the command, then one text, through /bin/sh",
        why="a shell between fastlb and the app swallows signals",
    )
    cwd: str | None = setting(
        None,
        "path",
        "folder in which it runs",
        why="that of fastlb itself is what a shell would do",
        optional=True,
    )
    env: tuple[tuple[str, str], ...] = setting(
        (),
        "environment",
        "variables beside those that fastlb itself has; the values are never logged",
        why="the environment of fastlb is inherited",
    )
    user: str | None = setting(
        None,
        "text",
        "user as whom it runs, with that user's groups and no others; needs root",
        why="that of fastlb itself",
        flag="--user",
        optional=True,
    )
    stop_signal: str = setting(
        "TERM",
        "choice",
        "signal that asks it to end",
        why="what every server takes for a clean stop",
        choices=STOP_SIGNALS,
    )
    stop_timeout: float = setting(
        10.0,
        "duration",
        "time to end after that signal, before the whole process group is killed",
        why="Docker's; requests have been drained before",
        flag="--stop-timeout",
        least=0,
    )
    max_rss: int | None = setting(
        None,
        "bytes",
        "resident memory of its process tree above which it is replaced, the new one first",
        why="how much is too much only the app's author knows",
        flag="--max-rss",
        least=1048576,
        optional=True,
    )
    max_lifetime: float | None = setting(
        None,
        "duration",
        "age at which it is replaced, the new one first",
        why="a healthy process need not be ended",
        flag="--max-lifetime",
        least=1,
        optional=True,
    )
    nice: int = setting(
        0,
        "count",
        "niceness; below 0 needs root",
        why="that of fastlb itself",
        least=-20,
        most=19,
    )
    cpus: tuple[tuple[int, int], ...] | None = setting(
        None,
        "ranges",
        "cores that it may run on, such as `0-3,6`",
        why="the kernel's scheduler mostly knows better",
        least=0,
        most=4095,
        optional=True,
    )
    limit_nofile: int | None = setting(
        None,
        "count",
        "most open files (RLIMIT_NOFILE)",
        why="that of fastlb itself, which raises its own to what is allowed",
        least=16,
        optional=True,
    )
    limit_nproc: int | None = setting(
        None,
        "count",
        "most processes of its user (RLIMIT_NPROC)",
        why="that of fastlb itself",
        least=1,
        optional=True,
    )
    limit_as: int | None = setting(
        None,
        "bytes",
        "most address space of each process (RLIMIT_AS)",
        why="that of fastlb itself",
        least=1048576,
        optional=True,
    )
    limit_core: int | None = setting(
        None,
        "bytes",
        "largest core dump (RLIMIT_CORE)",
        why="that of fastlb itself",
        least=0,
        optional=True,
    )
    log: str = setting(
        "inherit",
        "path",
        "where its output goes: into the log of fastlb (`inherit`), or to a file for each instance in "
        "this folder",
        why="one stream is what a terminal, a container and the journal take",
    )
    log_max_bytes: int = setting(
        10 * 1024 * 1024,
        "bytes",
        "size at which such a file is rotated",
        why="a file that an editor still opens",
        least=4096,
    )
    log_keep: int = setting(
        3,
        "count",
        "rotated files that are kept of each instance",
        why="enough to look back, and bounded",
        least=0,
        most=1000,
    )

    @property
    def listens_on_socket(self) -> bool:
        """Whether the Instance gets a unix socket; else it gets a port."""
        texts = (*self.command, *(value for _, value in self.env))
        return any("{socket}" in text or "$FASTLB_SOCKET" in text for text in texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTracking:
    """Keep `metric` near `target` (AWS target tracking; REFERENCE §2.1)."""

    metric: Metric
    target: float
    """In the metric's unit."""
    disable_scale_in: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """From `lower` (of the metric minus the threshold) up to `upper`; None is unbounded."""

    adjustment: int
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScaling:
    """The further the metric is past the threshold, the larger the adjustment."""

    metric: Metric
    comparison: Comparison
    threshold: float
    steps: tuple[Step, ...]
    adjustment_type: AdjustmentType = "change_in_capacity"
    min_adjustment_magnitude: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleScaling:
    """One adjustment, then nothing of this policy for `cooldown` seconds."""

    metric: Metric
    comparison: Comparison
    threshold: float
    adjustment: int
    adjustment_type: AdjustmentType = "change_in_capacity"
    min_adjustment_magnitude: int = 0
    cooldown: float | None = None
    """None is the group's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """At each time of `cron`, in `time_zone`, set what is not None of the group's bounds."""

    cron: str
    time_zone: str = "UTC"
    min: int | None = None
    max: int | None = None
    desired: int | None = None


ScalingPolicy = TargetTracking | StepScaling | SimpleScaling | Scheduled


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
refresh are in REFRESH_PROFILES."""

REFRESH_PROFILES: dict[str, dict[str, Any]] = {
    "local": {},
    "aws": {"min_healthy": 90, "max_healthy": 100, "auto_rollback": False, "bake_time": 0.0},
}

DEFAULT_POLICIES: tuple[ScalingPolicy, ...] = (TargetTracking(metric="cpu", target=60.0),)
"""Where a group may grow (max over min) and nothing says by what; `policies = []` is none."""
