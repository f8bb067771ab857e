"""What differs between two configurations, a line for each by its key path: old -> new.

Pure. Compares them as a file would say them, every setting written out; so a new setting needs no word
here. Values of environment variables are not shown, nor is what a setting calls a token.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from fastlb.config.write import inline, key_text, to_toml
from fastlb.model.configuration import Configuration

Tree = dict[str, Any]
"""Nested tables. Of what has an address or a priority a table by that: its place in a list means
nothing."""
KEYS = {"listeners": "address", "rules": "priority", "targets": "address"}
SECRET = ("env", "token")
LONGEST = 100
"""Characters of a value in a line."""


@dataclass(frozen=True, slots=True)
class Change:
    """`old` is None where something came, `new` where it went."""

    path: tuple[str, ...]
    old: Any
    new: Any

    def __str__(self) -> str:
        path = path_text(self.path)
        if self.old is None:
            return f"{path}: added"
        if self.new is None:
            return f"{path}: removed"
        if any(part in key for part in SECRET for key in self.path[-2:]):
            return f"{path}: changed"
        return f"{path}: {_said(self.old)} -> {_said(self.new)}"


def path_text(path: tuple[str, ...]) -> str:
    """`target_groups.web.targets["127.0.0.1:9001"].weight`."""
    parts = (one if one.startswith("[") else f".{key_text(one)}" for one in path)
    return "".join(parts).removeprefix(".")


def differences(old: Configuration, new: Configuration) -> list[str]:
    """A line for each, in the order in which a file would have them; none where nothing differs."""
    return [str(one) for one in diff(tree_of(old), tree_of(new))]


def tree_of(configuration: Configuration) -> Tree:
    """Every setting by its key path, as a file would say it."""
    tree: Tree = _keyed(tomllib.loads(to_toml(configuration)))
    # Tables that a file has none of, so that the first entry of one is told as any other.
    for name in ("listeners", "target_groups", "auto_scaling_groups"):
        tree.setdefault(name, {})
    for listener in tree["listeners"].values():
        listener.setdefault("rules", {})
    return tree


def diff(old: Tree, new: Tree, path: tuple[str, ...] = ()) -> list[Change]:
    """What makes `new` of `old`."""
    found: list[Change] = []
    for key in (*old, *(key for key in new if key not in old)):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict) and key not in _WHOLE:
            found += diff(before, after, (*path, key))
        else:
            found.append(Change((*path, key), before, after))
    return found


_WHOLE = ("redirect", "fixed_response")
"""Tables that are said as one value: half of one means nothing."""


def applied(tree: Tree, changes: list[Change]) -> Tree:
    """What `changes` make of a tree."""
    made = dict(tree)
    below: dict[str, list[Change]] = {}
    for one in changes:
        key, *rest = one.path
        if rest:
            below.setdefault(key, []).append(Change(tuple(rest), one.old, one.new))
        elif one.new is None:
            del made[key]
        else:
            made[key] = one.new
    return made | {key: applied(made[key], rest) for key, rest in below.items()}


def _keyed(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _keyed(one, key) for key, one in value.items()}
    if isinstance(value, list) and name in KEYS and all(isinstance(one, dict) for one in value):
        by = KEYS[name]
        named = sorted(value, key=lambda one: (one[by] if by == "priority" else 0, str(one[by])))
        return {f"[{inline(one[by])}]": _keyed(one) for one in named}
    return value


def _said(value: Any) -> str:
    said = inline(value)
    return said if len(said) <= LONGEST else f"{said[: LONGEST - 3]}..."
