"""How many targets of each group are eligible, and which groups fail open since none is.

Counts what it is told and decides what is worth a line; knows no table and no health.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from fastlb.control_plane.registered_target import RegisteredTarget

log = logging.getLogger("fastlb.health")


class Eligibility:
    """By the names of groups."""

    def __init__(self, groups: Iterable[str]) -> None:
        self._counts = dict.fromkeys(groups, 0)
        self._failing_open: set[str] = set()

    def __getitem__(self, group: str) -> int:
        return self._counts[group]

    def add(self, group: str, more: int) -> None:
        """So many more are eligible: one comes or gets well (1), goes or falls ill (-1), or neither."""
        self._counts[group] = self._counts.get(group, 0) + more

    def recount(self, group: str, members: Iterable[RegisteredTarget]) -> None:
        self._counts[group] = sum(member.eligible for member in members)

    def forget(self, group: str) -> None:
        del self._counts[group]
        self._failing_open.discard(group)

    def news(
        self, group: str, members: Collection[RegisteredTarget], *, was_eligible: bool
    ) -> tuple[str, str] | None:
        """Whether the group begins or ends to fail open: what to tell of that, and why; it is logged.

        At the start all are `initial`, and that is not yet worth a line: it is once one that was
        eligible went, or nobody is left who could still turn out to be well.
        """
        if self._counts[group]:
            if group not in self._failing_open:
                return None
            self._failing_open.discard(group)
            log.warning("group %s has a healthy target again: no longer failing open", group)
            return "no longer failing open", "a target is healthy again"
        if group in self._failing_open:
            return None
        active = [target for target in members if target.active]
        if not active:
            return None
        if not was_eligible and any(one.health.state == "initial" for one in active):
            return None
        self._failing_open.add(group)
        who = f"all {len(active)} targets" if len(active) > 1 else "the only target"
        are = "are" if len(active) > 1 else "is"
        log.warning("%s of group %s %s unhealthy: failing open", who, group, are)
        return "failing open", f"{who} {are} unhealthy"
