"""The end of an instance, in its order: nobody new, workers finish what they have, then the instances.

Acts on the parts that it is given and knows not why the instance ends.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from fastlb.control_plane.health_monitor import HealthMonitor
from fastlb.control_plane.listen_sockets import ListenSockets
from fastlb.control_plane.orphans import Orphans
from fastlb.control_plane.scaling import Scaling
from fastlb.control_plane.stop_signals import StopSignals
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.totals import Totals
from fastlb.control_plane.wording import count_of
from fastlb.control_plane.worker_pool import WorkerPool
from fastlb.target_table.counters import Worker as Head

log = logging.getLogger("fastlb")

GRACE = 1.0
"""Over the drain time-out, before workers that are still there are killed."""
REAP_WITHIN = 5.0
CUT_LOOK = 0.05
"""So long before the drain time-out it is counted what that will cut: afterwards it is gone."""


@dataclass(slots=True)
class Stop:
    """One end. `run` is all of it."""

    sockets: ListenSockets
    pool: WorkerPool
    orphans: Orphans
    monitor: HealthMonitor
    registry: TargetRegistry
    totals: Totals
    scaling: Scaling
    signals: StopSignals
    _cut: tuple[int, int] = (0, 0)

    async def run(self, seconds: float) -> None:
        """Let the workers finish what they have, for so many seconds or until a second signal."""
        loop = asyncio.get_running_loop()
        self.sockets.close()
        log.info("draining: at most %g s for %s", seconds, _said(self._held()))
        all_ended = asyncio.create_task(self._ended(seconds, loop.time() + seconds + GRACE))
        looking = loop.call_later(max(seconds - CUT_LOOK, 0), self._look_what_is_cut)
        at_once = asyncio.create_task(self.signals.end.wait())
        await asyncio.wait({all_ended, at_once}, return_when=asyncio.FIRST_COMPLETED)
        looking.cancel()
        at_once.cancel()
        if all_ended.done():
            all_ended.result()
            why = f"the drain time-out of {seconds:g} s is over (--drain-timeout)"
        else:
            self._look_what_is_cut()
            why = "the end was asked for at once"
        if any(self._cut):
            log.warning("%s: cut %s", why, _said(self._cut))
        all_ended.cancel()
        killed = self.pool.kill()
        if killed:
            log.warning("killed the workers that had not finished: pids %s", killed)
        await self.pool.wait_gone(loop.time() + REAP_WITHIN)
        await self.orphans.look_round()
        await self.orphans.kill()
        await self._end_instances()

    async def _end_instances(self) -> None:
        """Once nobody sends them requests any more; nor are they checked, since they are to end."""
        self.monitor.stop()
        self.registry.end()
        stopping = asyncio.create_task(self.scaling.stop())
        at_once = asyncio.create_task(self.signals.end.wait())
        await asyncio.wait({stopping, at_once}, return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        if not stopping.done():
            stopping.cancel()
            await asyncio.wait({stopping})
            await self.scaling.kill()
        else:
            stopping.result()

    async def _ended(self, seconds: float, deadline: float) -> None:
        """Wait for the end of all workers and orphans, or for the loop's `deadline`."""
        await asyncio.gather(
            self.pool.drain(seconds, deadline), self._orphans_ended(seconds, deadline)
        )

    async def _orphans_ended(self, seconds: float, deadline: float) -> None:
        await self.orphans.look_round()
        self.orphans.end(seconds)
        await self.orphans.wait_gone(max(deadline - asyncio.get_running_loop().time(), 0))

    def _held(self) -> tuple[int, int]:
        """Requests (TCP connections among them) that targets have, and clients' connections."""
        requests = self.totals.in_flight(self.registry.entries())
        return requests, self.totals.head(Head.CONNECTIONS)

    def _look_what_is_cut(self) -> None:
        self._cut = self._held()


def _said(held: tuple[int, int]) -> str:
    requests, connections = held
    return f"{count_of(requests, 'request')} on {count_of(connections, 'connection')}"
