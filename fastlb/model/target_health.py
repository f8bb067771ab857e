"""One Target's health: what was observed becomes a verdict, its reason and the next check's time.

Pure: time is passed in, in seconds of one monotonic clock. Knows no probe, no socket and no table.
`draining` and `unused` are the registry's; here a target is `initial`, `healthy` or `unhealthy`,
and beside that perhaps suspect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastlb.model.health_check import HealthCheck

HealthState = Literal["initial", "healthy", "unhealthy"]

LONGEST_EJECTION = 30.0
ROW_FORGOTTEN = 30.0
"""A row of ejections (or suspicions) ends where the target was well for so long."""
LEAST_UNCHECKED_EJECTION = 1.0
"""Without checks nothing but the next request tells whether the target is back."""
FIRST_SUSPICION = 2.0
LONGEST_SUSPICION = 30.0
QUICK_CHECK = 0.5
EAGER_CHECKS = 10
"""So many checks of an awaited target come at a quarter of the interval, then as any other's."""

_KINDS = {
    "refused": "refused the connection of a request",
    "reset": "cut the connection of a request",
    "timeout": "left a request without an answer",
}


@dataclass(frozen=True, slots=True)
class CheckPassed:
    """A check that began at `started` passed."""

    started: float


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """A check that began at `started` failed; `reason` is for a person."""

    started: float
    reason: str


@dataclass(frozen=True, slots=True)
class CheckUnclear:
    """A check that proves nothing, as a time-out while the target was answering requests."""

    started: float
    reason: str


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """Evidence of a worker that acted on the target's `epoch`."""

    epoch: int
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Stalled:
    """No byte for `silence` seconds while `waiting` requests waited and other targets answered."""

    silence: float
    waiting: int


@dataclass(frozen=True, slots=True)
class StallOver:
    """The suspicion has ended, for `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class TimeIsUp:
    """`next_check` has come for a target that is not checked: its ejection ends."""


Observation = (
    CheckPassed | CheckFailed | CheckUnclear | RequestFailed | Stalled | StallOver | TimeIsUp
)


@dataclass(frozen=True, slots=True)
class Transition:
    """What an observation changed, for the log and the table."""

    old: HealthState
    new: HealthState
    was_suspect: bool
    suspect: bool
    reason: str

    def __str__(self) -> str:
        old = f"{self.old}, suspect" if self.was_suspect else self.old
        new = f"{self.new}, suspect" if self.suspect else self.new
        return f"{old} -> {new}: {self.reason}"


@dataclass(slots=True)
class TargetHealth:
    """The verdict on one target and what led to it.

    A target that has never been healthy needs one passed check, an ejected one needs one that began
    after its ejection time, any other needs the threshold. `epoch` grows whenever a target becomes
    healthy, so that evidence from before can be told from evidence of now.
    """

    check: HealthCheck
    state: HealthState = "initial"
    epoch: int = 0
    established: bool = False
    passes: int = 0
    fails: int = 0
    checks: int = 0
    """Since the target was last awaited: registered or ejected."""
    started: float | None = None
    """When the last finished check began; None where the next is due without a pause."""
    checked_at: float | None = None
    passed_at: float | None = None
    healthy_since: float = 0.0
    ejected_at: float | None = None
    ejected_until: float = 0.0
    ejections: int = 0
    suspect_since: float | None = None
    suspect_until: float = 0.0
    """When a suspicion ends by itself; a passed HTTP check or a byte ends it earlier."""
    trusted_since: float = 0.0
    """When the last suspicion ended."""
    suspicions: int = 0
    _bad: str = ""
    """What was wrong, last: of a check, a request or a stall."""
    _unclear: str = ""
    """Why the last check proved nothing."""

    @classmethod
    def new(cls, check: HealthCheck, now: float) -> TargetHealth:
        """Of a target that was just registered: unknown, unless nobody will ever check it."""
        if check.enabled:
            return cls(check)
        return cls(check, "healthy", established=True, healthy_since=now)

    @classmethod
    def taken_over(cls, check: HealthCheck, state: str, epoch: int, now: float) -> TargetHealth:
        """Of a target that another supervisor has watched until now."""
        health = cls.new(check, now)
        health.epoch = epoch
        if state == "healthy" or (state == "unhealthy" and check.enabled):
            health.state = "healthy" if state == "healthy" else "unhealthy"
            health.established = True
            health.healthy_since = now
            health._bad = (
                "unhealthy before the supervisor was replaced" if state != "healthy" else ""
            )
        return health

    @property
    def suspect(self) -> bool:
        return self.suspect_since is not None

    def renew(self, check: HealthCheck, now: float) -> None:
        """Go on under other settings: the verdict stays, and is judged by them from the next check on."""
        turned_on = check.enabled and not self.check.enabled
        self.check = check
        if turned_on:
            self.started = None  # it is checked at once
        elif not check.enabled and self.state != "healthy" and self.ejected_at is None:
            self._come_back(now)  # nobody would ever check it again

    def observe(self, seen: Observation, now: float) -> Transition | None:
        """Take in one observation; the Transition where it changed the verdict."""
        old, was_suspect = self.state, self.suspect
        match seen:
            case CheckPassed() | CheckFailed() | CheckUnclear() if not self.check.enabled:
                return None  # of a time when checks were on: nobody would check again
            case CheckPassed(started):
                reason = self._passed(started, now)
            case CheckFailed(started, why):
                reason = self._failed(started, why, now)
            case CheckUnclear(started, why):
                self._checked(started, now)
                self._unclear = reason = why
            case RequestFailed():
                reason = self._request_failed(seen, now)
            case Stalled(silence, waiting):
                reason = self._stalled(silence, waiting, now)
            case StallOver(reason):
                self._trust(now)
            case TimeIsUp():
                reason = "its ejection time is over"
                if (
                    not self.check.enabled
                    and self.ejected_at is not None
                    and now >= self.ejected_until
                ):
                    self._come_back(now)
        if self.state == old and self.suspect == was_suspect:
            return None
        return Transition(old, self.state, was_suspect, self.suspect, reason)

    def _checked(self, started: float, now: float) -> None:
        self.started = started
        self.checked_at = now
        self.checks += 1
        self._unclear = ""

    def _passed(self, started: float, now: float) -> str:
        if self.ejected_at is not None and started < self.ejected_until:
            return ""  # it began before the failed request, or too soon after
        self._checked(started, now)
        self.passed_at = now
        self.fails = 0
        self.passes += 1
        if self.check.path is not None and self.suspect:
            self._trust(now)
        needed = self.check.healthy_threshold if self.established and self.ejected_at is None else 1
        if self.state != "healthy" and self.passes >= needed:
            self._come_back(now)
        return "check passed" if self.passes == 1 else f"{self.passes} checks passed in a row"

    def _failed(self, started: float, why: str, now: float) -> str:
        self._checked(started, now)
        self._bad = why
        self.passes = 0
        self.fails += 1
        if self.state != "unhealthy" and self.fails >= self.check.unhealthy_threshold:
            self.state = "unhealthy"
        return f"{why}, {self._fails_of()} checks failed"

    def _request_failed(self, seen: RequestFailed, now: float) -> str:
        # Those of a target that gets requests only by failing open say nothing new, and the many
        # of one crash must count as one ejection.
        if self.state != "healthy" or seen.epoch < self.epoch:
            return ""
        if now - self.healthy_since >= ROW_FORGOTTEN:
            self.ejections = 0
        span = ejection_time(self.ejections)
        if not self.check.enabled:
            span = max(span, LEAST_UNCHECKED_EJECTION)
        self.ejections += 1
        self.state = "unhealthy"
        self.ejected_at, self.ejected_until = now, now + span
        self.started = None
        self.passes = self.fails = self.checks = 0
        self._bad = _KINDS.get(seen.kind, f"failed a request ({seen.kind})")
        if seen.detail:
            self._bad += f" ({seen.detail})"
        return f"{self._bad}, ejected for {span:g} s" if span else f"{self._bad}, ejected"

    def _stalled(self, silence: float, waiting: int, now: float) -> str:
        requests = "1 request waits" if waiting == 1 else f"{waiting} requests wait"
        reason = f"no byte for {silence:.1f} s while {requests}"
        if not self.suspect:
            if now - self.trusted_since >= ROW_FORGOTTEN:
                self.suspicions = 0
            span = min(FIRST_SUSPICION * 2.0 ** min(self.suspicions, 10), LONGEST_SUSPICION)
            self.suspicions += 1
            self.suspect_since, self.suspect_until = now, now + span
            self._bad = reason
        return reason

    def _trust(self, now: float) -> None:
        self.suspect_since = None
        self.trusted_since = now

    def _come_back(self, now: float) -> None:
        self.state = "healthy"
        self.established = True
        self.epoch += 1
        self.healthy_since = now
        self.ejected_at = None
        self.fails = 0
        if self.suspect:
            self._trust(now)

    def next_check(self, now: float) -> float | None:
        """When to check the target (or to observe `TimeIsUp`), not before `now`; None: never."""
        if not self.check.enabled:
            return None if self.ejected_at is None else max(now, self.ejected_until)
        if self.started is None:
            return max(now, self.ejected_until) if self.ejected_at is not None else now
        if self.ejected_at is not None and self.started < self.ejected_until:
            return max(now, self.ejected_until)
        return max(now, self.started + self._pause())

    def _pause(self) -> float:
        interval = self.check.interval
        awaited = not self.established or self.ejected_at is not None
        if awaited and self.checks < EAGER_CHECKS:
            return interval / 4
        turning = self.passes if self.state == "unhealthy" else self.fails
        if self.suspect or (turning and not awaited):
            return min(interval / 4, QUICK_CHECK)
        return interval

    def describe(self, now: float) -> str:
        """Why the target is in its state, in one line."""
        if self.suspect_since is not None:
            return f"{self._bad}, suspect for {span_of(now - self.suspect_since)}"
        if self.ejected_at is not None and not self.checks:
            left = self.ejected_until - now
            then = f", back in {span_of(left)}" if not self.check.enabled else ""
            return f"{self._bad} {span_of(now - self.ejected_at)} ago, ejected{then}"
        if not self.check.enabled:
            return "not checked"
        if self.checked_at is None:
            return self._bad or "not checked yet"
        last = f"last {span_of(now - self.checked_at)} ago"
        if self._unclear:
            return f"{self._unclear}, {last}"
        if self.fails:
            return f"{self._bad}, {self._fails_of()} checks failed, {last}"
        if self.state == "unhealthy":
            return f"{self.passes} of {self.check.healthy_threshold} checks passed, {last}"
        return f"check passed, {last}"

    def _fails_of(self) -> str:
        of = self.fails if self.state == "unhealthy" else self.check.unhealthy_threshold
        return f"{self.fails} of {max(of, self.fails)}"


def ejection_time(before: int) -> float:
    """How long an ejection lasts after `before` others in its row: 0, 0.5, 1, 2, 4, ... s."""
    return min(0.5 * 2.0 ** (min(before, 10) - 1), LONGEST_EJECTION) if before else 0.0


def span_of(seconds: float) -> str:
    """A time as a person says it, in its largest unit."""
    seconds = max(seconds, 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
