"""A Configuration as TOML with every setting in it: reading that gives the same Configuration.

The one exception is asked for: values of environment variables may be hidden, since a configuration
is often shown to others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastlb.config.amounts import write_amount
from fastlb.config.read_policies import ADJUSTMENTS
from fastlb.config.write_values import format_duration, to_toml_value
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.listener import Action, Forward, Listener, Redirect, Rule
from fastlb.model.scaling_policy import ScalingPolicy, Scheduled, Step, StepScaling, TargetTracking
from fastlb.model.settings import declared
from fastlb.model.target_group import TargetGroup

HIDDEN = "***"
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ADJUSTMENT_KEYS = {adjustment_type: key for key, adjustment_type in ADJUSTMENTS.items()}


def to_toml(configuration: Configuration, *, show_env: bool = True) -> str:
    """`show_env=False` writes `***` for each value of an environment variable, and says so."""
    scaled = configuration.auto_scaling_groups
    lines = [*_settings(configuration)]
    if not show_env and any(group.launch_template.env for group in scaled):
        lines.insert(0, f'# Values of `env` are hidden as "{HIDDEN}"; --show-env shows them.')
    lines += ["", "[admin]", *_settings(configuration.admin)]
    for listener in configuration.listeners:
        lines += ["", "[[listeners]]", *_listener(listener)]
    for group in configuration.target_groups:
        lines += ["", *_group(group)]
    for scaling in scaled:
        lines += ["", *_auto_scaling_group(scaling, show_env)]
    return "\n".join(lines) + "\n"


def _settings(value: Any) -> Iterator[str]:
    for item, setting in declared(type(value)):
        yield f"{item.name} = {inline(to_toml_value(setting, getattr(value, item.name)))}"


def _listener(listener: Listener) -> Iterator[str]:
    yield f"address = {inline(f'{listener.protocol}://{listener.address}')}"
    yield f"default = {inline(_action(listener.default))}"
    yield from _settings(listener)
    for rule in listener.rules:
        yield ""
        yield "[[listeners.rules]]"
        for key, value in _rule(rule).items():
            yield f"{key} = {inline(value)}"


def _rule(rule: Rule) -> dict[str, Any]:
    table: dict[str, Any] = {"priority": rule.priority}
    for name in ("host", "path", "method", "source_ip"):
        if getattr(rule, name):
            table[name] = list(getattr(rule, name))
    if rule.header:
        table["header"] = [{"name": one.name, "values": list(one.values)} for one in rule.header]
    if rule.query:
        table["query"] = [
            {"value": one.value} if one.key is None else {"key": one.key, "value": one.value}
            for one in rule.query
        ]
    return table | _action(rule.action)


def _action(action: Action) -> dict[str, Any]:
    if isinstance(action, Forward):
        if len(action.groups) == 1 and action.groups[0].weight == 1:
            return {"forward": action.groups[0].group}
        return {"forward": [{"group": one.group, "weight": one.weight} for one in action.groups]}
    if isinstance(action, Redirect):
        names = ("status", "protocol", "host", "port", "path", "query")
        return {"redirect": {name: getattr(action, name) for name in names}}
    return {
        "fixed_response": {
            "status": action.status,
            "body": action.body,
            "content_type": action.content_type,
        }
    }


def _group(group: TargetGroup) -> Iterator[str]:
    key = f"target_groups.{key_text(group.name)}"
    yield f"[{key}]"
    yield "targets = ["
    for target in group.targets:
        table = {
            "address": str(target.address),
            "weight": target.weight,
            "backup": target.backup,
        }
        yield f"  {inline(table)},"
    yield "]"
    if group.auto_scaling_group is not None:
        yield f"auto_scaling_group = {inline(group.auto_scaling_group)}"
    yield from _settings(group)
    yield ""
    yield f"[{key}.health_check]"
    yield from _settings(group.health_check)


def _auto_scaling_group(group: AutoScalingGroup, show_env: bool) -> Iterator[str]:
    key = f"auto_scaling_groups.{key_text(group.name)}"
    yield f"[{key}]"
    yield from _settings(group)
    if not group.policies:
        yield "policies = []"
    template: LaunchTemplate = group.launch_template
    if not show_env:
        template = replace(template, env=tuple((name, HIDDEN) for name, _ in template.env))
    for name, part in (("launch_template", template), ("refresh", group.refresh)):
        yield ""
        yield f"[{key}.{name}]"
        yield from _settings(part)
    for policy in group.policies:
        yield ""
        yield f"[[{key}.policies]]"
        for name, value in _policy(policy).items():
            yield f"{name} = {inline(value)}"


def _policy(policy: ScalingPolicy) -> dict[str, Any]:
    if isinstance(policy, TargetTracking):
        return {
            "type": "target_tracking",
            "metric": policy.metric,
            "target": write_amount(policy.metric, policy.target),
            "disable_scale_in": policy.disable_scale_in,
        }
    if isinstance(policy, Scheduled):
        bounds = {name: getattr(policy, name) for name in ("min", "max", "desired")}
        return {
            "type": "scheduled",
            "cron": policy.cron,
            "time_zone": policy.time_zone,
            **{name: bound for name, bound in bounds.items() if bound is not None},
        }
    table: dict[str, Any] = {
        "type": "step" if isinstance(policy, StepScaling) else "simple",
        "metric": policy.metric,
        policy.comparison: write_amount(policy.metric, policy.threshold),
        "min_adjustment_magnitude": policy.min_adjustment_magnitude,
    }
    if isinstance(policy, StepScaling):
        return table | {"steps": [_step(policy, step) for step in policy.steps]}
    if policy.cooldown is not None:
        table["cooldown"] = format_duration(policy.cooldown)
    return table | {_ADJUSTMENT_KEYS[policy.adjustment_type]: policy.adjustment}


def _step(policy: StepScaling, step: Step) -> dict[str, Any]:
    bounds = {"from": step.lower, "to": step.upper}
    return {
        **{
            key: write_amount(policy.metric, bound)
            for key, bound in bounds.items()
            if bound is not None
        },
        _ADJUSTMENT_KEYS[policy.adjustment_type]: step.adjustment,
    }


def key_text(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else inline(name)


def inline(value: Any) -> str:
    """The value in one line."""
    if isinstance(value, str):
        # JSON's escapes are TOML's, save that TOML wants DEL escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        items = ", ".join(f"{key_text(key)} = {inline(one)}" for key, one in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(inline(one) for one in value) + "]"
    return str(value)
