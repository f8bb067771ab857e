"""Whether a group may launch an Instance now, why not, and what for: its failures and what it lost.

Keeps what went wrong with launches and Instances, and says what follows; launches nobody. When a
version may be tried again is `launch_governor`'s, whether the host has room the autoscaler's.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence

from fastlb.auto_scaling.autoscaler import Autoscaler
from fastlb.auto_scaling.fleet import Failure, Fleet
from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.launch_governor import LONG_LIFE, LaunchGovernor
from fastlb.auto_scaling.planning import Member
from fastlb.history import History
from fastlb.model.target_health import span_of

log = logging.getLogger("fastlb.scaling")

UNHEALTHY = "unhealthy: "
SHORT_LIFE = 1.0
"""Who is killed after so long in service, by a person or for want of memory, is no failed launch."""


class Launching:
    """Of one group."""

    def __init__(self, fleet: Fleet, scaler: Autoscaler, decisions: History) -> None:
        self.governor = LaunchGovernor()
        self.blocked = ""
        """Why nothing is launched though something should be."""
        self.retry_at: float | None = None
        """When it may be launched again, where that is a matter of time."""
        self.last_failure = ""
        """Of a launch or an Instance: whose, and why."""
        self._lost: deque[str] = deque(maxlen=100)
        """What the next launches are in place of."""
        self._fleet = fleet
        self._scaler = scaler
        self._decisions = decisions

    @property
    def _name(self) -> str:
        return self._scaler.name

    # -- what went wrong

    def failed(self, failure: Failure) -> None:
        """A launch did not come into service, or an Instance died in service."""
        self.last_failure = f"{failure.id} {failure.why}"
        self._lost.append(f"in place of {failure.id}, which {failure.why}")
        lived = failure.lived
        if lived is not None and (lived >= LONG_LIFE or (failure.killed and lived >= SHORT_LIFE)):
            return  # no fault of its template
        self._count(failure.version, failure.launched_at)

    def ends(self, one: Instance, cause: str, now: float) -> None:
        """An Instance is taken out for `cause`: one that turned out to be unhealthy soon after its
        start is a failed launch of its template."""
        since = one.in_service_at
        if not cause.startswith(UNHEALTHY) or since is None:
            return
        self.last_failure = f"{one.id} was {cause}"
        if now - since < LONG_LIFE + self._scaler.settings.health_check_grace:
            self._count(one.version, one.launched_at)

    def _count(self, version: int, launched_at: float) -> None:
        before = self.governor.quarantined(version)
        self.governor.failed(version, time.monotonic(), launched_at)
        if self.governor.quarantined(version) and not before:
            times = self.governor.failures(version)
            why = f"launch template v{version} failed {times} times in a row"
            serving = len(self._fleet.in_state("in_service"))
            self._decisions.add("scaling", self._name, f"quarantine v{version}", why)
            log.error(
                "group %s: %s: it is quarantined, and tried again ever later; %s; last: %s",
                self._name,
                why,
                f"{serving} serve on" if serving else "nobody serves",
                self.last_failure,
            )

    # -- what follows

    def why_not(self, version: int, suspended: bool, living: Sequence[Instance], now: float) -> str:
        """Why no Instance can be launched now; "" where one can."""
        self.retry_at = None
        if suspended:
            return "launching is suspended (fastlb resume)"
        alone = not self._fleet.in_state("in_service")
        at = self.governor.may_launch_at(version, alone=alone)
        if at > now:
            self.retry_at = at
            failures = self.governor.failures(version)
            loud = " and is quarantined" if self.governor.quarantined(version) else ""
            return (
                f"launch template v{version} failed {failures} times in a row{loud}, "
                f"next try in {span_of(at - now)}; last: {self.last_failure}"
            )
        fits, why = self._room_for(1, living)
        return "" if fits else why

    def how_many(self, version: int, wanted: int, living: Sequence[Instance]) -> int:
        """How many of `wanted` to launch at once: of a version that failed one at a time, until one has
        shown that it can live; and no more than the host has room for."""
        if self.governor.failures(version):
            wanted = min(wanted, 0 if self._fleet.in_state("pending") else 1)
        return min(wanted, self._room_for(wanted, living)[0])

    def _room_for(self, more: int, living: Sequence[Instance]) -> tuple[int, str]:
        """How many of `more` launches the host has room for, and why not all; the first of a group
        is always tried."""
        if not living:
            return more, ""
        # The memory that the host had at the last look lacks what was launched since then.
        unseen = sum(one.rss is None for one in living)
        fits, why = self._scaler.fitting(unseen + more, scaling=False)
        return max(fits - unseen, 0), why

    def block(self, why: str) -> None:
        """Something should be launched and cannot be, for this reason; "" where all is well."""
        if why and _kind_of(why) != _kind_of(self.blocked):
            self._decisions.add("scaling", self._name, "no launch", why)
            log.warning("group %s cannot launch: %s", self._name, why)
        self.blocked = why

    def cause(self, doomed: deque[Member], living: int) -> str:
        """What the next launch is for: in place of one that was lost, of one of `doomed` (which it takes
        out), or since there are `living` and another number is desired."""
        if self._lost:
            return self._lost.popleft()
        if doomed:
            one = doomed.popleft()
            return f"in place of {one.id}: {one.doomed}"
        return self._scaler.cause_of_difference(living)

    def complete(self) -> None:
        """There are as many as are desired: what was lost before is replaced."""
        self._lost.clear()
        self._scaler.reached()


def _kind_of(why: str) -> str:
    """What stays the same of a reason while its figures change."""
    return why.partition(",")[0].partition(":")[0]
