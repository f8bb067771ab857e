"""From the first table to the end of a supervisor's charge of its instance.

Publishes when health is known, takes charge when all workers are ready, and waits until the instance
is to stop or another supervisor has it. What is done then is the supervisor's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from fastlb.control_plane.administration import Administration
from fastlb.control_plane.health_monitor import HealthMonitor
from fastlb.control_plane.leadership import Leadership
from fastlb.control_plane.publication import Publication
from fastlb.control_plane.service_manager import ServiceManager
from fastlb.control_plane.tenure import Tenure
from fastlb.model.configuration import Configuration

FIRST_ROUND_SLACK = 0.2


@dataclass(slots=True)
class Charge:
    """`stop` is set when the instance is to stop, and `all_ready` when all workers are. `is_well` is for
    the watchdog; `end_orphans` ends whoever served before us."""

    configuration: Callable[[], Configuration]
    monitor: HealthMonitor
    publication: Publication
    tenure: Tenure
    leadership: Leadership
    admin: Administration
    manager: ServiceManager
    stop: asyncio.Event
    is_well: Callable[[], bool]
    end_orphans: Callable[[], None]
    all_ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish_first(self) -> None:
        """The first table knows the targets' health, as far as the time of one check tells."""
        checks = [group.health_check for group in self.configuration().target_groups]
        longest = max((check.timeout for check in checks if check.enabled), default=0.0)
        known = asyncio.create_task(self.monitor.first_round(longest + FIRST_ROUND_SLACK))
        stop = asyncio.create_task(self.stop.wait())
        await asyncio.wait({known, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if known.done():
            known.result()
        known.cancel()
        self.publication.begin()

    async def hold(self) -> None:
        """Take charge, and have it until the instance is to stop, or another supervisor has it. Raises
        what taking it raises."""
        taking = asyncio.create_task(self._take())
        waits = [asyncio.create_task(one.wait()) for one in (self.stop, self.tenure.over)]
        try:
            done, _ = await asyncio.wait({taking, *waits}, return_when=asyncio.FIRST_COMPLETED)
            if taking in done:
                taking.result()
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            elif self.tenure.asking:  # the answer decides whose the instance is to stop
                await asyncio.wait({taking})
                taking.result()
            if not self.tenure.over.is_set():
                await self.tenure.break_off()
        finally:
            for task in (taking, *waits):
                task.cancel()
            await asyncio.wait({taking, *waits})

    async def _take(self) -> None:
        """Once all workers are ready; the service manager is told then."""
        await self.all_ready.wait()
        was_in_charge = self.tenure.in_charge
        for target_group in await self.tenure.take_charge():
            self.leadership.scaling.wanted(target_group)
        if not was_in_charge:
            await self.admin.take_over(self.configuration().admin)
        self.manager.watch(self.is_well)
        self.end_orphans()
