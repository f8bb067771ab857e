"""A fleet without processes: Instances and targets as auto scaling sees them, set by a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.output import Output
from fastlb.auto_scaling.targets import TargetCounts, TargetSight
from fastlb.errors import FastlbError
from fastlb.model.address import Address
from fastlb.model.launch_template import LaunchTemplate
from fastlb.target_table.counters import percentile

WELL = TargetSight("healthy", False, "check passed")


class FakeTarget:
    """A registration: `counted` and `seen` are what it says of itself."""

    settled = True
    forgotten = True

    def __init__(self) -> None:
        self.counted = TargetCounts(0, 0, 0, (), 0, 0.0)
        self.seen = WELL
        self.shares: list[float] = []
        self.did: list[str] = []

    def count(self, **more: Any) -> None:
        self.counted = replace(self.counted, **more)

    def set_share(self, share: float) -> None:
        self.shares.append(share)

    def drain(self) -> None:
        self.did.append("drain")

    def deregister(self) -> None:
        self.did.append("deregister")

    def sight(self) -> TargetSight:
        return self.seen

    def counts(self) -> TargetCounts:
        return self.counted


class FakeRegistrar:
    def __init__(self) -> None:
        self.room = True

    def register(self, group: str, address: Address, changed: Callable[[], None]) -> FakeTarget:
        if not self.room:
            raise FastlbError("no room")
        return FakeTarget()

    def percentile(self, histogram: Sequence[int], share: float) -> float | None:
        return percentile(list(histogram), share)


def instance(
    id: str,
    state: str = "in_service",
    *,
    version: int = 1,
    at: float = 0.0,
    template: LaunchTemplate | None = None,
) -> Instance:
    """One without process and output; launched at `at`, and in service since then if it is."""
    made = Instance(
        id,
        "web",
        version,
        template or LaunchTemplate(command=("app",)),
        Address(host="127.0.0.1", port=1),
        cast(Output, None),
        at,
    )
    made.state = state  # type: ignore[assignment]
    if state == "in_service":
        made.in_service_at = at
    if state in ("in_service", "terminating"):
        made.target = FakeTarget()
    return made


def target_of(one: Instance) -> FakeTarget:
    assert isinstance(one.target, FakeTarget)
    return one.target


class FakeFleet:
    """What is asked of a Fleet: who is there."""

    def __init__(self, *instances: Instance) -> None:
        self.instances = list(instances)

    def __iter__(self) -> Iterator[Instance]:
        return iter(tuple(self.instances))

    def in_state(self, *states: str) -> list[Instance]:
        return [one for one in self.instances if one.state in states]
