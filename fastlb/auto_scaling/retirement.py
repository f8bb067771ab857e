"""How an Instance leaves: unpublished, drained, signalled, and nothing left of it.

The order is what makes it cost no request: first every worker must have seen that nothing new goes
there, then what is in flight ends, and only then the process hears of it. Knows one Instance at a
time, and not why it leaves.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.records import Records
from fastlb.auto_scaling.targets import RegisteredTarget

FORGOTTEN_WITHIN = 1.0
"""For all workers to see that a target is gone; a hung one would take for ever."""
SETTLE_LOOK = 0.02


class Retirement:
    """`leaving` is called before a target is deregistered: its counts are to be had for the last
    time."""

    def __init__(self, records: Records, leaving: Callable[[Instance], None]) -> None:
        self._records = records
        self._leaving = leaving

    async def unpublish(self, instance: Instance, drain_timeout: float) -> int:
        """Drain its target and take it out of the table; how many requests were left at the time-out."""
        target = instance.target
        if target is None:
            return 0
        return await take_out(target, drain_timeout, lambda: self.deregister(instance))

    def deregister(self, instance: Instance) -> None:
        """At once, without a drain."""
        target = instance.target
        if target is not None:
            self._leaving(instance)
            target.deregister()
            instance.target = None

    def bury(self, instance: Instance) -> None:
        """Its process has ended: end what is left of its group, and remove its files."""
        self.deregister(instance)
        if instance.process is not None:
            instance.process.clear()
        instance.output.finish()
        instance.output.close(remove=True)
        self._records.forget(instance.id)
        instance.state = "terminated"


async def take_out(
    target: RegisteredTarget, drain_timeout: float, deregister: Callable[[], None]
) -> int:
    """Drain a target and `deregister` it, once every worker has seen that and nothing is in flight;
    how many requests were left at the time-out."""
    target.drain()
    await _until(lambda: not target.has_strangers, math.inf)
    settled = await _until(lambda: target.settled, time.monotonic() + drain_timeout)
    left = 0 if settled else target.counts().in_flight
    deregister()
    await _until(lambda: target.forgotten, time.monotonic() + FORGOTTEN_WITHIN)
    return left


async def stop_process(instance: Instance) -> bool:
    """Whether it ended by itself, before its stop timeout."""
    if instance.process is None:
        return True
    kill_at = time.monotonic() + instance.template.stop_timeout
    return await instance.process.end(instance.stop_signal, kill_at)


async def _until(true: Callable[[], bool], deadline: float) -> bool:
    """Whether it came true before `deadline` (`time.monotonic()`). Looks again and again, because
    what workers write to shared memory wakes nobody."""
    while not (came := true()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(SETTLE_LOOK)
    return came
