"""What capacity a group should have: by its policies, its schedules, its requests, and the host's room.

Gathers the metrics, asks the pure parts (`scaling_policy`, `schedule`, `headroom`), and says each
change and each refusal with its figures. Launches and ends nobody: `group` compares.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastlb.auto_scaling import schedule
from fastlb.auto_scaling.fleet import Fleet
from fastlb.auto_scaling.headroom import Headroom
from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.measuring import Measures
from fastlb.auto_scaling.scaling_policy import Capacity, Decision, decide
from fastlb.auto_scaling.usage import CpuMeter, usage_of_trees
from fastlb.history import History
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.target_health import span_of

log = logging.getLogger("fastlb.scaling")

SAMPLE = 0.5
"""Seconds between two looks at what is in flight."""
MIB = 1024 * 1024


def _wall_now() -> datetime:
    return datetime.now(UTC)


class Autoscaler:
    """The desired capacity of one group. `changed` is called whenever it is another. `clock` is
    monotonic seconds, `wall` the time of day, aware."""

    def __init__(
        self,
        settings: AutoScalingGroup,
        fleet: Fleet,
        headroom: Headroom,
        activities: History,
        decisions: History,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = _wall_now,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self.settings = settings
        self.measures = Measures(settings)
        self.bounds = schedule.bounds_at(settings, wall())
        start = self.bounds.desired if self.bounds.desired is not None else self.bounds.least
        self.desired = min(max(start, self.bounds.least), self.bounds.most)
        self.cause = "the group was started"
        if (self.bounds.least, self.bounds.most) != (settings.min, settings.max):
            self.cause += f"; {self.bounds.cause}"
        """Of the desired capacity."""
        self.cause_at = clock()
        self._reached = False
        self.decision: Decision | None = None
        """The last one of the policies."""
        self.refused = ""
        """Why the host lets no policy scale."""
        self.suspended = False
        self._fleet = fleet
        self._headroom = headroom
        self._activities = activities
        self._decisions = decisions
        self._changed = changed
        self._meter = CpuMeter()
        self._cooldown_until = 0.0
        self._scheduled_until = wall()
        self._sampled = 0.0
        self._measured = clock()
        self._requests = 0
        self._active_at = clock()
        self._told: object = None

    @property
    def name(self) -> str:
        return self.settings.name

    def set_desired(self, desired: int, cause: str) -> None:
        if desired == self.desired:
            return
        if desired > self.desired:
            self._active_at = self._clock()  # whoever wants more of them does not find them idle
        self._reached = False
        old, self.desired = self.desired, desired
        self.say_cause(f"desired capacity {old} -> {desired}: {cause}")
        self._decisions.add("scaling", self.name, f"desired capacity {old} -> {desired}", cause)
        log.info("group %s: %s", self.name, self.cause)
        self._changed()

    def say_cause(self, cause: str) -> None:
        """Why the desired capacity is what it is from now on."""
        self.cause, self.cause_at = cause, self._clock()

    @property
    def host(self) -> dict[str, Any] | None:
        """What is known of the host's load, as plain values."""
        host = self._headroom.host
        if host is None:
            return None
        return {"cpu_percent": host.cpu_percent, "memory_available": host.memory_available}

    @property
    def saturated(self) -> bool:
        """Whether the host's CPU is over the limit of this group."""
        return self._headroom.saturated(self.settings.host_cpu_limit)

    @property
    def scales_by_itself(self) -> bool:
        """Whether a policy may change what an operator asks for."""
        return bool(self.settings.policies) and not self.suspended

    def reached(self) -> None:
        """There are as many as are desired: what comes after that has other causes."""
        self._reached = True

    def cause_of_difference(self, living: int) -> str:
        """Why there are more or fewer Instances than desired."""
        return f"{living} where {self.desired} are desired" if self._reached else self.cause

    def reload(self, settings: AutoScalingGroup) -> None:
        self.settings = settings
        self.measures.keep(settings)
        self.bounds = schedule.bounds_at(settings, self._wall())
        self.clamp()

    def wake(self) -> None:
        """A worker holds requests for which there is no Instance."""
        self._active_at = self._clock()
        if self.desired == 0 and self.bounds.most > 0:
            self.set_desired(1, "a request came while no instance was running")

    def tick(self, now: float) -> None:
        """Some times a second."""
        if now - self._sampled >= min(SAMPLE, self.settings.period / 2):
            self._sampled = now
            self.measures.sample(self._fleet)
        if now - self._measured >= self.settings.period:
            self._measured = now
            self._measure(now)
        self._look_at_schedule()
        self._look_whether_idle(now)

    # -- by metrics

    def _measure(self, now: float) -> None:
        pids = [one.pid for one in self._fleet if one.pid]
        usages = self._meter.look(usage_of_trees(pids), now)
        self._headroom.look(now)
        self.measures.datapoint(self._fleet, usages, lambda one: self.warmed(one, now), now)
        for one in self._fleet:
            limit = one.template.max_rss
            if limit is not None and one.rss is not None and one.rss > limit and not one.doomed:
                one.doomed = f"over max_rss: {one.rss / MIB:.0f} of {limit / MIB:.0f} MiB"
                log.warning("%s is %s; it is replaced", one, one.doomed)
        if not self.suspended and self.desired:  # from 0 only a request brings it up
            self._decide(now)

    def warmed(self, one: Instance, now: float) -> bool:
        return one.warmed(now, self.settings.warmup)

    def _capacity(self, now: float) -> Capacity:
        living = self._fleet.in_state("pending", "in_service")
        warmed = sum(self.warmed(one, now) for one in living)
        return Capacity(
            desired=self.desired,
            least=self.bounds.least,
            most=self.bounds.most,
            in_service=warmed,
            warming=len(living) - warmed,
        )

    def _decide(self, now: float) -> None:
        windows = {metric: tuple(points) for metric, points in self.measures.windows.items()}
        decision = decide(self.settings, windows, self._capacity(now), self._cooldown_until, now)
        self.decision = decision
        wanted, refused = decision.desired, ""
        if wanted > self.desired:
            more = wanted - self.desired
            fits, refused = self.fitting(more, scaling=True)
            wanted = self.desired + min(more, fits)
        elif wanted < self.desired and self.saturated:
            # Who gets no core looks idle.
            refused = self._headroom.saturation(self.settings.host_cpu_limit)
            wanted = self.desired
        self._tell(decision, refused)
        if wanted == self.desired:
            return
        if wanted < self.desired:
            # They speak of more instances than there will be: to act on them again would be to
            # shrink twice for one reason.
            self.measures.forget()
        self.set_desired(wanted, f"{decision.reason}; {refused}" if refused else decision.reason)
        if decision.cooldown_until is not None:
            self._cooldown_until = decision.cooldown_until

    def fitting(self, more: int, *, scaling: bool) -> tuple[int, str]:
        """How many more the host has room for, and why not all. What is to be replaced, or was asked
        for by a person, had or gets its share of the CPU."""
        return self._headroom.fitting(
            more,
            max((one.rss or 0 for one in self._fleet), default=0),
            cpu_limit=self.settings.host_cpu_limit if scaling else None,
            reserve=self.settings.host_memory_reserve,
        )

    def _tell(self, decision: Decision, refused: str) -> None:
        """Put into the history what is not the same as last time."""
        self.refused = refused
        kind = refused.partition(":")[0]
        tale = (kind, *[(one.policy, one.direction) for one in decision.proposals])
        if tale == self._told and decision.desired == self.desired:
            return
        again = tale == self._told
        self._told = tale
        inputs = {
            "desired": decision.desired,
            "policies": [
                {"policy": one.policy, "direction": one.direction, **one.inputs}
                for one in decision.proposals
            ],
        }
        if not refused:
            self._decisions.add("scaling", self.name, "policies", decision.reason, inputs)
        elif not again:
            direction = "out" if decision.desired > self.desired else "in"
            what = f"scale {direction} to {decision.desired}"
            outcome = f"refused: {refused}"
            self._decisions.add("scaling", self.name, what, decision.reason, inputs, outcome)
            self._activities.add("activity", self.name, what, decision.reason, inputs, outcome)
            log.warning("group %s does not scale %s: %s", self.name, direction, refused)

    # -- by the clock

    def _look_at_schedule(self) -> None:
        now = self._wall()
        if now.replace(second=0, microsecond=0) <= self._scheduled_until:
            return
        for occurrence in schedule.due(self.settings, self._scheduled_until, now):
            self.bounds = schedule.bounds_at(self.settings, now)
            cause = f"scheduled {occurrence.policy.cron}: {self.bounds.cause}"
            what = f"bounds {self.bounds.least} to {self.bounds.most}"
            self._decisions.add("scaling", self.name, what, cause)
            if occurrence.policy.desired is not None:
                self.set_desired(occurrence.policy.desired, cause)
            self.clamp(cause)
        self._scheduled_until = now

    def clamp(self, cause: str = "") -> None:
        """Bring the desired capacity inside the bounds in force."""
        inside = min(max(self.desired, self.bounds.least), self.bounds.most)
        if inside != self.desired:
            which = "least" if inside > self.desired else "most"
            self.set_desired(inside, cause or f"{inside} is the {which} now ({self.bounds.cause})")

    # -- by requests

    def _look_whether_idle(self, now: float) -> None:
        """A group that may stop its last Instance does so when nobody has asked for a while."""
        if self.bounds.least > 0 or not self.desired or self.suspended:
            return
        if self._fleet.in_state("pending"):
            self._active_at = now  # somebody waits for it
            return
        counts = [one.target.counts() for one in self._fleet if one.target is not None]
        requests = sum(one.requests for one in counts)
        if requests != self._requests or any(one.in_flight for one in counts):
            self._requests = requests
            self._active_at = now
        elif now - self._active_at >= self.settings.idle_timeout:
            idle = span_of(now - self._active_at)
            self.set_desired(0, f"no request for {idle} (idle_timeout)")
