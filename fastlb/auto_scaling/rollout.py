"""How a group comes from one launch template to another: refreshes, and the way back.

Starts, advances and ends the refresh of one group; what may go now and when it goes back is decided
by the pure `refresh` and `judgement`. Launches and ends nobody.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace

from fastlb.auto_scaling.fleet import Fleet
from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.launch_governor import LaunchGovernor
from fastlb.auto_scaling.refresh import Refresh, Step
from fastlb.auto_scaling.refresh_run import Percentile, RefreshRun
from fastlb.auto_scaling.templates import Templates
from fastlb.history import History
from fastlb.model.auto_scaling import AutoScalingGroup

log = logging.getLogger("fastlb.scaling")


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
        source = self.templates.version
        if self.run is not None and not self.going_back:
            # The version in force has not shown yet that it is any good.
            source = self.run.refresh.source
        target = self.templates.add(self.settings.launch_template, source)
        self.begin(source, target, f"launch template v{target} is configured")

    def begin(
        self, source: int, target: int, cause: str, reason: str = "", *, harmful: bool = False
    ) -> None:
        """Replace every Instance that is there now by one of version `target`; `reason` says why it
        is a rollback, which leaves those of the good version alone. `harmful`: the others answer
        worse, and go before they are replaced."""
        # Saved once, at the end: a supervisor that is killed in between would leave half of it.
        self._finish("superseded")
        self.templates.version = target
        self.templates.rolled_back.pop(target, None)
        self._governor.release(target)
        old = tuple(
            one.id
            for one in self._fleet.in_state("pending", "in_service")
            if not one.protected and (not reason or one.version != target)
        )
        refresh = Refresh(source=source, target=target, began=time.monotonic(), old=old)
        if reason:
            refresh = replace(refresh, phase="going_back", reason=reason, harmful=harmful)
        what = f"{'rollback' if reason else 'instance refresh'} to v{target}"
        entry = self._activities.add(
            "activity", self.settings.name, what, cause, {"instances": len(old)}
        )
        log.info("group %s: %s: %s", self.settings.name, what, cause)
        self.run = RefreshRun(refresh, entry, self._percentile)
        self.run.begin(self._fleet)
        self._changed()

    def end(self, outcome: str) -> None:
        """Whatever is under way; what was replaced stays so."""
        self._finish(outcome)
        self._changed()

    def _finish(self, outcome: str) -> None:
        run, self.run = self.run, None
        if run is not None:
            self._activities.end(run.entry, outcome)
            log.info("group %s: %s: %s", self.settings.name, run.entry.what, outcome)

    def cancel(self, desired: int) -> int:
        """Stop here: what was replaced stays so, and new ones over the desired capacity go again, the
        last ones first; how many do."""
        run = self.run
        assert run is not None
        living = self._fleet.in_state("pending", "in_service")
        new = [one for one in living if one.id not in run.refresh.old and not one.doomed]
        new.sort(key=lambda one: (one.in_service_at or math.inf, one.launched_at), reverse=True)
        surplus = new[: max(len(living) - desired, 0)]
        for one in surplus:
            one.doomed = f"{run.entry.what} was cancelled"
        self.end("cancelled")
        return len(surplus)

    def roll_back(self, reason: str) -> None:
        """To the version before the refresh that is under way."""
        run = self.run
        if run is None or self.going_back:
            return
        name, bad, good = self.settings.name, run.refresh.target, run.refresh.source
        verdict = run.verdict.inputs if run.verdict is not None else {}
        harmful = run.verdict is not None and run.verdict.bad
        self._finish(f"rolled back: {reason}")
        self._decisions.add("scaling", name, f"roll back from v{bad} to v{good}", reason, verdict)
        self.templates.rolled_back[bad] = reason
        log.error("group %s: v%d is rolled back to v%d: %s", name, bad, good, reason)
        self.begin(bad, good, reason, reason, harmful=harmful)

    def resume(self, plain: dict[str, object]) -> None:
        """Go on with the refresh of a supervisor that died."""
        try:
            refresh = Refresh.from_plain(plain)
        except (TypeError, KeyError, ValueError) as error:
            log.error("group %s: its refresh is forgotten: %r", self.settings.name, error)
            return
        what = "rollback" if refresh.phase == "going_back" else "instance refresh"
        entry = self._activities.add(
            "activity",
            self.settings.name,
            f"{what} to v{refresh.target}",
            "goes on after the supervisor was replaced",
        )
        self.run = RefreshRun(refresh, entry, self._percentile)
        self.run.begin(self._fleet)

    def advance(self, settled: Callable[[Instance], bool], desired: int, now: float) -> Step:
        """What the refresh wants now; nothing where none is under way."""
        run = self.run
        if run is None:
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
