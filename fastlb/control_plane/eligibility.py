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
        self._ended = False

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

    def end(self) -> None:
        """Nobody asks any target any more: who fails open is no news from now on."""
        self._ended = True

    def news(
        self, group: str, members: Collection[RegisteredTarget], *, fell_ill: bool
    ) -> tuple[str, str] | None:
        """Whether the group begins or ends to fail open: what to tell of that, and why; it is logged.

        `fell_ill` is whether one that was eligible has just turned out not to be well. Where nobody has,
        and those who are left are `initial`, as at the start and after a reload that replaced them all,
        it is not worth a line until their checks have failed: nobody knows yet that anybody is ill.
        """
        if self._ended:
            return None
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
            return None  # all leave, or are out of use: there is nobody to fail open to
        unchecked = sum(one.health.state == "initial" for one in active)
        if unchecked and not fell_ill:
            return None
        self._failing_open.add(group)
        who, why = _said(len(active), unchecked)
        log.warning("%s of group %s %s: failing open", who, group, why)
        return "failing open", f"{who} {why}"


def _said(active: int, unchecked: int) -> tuple[str, str]:
    if unchecked:
        return "no target", f"is healthy, and {unchecked} of {active} are not checked yet"
    if active == 1:
        return "the only target", "is unhealthy"
    return f"all {active} targets", "are unhealthy"
