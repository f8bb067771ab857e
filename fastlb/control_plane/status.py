"""What `fastlb status` shows, as plain values. Reads everything and changes nothing.

The one place of the control plane that looks at processes through psutil.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import psutil

import fastlb
from fastlb.control_plane.instance import Instance
from fastlb.control_plane.registered_target import RegisteredTarget
from fastlb.control_plane.worker_pool import Worker
from fastlb.model.health_check import HealthCheck
from fastlb.model.listener import Action, Forward, Listener, Redirect
from fastlb.model.target_group import TargetGroup
from fastlb.model.target_override import Override
from fastlb.target_table.counters import Worker as Head
from fastlb.target_table.counters import percentile
from fastlb.target_table.handover import listener_key

CPU_SPAN = 1.0
"""Least seconds between two looks at a process's CPU time that make a percentage."""

TOTALS = {
    "requests": Head.REQUESTS,
    "connections": Head.CONNECTIONS,
    "status_1xx": Head.STATUS_1XX,
    "status_2xx": Head.STATUS_2XX,
    "status_3xx": Head.STATUS_3XX,
    "status_4xx": Head.STATUS_4XX,
    "status_5xx": Head.STATUS_5XX,
    "errors": Head.ERRORS,
    "retries": Head.RETRIES,
    "rejected": Head.REJECTED,
    "bytes_in": Head.BYTES_IN,
    "bytes_out": Head.BYTES_OUT,
    "log_lines_dropped": Head.LOG_DROPPED,
}


@dataclass(slots=True)
class CpuLook:
    """A process's CPU seconds as of a time, and its percentage up to then."""

    pid: int
    at: float
    seconds: float
    percent: float


class Status:
    """Answers `{"command": "status"}`."""

    def __init__(self, instance: Instance, pid: int) -> None:
        self._instance = instance
        self._pid = pid
        self._started = time.time()
        self._looks: dict[int, CpuLook] = {}

    def answer(self) -> dict[str, Any]:
        instance = self._instance
        configuration = instance.configuration
        return {
            "name": configuration.name,
            "pid": self._pid,
            "version": fastlb.__version__,
            "started": self._started,
            "uptime_s": time.time() - self._started,
            "draining": instance.draining,
            "access_log": _where(configuration.access_log),
            "workers": [self._worker(worker) for worker in instance.workers],
            "listeners": [_listener(listener) for listener in configuration.listeners],
            "target_groups": [self._group(group) for group in configuration.target_groups],
            "auto_scaling_groups": instance.scaling.status(),
            "totals": {
                **{name: instance.totals.head(cell) for name, cell in TOTALS.items()},
                "in_flight": instance.totals.in_flight(instance.registry.entries()),
            },
        }

    def _worker(self, worker: Worker) -> dict[str, Any]:
        instance = self._instance
        row = instance.counters.row(worker.index)
        cpu_percent, rss = self._process(worker)
        return {
            "index": worker.index,
            "pid": worker.pid,
            "state": "hung" if worker.index in instance.hung else worker.state,
            "connections": row[Head.CONNECTIONS],
            "requests": row[Head.REQUESTS],
            "in_flight": instance.totals.in_flight(instance.registry.entries(), worker.index),
            "cpu_percent": cpu_percent,
            "rss_bytes": rss,
            "restarts": worker.restarts,
            "slots": [slot for slot, who in enumerate(instance.slots) if who == worker.index],
        }

    def _process(self, worker: Worker) -> tuple[float, int]:
        """CPU percentage (100 is one core) since the last status, and resident bytes."""
        try:
            process = psutil.Process(worker.pid)
            with process.oneshot():
                times, rss = process.cpu_times(), process.memory_info().rss
                created = process.create_time()
        except (psutil.Error, ValueError):
            return 0.0, 0
        now, seconds = time.time(), times.user + times.system
        last = self._looks.get(worker.index)
        if last is None or last.pid != worker.pid:
            last = CpuLook(worker.pid, created, 0.0, 0.0)
        elif now - last.at < CPU_SPAN:
            return last.percent, rss
        percent = 100 * max(seconds - last.seconds, 0) / max(now - last.at, 0.01)
        self._looks[worker.index] = CpuLook(worker.pid, now, seconds, round(percent, 1))
        return round(percent, 1), rss

    def _group(self, group: TargetGroup) -> dict[str, Any]:
        registry = self._instance.registry
        return {
            "name": group.name,
            "algorithm": group.algorithm,
            "fail_open": registry.fail_open(group.name),
            "health_check": describe_check(group.health_check),
            "targets": self._targets(one for one in registry if one.group.name == group.name),
            "removed": [
                {"address": address, "overrides": _parts(override)}
                for address, override in self._instance.overrides.removed(group.name)
            ],
        }

    def _targets(self, targets: Iterable[RegisteredTarget]) -> list[dict[str, Any]]:
        now, rows = time.monotonic(), self._instance.totals.rows
        shown = []
        for target in targets:
            entry = target.entry
            current = self._instance.counters.target(entry.index, rows)
            figures = self._instance.totals.target(entry)
            shown.append(
                {
                    "address": entry.address,
                    "weight": _number(target.weight),
                    "backup": entry.backup,
                    "state": entry.state,
                    "suspect": target.health.suspect,
                    "health": target.health.state if target.watched else None,
                    "reason": target.describe(now),
                    "override": ", ".join(what for what, _, _ in target.override.said()) or None,
                    "overrides": _parts(target.override),
                    "in_flight": current.in_flight,
                    "requests": figures.requests,
                    "errors": figures.errors,
                    "status_5xx": figures.status_5xx,
                    "p50_s": percentile(figures.histogram, 0.5),
                    "p99_s": percentile(figures.histogram, 0.99),
                    "connections": current.connections,
                }
            )
        return shown


def _number(weight: int | Fraction) -> float:
    """A whole number where it is one."""
    return weight if isinstance(weight, int) else float(weight)


def _parts(override: Override) -> list[dict[str, Any]]:
    """What an operator said, since when and why."""
    return [{"what": what, "since": at, "reason": why} for what, at, why in override.said()]


def _where(access_log: str) -> str:
    """The absolute path, `-` or `off`."""
    return access_log if access_log in ("-", "off") else os.path.abspath(access_log)


def _listener(listener: Listener) -> dict[str, Any]:
    return {
        "address": listener_key(listener),
        "default": describe_action(listener.default),
        "rules": len(listener.rules),
    }


def describe_action(action: Action) -> str:
    if isinstance(action, Forward):
        if len(action.groups) == 1:
            return f"forward {action.groups[0].group}"
        return "forward " + ", ".join(f"{one.group} {one.weight}" for one in action.groups)
    if isinstance(action, Redirect):
        return f"redirect {action.status}"
    return f"fixed response {action.status}"


def describe_check(check: HealthCheck) -> str:
    if not check.enabled:
        return "off"
    if check.path is None:
        return f"TCP connect every {check.interval:g} s"
    ranges = ",".join(f"{low}-{high}" if low != high else str(low) for low, high in check.matcher)
    return f"GET {check.path} every {check.interval:g} s expects {ranges}"
