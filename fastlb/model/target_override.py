"""What an operator wants of one Target, on top of what the configuration says of it. Pure values.

Each part carries since when it holds (seconds since 1970) and why, in the operator's words. Knows no
registry and no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from fastlb.model.target_group import MOST_WEIGHT, Target, TargetGroup

MOST_PERCENT = 10_000
OutMode = Literal["drained", "disabled"]

Key = tuple[str, str]
"""Group, and the address as the configuration or the operator spells it."""


@dataclass(frozen=True, slots=True)
class OutOfUse:
    """It gets no new requests: `drained` is checked on, `disabled` is not."""

    mode: OutMode
    since: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WeightOverride:
    """`number` in the place of its weight, or so many percent of the configured one."""

    number: int
    percent: bool
    since: float
    reason: str = ""

    def of(self, configured: int) -> int | Fraction:
        """The weight; a whole number where it is one."""
        if not self.percent:
            return self.number
        part = Fraction(self.number * configured, 100)
        return part.numerator if part.denominator == 1 else part

    def __str__(self) -> str:
        return f"{self.number}%" if self.percent else str(self.number)


@dataclass(frozen=True, slots=True)
class Added:
    """A target that the configuration does not name."""

    weight: int
    backup: bool
    since: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    """A target that the configuration names and that is to be none."""

    since: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Override:
    """All that is said of one target."""

    out: OutOfUse | None = None
    weight: WeightOverride | None = None
    added: Added | None = None
    removed: Removed | None = None

    def said(self) -> list[tuple[str, float, str]]:
        """What, since when and why, of each part."""
        parts: list[tuple[str, OutOfUse | WeightOverride | Added | Removed | None]] = [
            (self.out.mode if self.out else "", self.out),
            (f"weight {self.weight}", self.weight),
            ("added", self.added),
            ("removed", self.removed),
        ]
        return [(what, one.since, one.reason) for what, one in parts if one is not None]


NOTHING = Override()


def parse_weight(raw: object) -> tuple[int, bool]:
    """`3` or `"3"`, `"50%"`: the number, and whether it is percent. Raises ValueError."""
    text = str(raw) if isinstance(raw, int | str) and not isinstance(raw, bool) else ""
    found = re.fullmatch(r"(\d{1,9})(%?)", text, re.ASCII)
    most = MOST_PERCENT if found and found[2] else MOST_WEIGHT
    if found is None or int(found[1]) > most:
        raise ValueError(
            f"expected a weight from 0 to {MOST_WEIGHT}, or percent of the configured one such as "
            f'50%, got "{raw}"'
        )
    return int(found[1]), bool(found[2])


def key_of(group: str, target: Target) -> Key:
    return group, str(target.address)


def applied(
    groups: Iterable[TargetGroup], overrides: dict[Key, Override], added: dict[Key, Target]
) -> tuple[TargetGroup, ...]:
    """The groups without the targets that were removed and with those that were `added`."""
    made = []
    for group in groups:
        kept = [
            target
            for target in group.targets
            if overrides.get(key_of(group.name, target), NOTHING).removed is None
        ]
        more = [target for key, target in added.items() if key[0] == group.name]
        targets = (*kept, *more)
        made.append(group if targets == group.targets else replace(group, targets=targets))
    return tuple(made)


def nobody_left(group: TargetGroup, overrides: Mapping[Key, Override]) -> list[str]:
    """Each target of a group as it is configured with what operators said of it, where that is why
    nobody gets a request. Empty where somebody does, or where the configuration itself has nobody."""
    taken = []
    for target in group.targets:
        override = overrides.get(key_of(group.name, target), NOTHING)
        weight = target.weight if override.weight is None else override.weight.of(target.weight)
        if weight and override.out is None and override.removed is None:
            return []
        if target.weight:
            taken.append(f"{target.address} ({', '.join(what for what, _, _ in override.said())})")
    for (name, _), override in overrides.items():
        if name == group.name and override.added is not None and override.out is None:
            weight = override.added.weight
            if weight if override.weight is None else override.weight.of(weight):
                return []
    return taken


def pruned(
    groups: Iterable[TargetGroup], overrides: dict[Key, Override]
) -> tuple[dict[Key, Override], list[str]]:
    """What of the overrides still is about something that these groups have; and a sentence for each
    that is not. Whatever else is said of a group with Instances is kept: they are in no configuration.
    """
    known = {group.name: group for group in groups}
    named = {key_of(group.name, target) for group in known.values() for target in group.targets}
    kept: dict[Key, Override] = {}
    dropped: list[str] = []
    for key, override in overrides.items():
        name, address = key
        group = known.get(name)
        left, why = override, ""
        if group is None:
            left, why = NOTHING, f"group {name} is configured no more"
        elif key in named:
            if override.added is not None:
                left, why = replace(override, added=None), "it is configured now"
        elif override.removed is not None or (
            override.added is None and group.auto_scaling_group is None
        ):
            left, why = NOTHING, "it is configured no more"
        if left != NOTHING:
            kept[key] = left
        if why:
            gone = [part[0] for part in override.said() if part not in left.said()]
            dropped.append(
                f'target {address} of group {name}: "{", ".join(gone)}" is dropped: {why}'
            )
    return kept, dropped
