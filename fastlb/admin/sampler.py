"""Once a second: one Reading, what happened since the last one, and a point of every series.

Costs the same however many look: the Overview is made when the first one asks in a second, and shared.
Knows no connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastlb.admin.overview import overview
from fastlb.admin.rates import Rates, percentiles, rates
from fastlb.admin.reading import Counts, Reading, Source
from fastlb.admin.series import SCALING_KEYS, Series

log = logging.getLogger("fastlb.admin")

STEP = 1.0
FORGET_EVERY = 60
"""Coarse steps."""


class Sampler:
    """`sampled` is called after each second's sample."""

    def __init__(self, source: Source, sampled: Callable[[], None] = lambda: None) -> None:
        self.series = Series()
        self.sampled = sampled
        self._source = source
        self._reading = source.read()
        self._rates: dict[str, Rates] = {}
        self._overview: dict[str, Any] | None = None
        self._histograms: dict[str, int | None] = {}
        """Of each scope as of the begin of the coarse step."""
        self._cpu: dict[int, float | None] = {}
        self._folded = 0
        self._ticking: asyncio.TimerHandle | None = None
        self._trouble = ""
        self.take(self._reading)

    # -- the clock

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        # At whole seconds, so that all points of a second mean the same second.
        self._ticking = loop.call_later(STEP - time.time() % STEP, self._tick)

    def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._ticking = loop.call_later(STEP - time.time() % STEP + 0.001, self._tick)
        try:
            self.take(self._source.read())
            self.sampled()
            self._trouble = ""
        except Exception as error:
            if repr(error) != self._trouble:
                self._trouble = repr(error)
                log.exception("the overview has a gap")

    # -- one second

    def take(self, reading: Reading) -> None:
        """Take in the next reading."""
        before = self._reading
        seconds = reading.at - before.at
        old = dict(_scopes(before))
        new = dict(_scopes(reading))
        latencies = self._source.latencies
        found = {
            scope: rates(old.get(scope), counts, seconds, latencies)
            for scope, counts in new.items()
        }
        if seconds > 0:
            cpu = {one.pid: one.cpu_seconds for one in before.workers} | {
                before.pid: before.cpu_seconds
            }
            now = {one.pid: one.cpu_seconds for one in reading.workers} | {
                reading.pid: reading.cpu_seconds
            }
            self._cpu = {
                pid: _percent(cpu.get(pid), used, seconds) for pid, used in now.items() if pid
            }
        self._reading, self._rates, self._overview = reading, found, None
        self._keep(reading, new)

    def _keep(self, reading: Reading, counts: dict[str, Counts]) -> None:
        """A point of every series."""
        series = self.series
        over = series.begin(int(reading.time))
        if over is not None:
            self._fold(over, counts)
        for scope, one in self._rates.items():
            p50, p95, p99 = one.percentiles or (None, None, None)
            requests = one.requests
            if scope.startswith("listener:tcp:") and one.accepted is not None:
                requests = one.accepted
            series.add(
                scope,
                (
                    requests,
                    one.status_4xx,
                    one.status_5xx,
                    p50,
                    p95,
                    p99,
                    one.in_flight,
                    one.connections,
                ),
            )
        for group in reading.auto_scaling:
            metric = group["metrics"][0]["value"] if group["metrics"] else None
            scope = f"scaling:group:{group['target_group']}"
            series.add(scope, (group["desired"], group["in_service"], metric), SCALING_KEYS)

    def _fold(self, step: int, counts: dict[str, Counts]) -> None:
        latencies = self._source.latencies
        now = {scope: one.histogram for scope, one in counts.items()}
        self.series.fold(
            step,
            {
                scope: percentiles(self._histograms[scope], histogram, latencies)
                for scope, histogram in now.items()
                if scope in self._histograms
            },
        )
        self._histograms = now
        self._folded += 1
        if self._folded % FORGET_EVERY == 0:
            self.series.forget()

    # -- looking

    @property
    def reading(self) -> Reading:
        """The last one."""
        return self._reading

    def overview(self) -> dict[str, Any]:
        """The Overview of this second."""
        if self._overview is None:
            decisions = self._source.decisions.after(0)
            self._overview = overview(self._reading, self._rates, self._cpu, decisions)
        return self._overview


def _scopes(reading: Reading) -> Iterator[tuple[str, Counts]]:
    """Whatever has rates and a series, by its name."""
    yield "all", reading.totals
    for listener in reading.listeners:
        yield f"listener:{listener.key}", listener.counts
    for group in reading.groups:
        yield f"group:{group.name}", group.counts
    for target in reading.targets:
        yield f"target:{target.group}/{target.address}", target.counts
    for worker in reading.workers:
        yield f"worker:{worker.index}", worker.counts


def _percent(before: float | None, now: float | None, seconds: float) -> float | None:
    """Of one core; None where it is not known, as of a process that has just come."""
    if before is None or now is None or now < before:
        return None
    return round(100 * (now - before) / seconds, 1)
