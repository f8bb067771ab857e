"""What no single key can say: names that must exist, things that must not be there twice. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from fastlb.config.read_groups import NOWHERE, PlacedGroup, PlacedListener
from fastlb.config.values import did_you_mean, got
from fastlb.model.listener import Action, Forward, Listener


def check(
    listeners: list[PlacedListener], groups: list[PlacedGroup]
) -> tuple[list[str], list[str]]:
    """Problems and warnings, each beginning with its key path. Stand-ins for what could not be read
    are passed over."""
    problems = [
        *_listeners(listeners),
        *(line for one in listeners for line in _rules(one.path, one.listener)),
        *_forwards(listeners, {one.group.name for one in groups}),
        *(line for one in groups for line in _targets(one)),
    ]
    return problems, [*_warnings(listeners, groups)]


def _listeners(listeners: list[PlacedListener]) -> Iterator[str]:
    if not listeners:
        yield (
            "listeners: there is none: add --listen http://127.0.0.1:8080, or [[listeners]] with "
            'address = "http://127.0.0.1:8080" to the file'
        )
    seen: dict[tuple[str, int], str] = {}
    for one in listeners:
        address = one.listener.address
        if address == NOWHERE or not address.port:
            continue
        key = (address.host.lower(), address.port)
        if key in seen:
            yield f"{_address_path(one)}: {address} is already the address of {seen[key]}"
        seen.setdefault(key, one.path)


def _address_path(one: PlacedListener) -> str:
    return one.path if one.path.startswith("--") else f"{one.path}.address"


def _rules(path: str, listener: Listener) -> Iterator[str]:
    seen: dict[int, str] = {}
    for n, rule in enumerate(listener.rules):
        here = f"{path}.rules[{n}]"
        if rule.priority in seen and rule.priority:
            yield f"{here}.priority: {rule.priority} is already that of {seen[rule.priority]}"
        seen.setdefault(rule.priority, here)
    if listener.protocol == "tcp":
        if listener.rules:
            yield f"{path}.rules: a tcp listener sees no requests: expected no rules, or http://"
        if not isinstance(listener.default, Forward):
            yield f"{path}.default: a tcp listener sees no requests: expected forward"


def _actions(one: PlacedListener) -> Iterator[tuple[str, Action]]:
    yield f"{one.path}.default", one.listener.default
    for n, rule in enumerate(one.listener.rules):
        yield f"{one.path}.rules[{n}]", rule.action


def _forwards(listeners: list[PlacedListener], known: set[str]) -> Iterator[str]:
    for one in listeners:
        for path, action in _actions(one):
            if not isinstance(action, Forward):
                continue
            several = len(action.groups) > 1
            for n, share in enumerate(action.groups):
                if share.group and share.group not in known:
                    where = f"{path}.forward[{n}].group" if several else f"{path}.forward"
                    hint = did_you_mean(share.group, known)
                    yield f"{where}: there is no target group {got(share.group)}{hint}"


def _targets(one: PlacedGroup) -> Iterator[str]:
    seen: dict[str, str] = {}
    for path, target in zip(one.target_paths, one.group.targets, strict=True):
        if target.address == NOWHERE:
            continue
        shown = str(target.address)
        key = shown if target.address.is_unix else shown.lower()
        if key in seen:
            yield f"{path}: {shown} is already {seen[key]}"
        seen.setdefault(key, path)


def _warnings(listeners: list[PlacedListener], groups: list[PlacedGroup]) -> Iterator[str]:
    used = {
        share.group
        for one in listeners
        for _, action in _actions(one)
        if isinstance(action, Forward)
        for share in action.groups
    }
    for one in groups:
        if one.group.name not in used:
            yield f"{one.path}: no listener forwards to it; its targets stay unused"
        elif not one.group.targets:
            yield f"{one.path}: has no targets: what is forwarded to it is answered 503"
        elif not any(target.weight for target in one.group.targets):
            yield f"{one.path}: every target has weight 0: what is forwarded to it is answered 503"
