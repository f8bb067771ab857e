"""The whole of what a user configures, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastlb.model.admin import Admin
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.listener import Listener
from fastlb.model.settings import setting
from fastlb.model.target_group import TargetGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One instance of fastlb: its Listeners, TargetGroups and what holds for the whole."""

    listeners: tuple[Listener, ...] = ()
    target_groups: tuple[TargetGroup, ...] = ()
    auto_scaling_groups: tuple[AutoScalingGroup, ...] = ()
    admin: Admin = field(default_factory=Admin)
    name: str = setting(
        "default",
        "text",
        "name of this instance; `fastlb status --name` finds it by this",
        why="one instance on a host is the common case",
        flag="--name",
    )
    workers: int = setting(
        0,
        "count",
        "worker processes; 0 is one a core",
        why="a worker fills one core",
        flag="--workers",
        short="-w",
        least=0,
        most=64,
    )
    max_connections: int = setting(
        10000,
        "count",
        "client connections of all workers together; more are answered 503 with Retry-After",
        why="below the usual limits of open files with two of them a connection",
        flag="--max-connections",
        least=1,
    )
    drain_timeout: float = setting(
        30.0,
        "duration",
        "time that requests in flight have to finish at a stop",
        why="gunicorn's and kamal-proxy's",
        flag="--drain-timeout",
        least=0,
    )
    access_log: str = setting(
        "off",
        "path",
        "one line a request, TCP connection and WebSocket to this file, `-` for standard output, or `off`",
        why="a line costs up to a twelfth of a small request, and the disk its space",
        flag="--access-log",
    )
    access_log_format: str = setting(
        "json",
        "choice",
        "how its lines look: JSON, as AWS's Application Load Balancer, or as Apache's combined",
        why="has everything, and every tool reads it",
        flag="--access-log-format",
        choices=("json", "alb", "combined"),
    )
    watch: bool = setting(
        False,
        "switch",
        "reload when the configuration file has changed",
        why="a file that is being edited should not act by itself",
        flag="--watch",
    )
    log_level: str = setting(
        "info",
        "choice",
        "least important messages that the log on standard error shows",
        why="info tells every health transition and nothing of single requests",
        flag="--log-level",
        choices=("debug", "info", "warning", "error"),
    )
    log_format: str = setting(
        "human",
        "choice",
        "how that log's lines look: for a person, as JSON, or `auto`: for a person on a terminal and under "
        "systemd, else JSON",
        why="nginx's, HAProxy's and gunicorn's are for a person too, also in a container",
        flag="--log-format",
        choices=("human", "json", "auto"),
    )
