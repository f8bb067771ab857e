"""A Configuration as TOML with every setting in it: reading that gives the same Configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from fastlb.config.values import to_toml_value
from fastlb.model.configuration import Configuration
from fastlb.model.listener import Action, Forward, Listener, Redirect, Rule
from fastlb.model.settings import declared
from fastlb.model.target_group import TargetGroup

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(configuration: Configuration) -> str:
    lines = [*_settings(configuration)]
    for listener in configuration.listeners:
        lines += ["", "[[listeners]]", *_listener(listener)]
    for group in configuration.target_groups:
        lines += ["", *_group(group)]
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
    key = f"target_groups.{_key(group.name)}"
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
    yield from _settings(group)
    yield ""
    yield f"[{key}.health_check]"
    yield from _settings(group.health_check)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else inline(name)


def inline(value: Any) -> str:
    """The value in one line."""
    if isinstance(value, str):
        # JSON's escapes are TOML's, save that TOML wants DEL escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {inline(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(inline(one) for one in value) + "]"
    return str(value)
