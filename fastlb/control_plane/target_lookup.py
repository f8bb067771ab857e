"""From what a request says to the target that it is about; the rest of what requests hold is read here
as well. Raises ValueError with a sentence for what makes no sense. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastlb.control_plane.operator_overrides import OperatorOverrides
from fastlb.control_plane.registered_target import RegisteredTarget
from fastlb.control_plane.scaling import Scaling
from fastlb.control_plane.target_naming import Named, find
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.model.target_override import Key, Override, key_of

LONGEST_REASON = 200

Request = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Meant:
    """A registered target, by the key of its override, and its override as it is."""

    target: RegisteredTarget
    key: Key
    override: Override

    def __str__(self) -> str:
        return str(self.target)


class TargetLookup:
    """Knows all targets and instances."""

    def __init__(
        self, registry: TargetRegistry, overrides: OperatorOverrides, scaling: Scaling
    ) -> None:
        self._registry = registry
        self._overrides = overrides
        self._scaling = scaling

    def group(self, request: Request) -> str:
        """The target group that is named."""
        group = request.get("group")
        if not isinstance(group, str) or group not in self._overrides.groups:
            known = ", ".join(self._overrides.groups) or "none"
            raise ValueError(f"there is no target group {group!r}; there is: {known}")
        return group

    def present(self, group: str) -> list[RegisteredTarget]:
        """The targets of a group without those that leave for good."""
        return [one for one in self._registry.members(group) if not one.draining]

    def named(self, request: Request) -> Named:
        """The one that `target` is a name of, in `group` where that is said."""
        word = text_of(request, "target")
        group = None if request.get("group") is None else self.group(request)
        instances = {
            str(one.address): (scaled.target_group, one.id)
            for scaled in self._scaling.groups.values()
            for one in scaled.fleet
        }
        known = [
            Named(
                one.group.name,
                str(one.address),
                str(one.target.address),
                instances.pop(str(one.address), ("", ""))[1],
            )
            for one in self._registry
            if not one.draining and group in (None, one.group.name)
        ]
        # In standby or pending: registered nowhere, and known by its id all the same.
        known += [
            Named(place, address, address, id)
            for address, (place, id) in instances.items()
            if group in (None, place)
        ]
        try:
            return find(word, known)
        except ValueError as error:
            raise ValueError(f"{error}{self._but_removed(word)}") from None

    def _but_removed(self, word: str) -> str:
        for group in self._overrides.groups:
            for address, _ in self._overrides.removed(group):
                if Named(group, address, address).is_called(word):
                    return f"; it was removed: fastlb target add {group} {address} brings it back"
        return ""

    def meant(self, named: Named) -> Meant:
        """The registered target of that name."""
        for one in self.present(named.group):
            if str(one.address) == named.address:
                return Meant(one, key_of(named.group, one.target), one.override)
        raise ValueError(f"{named} gets no requests at the moment: it is no target")


def reason_of(request: Request) -> str:
    reason = request.get("reason") or ""
    if not isinstance(reason, str) or len(reason) > LONGEST_REASON:
        raise ValueError(f"expected a reason of at most {LONGEST_REASON} characters")
    # It goes into the log as well, where nothing of it may steer a terminal.
    return "".join(c if c.isprintable() else "?" for c in " ".join(reason.split()))


def switch_of(request: Request, name: str) -> bool:
    value = request.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")
    return value


def seconds_of(request: Request, name: str) -> float:
    """Zero where nothing is said."""
    value = request.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ValueError(f"{name}: expected seconds, got {value!r}")
    return value


def text_of(request: Request, name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected text, got {value!r}")
    return value
