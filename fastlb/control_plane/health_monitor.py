"""When which target is probed, and what the counters tell of hung ones.

One heap of due times, one timer and one tick for all targets: no task and no timer for each. What
an observation means is decided by `TargetHealth` and `stall_detection`, and published by the
registry. Knows no worker: what a worker reports of a target arrives as Evidence.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import random
import time
from collections.abc import Callable
from functools import partial

from fastlb.control_plane.health_probes import Probe, ProbePlan, Prober, ProbeResult, plan_probe
from fastlb.control_plane.registered_target import RegisteredTarget
from fastlb.control_plane.stall_detection import Sight, decide
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.wording import count_of
from fastlb.model.target_health import (
    CheckFailed,
    CheckPassed,
    CheckUnclear,
    Observation,
    RequestFailed,
    TimeIsUp,
)
from fastlb.target_table.counters import BLOCK, HEAD, ROW, Cell, Counters, Worker, block
from fastlb.target_table.pipe import Evidence

log = logging.getLogger("fastlb.health")

TICK = 0.1
MOST_IN_FLIGHT = 256
MOST_A_TURN = 32
"""Probes started in one turn of the loop: evidence never waits behind a thousand of them."""
TOGETHER = 0.05
"""Regular checks are due at multiples of this: ten in one turn of the loop cost half of ten turns."""
GOLDEN_RATIO = 0.61803398875


class _Watched:
    """One target under watch: `due` next at this time, `probing` since that time."""

    __slots__ = ("check", "due", "index", "plan", "probe", "probing", "spread", "target")

    def __init__(self, target: RegisteredTarget) -> None:
        self.target = target
        self.index = target.index
        self.check = target.group.health_check
        self.plan: ProbePlan = plan_probe(target.address, self.check)
        self.due: float | None = None
        self.probing: float | None = None
        self.probe: Probe | None = None
        self.spread = False


class HealthMonitor:
    """Watches every used target of the registry that is not disabled, those registered later included.

    Reads the first `rows` rows of the counters, which may grow, and of them those whose worker has set
    its pid.
    """

    def __init__(
        self,
        registry: TargetRegistry,
        counters: Counters,
        rows: int,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._registry = registry
        self._cells = counters.cells
        self.rows = rows
        self._loop = loop
        self._clock = clock
        self._jitter = jitter
        self._prober = Prober(loop)
        self._watched: dict[int, _Watched] = {}
        self._membership = -1
        self._heap: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._tick_timer: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._starting = False
        self._suspects: set[int] = set()
        self._awaited: set[int] = set()
        self._all_answered = asyncio.Event()

    def start(self) -> None:
        """Begin to probe, the new targets at once."""
        self._tick()
        self._awaited = {
            index
            for index, watched in self._watched.items()
            if watched.target.health.state == "initial"
        }
        if not self._awaited:
            self._all_answered.set()

    async def first_round(self, timeout: float) -> None:
        """Wait until each target that was `initial` at the start has a result, or for `timeout`."""
        try:
            async with asyncio.timeout(timeout):
                await self._all_answered.wait()
        except TimeoutError:
            log.info(
                "no answer to their first check yet: %s", count_of(len(self._awaited), "target")
            )

    def stop(self) -> None:
        """End all probes and timers; nothing is left open."""
        for timer in (self._timer, self._tick_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._tick_timer = None
        self._heap.clear()
        for watched in self._watched.values():
            self._forget_probe(watched)
        self._watched.clear()
        self._prober.close()

    def on_evidence(self, evidence: Evidence) -> None:
        """A worker saw the target fail: eject it, and probe it in the next turn of the loop."""
        target = self._registry.by_index(evidence.target)
        if target is None:
            return
        seen = RequestFailed(evidence.epoch, evidence.kind, evidence.detail)
        watched = self._watched.get(target.index)
        if self._registry.observe(target, seen) is not None and watched is not None:
            # What a probe from before would say does not count any more; it may take its time-out.
            self._forget_probe(watched)
            self._reschedule(watched)

    def see_new(self) -> None:
        """A target was registered: probe it now, and not with the next tick."""
        if self._tick_timer is not None and self._membership != self._registry.membership:
            self._follow_registry()

    def see_checks(self) -> None:
        """Health checks were changed: those under way end, and the next ask by the new settings."""
        for watched in self._watched.values():
            target = watched.target
            plan = plan_probe(target.address, target.group.health_check)
            if watched.plan != plan or watched.check != target.group.health_check:
                watched.check = target.group.health_check
                watched.plan = plan
                self._forget_probe(watched)
                self._reschedule(watched)

    # -- the schedule

    def _follow_registry(self) -> None:
        """Take up the targets that came and leave those that went."""
        self._membership = self._registry.membership
        now = self._clock()
        active = {target.index: target for target in self._registry if target.watched}
        for index, watched in list(self._watched.items()):
            if active.get(index) is not watched.target:
                self._forget_probe(watched)
                del self._watched[index]
                self._answered(index)
        for index, target in active.items():
            if index not in self._watched:
                watched = self._watched[index] = _Watched(target)
                due = target.health.next_check(now)
                if due is not None and target.health.state != "initial":
                    # Taken over: its state is known, nobody waits for it.
                    due += target.group.health_check.interval * _own_moment(index)
                    watched.spread = True
                self._schedule(watched, due)

    def _reschedule(self, watched: _Watched) -> None:
        now = self._clock()
        health = watched.target.health
        due = health.next_check(now)
        interval = health.check.interval
        if due is not None and health.ejected_at is None and due - now > interval / 2:
            if watched.spread:
                due = now + (due - now) * (0.95 + 0.1 * self._jitter())
            else:
                # All were probed together at the start; from now on each has its own moment.
                due = now + interval * _own_moment(watched.index)
                watched.spread = True
            if interval >= 1:
                due = math.floor(due / TOGETHER) * TOGETHER
        self._schedule(watched, due)

    def _schedule(self, watched: _Watched, due: float | None) -> None:
        watched.due = due
        if due is not None:
            heapq.heappush(self._heap, (due, watched.index))
            self._arm()

    def _arm(self) -> None:
        if self._starting or self._in_flight >= MOST_IN_FLIGHT or not self._heap:
            return
        due = self._heap[0][0]
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        delay = max(due - self._clock(), 0.0)
        # Loops count in milliseconds: rounded down, the timer would come too early and again.
        self._timer = self._loop.call_later(math.ceil(delay * 1000) / 1000, self._start_due)

    def _start_due(self) -> None:
        self._timer = None
        self._starting = True
        now = self._clock()
        begun = 0
        while self._heap and self._heap[0][0] <= now:
            if begun == MOST_A_TURN or self._in_flight >= MOST_IN_FLIGHT:
                break
            due, index = heapq.heappop(self._heap)
            watched = self._watched.get(index)
            if watched is not None and watched.due == due and watched.probing is None:
                begun += 1
                self._begin(watched)
        self._starting = False
        self._arm()

    def _begin(self, watched: _Watched) -> None:
        watched.due = None
        if not watched.target.health.check.enabled:
            if self._registry.observe(watched.target, TimeIsUp()) is None:
                self._reschedule(watched)
            return
        watched.probing = self._clock()
        self._in_flight += 1
        probe = self._prober.start(watched.plan, partial(self._probed, watched))
        if watched.probing is not None:
            watched.probe = probe

    def _probed(self, watched: _Watched, result: ProbeResult) -> None:
        started = watched.probing
        assert started is not None
        watched.probing = watched.probe = None
        self._in_flight -= 1
        self._registry.observe(watched.target, self._meaning(watched.index, started, result))
        self._answered(watched.index)
        self._reschedule(watched)

    def _meaning(self, index: int, started: float, result: ProbeResult) -> Observation:
        if result.outcome == "passed":
            return CheckPassed(started)
        if result.outcome == "unclear":
            return CheckUnclear(started, result.reason)
        if result.outcome == "timeout" and self._last_byte(index, self._active_rows()) > started:
            why = f"{result.reason}, but it answers requests: busy, not dead"
            return CheckUnclear(started, why)
        return CheckFailed(started, result.reason)

    def _answered(self, index: int) -> None:
        self._awaited.discard(index)
        if not self._awaited:
            self._all_answered.set()

    def _forget_probe(self, watched: _Watched) -> None:
        if watched.probing is not None:
            self._in_flight -= 1
            watched.probing = None
        if watched.probe is not None:
            watched.probe.cancel()
            watched.probe = None
        watched.due = None

    # -- hung targets

    def _tick(self) -> None:
        self._tick_timer = self._loop.call_later(TICK, self._tick)
        if self._membership != self._registry.membership:
            self._follow_registry()
        self._watch_stalls()

    def _active_rows(self) -> list[int]:
        """Rows without a worker are not touched: reading a page of them would allocate it."""
        cells = self._cells
        return [row for row in range(self.rows) if cells[row * ROW + Worker.PID]]

    def _last_byte(self, index: int, rows: list[int]) -> float:
        at = block(index) + Cell.LAST_BYTE_NS
        return max((self._cells[row * ROW + at] for row in rows), default=0) / 1e9

    def _watch_stalls(self) -> None:
        rows = self._active_rows()
        waiting = read_waiting(self._cells, rows, max(self._watched, default=-1) + 1)
        if not waiting and not self._suspects:
            return
        now = self._clock()
        sights: dict[str, list[Sight]] = {}
        for index in waiting.keys() | self._suspects:
            watched = self._watched.get(index)
            if watched is None or not (watched.target.eligible or watched.target.health.suspect):
                self._suspects.discard(index)
                continue
            sight = self._look_at(watched, waiting.get(index), rows, now)
            if sight is not None:
                sights.setdefault(watched.target.group.name, []).append(sight)
        for group, seen in sights.items():
            stall_timeout = self._watched[seen[0].index].target.group.stall_timeout
            for decision in decide(seen, self._registry.eligible(group), stall_timeout, now):
                self._act(self._watched[decision.index], decision.seen)

    def _look_at(
        self, watched: _Watched, waits: tuple[int, int] | None, rows: list[int], now: float
    ) -> Sight | None:
        """The Sight of one target; None where there is nothing to see: it sent a byte just now."""
        target, health = watched.target, watched.target.health
        stall_timeout = target.group.stall_timeout
        last_byte = self._last_byte(watched.index, rows)
        waiting, since_ns = waits or (0, 0)
        silent_since = max(last_byte, since_ns / 1e9) if waiting else None
        if not health.suspect and (
            not stall_timeout or silent_since is None or now - silent_since < stall_timeout / 2
        ):
            return None
        return Sight(
            watched.index,
            health.check.enabled and health.check.path is not None,
            waiting,
            silent_since,
            last_byte,
            health.suspect_since,
            health.suspect_until,
            health.trusted_since,
            watched.probing,
            health.checked_at,
            health.passed_at,
        )

    def _act(self, watched: _Watched, seen: Observation | None) -> None:
        if seen is None:
            if watched.probing is None:
                self._begin(watched)
            return
        if self._registry.observe(watched.target, seen) is not None and watched.probing is None:
            self._reschedule(watched)
        if watched.target.health.suspect:
            self._suspects.add(watched.index)
        else:
            self._suspects.discard(watched.index)


def _own_moment(index: int) -> float:
    """In (0, 1]: the golden ratio's multiples fill an interval evenly for any number of targets."""
    return 1.0 - index * GOLDEN_RATIO % 1.0


def read_waiting(cells: memoryview, rows: list[int], targets: int) -> dict[int, tuple[int, int]]:
    """For each target for which requests wait: how many, and since when the oldest do (ns)."""
    found: dict[int, tuple[int, int]] = {}
    for row in rows:
        start = row * ROW + HEAD
        # One strided copy in C; a Python loop over a thousand targets would cost a hundredfold.
        column = cells[start + Cell.WAITING : start + targets * BLOCK : BLOCK].tolist()
        if any(column):
            for index, count in enumerate(column):
                if count:
                    since = cells[start + index * BLOCK + Cell.WAITING_SINCE_NS]
                    before, oldest = found.get(index, (0, since))
                    found[index] = before + count, min(oldest, since)
    return found
