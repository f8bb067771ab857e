"""Targets on their way out: drained, taken out of the table, and their columns given back.

They leave as the Instances of an auto scaling group do, and nobody is stopped at the end. Knows not
why they leave.
"""

from __future__ import annotations

import asyncio
import logging
import time

from fastlb.auto_scaling.retirement import take_out
from fastlb.control_plane.group_targets import GroupTargets
from fastlb.control_plane.target_registry import RegisteredTarget
from fastlb.control_plane.wording import count_of

log = logging.getLogger("fastlb.health")


class Departures:
    """All targets that leave now."""

    def __init__(self, targets: GroupTargets) -> None:
        self._targets = targets
        self._tasks: set[asyncio.Task[None]] = set()

    def leave(self, target: RegisteredTarget, drain_timeout: float) -> None:
        """Send it nothing new from now on; deregister it once nothing is in flight there, or after
        `drain_timeout`: what is in flight then goes on to its end all the same."""
        if target.draining:
            return  # somebody sees it out already
        handle = self._targets.handle(target)
        handle.drain()

        async def see_out() -> None:
            began = time.monotonic()
            left = await take_out(handle, drain_timeout, handle.deregister)
            log.info(
                "%s has left after %.1f s%s",
                target,
                time.monotonic() - began,
                f"; {count_of(left, 'request')} in flight at the drain time-out" if left else "",
            )

        task = asyncio.create_task(see_out())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """At the end of the instance."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
