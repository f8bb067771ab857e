"""One AutoScalingGroup at work: from what it should be to what it is, over and over.

Holds the desired capacity and the launch templates, asks the pure parts what to do (`schedule`,
`scaling_policy`, `refresh`, `planning`), and has `fleet` do it. Whatever happens to an Instance ends
in `reconcile`, which compares anew; nothing is carried over from one look to the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

from fastlb.auto_scaling import schedule
from fastlb.auto_scaling.fleet import Fleet, FleetHooks
from fastlb.auto_scaling.headroom import Headroom
from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.launch_governor import LONG_LIFE, LaunchGovernor
from fastlb.auto_scaling.measuring import Measures
from fastlb.auto_scaling.planning import Member, plan, surge_of
from fastlb.auto_scaling.records import GroupRecord, InstanceRecord, Records
from fastlb.auto_scaling.refresh import Refresh, Step
from fastlb.auto_scaling.refresh_run import RefreshRun
from fastlb.auto_scaling.scaling_policy import Capacity, Decision, decide
from fastlb.auto_scaling.targets import Registrar
from fastlb.auto_scaling.templates import Templates
from fastlb.auto_scaling.usage import CpuMeter, usage_of_trees
from fastlb.history import History
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.target_health import span_of

log = logging.getLogger("fastlb.scaling")

SAMPLE = 0.5
"""Seconds between two looks at what is in flight."""


class Group:
    """One group. `tick` is to be called some times a second; commands are in `commands`."""

    def __init__(
        self,
        settings: AutoScalingGroup,
        target_group: str,
        registrar: Registrar,
        records: Records,
        activities: History,
        decisions: History,
        headroom: Headroom,
    ) -> None:
        self.settings = settings
        self.target_group = target_group
        self.activities = activities
        self.decisions = decisions
        self.templates = Templates(settings.launch_template)
        self.governor = LaunchGovernor()
        self.measures = Measures(settings)
        self.suspended: set[str] = set()
        self.refresh: RefreshRun | None = None
        self.decision: Decision | None = None
        """The last one of the policies."""
        self.blocked = ""
        """Why nothing is launched though something should be."""
        self.refused = ""
        """Why the host lets no policy scale out."""
        self.bounds = schedule.bounds_at(settings, _wall_now())
        self.desired = settings.desired if settings.desired is not None else self.bounds.least
        self.cause = "the group was started"
        """Of the desired capacity."""
        self.headroom = headroom
        self._registrar = registrar
        self._records = records
        hooks = FleetHooks(self.kick, self._on_launched, self._on_failed, self._on_leaving)
        self.fleet = Fleet(target_group, registrar, records, activities, hooks)
        self._meter = CpuMeter()
        self._cooldown_until = 0.0
        self._scheduled_until = _wall_now()
        self._sampled = self._measured = 0.0
        self._requests = -1
        self._active_at = time.monotonic()
        self._said_decision: object = None
        self._begun = False
        self._kicked: asyncio.Handle | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        return self.settings.name

    # -- birth and end

    def adopt(self, records: list[InstanceRecord]) -> None:
        """Take up what a supervisor that died left of this group."""
        known = self._records.group(self.name)
        if known is not None:
            self.desired = known.desired
            self.cause = "as before the supervisor was replaced"
            self.suspended = set(known.suspended)
            self.templates.take_up(known)
        for record in records:
            if self.fleet.adopt(record, self.templates.of(record.version)) is None:
                log.warning(
                    "instance %s (pid %d) of group %s has ended while nobody watched",
                    record.id,
                    record.pid,
                    self.name,
                )
                self._records.forget(record.id)
        if known is not None and known.refresh is not None:
            self._resume_refresh(known.refresh)

    def start(self) -> None:
        """Begin to act."""
        self._begun = True
        for one in self.fleet:
            self.fleet.resume(one, self.settings)
        self._clamp()
        if self.templates.changed(self.settings.launch_template):
            self.deploy(self.settings)
        self._save()
        self.reconcile()

    async def stop(self) -> None:
        """End all Instances; nobody sends them requests any more."""
        self._end_acting()
        killed = await self.fleet.stop()
        if killed:
            log.warning(
                "group %s: killed at the stop timeout of %g s: %s",
                self.name,
                self.settings.launch_template.stop_timeout,
                ", ".join(killed),
            )

    async def kill(self) -> None:
        self._end_acting()
        await self.fleet.kill()

    def _end_acting(self) -> None:
        self._begun = False
        for handle in (self._kicked, self._retry):
            if handle is not None:
                handle.cancel()
        self._kicked = self._retry = None

    # -- what makes it act

    def kick(self) -> None:
        """Something changed: look anew in this turn of the loop."""
        if self._begun and self._kicked is None:
            self._kicked = asyncio.get_running_loop().call_soon(self.reconcile)

    def tick(self) -> None:
        """Some times a second: output, shares, metrics, schedules, idleness."""
        now = time.monotonic()
        for one in self.fleet:
            one.output.read()
            since = one.in_service_at
            if since is not None and not one.outlived and now - since >= LONG_LIFE:
                one.outlived = True
                self.governor.lived(one.version, now)
        if not self._begun:
            return
        self.fleet.advance_slow_starts(now)
        if now - self._sampled >= min(SAMPLE, self.settings.period / 2):
            self._sampled = now
            self.measures.sample(self.fleet)
        if now - self._measured >= self.settings.period:
            self._measured = now
            self._measure(now)
        self._look_at_schedule()
        self._look_whether_idle(now)
        self.reconcile()

    def wake(self) -> None:
        """A worker holds requests for which there is no instance."""
        self._active_at = time.monotonic()
        if self.desired == 0 and self.bounds.most > 0:
            self.set_desired(1, "a request came while no instance was running")

    def set_desired(self, desired: int, cause: str) -> None:
        if desired == self.desired:
            return
        old, self.desired = self.desired, desired
        self.cause = f"desired capacity {old} -> {desired}: {cause}"
        self.decisions.add("scaling", self.name, f"desired capacity {old} -> {desired}", cause)
        log.info("group %s: %s", self.name, self.cause)
        self._save()
        self.kick()

    def reload(self, settings: AutoScalingGroup) -> list[str]:
        """Take over changed settings; what changed, for a person."""
        old, self.settings = self.settings, settings
        said = [
            name
            for name in settings.__dataclass_fields__
            if getattr(old, name) != getattr(settings, name)
        ]
        self.measures.keep(settings)
        self.bounds = schedule.bounds_at(settings, _wall_now())
        self._clamp()
        if "launch_template" in said:
            self.deploy(settings)
        self._save()
        self.kick()
        return said

    # -- what an operator asks for

    def suspend(self, process: str, *, suspend: bool) -> None:
        """One of SUSPENDABLE."""
        if suspend == (process in self.suspended):
            return
        if suspend:
            self.suspended.add(process)
        else:
            self.suspended.discard(process)
        what = f"{'suspend' if suspend else 'resume'} {process}"
        self.activities.add("activity", self.name, what, "asked for")
        log.warning("group %s: %s", self.name, what)
        if not suspend and process == "launch":
            self.governor.release(self.templates.version)
        self._save()
        self.kick()

    def protect(self, one: Instance, on: bool) -> None:
        one.protected = on
        self._records.save(one.record())
        self.kick()

    def stand_by(self, one: Instance, *, replace: bool) -> None:
        if not replace:
            self.set_desired(self.desired - 1, f"{one.id} goes to standby")
        self.fleet.stand_by(one, self.settings.drain_timeout)

    def bring_back(self, one: Instance) -> None:
        self.set_desired(self.desired + 1, f"{one.id} returns from standby")
        self.fleet.bring_back(one, self.settings.health_check_grace)

    def terminate(self, one: Instance, *, decrement: bool) -> str:
        """What will happen."""
        if one.state == "standby" or decrement or one.state == "pending":
            if decrement and one.state != "standby":
                self.set_desired(self.desired - 1, f"{one.id} is terminated by `fastlb terminate`")
            self.fleet.end(one, "asked for by `fastlb terminate`", self.settings.drain_timeout)
            return f"instance {one.id} is drained and ended; desired capacity is {self.desired}"
        one.doomed = "asked for by `fastlb terminate`"
        self.kick()
        return f"instance {one.id} is drained and ended as soon as another one is in its place"

    # -- refresh

    def deploy(self, settings: AutoScalingGroup) -> None:
        """The launch template of the configuration is another: replace all Instances by its own."""
        source = self.templates.version
        target = self.templates.add(settings.launch_template)
        self.begin_refresh(source, target, f"launch template v{target} is configured")

    def begin_refresh(self, source: int, target: int, cause: str, reason: str = "") -> None:
        """Replace every Instance that is there now by one of version `target`; `reason` says why it
        is a rollback."""
        now = time.monotonic()
        self.end_refresh("superseded")
        self.templates.version = target
        self.governor.release(target)
        old = tuple(
            one.id
            for one in self.fleet.in_state("pending", "in_service")
            if not reason or one.version == source
        )
        refresh = Refresh(source=source, target=target, began=now, old=old)
        if reason:
            refresh = replace(refresh, source=target, phase="going_back", reason=reason)
        what = "rollback" if reason else "instance refresh"
        entry = self.activities.add(
            "activity", self.name, f"{what} to v{target}", cause, {"instances": len(old)}
        )
        log.info("group %s: %s to v%d: %s", self.name, what, target, cause)
        self.refresh = RefreshRun(refresh, entry, self._registrar.percentile)
        self.refresh.begin(self.fleet)
        self._save()
        self.kick()

    def end_refresh(self, outcome: str) -> None:
        run, self.refresh = self.refresh, None
        if run is not None:
            self.activities.end(run.entry, outcome)
            log.info("group %s: %s: %s", self.name, run.entry.what, outcome)
            self._save()

    def roll_back(self, reason: str) -> None:
        """To the version before the refresh that is under way."""
        run = self.refresh
        if run is None or run.refresh.source == run.refresh.target:
            return
        bad, good = run.refresh.target, run.refresh.source
        verdict = run.verdict.inputs if run.verdict is not None else {}
        self.end_refresh(f"rolled back: {reason}")
        self.decisions.add(
            "scaling", self.name, f"roll back from v{bad} to v{good}", reason, verdict
        )
        log.error("group %s: v%d is rolled back to v%d: %s", self.name, bad, good, reason)
        self.begin_refresh(bad, good, reason, reason)

    def _resume_refresh(self, plain: dict[str, object]) -> None:
        try:
            refresh = Refresh.from_plain(plain)
        except (TypeError, KeyError, ValueError) as error:
            log.error("group %s: the refresh under way is forgotten: %s", self.name, error)
            return
        entry = self.activities.add(
            "activity",
            self.name,
            f"instance refresh to v{refresh.target}",
            "goes on after the supervisor was replaced",
        )
        self.refresh = RefreshRun(refresh, entry, self._registrar.percentile)
        self.refresh.begin(self.fleet)

    def _advance_refresh(self, now: float) -> Step:
        run = self.refresh
        if run is None:
            return Step()
        ordered = sorted(self.fleet, key=lambda one: (one.protected, one.launched_at))
        new = [one for one in ordered if one.id not in run.refresh.old]
        before = run.refresh.phase
        step = run.step(
            ordered,
            self.settings.refresh,
            settled=sum(self._settled(one, now) for one in new),
            failures=self.governor.failures(run.refresh.target),
            now=now,
        )
        if run.refresh.phase != before:
            log.info("group %s: %s: %s", self.name, run.entry.what, run.refresh.phase)
            self._save()
        if step.outcome == "done":
            self.end_refresh(f"done; {step.reason}" if step.reason else "done")
        elif step.outcome == "back":
            if run.refresh.source == run.refresh.target:
                self.end_refresh(f"stopped: {step.reason}")
            else:
                self.roll_back(step.reason)
        return step

    # -- the comparison of what is with what should be

    def reconcile(self) -> None:
        """Launch and end what is missing and over. Cheap where nothing is to be done."""
        if self._kicked is not None:
            self._kicked.cancel()
            self._kicked = None
        if not self._begun:
            return
        now = time.monotonic()
        step = self._advance_refresh(now)
        living = self.fleet.in_state("pending", "in_service")
        if len(living) > self.desired:
            for candidate in living:  # the last sample is too old to choose by who has fewest
                if candidate.target is not None:
                    candidate.in_flight = candidate.target.counts().in_flight
        going_back = self.refresh is not None and self.refresh.refresh.phase == "going_back"
        members = [self._member(one, step, now, going_back) for one in living]
        wait = self._why_not_launch(now, bool(living))
        preferences = self.settings.refresh
        todo = plan(
            members,
            self.desired,
            min_healthy=preferences.min_healthy,
            surge=surge_of(self.desired, preferences.min_healthy, preferences.max_healthy)
            if self.refresh is not None
            else 1,
            policies=self.settings.termination_policy,
            shrinking=self.cause,
            may_terminate="terminate" not in self.suspended,
            can_launch=not wait,
        )
        for id, cause in todo.end:
            one = self.fleet.get(id)
            if one is not None:
                self.fleet.end(one, cause, self.settings.drain_timeout)
        launch = todo.launch
        if step.careful and self.refresh is not None:
            new = sum(one.id not in self.refresh.refresh.old for one in living)
            launch = min(launch, max(1 - new, 0))
        self._set_blocked(wait if launch else "")
        if launch and not wait:
            cause = next((one.doomed for one in members if one.doomed), self.cause)
            for _ in range(launch):
                self.fleet.launch(
                    self.settings, self.templates.version, self.templates.current, cause
                )

    def _member(self, one: Instance, step: Step, now: float, going_back: bool) -> Member:
        sight = one.target.sight() if one.target is not None else None
        in_service = one.state == "in_service"
        doomed, harmful = one.doomed, False
        if not doomed and in_service and sight is not None and sight.failing:
            doomed = f"unhealthy: {sight.reason}"
        if not doomed and one.id in step.doomed and not one.protected:
            doomed = f"instance refresh to v{self.templates.version}"
            harmful = going_back
        lifetime = one.template.max_lifetime
        aged = in_service and lifetime is not None and now - one.launched_at >= lifetime
        if not doomed and aged and not one.protected:
            doomed = f"older than max_lifetime of {span_of(lifetime or 0)}"
        return Member(
            id=one.id,
            version=one.version,
            launched_at=one.launched_at,
            in_service=in_service,
            serving=in_service and sight is not None and sight.state == "healthy",
            settled=self._settled(one, now),
            in_flight=one.in_flight,
            protected=one.protected,
            doomed=doomed,
            harmful=harmful,
        )

    def _settled(self, one: Instance, now: float) -> bool:
        """Serving, warmed, and with its whole share of the traffic."""
        return (
            one.state == "in_service"
            and one.warmed(now, self.settings.warmup)
            and not one.slow_start
            and one.target is not None
            and one.target.sight().state == "healthy"
        )

    def _why_not_launch(self, now: float, somebody_lives: bool) -> str:
        """Why no Instance can be launched now; "" where one can."""
        if "launch" in self.suspended:
            return "launching is suspended (fastlb resume)"
        version = self.templates.version
        at = self.governor.may_launch_at(version)
        if at > now:
            self._try_again_at(at)
            failures = self.governor.failures(version)
            loud = " and is quarantined" if self.governor.quarantined(version) else ""
            return (
                f"launch template v{version} failed {failures} times in a row{loud}, "
                f"next try in {span_of(at - now)}"
            )
        if somebody_lives:
            fits, why = self._fitting(1, scaling=False)
            if not fits:
                return why
        return ""

    def _fitting(self, more: int, *, scaling: bool) -> tuple[int, str]:
        """How many more the host has room for, and why not all. What is to be replaced, or was asked
        for by a person, had or gets its share of the CPU."""
        return self.headroom.fitting(
            more,
            max((one.rss or 0 for one in self.fleet), default=0),
            cpu_limit=self.settings.host_cpu_limit if scaling else None,
            reserve=self.settings.host_memory_reserve,
        )

    def _try_again_at(self, at: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
        delay = max(at - time.monotonic(), 0.0) + 0.001
        self._retry = asyncio.get_running_loop().call_later(delay, self.kick)

    def _set_blocked(self, why: str) -> None:
        kind = why.partition(",")[0]
        if kind != self.blocked.partition(",")[0]:
            if why:
                self.decisions.add("scaling", self.name, "no launch", why)
                log.warning("group %s cannot launch: %s", self.name, why)
            else:
                log.info("group %s can launch again", self.name)
        self.blocked = why

    # -- metrics and policies

    def _measure(self, now: float) -> None:
        pids = [one.pid for one in self.fleet if one.pid]
        usages = self._meter.look(usage_of_trees(pids), now)
        self.headroom.look(now)
        self.measures.datapoint(self.fleet, usages, lambda one: self._warmed(one, now), now)
        for one in self.fleet:
            limit = one.template.max_rss
            if limit is not None and one.rss is not None and one.rss > limit and not one.doomed:
                mib = 1024 * 1024
                one.doomed = f"over max_rss: {one.rss / mib:.0f} of {limit / mib:.0f} MiB"
                log.warning("%s is %s; it is replaced", one, one.doomed)
        if "scaling" not in self.suspended:
            self._decide(now)

    def _warmed(self, one: Instance, now: float) -> bool:
        return one.warmed(now, self.settings.warmup)

    def capacity(self, now: float) -> Capacity:
        living = self.fleet.in_state("pending", "in_service")
        warmed = sum(self._warmed(one, now) for one in living)
        return Capacity(
            desired=self.desired,
            least=self.bounds.least,
            most=self.bounds.most,
            in_service=warmed,
            warming=len(living) - warmed,
        )

    def _decide(self, now: float) -> None:
        if self.desired == 0:
            return  # only a request brings it up again
        windows = {metric: tuple(points) for metric, points in self.measures.windows.items()}
        decision = decide(self.settings, windows, self.capacity(now), self._cooldown_until, now)
        self.decision = decision
        wanted, reason = decision.desired, decision.reason
        refused = ""
        if wanted > self.desired:
            more = wanted - self.desired
            fits, refused = self._fitting(more, scaling=True)
            wanted = self.desired + min(more, fits)
        self._say(decision, refused if wanted == self.desired else "")
        if wanted != self.desired:
            if wanted < self.desired:
                # They speak of more instances than there will be: to act on them again would be to
                # shrink twice for one reason.
                self.measures.forget()
            self.set_desired(wanted, f"{reason}; {refused}" if refused else reason)
            if decision.cooldown_until is not None:
                self._cooldown_until = decision.cooldown_until

    def _say(self, decision: Decision, refused: str) -> None:
        """Put into the history what is not the same as last time."""
        tale = (
            refused.partition(":")[0],
            *[(one.policy, one.direction) for one in decision.proposals],
        )
        self.refused = refused
        if tale == self._said_decision and (refused or decision.desired == self.desired):
            return
        self._said_decision = tale
        inputs = {
            "desired": decision.desired,
            "policies": [
                {"policy": one.policy, "direction": one.direction, **one.inputs}
                for one in decision.proposals
            ],
        }
        if refused:
            self.decisions.add("scaling", self.name, "scale-out refused", refused, inputs)
            self.activities.add(
                "activity",
                self.name,
                f"scale out to {decision.desired}",
                decision.reason,
                inputs,
                outcome=f"refused: {refused}",
            )
            log.warning("group %s does not scale out: %s", self.name, refused)
        else:
            self.decisions.add("scaling", self.name, "policies", decision.reason, inputs)

    def _look_at_schedule(self) -> None:
        now = _wall_now()
        if now.replace(second=0, microsecond=0) <= self._scheduled_until:
            return
        for occurrence in schedule.due(self.settings, self._scheduled_until, now):
            self.bounds = schedule.bounds_at(self.settings, now)
            cause = f"scheduled {occurrence.policy.cron}: {self.bounds.cause}"
            self.decisions.add(
                "scaling",
                self.name,
                f"bounds {self.bounds.least} to {self.bounds.most}",
                cause,
            )
            if occurrence.policy.desired is not None:
                self.set_desired(occurrence.policy.desired, cause)
            self._clamp(cause)
        self._scheduled_until = now

    def _clamp(self, cause: str = "") -> None:
        inside = min(max(self.desired, self.bounds.least), self.bounds.most)
        if inside != self.desired:
            which = "least" if inside > self.desired else "most"
            self.set_desired(inside, cause or f"{inside} is the {which} now ({self.bounds.cause})")

    def _look_whether_idle(self, now: float) -> None:
        """A group that may stop its last Instance does so when nobody has asked for a while."""
        if self.bounds.least > 0 or self.desired == 0 or "scaling" in self.suspended:
            return
        counts = [one.target.counts() for one in self.fleet if one.target is not None]
        requests = sum(one.requests for one in counts)
        if requests != self._requests or any(one.in_flight for one in counts):
            self._requests = requests
            self._active_at = now
        elif now - self._active_at >= self.settings.idle_timeout:
            self.set_desired(0, f"no request for {span_of(now - self._active_at)} (idle_timeout)")

    # -- what the fleet reports

    def _on_launched(self, one: Instance) -> None:
        others = [
            other
            for other in self.fleet.in_state("in_service")
            if other is not one and not other.slow_start
        ]
        # AWS: nobody slows down alone, nor do those that were all started together.
        if (
            others
            and self.settings.slow_start
            and one.launched_at > min(other.in_service_at or 0.0 for other in others)
        ):
            self.fleet.begin_slow_start(one, self.settings.slow_start)

    def _on_failed(self, version: int, lived: float | None) -> None:
        if lived is not None and lived >= LONG_LIFE:
            return
        before = self.governor.quarantined(version)
        self.governor.failed(version, time.monotonic())
        if self.governor.quarantined(version) and not before:
            why = f"launch template v{version} failed {self.governor.failures(version)} times in a row"
            self.decisions.add("scaling", self.name, f"quarantine v{version}", why)
            log.error(
                "group %s: %s: it is quarantined, and tried again ever later; %d instances serve on",
                self.name,
                why,
                len(self.fleet.in_state("in_service")),
            )

    def _on_leaving(self, one: Instance) -> None:
        if self.refresh is not None:
            self.refresh.see_leaving(one)

    def save_all(self) -> None:
        """The run-time folder was made anew."""
        self.fleet.save_all()
        self._save()

    def _save(self) -> None:
        refresh = self.refresh.refresh.plain() if self.refresh is not None else None
        self._records.save_group(
            self.name,
            GroupRecord(
                desired=self.desired,
                version=self.templates.version,
                configured=self.templates.configured,
                newest=self.templates.newest,
                templates=self.templates.all(),
                suspended=tuple(sorted(self.suspended)),
                refresh=refresh,
            ),
        )


def _wall_now() -> datetime:
    return datetime.now(UTC)
