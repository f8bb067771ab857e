"""One AutoScalingGroup at work: from what it is to what it should be, over and over.

Joins the parts: `autoscaler` says how many, `rollout` of which launch template, `planning` whom to
launch and to end, `fleet` does it. Whatever happens to an Instance ends in `reconcile`, which
compares anew; nothing is carried over from one look to the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from fastlb.auto_scaling import slow_start
from fastlb.auto_scaling.autoscaler import Autoscaler
from fastlb.auto_scaling.fleet import Fleet, FleetHooks
from fastlb.auto_scaling.headroom import Headroom
from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.launch_governor import LONG_LIFE
from fastlb.auto_scaling.launching import UNHEALTHY, Launching
from fastlb.auto_scaling.planning import Member, plan, surge_of
from fastlb.auto_scaling.process import kill_marked
from fastlb.auto_scaling.records import GroupRecord, InstanceRecord, Records
from fastlb.auto_scaling.refresh import Step
from fastlb.auto_scaling.rollout import Rollout
from fastlb.auto_scaling.targets import Registrar
from fastlb.history import History
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.target_health import span_of

log = logging.getLogger("fastlb.scaling")

RETIRED_LOOK = 0.1


class Group:
    """One group. `tick` is to be called some times a second; what operators say is in `commands`."""

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
        self.suspended: set[str] = set()
        hooks = FleetHooks(
            self.kick, self._on_launched, lambda one: self.launching.failed(one), self._on_leaving
        )
        self.fleet = Fleet(target_group, registrar, records, activities, hooks)
        self.scaler = Autoscaler(
            settings, self.fleet, headroom, activities, decisions, self._on_decided
        )
        self.launching = Launching(self.fleet, self.scaler, decisions)
        self.rollout = Rollout(
            settings,
            self.fleet,
            self.launching.governor,
            registrar.percentile,
            activities,
            decisions,
            self._on_decided,
        )
        self._records = records
        self._begun = False
        self._retired = False
        self._kicked: asyncio.Handle | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def desired(self) -> int:
        return self.scaler.desired

    # -- birth and end

    def adopt(self, records: list[InstanceRecord]) -> None:
        """Take up what a supervisor that died left of this group."""
        known = self._records.group(self.name)
        if known is not None:
            self.scaler.desired = known.desired
            self.scaler.say_cause("as before the supervisor was replaced")
            self.suspended = set(known.suspended)
            self.scaler.suspended = "scaling" in self.suspended
            self.rollout.templates.take_up(known)
        for record in records:
            template = self.rollout.templates.of(record.version)
            if self.fleet.adopt(record, template) is None:
                left = kill_marked(record.id)
                log.warning(
                    "instance %s (pid %d) of group %s has ended while nobody watched; %s",
                    record.id,
                    record.pid,
                    self.name,
                    f"killed what it left: pids {left}" if left else "nothing is left of it",
                )
                self._records.forget(record.id)
        if known is not None and known.refresh is not None:
            self.rollout.resume(known.refresh)

    def start(self) -> None:
        """Begin to act."""
        self._begun = True
        for one in self.fleet:
            self.fleet.resume(one, self.settings)
        self.scaler.clamp()
        if self.rollout.templates.changed(self.settings.launch_template):
            self.rollout.deploy()
        self._save()
        self.reconcile()

    async def retire(self) -> None:
        """The group is configured no more: each Instance drains and ends, and nothing is left of it."""
        self._end_acting()
        self._retired = True
        for one in self.fleet:
            self.fleet.end(one, "the group was removed", self.settings.drain_timeout)
        self._records.forget_group(self.name)
        while len(self.fleet):  # noqa: ASYNC110  each life ends in a task of its own
            await asyncio.sleep(RETIRED_LOOK)
        await self.fleet.stop()

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
        """The same, at once."""
        self._end_acting()
        await self.fleet.kill()

    async def leave(self) -> None:
        """Leave the Instances to another supervisor."""
        self._end_acting()
        await self.fleet.leave()

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
        """Some times a second."""
        now = time.monotonic()
        for one in self.fleet:
            one.output.read()
            since = one.in_service_at
            if since is not None and not one.outlived and now - since >= LONG_LIFE:
                one.outlived = True
                self.launching.governor.lived(one.version, now)
        if self._begun:
            slow_start.advance(self.fleet, now)
            self.scaler.tick(now)
            self.reconcile()

    def _on_decided(self) -> None:
        self._save()
        self.kick()

    # -- what an operator asks for

    def reload(self, settings: AutoScalingGroup) -> list[str]:
        """Take over changed settings; the names of those that are."""
        old = self.settings
        self.settings = self.rollout.settings = settings
        self.scaler.reload(settings)
        if self.rollout.templates.changed(settings.launch_template):
            self.rollout.deploy()
        self._on_decided()
        names = settings.__dataclass_fields__
        return [name for name in names if getattr(old, name) != getattr(settings, name)]

    def suspend(self, process: str, *, suspend: bool) -> None:
        """One of SUSPENDABLE. To resume launching lifts a quarantine as well."""
        if not suspend and process == "launch":
            self.launching.governor.release(self.rollout.templates.version)
            self.kick()
        if suspend == (process in self.suspended):
            return
        if suspend:
            self.suspended.add(process)
        else:
            self.suspended.discard(process)
        self.scaler.suspended = "scaling" in self.suspended
        what = f"{'suspend' if suspend else 'resume'} {process}"
        self.activities.add("activity", self.name, what, "asked for", outcome="done")
        log.warning("group %s: %s", self.name, what)
        self._on_decided()

    def protect(self, one: Instance, on: bool) -> None:
        one.protected = on
        self._records.save(one.record())
        self.kick()

    def stand_by(self, one: Instance, *, replace: bool) -> None:
        if not replace:
            self.scaler.set_desired(self.desired - 1, f"{one.id} goes to standby")
        self.fleet.stand_by(one, self.settings.drain_timeout)

    def bring_back(self, one: Instance) -> None:
        self.scaler.set_desired(self.desired + 1, f"{one.id} returns from standby")
        self.fleet.bring_back(one, self.settings.health_check_grace)

    def terminate(self, one: Instance, *, decrement: bool) -> str:
        """What will happen."""
        cause = "asked for by `fastlb terminate`"
        if decrement and one.state != "standby":
            self.scaler.set_desired(self.desired - 1, f"{one.id} is terminated, {cause}")
        if decrement or one.state != "in_service":
            self.fleet.end(one, cause, self.settings.drain_timeout)
            return f"instance {one.id} is drained and ended; desired capacity is {self.desired}"
        one.doomed = cause
        self.kick()
        return f"instance {one.id} is drained and ended as soon as another one is in its place"

    # -- the comparison of what is with what should be

    def reconcile(self) -> None:
        """Launch and end what is missing and over. Cheap where nothing is to be done."""
        if self._kicked is not None:
            self._kicked.cancel()
            self._kicked = None
        if not self._begun:
            return
        now = time.monotonic()
        step = self.rollout.advance(lambda one: self._settled(one, now), self.desired, now)
        living = self.fleet.in_state("pending", "in_service")
        if len(living) > self.desired:
            for candidate in living:  # the last sample is too old to choose by who has fewest
                if candidate.target is not None:
                    candidate.in_flight = candidate.target.counts().in_flight
        members = [self._member(one, step, now) for one in living]
        templates = self.rollout.templates
        suspended = "launch" in self.suspended
        wait = self.launching.why_not(templates.version, suspended, living, now)
        self._try_again_at(self.launching.retry_at)
        preferences = self.settings.refresh
        surge = surge_of(self.desired, preferences.min_healthy, preferences.max_healthy)
        todo = plan(
            members,
            self.desired,
            min_healthy=preferences.min_healthy,
            surge=surge if self.rollout.run is not None else 1,
            policies=self.settings.termination_policy,
            shrinking=self.scaler.cause_of_difference(len(living)),
            may_terminate="terminate" not in self.suspended,
            can_launch=not wait,
        )
        for id, cause in todo.end:
            one = self.fleet.get(id)
            if one is not None:
                self.launching.ends(one, cause, now)
                self.fleet.end(one, cause, self.settings.drain_timeout)
        launch = todo.launch
        if step.careful and self.rollout.run is not None:
            old = self.rollout.run.refresh.old
            new = sum(not one.doomed and one.id not in old for one in members)
            launch = min(launch, max(1 - new, 0))
        self.launching.block(wait if launch else "")
        if not wait:
            doomed = deque(one for one in members if one.doomed)
            for _ in range(self.launching.how_many(templates.version, launch, living)):
                cause = self.launching.cause(doomed, len(members))
                self.fleet.launch(self.settings, templates.version, templates.current, cause)
        if not launch and not todo.end and len(living) == self.desired:
            self.launching.complete()

    def _try_again_at(self, at: float | None) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if at is not None:
            delay = max(at - time.monotonic(), 0.0) + 0.001
            self._retry = asyncio.get_running_loop().call_later(delay, self.kick)

    def _member(self, one: Instance, step: Step, now: float) -> Member:
        sight = one.target.sight() if one.target is not None else None
        in_service = one.state == "in_service"
        lifetime = one.template.max_lifetime
        doomed, harmful = one.doomed, False
        if doomed:
            pass
        elif in_service and sight is not None and sight.failing and self._may_be_judged(one, now):
            doomed = f"{UNHEALTHY}{sight.reason}"
        elif one.protected:
            pass  # from whatever is no fault of its own
        elif one.id in step.doomed:
            run = self.rollout.run
            assert run is not None
            doomed = run.entry.what
            harmful = run.refresh.harmful and one.version == run.refresh.source
        elif in_service and lifetime is not None and now - one.launched_at >= lifetime:
            doomed = f"older than max_lifetime of {span_of(lifetime)}"
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

    def _may_be_judged(self, one: Instance, now: float) -> bool:
        """Soon after its launch, on a host without an idle core, one may fail its checks for want of
        CPU alone; another one in its place would have even less. It gets no requests all the same."""
        return (
            now - one.launched_at >= self.settings.health_check_grace or not self.scaler.saturated
        )

    def _settled(self, one: Instance, now: float) -> bool:
        """Serving, warmed, and with its whole share of the traffic."""
        return (
            one.state == "in_service"
            and self.scaler.warmed(one, now)
            and not one.slow_start
            and one.target is not None
            and one.target.sight().state == "healthy"
        )

    # -- what the fleet reports

    def _on_launched(self, one: Instance) -> None:
        others = [other for other in self.fleet.in_state("in_service") if other is not one]
        slow_start.begin(one, others, self.settings.slow_start)

    def _on_leaving(self, one: Instance) -> None:
        if self.rollout.run is not None:
            self.rollout.run.see_leaving(one)

    def save_all(self) -> None:
        """The run-time folder was made anew."""
        self.fleet.save_all()
        self._save()

    def _save(self) -> None:
        if self._retired:
            return  # the record is another group's of the same name by now
        run, templates = self.rollout.run, self.rollout.templates
        self._records.save_group(
            self.name,
            GroupRecord(
                desired=self.desired,
                version=templates.version,
                configured=templates.configured,
                proven=templates.proven,
                newest=templates.newest,
                templates=templates.all(),
                rolled_back=dict(templates.rolled_back),
                suspended=tuple(sorted(self.suspended)),
                refresh=run.refresh.plain() if run is not None else None,
            ),
        )
