"""The launch templates of a group by their version numbers: v1, v2, and which one is in force.

A version in force is what launches use. It is another one than the configured where a refresh was
rolled back. Knows no Instance.
"""

from __future__ import annotations

from fastlb.auto_scaling.records import GroupRecord
from fastlb.model.launch_template import LaunchTemplate

KEPT = 5
"""Versions that are remembered beside those that are needed; old Instances name theirs."""


class Templates:
    """Begins with version 1."""

    def __init__(self, first: LaunchTemplate) -> None:
        self._by_version = {1: first}
        self.version = 1
        """In force."""
        self.configured = 1
        self.rolled_back: dict[int, str] = {}
        """Why a version was left again; not known any more after a takeover."""
        self.newest = 1

    @property
    def current(self) -> LaunchTemplate:
        return self._by_version[self.version]

    @property
    def not_in_force(self) -> str:
        """Why what is configured is not what launches use; "" where it is."""
        if self.configured == self.version:
            return ""
        why = self.rolled_back.get(self.configured)
        return f"v{self.configured} is configured, and was rolled back" + (
            f": {why}" if why else ""
        )

    def of(self, version: int) -> LaunchTemplate:
        """Of an Instance; where that is forgotten the one in force stands in."""
        return self._by_version.get(version, self.current)

    def all(self) -> dict[int, LaunchTemplate]:
        return dict(self._by_version)

    def take_up(self, known: GroupRecord) -> None:
        """What a supervisor that died knew."""
        if known.version in known.templates:
            self._by_version = dict(known.templates)
            self.version = known.version
            self.configured = known.configured
            self.newest = known.newest

    def changed(self, configured: LaunchTemplate) -> bool:
        """Whether the configuration names another template than it did."""
        return self._by_version.get(self.configured) != configured

    def add(self, template: LaunchTemplate, source: int) -> int:
        """A template that is configured now; its version. From it a rollback would go to `source`."""
        self.newest += 1
        self.configured = self.newest
        self._by_version[self.newest] = template
        for old in sorted(self._by_version)[:-KEPT]:
            if old not in (self.version, self.configured, source):
                del self._by_version[old]
        return self.newest
