"""The launch templates of a group by their version numbers: v1, v2, and which one launches use.

    configured   named by the configuration
    proven       the last one that has shown that it works
    version      in force: in a refresh the one that it leads to, else the proven one
    rolled back  left again, and why: a refresh to it must be insisted on

The rule of all of it is here, and pure: who has seen a version work, or fail, says so. Knows no
Instance.
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
        self.proven = 0
        """0 while none is: what is configured is all that there is to launch."""
        self.rolled_back: dict[int, str] = {}
        """Why a version was left again. Never the proven one."""
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
        if why is None:
            return f"v{self.configured} is configured, and its refresh was cancelled"
        return f"v{self.configured} is configured, and was rolled back: {why}"

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
            self.proven = known.proven if known.proven in known.templates else 0
            self.rolled_back = dict(known.rolled_back)
            self.newest = known.newest

    # -- what is configured

    def changed(self, configured: LaunchTemplate) -> bool:
        """Whether the configuration names another template than it did."""
        return self._by_version.get(self.configured) != configured

    def add(self, template: LaunchTemplate) -> int:
        """A template that is configured now; its version, of which nothing is known yet."""
        self.newest += 1
        self.configured = self.newest
        self._by_version[self.newest] = template
        for old in sorted(self._by_version)[:-KEPT]:
            if old not in (self.version, self.configured, self.proven):
                del self._by_version[old]
                self.rolled_back.pop(old, None)
        return self.newest

    # -- what refreshes make of them

    def way_back(self, target: int) -> int:
        """The version to which a rollback from `target` would go; `target` itself where none is proven,
        since one of which nobody has seen anything is not better."""
        return self.proven or target

    def lead_to(self, version: int) -> None:
        """A refresh or a rollback to it begins: launches use it."""
        self.version = version

    def prove(self) -> None:
        """The one in force has shown that it works: its refresh ended well, or it is the first one."""
        self.proven = self.version
        self.rolled_back.pop(self.version, None)

    def leave(self) -> None:
        """The refresh has ended, however it did: launches use the proven one, if there is one."""
        self.version = self.proven or self.version

    def give_up(self, version: int, why: str) -> None:
        """It is rolled back. What is proven is never marked, so that there always is a way forward."""
        if version != self.proven:
            self.rolled_back[version] = why
