"""One table of the document while it is read: its key path, its settings, its unknown keys.

A wrong value is noted in `problems` and answered with a stand-in, so that reading goes on and every
error is found in one go; nothing that was read may be used once a problem is noted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from fastlb.config.places import right_place
from fastlb.config.values import COMMAND_EXAMPLE, WrongItems, did_you_mean, from_toml, got, wrong
from fastlb.model.health_check import HealthCheck
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.settings import declared

T = TypeVar("T")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_EXPECTED = (
    "a name of letters, digits, `.`, `_` and `-`, 64 at most, beginning with one of the first two"
)
_FIELD_VALUE = re.compile(r"[\x21-\x7e]+")
_PATH = re.compile(r"/[\x21-\x7e]*")


def child(path: str, key: str) -> str:
    """The path of a key in the table at `path`, quoted as TOML would where it must be."""
    shown = key if _BARE_KEY.fullmatch(key) else got(key)
    return f"{path}.{shown}" if path else shown


def _item(path: str, place: int | str) -> str:
    return f"{path}[{place}]" if isinstance(place, int) else child(path, place)


def check_setting(cls: type, name: str, value: Any) -> None:
    """What a setting's kind cannot say about it: ValueError where the value would not do."""
    if value is None:
        return
    if name == "name" and not NAME.fullmatch(value):
        raise wrong(NAME_EXPECTED, value)
    if cls is HealthCheck and name == "path" and not _PATH.fullmatch(value):
        raise wrong("a path such as /health, percent-encoded", value)
    if cls is HealthCheck and name == "host" and not _FIELD_VALUE.fullmatch(value):
        raise wrong("a Host header such as app.example.com", value)
    if cls is LaunchTemplate:
        _check_launch_template(name, value)


def _check_launch_template(name: str, value: Any) -> None:
    if name == "command" and not (value and value[0].strip()):
        raise ValueError(f"expected a program and its arguments such as {COMMAND_EXAMPLE}")
    if name == "cwd" and not value.startswith("/"):
        raise wrong("an absolute path such as /srv/app", value)
    if name == "log" and value != "inherit" and not value.startswith("/"):
        raise wrong("inherit, or the absolute path of a folder such as /var/log/app", value)


class Table:
    """A TOML table at a key path. Whoever takes its keys calls `close` after the last."""

    def __init__(self, values: object, path: str, problems: list[str], expected: str) -> None:
        self.path = path
        self.problems = problems
        self._known: set[str] = set()
        self.values: dict[str, Any] = {}
        self.is_table = isinstance(values, dict)
        if isinstance(values, dict):
            self.values = values
        else:
            self.note(path, wrong(expected, values))

    def at(self, key: str) -> str:
        return child(self.path, key)

    def note(self, path: str, error: ValueError | str) -> None:
        self.problems.append(f"{path}: {error}" if path else str(error))

    def has(self, key: str) -> bool:
        self._known.add(key)
        return key in self.values

    def take(self, key: str, read: Callable[[Any], T], otherwise: T) -> T:
        """What `read` makes of the key's value; `otherwise` where there is none or it is wrong."""
        if not self.has(key):
            return otherwise
        try:
            return read(self.values[key])
        except ValueError as error:
            self.note(self.at(key), error)
            return otherwise

    def need(self, key: str, read: Callable[[Any], T], otherwise: T, example: str) -> T:
        """As `take`, for a key that must be there."""
        if not self.has(key) and self.is_table:
            self.note(self.at(key), f"is missing: expected {example}")
        return self.take(key, read, otherwise)

    def items(self, key: str, example: str) -> list[tuple[str, Any]]:
        """The items of the key's list, each with its path."""
        nothing: list[Any] = []
        listed = self.take(key, lambda raw: _list(raw, example), nothing)
        return [(f"{self.at(key)}[{n}]", item) for n, item in enumerate(listed)]

    def each(self, key: str, example: str, read: Callable[[Any], T]) -> tuple[T, ...]:
        """What `read` makes of each item of the key's list; a wrong one is noted with its index."""
        found = []
        for path, item in self.items(key, example):
            try:
                found.append(read(item))
            except ValueError as error:
                self.note(path, error)
        return tuple(found)

    def settings(self, cls: type) -> dict[str, Any]:
        """Every setting of the model class that stands here, by its field's name."""
        found: dict[str, Any] = {}
        for item, setting in declared(cls):
            if not self.has(item.name):
                continue
            try:
                value = from_toml(setting, self.values[item.name])
                check_setting(cls, item.name, value)
                found[item.name] = value
            except WrongItems as error:
                for place, message in error.found:
                    self.note(_item(self.at(item.name), place), message)
            except ValueError as error:
                self.note(self.at(item.name), error)
        return found

    def close(self) -> None:
        """Note the keys that nobody asked for."""
        for key in self.values:
            if key in self._known:
                continue
            place = right_place(key)
            said = f" here; {place}" if place else did_you_mean(key, self._known)
            self.note(self.at(key), f"is not a setting{said}")


def _list(raw: Any, example: str) -> list[Any]:
    if not isinstance(raw, list):
        raise wrong(f"a list such as {example}", raw)
    return raw
