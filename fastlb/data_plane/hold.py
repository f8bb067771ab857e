"""What waits for a first instance: the requests and TCP connections of one target group, in one worker.

Pure but for callbacks. Knows neither targets nor protocols: whether one can be taken is asked of the
group, and what follows is the held one's own affair. Nothing here runs while nothing is held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from fastlb.errors import RequestError
from fastlb.model.target_group import Hold

AT_ONCE = 100
"""So many are started in one turn of the loop: by default all that may be held, before anybody who came
later. More would keep the loop from everything else, 50 µs for each."""
WANTED_SECONDS = 1.0
"""How often the supervisor is told again: the pipe may have been full."""
WANTED_APART = 0.05
"""Between the last word and the next where the queue was empty in between: news, but no flood."""
LOOK_SECONDS = 0.1
"""How often a full queue is looked through for clients that have left."""


class Held(Protocol):
    """A request or TCP connection that can be held."""

    waited: float
    """Seconds that it has been held before; kept by the queue."""

    @property
    def tried(self) -> Any:
        """The targets that have failed it."""

    def has_left(self) -> bool:
        """Whether its client seems to have gone: it has ended its side."""

    def on_released(self, seconds: float) -> None:
        """A target can take it, after so long."""

    def on_hold_over(self, error: RequestError) -> None:
        """It is held no longer, and there is no target."""


class Clock(Protocol):
    """What a queue needs of the event loop."""

    def time(self) -> float: ...

    def call_soon(self, callback: Callable[[], None]) -> Any: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any: ...


class HoldQueue:
    """In the order of their coming. `can_take` says whether a target is there for one that those `tried`
    have failed; `want` tells the supervisor that somebody waits."""

    __slots__ = (
        "_can_take",
        "_closed",
        "_looked",
        "_loop",
        "_release_handle",
        "_round",
        "_timer",
        "_told",
        "_waiting",
        "_want",
    )

    def __init__(
        self, loop: Clock, can_take: Callable[[Any], bool], want: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._can_take = can_take
        self._want = want
        self._waiting: dict[Held, tuple[float, float]] = {}
        """When each came, and when its time is over."""
        self._round: deque[Held] = deque()
        """Those that are still to be asked whether they can go."""
        self._release_handle: Any = None
        self._timer: Any = None
        """The next word to the supervisor; only while something is held."""
        self._told = self._looked = float("-inf")
        self._closed = ""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, one: Held, hold: Hold) -> float:
        """Hold `one`; returns the seconds until its time is over, when it must `leave`.

        Raises RequestError (503) where it cannot be held."""
        if self._closed:
            raise RequestError(503, "destination_unavailable", self._closed)
        now = self._loop.time()
        seconds = hold.seconds - one.waited
        if seconds <= 0:
            raise not_in_time()
        if len(self._waiting) >= hold.requests and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._end_those_who_left()
        if len(self._waiting) >= hold.requests:
            detail = f"no instance yet, and {len(self._waiting)} requests are held already"
            raise RequestError(503, "destination_unavailable", detail)
        self._waiting[one] = (now, now + seconds)
        if self._timer is None:
            pause = self._told + WANTED_APART - now
            if pause > 0:
                self._timer = self._loop.call_later(pause, self._tell)
            else:
                self._tell()
        if self._can_take(one.tried):
            self.refresh()  # one that failed it before is well again, which nothing will tell again
        return seconds

    def left(self, one: Held) -> float:
        """Seconds until the time of one that is held is over."""
        return self._waiting[one][1] - self._loop.time()

    def leave(self, one: Held) -> None:
        """It is held no longer; nothing is called."""
        self._waiting.pop(one, None)
        if not self._waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refresh(self) -> None:
        """Who can be taken may have changed."""
        if self._waiting:
            self._round = deque(self._waiting)
            # Not from here: whoever found the change is in the middle of something.
            if self._release_handle is None:
                self._release_handle = self._loop.call_soon(self._release)

    def close(self, why: str) -> None:
        """Hold nothing any more, for a reason that the clients are told."""
        self._closed = why
        for one in tuple(self._waiting):
            if one in self._waiting:
                self._end(one, RequestError(503, "destination_unavailable", why))

    def _release(self) -> None:
        self._release_handle = None
        try:
            for _ in range(min(AT_ONCE, len(self._round))):
                one = self._round.popleft()
                # Asked for each: the first may have found that the target is gone.
                if one in self._waiting and self._can_take(one.tried):
                    seconds = self._loop.time() - self._waiting[one][0]
                    self.leave(one)
                    one.waited += seconds
                    one.on_released(seconds)
        finally:
            if self._round and self._release_handle is None:
                self._release_handle = self._loop.call_soon(self._release)

    def _tell(self) -> None:
        self._told = self._loop.time()
        self._timer = self._loop.call_later(WANTED_SECONDS, self._tell)
        self._want()

    def _end_those_who_left(self) -> None:
        """Those who wait must not be turned away for those who have gone.

        Before the queue is full nobody is ended for it: who has only ended its side still reads."""
        for one in tuple(self._waiting):
            if one in self._waiting and one.has_left():
                detail = "no instance yet, and others wait whose clients have not ended their side"
                self._end(one, RequestError(503, "destination_unavailable", detail))

    def _end(self, one: Held, error: RequestError) -> None:
        self.leave(one)
        one.on_hold_over(error)


def not_in_time() -> RequestError:
    """The answer to one that was held for as long as it may be."""
    return RequestError(503, "destination_unavailable", "no instance in time")
