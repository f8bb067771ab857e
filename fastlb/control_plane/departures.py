"""Targets on their way out that are no Instances: who, until when, and what is told when it is over.

One way for all of them, whether the configuration names one no more or an operator removes it: the
order of `auto_scaling.retirement.take_out`, by which Instances leave as well; only that nobody is
stopped at the end. Knows not why they leave.
"""

from __future__ import annotations

import asyncio
import logging
import time

from fastlb.auto_scaling.retirement import take_out
from fastlb.control_plane.group_targets import GroupTargets
from fastlb.control_plane.registered_target import RegisteredTarget
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.wording import count_of

log = logging.getLogger("fastlb.health")


class Departures:
    """All targets that leave now."""

    def __init__(self, targets: GroupTargets, registry: TargetRegistry) -> None:
        self._targets = targets
        self._registry = registry
        self._tasks: set[asyncio.Task[None]] = set()

    def leave(self, target: RegisteredTarget, drain_timeout: float) -> None:
        """Send it nothing new from now on; deregister it once nothing is in flight there, or after
        `drain_timeout` seconds: what is in flight then goes on to its end all the same."""
        if target.draining:
            return  # somebody sees it out already
        handle = self._targets.handle(target)
        handle.drain()

        began = time.monotonic()

        def deregister() -> None:
            left = handle.counts().in_flight
            handle.deregister()
            self._tell(target, time.monotonic() - began, left, drain_timeout)

        async def see_out() -> None:
            await take_out(handle, drain_timeout, deregister)

        task = asyncio.create_task(see_out())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, target: RegisteredTarget, seconds: float, left: int, timeout: float) -> None:
        if not left:
            log.info("%s has left after %.1f s", target, seconds)
            return
        what = f"left with {count_of(left, 'request')} in flight"
        cause = f"the drain timeout of {timeout:g} s is over"
        log.warning("%s %s: %s; they go on", target, what, cause)
        self._registry.told("routing", str(target.address), what, cause)

    async def close(self) -> None:
        """At the end of the instance."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
