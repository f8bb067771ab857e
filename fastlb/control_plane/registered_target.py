"""One target of one group: what is configured, what an operator says on top, and its health; and what
the target table says of it by that.

Knows no other target. Who is registered, and who is told of a change, is `target_registry`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from fractions import Fraction

from fastlb.model.address import Address
from fastlb.model.target_group import Target, TargetGroup, TargetState
from fastlb.model.target_health import TargetHealth
from fastlb.model.target_override import NOTHING, Override
from fastlb.target_table.layout import TargetEntry

SHARE_STEPS = 16
"""Weights are whole numbers: a share of one is told to a sixteenth."""
PERCENT_STEPS = 100
"""The same of percent of a weight."""


class RegisteredTarget:
    """One target of one group, under its column index of the counters."""

    __slots__ = (
        "_entry",
        "address",
        "changed",
        "draining",
        "group",
        "health",
        "index",
        "override",
        "scale",
        "share",
        "target",
        "used",
    )

    def __init__(
        self,
        index: int,
        group: TargetGroup,
        target: Target,
        address: Address,
        health: TargetHealth,
        used: bool,
        override: Override = NOTHING,
    ) -> None:
        self.index = index
        self.group = group
        self.target = target
        self.address = address
        self.health = health
        self.used = used
        self.override = override
        """What an operator said of it, on top of `target`, which is what is configured."""
        self.draining = False
        """Whether it leaves for good; one that an operator has drained may come back."""
        self.share = 1.0
        """Of what its weight would give it: less in a slow start."""
        self.scale = 1
        """What the weights of its group are multiplied by, so that a share of one is a whole number."""
        self.changed: Callable[[], None] = _nobody_asks
        """Called after each change of its health."""
        self._entry: TargetEntry | None = None

    @property
    def state(self) -> TargetState:
        if self.draining:
            return "draining"
        if not self.used:
            return "unused"
        out = self.override.out
        if out is not None:
            return "draining" if out.mode == "drained" else "disabled"
        return self.health.state

    @property
    def watched(self) -> bool:
        """Whether its health is looked after: also while it is drained, so that it can come back."""
        out = self.override.out
        return self.used and not self.draining and (out is None or out.mode == "drained")

    @property
    def active(self) -> bool:
        """Whether it may get new requests at all, if only by failing open."""
        return self.watched and self.override.out is None and bool(self.weight)

    @property
    def weight(self) -> int | Fraction:
        """As configured, or as an operator says."""
        override, configured = self.override.weight, self.target.weight
        return configured if override is None else override.of(configured)

    @property
    def eligible(self) -> bool:
        """Whether it gets new requests while the group does not fail open."""
        return self.active and self.health.state == "healthy" and not self.health.suspect

    @property
    def entry(self) -> TargetEntry:
        if self._entry is None:
            self._entry = TargetEntry(
                self.index,
                self.group.name,
                str(self.address),
                self._weight(),
                self.target.backup,
                self.state,
                # Of one that is unhealthy, `draining` alone would not tell those who wait on it that
                # they had better go elsewhere.
                self.health.suspect
                or (self.state == "draining" and self.health.state == "unhealthy"),
                self.health.epoch,
            )
        return self._entry

    def _weight(self) -> int:
        whole = self.weight * self.scale
        return max(round(whole * self.share), 1) if whole else 0

    def touch(self) -> None:
        """The entry is to be made anew."""
        self._entry = None

    def put_under(self, override: Override, now: float) -> None:
        """An operator says this of it from now on."""
        was_watched = self.watched
        self.override = override
        if self.watched and not was_watched:
            self._begin_anew(now)
        self.touch()

    def renew(self, group: TargetGroup, used: bool, now: float) -> None:
        """Its group is configured anew."""
        check = group.health_check
        self.group = group
        if used and not self.used:
            self._begin_anew(now)
        elif self.health.check != check:
            self.health.renew(check, now)
        self.used = used
        self.touch()

    def _begin_anew(self, now: float) -> None:
        """Nobody has looked at it meanwhile. Its epoch goes on, for the workers' sake: evidence of before
        is older than what comes."""
        epoch = self.health.epoch
        self.health = TargetHealth.new(self.group.health_check, now)
        self.health.epoch = epoch + 1

    def describe(self, now: float) -> str:
        """Why it is in its state, for `fastlb status`."""
        if self.draining:
            return "finishing the requests that it has"
        if not self.used:
            return f"no listener forwards to group {self.group.name}"
        if self.state == "disabled":
            return "not checked"
        if self.override.out is not None:
            return f"{self.health.state}: {self.health.describe(now)}"
        return self.health.describe(now)

    @property
    def log_fields(self) -> dict[str, str]:
        """Who a log record with it as an argument is about."""
        return {"target": str(self.address), "group": self.group.name}

    def __str__(self) -> str:
        return f"target {self.address} of group {self.group.name}"


def rescale(members: Collection[RegisteredTarget]) -> None:
    """All weights of a group in sixteenths while one of its targets has less than its share."""
    scale = SHARE_STEPS if any(one.share < 1 for one in members) else 1
    if any(one.weight.denominator > 1 for one in members):
        scale = PERCENT_STEPS
    for one in members:
        if one.scale != scale:
            one.scale = scale
            one.touch()


def _nobody_asks() -> None:
    pass
