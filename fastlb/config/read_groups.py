"""Listeners and target groups with their targets, from TOML or the text of flags to the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from fastlb.config.read_actions import (
    BROKEN,
    read_action,
    read_rule,
)
from fastlb.config.table import NAME, NAME_EXPECTED, Table, child
from fastlb.config.values import did_you_mean, got, read_count, read_text, wrong
from fastlb.model.address import Address, parse_address
from fastlb.model.health_check import HealthCheck
from fastlb.model.listener import Listener
from fastlb.model.target_group import MOST_WEIGHT, Target, TargetGroup

NOWHERE = Address()
"""Stands in for an address that could not be read."""

LISTENER_EXAMPLE = "http://127.0.0.1:8080 or tcp://127.0.0.1:5432"
TARGET_EXAMPLE = '"127.0.0.1:9001", "unix:/run/app.sock" or { address = "127.0.0.1:9001" }'
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_DIGITS_AND_DOTS = re.compile(r"[\d.]+", re.ASCII)
_IPV4 = re.compile(r"((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(\.(?!$)|$)){4}", re.ASCII)

Protocol = Literal["http", "tcp"]


@dataclass(frozen=True, slots=True)
class PlacedListener:
    """A listener, and where the user wrote it."""

    path: str
    listener: Listener


@dataclass(frozen=True, slots=True)
class PlacedGroup:
    """A target group, and where the user wrote it and each of its targets."""

    path: str
    group: TargetGroup
    target_paths: tuple[str, ...]


def read_listener(table: Table) -> PlacedListener:
    stand_in: tuple[Protocol, Address] = ("http", NOWHERE)
    protocol, address = table.need("address", listener_address, stand_in, LISTENER_EXAMPLE)
    action = BROKEN
    example = '{ forward = "web" }'
    if table.need("default", lambda raw: True, False, example):
        default = Table(table.values["default"], table.at("default"), table.problems, example)
        action = read_action(default)
        default.close()
    rules = tuple(
        read_rule(Table(raw, path, table.problems, "a table such as { priority = 10, ... }"))
        for path, raw in table.items("rules", "[[listeners.rules]] tables")
    )
    settings = table.settings(Listener)
    table.close()
    return PlacedListener(
        table.path,
        Listener(protocol=protocol, address=address, default=action, rules=rules, **settings),
    )


def listener_address(raw: Any) -> tuple[Protocol, Address]:
    found = _URL.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        raise ValueError(f"{wrong(LISTENER_EXAMPLE, raw)}{_with_scheme(raw)}")
    scheme = found[1].lower()
    if scheme == "http":
        protocol: Protocol = "http"
    elif scheme == "tcp":
        protocol = "tcp"
    elif scheme == "https":
        raise ValueError(
            "fastlb does not end TLS; use http:// behind something that does, or tcp:// to pass "
            f"the encrypted bytes on, got {got(raw)}"
        )
    else:
        raise wrong("http:// or tcp://", raw)
    # `http://HOST:PORT/` is how browsers write it.
    rest = found[2].removesuffix("/") if protocol == "http" else found[2]
    if rest.startswith("unix:"):
        raise wrong(f"{LISTENER_EXAMPLE} (only a target can be a unix socket)", raw)
    host, slash, _ = rest.partition("/")
    if slash:
        raise ValueError(f"an address has no path: {wrong(f'{scheme}://{host}', raw)}")
    if re.fullmatch(r"\[[^\]]*\]|[^:]*", host):
        port = 8080 if protocol == "http" else 5432
        raise wrong(f"a port too, such as {scheme}://{host or '127.0.0.1'}:{port}", raw)
    return protocol, _address(host)


def _with_scheme(raw: Any) -> str:
    """A hint for HOST:PORT without http:// before it."""
    try:
        address = None if not isinstance(raw, str) or "/" in raw else _address(raw)
    except ValueError:
        address = None
    return f'; did you mean "http://{address}"?' if address else ""


def read_group(name: str, raw: Any, problems: list[str]) -> PlacedGroup:
    table = Table(raw, child("target_groups", name), problems, "a table")
    if not NAME.fullmatch(name):
        table.note(table.path, wrong(NAME_EXPECTED, name))
    placed = [
        (path, _target(path, item, table))
        for path, item in table.items("targets", '["127.0.0.1:9001"]')
    ]
    group = TargetGroup(
        name=name,
        targets=tuple(target for _, target in placed),
        auto_scaling_group=table.take(
            "auto_scaling_group", lambda raw: read_text(raw, "the name of one"), None
        ),
        health_check=_health_check(table),
        **table.settings(TargetGroup),
    )
    table.close()
    return PlacedGroup(table.path, group, tuple(path for path, _ in placed))


def _health_check(group: Table) -> HealthCheck:
    if not group.has("health_check"):
        return HealthCheck()
    raw = group.values["health_check"]
    if isinstance(raw, bool):
        return HealthCheck(enabled=raw)
    example = '{ path = "/health" } or false'
    table = Table(raw, group.at("health_check"), group.problems, example)
    health_check = HealthCheck(**table.settings(HealthCheck))
    table.close()
    return health_check


def _target(path: str, raw: Any, group: Table) -> Target:
    if isinstance(raw, str):
        try:
            return target_from_text(raw)
        except ValueError as error:
            group.note(path, error)
            return Target(NOWHERE)
    table = Table(raw, path, group.problems, TARGET_EXAMPLE)
    target = Target(
        table.need("address", _target_address, NOWHERE, TARGET_EXAMPLE),
        table.take("weight", _weight, 1),
        table.take("backup", _backup, False),
    )
    table.close()
    return target


def target_from_text(text: str) -> Target:
    """`ADDRESS[,weight=N][,backup]`, as `--target` and the strings of `targets` are written."""
    address, *options = text.split(",")
    weight, backup = 1, False
    for option in options:
        key, equals, value = option.strip().partition("=")
        if key == "weight" and equals:
            weight = _weight(int(value) if re.fullmatch(r"\d{1,9}", value, re.ASCII) else value)
        elif key == "backup" and not equals:
            backup = True
        else:
            hint = did_you_mean(key, ("weight", "backup"))
            raise ValueError(str(wrong("ADDRESS,weight=N or ADDRESS,backup", text)) + hint)
    return Target(_target_address(address), weight, backup)


def _target_address(raw: Any) -> Address:
    if not isinstance(raw, str):
        raise wrong(TARGET_EXAMPLE, raw)
    if _URL.fullmatch(raw):
        raise wrong("HOST:PORT without http://, or unix:/path with one slash", raw)
    address = _address(raw)
    if address.is_unix:
        return address
    if not address.port:
        raise wrong("a port from 1 to 65535", raw)
    # Of a listener `:8080` is every address; a connection needs one.
    return Address("127.0.0.1", address.port) if raw.startswith(":") else address


def _address(text: str) -> Address:
    address = parse_address(text)
    if _DIGITS_AND_DOTS.fullmatch(address.host) and not _IPV4.fullmatch(address.host):
        raise wrong("an IPv4 address such as 127.0.0.1", address.host)
    if "\0" in address.path or not address.host.isprintable():
        raise wrong("HOST:PORT or unix:/path", text)
    return address


def _weight(raw: Any) -> int:
    return read_count(raw, 0, MOST_WEIGHT)


def _backup(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise wrong("true or false", raw)
    return raw
