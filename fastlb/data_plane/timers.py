"""One coarse timer wheel a worker: deadlines of connections, exact to a tick, nearly free to move.

A deadline that moves later, as it does with each request, costs two attribute stores: the item stays in
its old bucket, and is put off when that comes up. Knows nothing of what the deadlines are for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

TICK = 0.1
"""Seconds. Fine enough for the least timeout that makes sense here, and ten wake-ups a second cost nothing."""
LATE = 0.5
"""Seconds between two ticks, from which on the time between them counts for nobody."""


NEVER = float("inf")


class Timed(Protocol):
    """What can be armed. `armed_at` is the wheel's own, the time at which it looks at the deadline; begin
    with NEVER and leave it alone. A `deadline` that is later may be moved by setting it."""

    deadline: float
    armed_at: float

    def on_deadline(self, now: float) -> None:
        """The deadline has passed; nothing is armed any more."""


class TimerWheel:
    """Call `start()` in the loop; `now` is loop.time() of the last tick."""

    __slots__ = (
        "_buckets",
        "_handle",
        "_last_tick",
        "_loop",
        "_on_tick",
        "_was_late",
        "now",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, on_tick: Callable[[], None]) -> None:
        self._loop = loop
        self._on_tick = on_tick
        self._handle: asyncio.TimerHandle | None = None
        self._buckets: dict[float, set[Timed]] = {}
        self.now = loop.time()
        self._last_tick = int(self.now / TICK)
        self._was_late = False

    def start(self) -> None:
        self._handle = self._loop.call_later(TICK, self._run)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def arm(self, item: Timed, deadline: float) -> None:
        """Call `item.on_deadline` once when `deadline` (loop time) has passed, at most a tick later."""
        item.deadline = deadline
        if deadline >= item.armed_at:
            return
        self._leave(item)
        # One tick more than the quotient, so that it never fires early; never into the past.
        tick = max(int(deadline / TICK), self._last_tick) + 1
        item.armed_at = at = tick * TICK
        bucket = self._buckets.get(at)
        if bucket is None:
            self._buckets[at] = {item}
        else:
            bucket.add(item)

    def disarm(self, item: Timed) -> None:
        """Forget `item`; to be called when its connection ends, so that the wheel holds no dead ones."""
        self._leave(item)
        item.armed_at = NEVER

    def _leave(self, item: Timed) -> None:
        bucket = self._buckets.get(item.armed_at)
        if bucket is not None:  # else it is in none, or in the one that is being fired
            bucket.discard(item)

    def _run(self) -> None:
        self._handle = self._loop.call_later(TICK, self._run)
        self.advance(self._loop.time())
        self._on_tick()

    def advance(self, now: float) -> None:
        """Fire what is due at `now`."""
        away = now - self.now
        self.now = now
        if away <= LATE:
            self._was_late = False
        elif not self._was_late:
            # Not twice in a row: where every tick is late, deadlines must pass all the same.
            self._was_late = True
            self._put_off(away)
        current = int(now / TICK)
        for tick in range(self._last_tick + 1, current + 1):
            self._last_tick = tick
            at = tick * TICK
            for item in self._buckets.pop(at, ()):
                if item.armed_at != at:
                    continue  # disarmed, or moved, by one that fired before it
                item.armed_at = NEVER
                if item.deadline > now:
                    self.arm(item, item.deadline)
                    continue
                try:
                    item.on_deadline(now)
                except Exception as error:  # noqa: BLE001  the deadlines of all others must still be kept
                    context = {"message": f"a deadline of {item!r} failed", "exception": error}
                    self._loop.call_exception_handler(context)

    def _put_off(self, seconds: float) -> None:
        """The process was stopped for so long: whatever came meanwhile is still to be read, and who sent
        it in time must not be taken for silent. Nor were deadlines right that were set since then and
        before this tick, from the time of the last one."""
        for bucket in self._buckets.values():
            for item in bucket:
                item.deadline += seconds
