"""What no single key can say: names that must exist, things that must not be there twice. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from fastlb.config.read_groups import NOWHERE, PlacedGroup, PlacedListener
from fastlb.config.values import did_you_mean, got
from fastlb.model.listener import Action, Forward, Listener

NO_LISTENER = (
    "listeners: there is none: add --listen http://127.0.0.1:8080, or [[listeners]] with "
    'address = "http://127.0.0.1:8080" to the file'
)


def check(
    listeners: list[PlacedListener], groups: list[PlacedGroup], *, listeners_unread: bool = False
) -> tuple[list[str], list[str]]:
    """Problems and warnings, each beginning with its key path. Stand-ins for what could not be read
    are passed over; `listeners_unread` says that there are some, but not as a list."""
    problems = [
        *([] if listeners or listeners_unread else [NO_LISTENER]),
        *_listeners(listeners),
        *(line for one in listeners for line in _rules(one.path, one.listener)),
        *_forwards(listeners, {one.group.name for one in groups}),
        *(line for one in groups for line in _targets(one)),
        *(line for one in groups for line in _own_listeners(one, listeners)),
    ]
    return problems, [*_warnings(listeners, groups)]


def _listeners(listeners: list[PlacedListener]) -> Iterator[str]:
    placed: list[PlacedListener] = []
    for one in listeners:
        address = one.listener.address
        if address == NOWHERE or not address.port:
            continue
        for other in placed:
            taken = other.listener.address
            if taken.port != address.port:
                continue
            if _ip(taken.host) == _ip(address.host):
                yield f"{_address_path(one)}: {address} is already the address of {other.path}"
                break
            if _covers(taken.host, address.host) or _covers(address.host, taken.host):
                yield f"{_address_path(one)}: {address} overlaps {taken} of {other.path}"
                break
        else:
            placed.append(one)


def _ip(host: str) -> str:
    """The address that a listener's host comes to, as far as that is known without asking."""
    host = host.lower()
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(host))
    except ValueError:
        return host


def _covers(every: str, host: str) -> bool:
    """Whether `every` is all addresses of the family of `host`."""
    if _ip(every) == "0.0.0.0":
        return ":" not in _ip(host)
    return _ip(every) == "::" and ":" in _ip(host)


def _own_listeners(group: PlacedGroup, listeners: list[PlacedListener]) -> Iterator[str]:
    """A target that is one of this instance's listeners: requests would come back for ever."""
    for path, target in zip(group.target_paths, group.group.targets, strict=True):
        for one in listeners:
            listens, address = one.listener.address, target.address
            if not address.port or address.port != listens.port:
                continue
            if any(
                host == _ip(listens.host) or (_covers(listens.host, host) and _is_loopback(host))
                for host in _reached(address.host)
            ):
                yield (
                    f"{path}: {address} is the address of {one.path}: expected an app's address, "
                    "not fastlb's own"
                )
                break


def _reached(host: str) -> list[str]:
    """The addresses that a connection to a target's host may reach."""
    if host.lower() == "localhost":
        return ["127.0.0.1", "::1"]
    try:
        ip = ip_address(host)
    except ValueError:
        return [host.lower()]
    ip = getattr(ip, "ipv4_mapped", None) or ip
    # The kernel takes a connection to "every address" to loopback.
    return [{"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(ip), str(ip))]


def _is_loopback(host: str) -> bool:
    return host == "::1" or host.startswith("127.")


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
        elif one.group.auto_scaling_group is not None:
            continue
        elif not one.group.targets:
            yield f"{one.path}: has no targets: what is forwarded to it is answered 503"
        elif not any(target.weight for target in one.group.targets):
            yield f"{one.path}: every target has weight 0: what is forwarded to it is answered 503"
