"""The Overview: one plain value that says everything about an instance, as of a second. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastlb.admin.rates import PERCENTILES, Rates
from fastlb.admin.reading import (
    Entry,
    GroupReading,
    ListenerReading,
    Reading,
    TargetReading,
    WorkerReading,
)

UNITS = {
    "cpu": "%",
    "requests": "requests/min",
    "in_flight": "requests",
    "rss": "bytes",
    "queue_wait": "s",
}
"""Of the metrics of scaling policies."""


def overview(
    reading: Reading,
    rates: Mapping[str, Rates],
    cpu: Mapping[int, float | None],
    decisions: Sequence[Entry],
) -> dict[str, Any]:
    """`rates` by scope, `cpu` in percent of a core by pid, `decisions` the oldest first."""
    # A target group of the same name has decisions too, of routing.
    recent = (entry.plain() for entry in decisions[-500:])
    last = {one["subject"]: one for one in recent if one["kind"] == "scaling"}
    targets = [(one, rates[f"target:{one.group}/{one.address}"]) for one in reading.targets]
    of_instances = {one.instance: found for one, found in targets if one.instance is not None}
    return {
        "time": reading.time,
        "name": reading.name,
        "version": reading.version,
        "uptime_s": round(reading.uptime, 1),
        "draining": reading.draining,
        "pid": reading.pid,
        "cpu_percent": cpu.get(reading.pid),
        "rss_bytes": reading.rss,
        "host": {
            "cpu_percent": reading.host_cpu_percent,
            "memory_percent": reading.host_memory_percent,
            "cores": reading.cores,
        },
        "totals": {
            **rates["all"].plain(),
            "connections": reading.totals.connections,
            "rejected_total": reading.rejected,
            "held": sum(worker.held for worker in reading.workers),
        },
        "listeners": [_listener(one, rates[f"listener:{one.key}"]) for one in reading.listeners],
        "groups": [_group(one, rates[f"group:{one.name}"]) for one in reading.groups],
        "targets": [_target(one, found) for one, found in targets],
        "auto_scaling": [_auto_scaling(one, last) for one in reading.auto_scaling],
        "instances": [
            _instance(one, group["name"], of_instances.get(one["id"]))
            for group in reading.auto_scaling
            for one in group["instances"]
        ],
        "workers": [
            _worker(one, rates[f"worker:{one.index}"], cpu.get(one.pid)) for one in reading.workers
        ],
    }


def _listener(one: ListenerReading, rates: Rates) -> dict[str, Any]:
    plain = rates.plain()
    if one.protocol == "tcp":
        # A connection is what TCP has for a request, as in a target's counts.
        plain["requests_per_s"] = rates.accepted
        plain["requests_total"] = one.counts.accepted
    return {
        "key": one.key,
        "protocol": one.protocol,
        **plain,
        "connections": one.counts.connections,
        "accepted_per_s": rates.accepted,
        "rules": one.rules,
        "latency_known": one.counts.histogram is not None,
    }


def _group(one: GroupReading, rates: Rates) -> dict[str, Any]:
    return {
        "name": one.name,
        "algorithm": one.algorithm,
        "fail_open": one.fail_open,
        "healthy": one.healthy,
        "targets": one.targets,
        "held": one.held,
        **rates.plain(),
        "connections": one.counts.connections,
    }


def _target(one: TargetReading, rates: Rates) -> dict[str, Any]:
    return {
        "group": one.group,
        "address": one.address,
        "instance": one.instance,
        "state": one.state,
        "suspect": one.suspect,
        "reason": one.reason,
        "since_s": round(one.since_s, 1),
        "weight": one.weight,
        "backup": one.backup,
        "connections": one.counts.connections,
        "override": one.override,
        **rates.plain(),
    }


def _worker(one: WorkerReading, rates: Rates, cpu: float | None) -> dict[str, Any]:
    return {
        "index": one.index,
        "pid": one.pid,
        "state": one.state,
        "connections": one.counts.connections,
        "cpu_percent": cpu,
        "rss_bytes": one.rss,
        "accepted_per_s": rates.accepted,
        "restarts": one.restarts,
        "held": one.held,
        **rates.plain(),
    }


def _auto_scaling(group: dict[str, Any], last: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    decision = last.get(group["name"])
    return {
        "name": group["name"],
        "target_group": group["target_group"],
        "desired": group["desired"],
        "min": group["min"],
        "max": group["max"],
        "in_service": group["in_service"],
        "pending": group["pending"],
        "terminating": group["draining"],
        "standby": group["standby"],
        "policies": [
            {
                "name": one["policy"],
                "metric": one["metric"],
                "value": one["value"],
                "target": one["target"],
                "unit": UNITS.get(one["metric"], ""),
            }
            for one in group["metrics"]
        ],
        "last_decision": None
        if decision is None
        else {"time": decision["at"], "what": decision["what"], "cause": decision["cause"]},
        "suspended": group["suspended"],
        "refresh": group["refresh"],
        "steady": group["steady"],
        "doing": group["doing"],
        "blocked": group["blocked"],
        "refused": group["refused"],
        "last_failure": group["last_failure"],
        "quarantined": group["quarantined"],
        "template_version": group["version"],
    }


def _instance(one: dict[str, Any], group: str, rates: Rates | None) -> dict[str, Any]:
    """`rates` are those of the target that it is; None before it is registered."""
    return {
        "id": one["id"],
        "group": group,
        "state": one["state"],
        "health": one["health"],
        "reason": one["reason"],
        "pid": one["pid"],
        "address": one["address"],
        "cpu_percent": one["cpu_percent"],
        "rss_bytes": one["rss_bytes"],
        "age_s": round(one["age_s"], 1),
        "protected": one["protected"],
        "template_version": one["version"],
        "in_flight": one["in_flight"],
        "requests_per_s": None if rates is None else rates.requests,
        **(dict.fromkeys(PERCENTILES) if rates is None else rates.latencies()),
        "doomed": one["doomed"],
        "share": one["share"],
    }
