"""What `fastlb status` shows of a group, as plain values. Reads everything and changes nothing."""

from __future__ import annotations

import time
from typing import Any

from fastlb.auto_scaling.group import Group
from fastlb.auto_scaling.instance import Instance
from fastlb.model.scaling_policy import Scheduled


def status_of(group: Group) -> dict[str, Any]:
    now = time.monotonic()
    by_state = {
        state: len(group.fleet.in_state(state))
        for state in ("pending", "in_service", "standby", "terminating")
    }
    run = group.rollout.run
    return {
        "name": group.name,
        "target_group": group.target_group,
        "min": group.scaler.bounds.least,
        "max": group.scaler.bounds.most,
        "desired": group.desired,
        "in_service": by_state["in_service"],
        "pending": by_state["pending"],
        "standby": by_state["standby"],
        "draining": by_state["terminating"],
        "steady": is_steady(group),
        "doing": what_it_does(group),
        "version": group.rollout.templates.version,
        "configured_version": group.rollout.templates.configured,
        "quarantined": group.launching.governor.quarantined(group.rollout.templates.version),
        "suspended": sorted(group.suspended),
        "blocked": group.launching.blocked,
        "refused": group.scaler.refused,
        "rolled_back": group.rollout.templates.not_in_force,
        "launches": launches_use(group) if run is None and _is_mixed(group) else "",
        "last_failure": group.launching.last_failure,
        "host": group.scaler.host,
        "cause": _last_change(group),
        "metrics": _metrics(group),
        "last_decision": group.scaler.decision.reason if group.scaler.decision is not None else "",
        "refresh": None
        if run is None
        else {
            "what": run.entry.what,
            "phase": run.refresh.phase,
            "from": run.refresh.source,
            "to": run.refresh.target,
            "instances": len(run.refresh.old),
            "left": sum(group.fleet.get(id) is not None for id in run.refresh.old),
            "judgement": run.verdict.reason if run.verdict is not None else "",
        },
        "instances": [
            _instance(one, now)
            for one in sorted(group.fleet, key=lambda one: (one.launched_at, one.id))
        ],
    }


def _metrics(group: Group) -> list[dict[str, Any]]:
    """Of each policy by a metric: the last value beside what it is held against."""
    shown = []
    for policy in group.settings.policies:
        if isinstance(policy, Scheduled):
            continue
        bound = getattr(policy, "target", None)
        if bound is None:
            bound = getattr(policy, "threshold", None)
        shown.append(
            {
                "metric": policy.metric,
                "value": group.scaler.measures.latest(policy.metric),
                "target": bound,
                "policy": type(policy).__name__,
            }
        )
    return shown


def _instance(one: Instance, now: float) -> dict[str, Any]:
    sight = one.target.sight() if one.target is not None else None
    return {
        "id": one.id,
        "pid": one.pid,
        "state": one.state,
        "health": sight.state if sight is not None else "",
        "doomed": bool(one.doomed),
        "reason": one.doomed or (sight.reason if sight is not None else _waits_for(one)),
        "address": str(one.address),
        "log": one.log_file,
        "age_s": now - one.launched_at,
        "version": one.version,
        "cpu_percent": one.cpu,
        "rss_bytes": one.rss,
        "in_flight": one.target.counts().in_flight if one.target is not None else 0,
        "requests_per_minute": one.requests_a_minute,
        "protected": one.protected,
        "share": one.share,
    }


def _waits_for(one: Instance) -> str:
    return f"waits until it listens on {one.address}" if one.state == "pending" else ""


def _last_change(group: Group) -> str:
    """Of the desired capacity or of the launch template, whichever was later."""
    last = group.rollout.last_change
    if last is not None and last.at >= group.scaler.cause_at:
        return last.what
    return group.scaler.cause


def _is_mixed(group: Group) -> bool:
    templates = group.rollout.templates
    return templates.configured != templates.version or bool(group.rollout.others())


def launches_use(group: Group) -> str:
    """Of which template the next instance is, which others there are, and how to change that."""
    name, templates = group.name, group.rollout.templates
    said = [f"launches use v{templates.version}"]
    if group.rollout.run is not None:
        return said[0]
    others = group.rollout.others()
    if others:
        versions = " and ".join(f"v{one}" for one in sorted({one.version for one in others}))
        verb = "is" if len(others) == 1 else "are"
        said.append(f"{instances_of(len(others))} {verb} of {versions}")
    configured = templates.configured
    if configured != templates.version:
        force = " --force" if configured in templates.rolled_back else ""
        said.append(f"on to v{configured}: fastlb refresh {name}{force}")
        if others:
            said.append(f"back to v{templates.version}: fastlb refresh {name} --rollback")
    elif others:
        said.append(f"all of v{configured}: fastlb refresh {name}")
    return "; ".join(said)


def instances_of(number: int) -> str:
    return "1 instance" if number == 1 else f"{number} instances"


def is_steady(group: Group) -> bool:
    """Whether it is what it should be, and nobody comes, goes or is to be replaced."""
    return (
        group.rollout.run is None
        and not any(one.doomed for one in group.fleet.in_state("in_service"))
        and len(group.fleet.in_state("in_service")) == group.desired
        and not group.fleet.in_state("pending", "terminating")
    )


def what_it_does(group: Group) -> str:
    """What keeps it from being steady, in one line."""
    parts = []
    if group.rollout.run is not None:
        parts.append(f"{group.rollout.run.entry.what} ({group.rollout.run.refresh.phase})")
    for state, verb in (("pending", "starting"), ("terminating", "ending")):
        count = len(group.fleet.in_state(state))
        if count:
            parts.append(f"{count} {verb}")
    doomed = sum(bool(one.doomed) for one in group.fleet.in_state("in_service"))
    if doomed:
        parts.append(f"{doomed} to be replaced")
    missing = group.desired - len(group.fleet.in_state("in_service"))
    if missing and not parts:
        parts.append(f"{missing} missing" if missing > 0 else f"{-missing} too many")
    if group.launching.blocked:
        parts.append(group.launching.blocked)
    return "; ".join(parts)
