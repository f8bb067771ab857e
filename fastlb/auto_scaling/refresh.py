"""An instance refresh: which old Instances may go now, when it waits, when it is done or goes back.

Pure: what is seen of the group goes in, the next state and a Step come out. Who is launched and
ended is `planning`'s affair, whether the new ones are worse is `judgement`'s.

    rolling ──► waiting (at a checkpoint) ──► rolling ──► baking ──► done
       │                                                    │
       └──────────────── going back (rollback) ◄────────────┘
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastlb.auto_scaling.judgement import Verdict
from fastlb.model.instance_refresh import InstanceRefresh

Phase = Literal["rolling", "waiting", "baking", "going_back"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """One refresh under way. Times are CLOCK_MONOTONIC seconds."""

    source: int
    """The proven version, to which a rollback goes; in going back the failed one. The same as `target`
    where there is nothing to go back to."""
    target: int
    began: float
    old: tuple[str, ...]
    """The Instances to replace; in going back those of the failed version."""
    phase: Phase = "rolling"
    checkpoint: int = 0
    until: float = 0.0
    """The end of a wait or of the bake time."""
    reason: str = ""
    """Why it goes back."""
    harmful: bool = False
    """In going back: those of the failed version, `source`, answer worse than the others, and go
    before they are replaced."""

    def plain(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Refresh:
        """Raises TypeError or KeyError on another shape."""
        return cls(**{**plain, "old": tuple(plain["old"])})


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of the group."""

    now: float
    old: tuple[str, ...]
    """Those of Refresh.old that still live, in the order in which they should go."""
    settled: int
    """New ones that are warmed and have their whole share."""
    desired: int
    """The group's desired capacity."""
    failures: int
    """Launches in a row of the target version that failed."""
    verdict: Verdict | None
    """Of the new ones against the old ones; None in going back."""


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from it: the old ones that may go, and how the refresh ended, if it did."""

    doomed: frozenset[str] = frozenset()
    careful: bool = False
    """No more than one new one until it has shown itself."""
    outcome: Literal["", "done", "back"] = ""
    reason: str = ""


def advance(refresh: Refresh, given: InstanceRefresh, sight: Sight) -> tuple[Refresh, Step]:
    """The refresh as it goes on, and what to do."""
    if refresh.phase == "going_back":
        if not sight.old:
            return refresh, Step(outcome="done", reason=f"rolled back: {refresh.reason}")
        return refresh, Step(doomed=frozenset(sight.old))
    if given.auto_rollback:
        trouble = _trouble(refresh, given, sight)
        if trouble:
            return refresh, Step(outcome="back", reason=trouble)
    if refresh.phase == "baking":
        if sight.now < refresh.until:
            return refresh, Step()
        said = sight.verdict.reason if sight.verdict is not None else ""
        return refresh, Step(outcome="done", reason=said)
    if not sight.old:
        if not sight.settled and sight.desired:
            return refresh, Step()  # they went before any new one was there to be watched
        baking = replace(refresh, phase="baking", until=sight.now + given.bake_time)
        return baking, Step()
    if refresh.phase == "waiting":
        if sight.now < refresh.until:
            return refresh, Step()
        refresh = replace(
            refresh, phase="rolling", checkpoint=_next_checkpoint(refresh, given, sight)
        )
    may_go = _until_checkpoint(refresh, given, len(sight.old))
    if may_go <= 0:
        waiting = replace(refresh, phase="waiting", until=sight.now + given.checkpoint_delay)
        return waiting, Step()
    return refresh, Step(doomed=frozenset(sight.old[:may_go]), careful=not sight.settled)


def _trouble(refresh: Refresh, given: InstanceRefresh, sight: Sight) -> str:
    """Why the new version is not good enough; "" where nothing says so."""
    if sight.failures >= given.failed_launches:
        times = "1 launch" if sight.failures == 1 else f"{sight.failures} launches in a row"
        return f"{times} of version {refresh.target} failed"
    if sight.verdict is not None and sight.verdict.bad:
        return sight.verdict.reason
    return ""


def _until_checkpoint(refresh: Refresh, given: InstanceRefresh, left: int) -> int:
    """How many more of the `left` old ones may go before the next checkpoint."""
    if refresh.checkpoint >= len(given.checkpoints):
        return left
    return _until_share(refresh, given.checkpoints[refresh.checkpoint], left)


def _next_checkpoint(refresh: Refresh, given: InstanceRefresh, sight: Sight) -> int:
    """The first after this one that is not reached yet: few instances pass several at once."""
    later = range(refresh.checkpoint + 1, len(given.checkpoints))
    return next(
        (at for at in later if _until_share(refresh, given.checkpoints[at], len(sight.old)) > 0),
        len(given.checkpoints),
    )


def _until_share(refresh: Refresh, percent: int, left: int) -> int:
    return left - (len(refresh.old) - math.ceil(len(refresh.old) * percent / 100))
