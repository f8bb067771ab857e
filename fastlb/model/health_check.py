"""What a HealthCheck asks of a Target, and how results become a verdict. Pure: no probe, no clock."""

from __future__ import annotations

from dataclasses import dataclass

from fastlb.model.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How the Targets of a TargetGroup are probed; durations in seconds."""

    enabled: bool = setting(
        True,
        "switch",
        "probe the targets",
        why="an unprobed target is found dead only by a failing request",
        flag="--health-check",
    )
    path: str | None = setting(
        None,
        "text",
        "path of an HTTP check; without one a TCP connect is the check",
        why="no path is right for every app; a TCP connect works with all of them",
        flag="--health-path",
        optional=True,
    )
    interval: float = setting(
        2.0,
        "duration",
        "time between two checks of a target",
        why="HAProxy's; local probes are cheap",
        flag="--health-interval",
        least=0.05,
    )
    timeout: float = setting(
        1.0,
        "duration",
        "time for a check to answer",
        why="a local app that needs longer is in trouble",
        flag="--health-timeout",
        least=0.01,
    )
    healthy_threshold: int = setting(
        2,
        "count",
        "passed checks in a row that make an unhealthy target healthy; a new one needs one",
        why="HAProxy's rise",
        flag="--healthy-threshold",
        least=1,
    )
    unhealthy_threshold: int = setting(
        3,
        "count",
        "failed checks in a row that make a healthy target unhealthy",
        why="HAProxy's fall",
        flag="--unhealthy-threshold",
        least=1,
    )
    matcher: tuple[tuple[int, int], ...] = setting(
        ((200, 399),),
        "ranges",
        "HTTP statuses that pass",
        why="a redirect to a login page is a living app",
        flag="--health-matcher",
        least=100,
        most=599,
    )
    host: str | None = setting(
        None,
        "text",
        "Host header of the check; the target's address without one",
        why="most apps do not ask for it",
        optional=True,
    )
    port: int | None = setting(
        None,
        "count",
        "port of the check where it is not the target's own",
        why="most apps answer it on the port that serves",
        least=1,
        most=65535,
        optional=True,
    )
