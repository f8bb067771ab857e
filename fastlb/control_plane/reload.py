"""`fastlb reload` and SIGHUP: the configuration is read anew and checked before anything changes.

What can change under a living instance are the auto scaling groups that are there, and the admin
server; whatever else differs is named and refused as a whole. How a file is read is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastlb.errors import FastlbError
from fastlb.model.configuration import Configuration

Load = Callable[[], Configuration]
"""Reads the configuration with the flags of the start. Raises FastlbError."""


class Reload:
    """Knows what was configured last. `apply` takes a new configuration over; what changed.
    `not_in_force` tells what is configured and not what is used, since it was rolled back."""

    def __init__(
        self,
        given: Configuration,
        load: Load | None,
        apply: Callable[[Configuration], list[str]],
        not_in_force: Callable[[], list[str]] = list,
    ) -> None:
        self._given = given
        self._load = load
        self._apply = apply
        self._not_in_force = not_in_force

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """To the command `reload`."""
        changed = self.reload()
        left = self._not_in_force()
        said = [f"changed: {one}" for one in changed] or ["nothing has changed"]
        return {"said": "; ".join([*said, *left]), "changed": changed, "not_in_force": left}

    def reload(self) -> list[str]:
        """What changed. Raises ValueError where it cannot be: then nothing has."""
        if self._load is None:
            raise ValueError("this instance has no configuration that could be read anew")
        try:
            found = self._load()
        except FastlbError as error:
            raise ValueError(str(error)) from None
        barred = fixed_differences(self._given, found)
        if barred:
            raise ValueError(
                f"{', '.join(barred)}: cannot change while it runs yet; only settings of the auto "
                "scaling groups that are there, and of admin, can. Nothing was changed"
            )
        try:
            changed = self._apply(found)
        except FastlbError as error:
            raise ValueError(str(error)) from None
        self._given = found
        return changed


def fixed_differences(old: Configuration, new: Configuration) -> list[str]:
    """The key paths that differ and cannot change under a living instance."""
    names = [
        name
        for name in old.__dataclass_fields__
        if name not in ("auto_scaling_groups", "admin") and getattr(old, name) != getattr(new, name)
    ]
    before = {one.name for one in old.auto_scaling_groups}
    after = {one.name for one in new.auto_scaling_groups}
    return [*names, *(f"auto_scaling_groups.{name}" for name in sorted(before ^ after))]
