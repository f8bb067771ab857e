"""How a group comes from one launch template to another: refreshes, and the way back.

Starts, advances and ends the refresh of one group; what may go now and when it goes back is decided
by the pure `refresh` and `judgement`. Launches and ends nobody.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastlb.auto_scaling.fleet import Fleet
from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.launch_governor import LaunchGovernor
from fastlb.auto_scaling.refresh import Refresh, Step
from fastlb.auto_scaling.refresh_run import Percentile, RefreshRun
from fastlb.auto_scaling.templates import Templates
from fastlb.history import History
from fastlb.model.auto_scaling import AutoScalingGroup

log = logging.getLogger("fastlb.scaling")


@dataclass(frozen=True, slots=True)
class LastChange:
    """The last thing that began or ended; `at` is monotonic seconds."""

    at: float
    what: str


class Rollout:
    """The launch templates of one group and the refresh that is under way, if one is."""

    def __init__(
        self,
        settings: AutoScalingGroup,
        fleet: Fleet,
        governor: LaunchGovernor,
        percentile: Percentile,
        activities: History,
        decisions: History,
        changed: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.templates = Templates(settings.launch_template)
        self.run: RefreshRun | None = None
        self.last_change: LastChange | None = None
        self._fleet = fleet
        self._governor = governor
        self._percentile = percentile
        self._activities = activities
        self._decisions = decisions
        self._changed = changed

    @property
    def going_back(self) -> bool:
        return self.run is not None and self.run.refresh.phase == "going_back"

    def deploy(self) -> None:
        """The launch template of the configuration is another: replace all Instances by its own."""
        if self.run is None:
            self._look_whether_the_first_works()
        target = self.templates.add(self.settings.launch_template)
        self.refresh(f"launch template v{target} is configured")

    def refresh(self, cause: str) -> None:
        """Replace every Instance that is there now by one of the configured launch template."""
        target = self.templates.configured
        living = self._fleet.in_state("pending", "in_service")
        old = tuple(one.id for one in living if not one.protected)
        source = self.templates.way_back(target)
        refresh = Refresh(source=source, target=target, began=time.monotonic(), old=old)
        self._begin(refresh, f"instance refresh to v{target}", cause)

    def _go_back(self, bad: int, good: int, reason: str, *, harmful: bool) -> None:
        """Replace all but those of version `good`."""
        living = self._fleet.in_state("pending", "in_service")
        old = tuple(one.id for one in living if not one.protected and one.version != good)
        refresh = Refresh(
            source=bad,
            target=good,
            began=time.monotonic(),
            old=old,
            phase="going_back",
            reason=reason,
            harmful=harmful,
        )
        self._begin(refresh, f"rollback to v{good}", reason)

    def _begin(self, refresh: Refresh, what: str, cause: str) -> None:
        # Saved once, at the end: a supervisor that is killed in between would leave half of it.
        self._finish("superseded")
        self.templates.lead_to(refresh.target)
        self._governor.release(refresh.target)
        self._take(refresh, what, cause)
        self._changed()

    def _take(self, refresh: Refresh, what: str, cause: str) -> None:
        entry = self._activities.add(
            "activity", self.settings.name, what, cause, {"instances": len(refresh.old)}
        )
        self.last_change = LastChange(time.monotonic(), f"{what}: {cause}")
        log.info("group %s: %s: %s", self.settings.name, what, cause)
        self.run = RefreshRun(refresh, entry, self._percentile)
        self.run.begin(self._fleet)

    def end(self, outcome: str) -> None:
        """Whatever is under way; what was replaced stays so."""
        self._finish(outcome)
        self._changed()

    def _finish(self, outcome: str) -> None:
        run, self.run = self.run, None
        if run is not None:
            self.templates.leave()
            self._activities.end(run.entry, outcome)
            self.last_change = LastChange(time.monotonic(), f"{run.entry.what}: {outcome}")
            log.info("group %s: %s: %s", self.settings.name, run.entry.what, outcome)

    def cancel(self, desired: int) -> int:
        """Stop here: what was replaced stays so, launches use the proven version, and those over the
        desired capacity go that are the less proven ones, the last ones first; how many do."""
        run = self.run
        assert run is not None
        living = self._fleet.in_state("pending", "in_service")
        # In a rollback the old ones are those of the failed version.
        worse = [
            one
            for one in living
            if (one.id in run.refresh.old) == self.going_back and not one.doomed
        ]
        worse.sort(key=lambda one: (one.in_service_at or math.inf, one.launched_at), reverse=True)
        surplus = worse[: max(len(living) - desired, 0)]
        for one in surplus:
            one.doomed = f"{run.entry.what} was cancelled"
        self.end("cancelled")
        return len(surplus)

    def roll_back(self, reason: str) -> None:
        """To the proven version: from the refresh that is under way, or, where none is, from what a
        cancelled one has left. Does nothing where there is nothing to go back from."""
        run, templates = self.run, self.templates
        if self.going_back or (run is None and templates.configured == templates.version):
            return
        if run is None:
            bad, good, verdict = templates.configured, templates.version, None
        else:
            bad, good, verdict = run.refresh.target, run.refresh.source, run.verdict
        inputs = verdict.inputs if verdict is not None else {}
        name = self.settings.name
        self._finish(f"rolled back: {reason}")
        self._decisions.add("scaling", name, f"roll back from v{bad} to v{good}", reason, inputs)
        if run is not None or bad not in templates.rolled_back:  # what was found out says more
            templates.give_up(bad, reason)
        log.error("group %s: v%d is rolled back to v%d: %s", name, bad, good, reason)
        self._go_back(bad, good, reason, harmful=verdict is not None and verdict.bad)

    def resume(self, plain: dict[str, object]) -> None:
        """Go on with the refresh of a supervisor that died."""
        try:
            refresh = Refresh.from_plain(plain)
        except (TypeError, KeyError, ValueError) as error:
            log.error("group %s: its refresh is forgotten: %r", self.settings.name, error)
            self.templates.leave()
            return
        what = "rollback" if refresh.phase == "going_back" else "instance refresh"
        cause = "goes on after the supervisor was replaced"
        self._take(refresh, f"{what} to v{refresh.target}", cause)

    def others(self) -> list[Instance]:
        """Those that a refresh could replace by the version in force."""
        return [
            one
            for one in self._fleet.in_state("pending", "in_service")
            if one.version != self.templates.version and not one.protected and not one.doomed
        ]

    def advance(self, settled: Callable[[Instance], bool], desired: int, now: float) -> Step:
        """What the refresh wants now; nothing where none is under way."""
        run = self.run
        if run is None:
            self._look_whether_the_first_works()
            return Step()
        ordered = sorted(self._fleet, key=lambda one: one.launched_at)
        before = run.refresh.phase
        step = run.step(
            ordered,
            self.settings.refresh,
            settled=sum(settled(one) for one in ordered if one.id not in run.refresh.old),
            desired=desired,
            failures=self._governor.failures(run.refresh.target),
            now=now,
        )
        if run.refresh.phase != before:
            log.info("group %s: %s: %s", self.settings.name, run.entry.what, run.refresh.phase)
            self._changed()
        if step.outcome == "done":
            left = [
                one.id for one in ordered if one.protected and one.launched_at < run.refresh.began
            ]
            parts = [
                "done",
                step.reason,
                f"left since protected: {', '.join(left)}" if left else "",
            ]
            self.templates.prove()
            self.end("; ".join(filter(None, parts)))
        elif step.outcome == "back" and run.refresh.source == run.refresh.target:
            self.end(f"stopped: {step.reason}")
        elif step.outcome == "back":
            self.roll_back(step.reason)
        else:
            return step
        # What follows from the change, in the same look: between the two nobody would be doomed, and
        # the surplus would be taken from those that are to stay.
        return self.advance(settled, desired, now)

    def _look_whether_the_first_works(self) -> None:
        """The template with which a group begins is no refresh's: one Instance in service is enough."""
        templates = self.templates
        if not templates.proven and any(
            one.version == templates.version for one in self._fleet.in_state("in_service")
        ):
            templates.prove()
            self._changed()
