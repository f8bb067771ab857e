"""The Instances of one group and how each lives: launched, checked, in service, drained, ended.

Leads every single life; how many there should be and whose turn it is decides `group`. Knows no
policy and no metric.

    pending ──► in_service ◄──► standby
       │            │              │
       └────────► terminating ◄────┘ ──► (forgotten)
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from fastlb.auto_scaling.instance import (
    Instance,
    choose_address,
    last_words,
    make_socket_folder,
    new_id,
    not_found_hint,
    open_output,
    start_process,
)
from fastlb.auto_scaling.ports import until_it_listens
from fastlb.auto_scaling.process import InstanceProcess
from fastlb.auto_scaling.records import InstanceRecord, Records
from fastlb.auto_scaling.retirement import Retirement, stop_process
from fastlb.auto_scaling.targets import Registrar
from fastlb.errors import FastlbError
from fastlb.history import Entry, History
from fastlb.model.address import parse_address
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.target_health import span_of

log = logging.getLogger("fastlb.scaling")

KILLED = (-signal.SIGKILL, -signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Failure:
    """A launch that did not come into service, or an instance that died in service."""

    id: str
    version: int
    launched_at: float
    why: str
    lived: float | None = None
    """Seconds in service; None for a launch that never was."""
    killed: bool = False
    """By a signal that only another process, or the kernel short of memory, sends."""


@dataclass(frozen=True, slots=True)
class FleetHooks:
    """What the fleet reports to its group."""

    changed: Callable[[], None]
    """Somebody's state changed: look anew at what to do."""
    launched: Callable[[Instance], None]
    """A launch came into service."""
    failed: Callable[[Failure], None]
    leaving: Callable[[Instance], None]
    """Its target is about to be deregistered: its counts are to be had for the last time."""


class Fleet:
    """All living Instances of a group, by their ids."""

    def __init__(
        self,
        target_group: str,
        registrar: Registrar,
        records: Records,
        history: History,
        hooks: FleetHooks,
    ) -> None:
        self._target_group = target_group
        self._registrar = registrar
        self._records = records
        self._history = history
        self._hooks = hooks
        self._retirement = Retirement(records, hooks.leaving)
        self._instances: dict[str, Instance] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def __iter__(self) -> Iterator[Instance]:
        return iter(tuple(self._instances.values()))

    def __len__(self) -> int:
        return len(self._instances)

    def get(self, id: str) -> Instance | None:
        return self._instances.get(id)

    def in_state(self, *states: str) -> list[Instance]:
        return [one for one in self._instances.values() if one.state in states]

    # -- up

    def launch(
        self, settings: AutoScalingGroup, version: int, template: LaunchTemplate, cause: str
    ) -> None:
        """Start one Instance; whether it comes into service is reported to the hooks."""
        if self._stopping:
            return
        id = new_id()
        taken = self._records.ports()
        folder = self._records.socket_folder(id)
        entry = self._history.add(
            "activity", settings.name, f"launch {id}", cause, {"version": version}
        )
        try:
            address = choose_address(template, folder, taken)
            if address.is_unix:
                make_socket_folder(folder, template.user)
            output = open_output(self._records.spool(id), id, settings.name, template)
        except (OSError, FastlbError) as error:
            self._records.forget(id)
            self._history.end(entry, f"failed: {error}")
            log.error("an instance of group %s cannot be launched: %s", settings.name, error)
            self._hooks.failed(Failure(id, version, time.monotonic(), str(error)))
            return
        now = time.monotonic()
        instance = Instance(id, settings.name, version, template, address, output, now)
        instance.entry = entry
        instance.protected = settings.protect_new
        self._instances[id] = instance
        # Before the process is there: a supervisor that is killed in between leaves a record by which
        # the next one finds it.
        if not self._records.save(instance.record()):
            why = "its record cannot be written to the run-time folder (see the log)"
            self._fail(instance, why)
            self._launch_failed(instance, why)
            return
        try:
            start_process(instance)
        except (OSError, FastlbError) as error:
            why = not_found_hint(error, template) if isinstance(error, OSError) else str(error)
            self._fail(instance, f"could not be started: {why}")
            self._launch_failed(instance, f"could not be started: {why}")
            return
        self._records.save(instance.record())
        log.info(
            "%s launched: pid %d, template v%d, %s: %s",
            instance,
            instance.pid,
            version,
            address,
            cause,
        )
        self._watch(instance)
        grace = settings.health_check_grace
        self._lead(instance, self._come_up(instance, grace, instance.launched_at))

    async def _come_up(self, instance: Instance, grace: float, since: float) -> None:
        """From the start of the process to service, or to the end of the grace that began `since`."""
        try:
            async with asyncio.timeout(max(since + grace - time.monotonic(), 0)):
                await until_it_listens(instance.address, instance.process)
                await self._until_it_is_healthy(instance)
        except TimeoutError:
            await self._give_up(instance, grace)
            return
        except FastlbError as error:
            await self._give_up_for(instance, str(error))
            return
        if instance.state != "pending":
            return
        instance.state = "in_service"
        instance.in_service_at = time.monotonic()
        took = instance.in_service_at - since
        self._records.save(instance.record())
        log.info("%s (pid %d) is in service after %.2f s", instance, instance.pid, took)
        self._end_entry(instance, f"in service after {took:.2f} s")
        self._hooks.launched(instance)
        self._hooks.changed()

    async def _until_it_is_healthy(self, instance: Instance) -> None:
        self._register(instance)
        while not self._is_healthy(instance):
            instance.health_changed.clear()
            await instance.health_changed.wait()

    def _register(self, instance: Instance) -> None:
        """Raises FastlbError where the table has no room."""
        if instance.target is None:

            def changed() -> None:
                instance.health_changed.set()
                self._hooks.changed()

            instance.target = self._registrar.register(
                self._target_group, instance.address, changed
            )

    @staticmethod
    def _is_healthy(instance: Instance) -> bool:
        return instance.target is not None and instance.target.sight().state == "healthy"

    async def _give_up(self, instance: Instance, grace: float) -> None:
        if instance.target is None:
            placeholder = "{socket}" if instance.address.is_unix else "{port} or $PORT"
            why = (
                f"did not listen on {instance.address} within {grace:g} s (is {placeholder} used?)"
            )
        else:
            why = f"passed no health check within {grace:g} s: {instance.target.sight().reason}"
        await self._give_up_for(instance, why)

    async def _give_up_for(self, instance: Instance, why: str) -> None:
        """A launch that comes to nothing: killed and reported."""
        if instance.state != "pending":
            return
        instance.state = "terminating"
        # Before it is gone: whoever launches another in its place meanwhile must know of it.
        self._fail(instance, why)
        if instance.process is not None:
            instance.process.kill()
            await instance.process.wait()
        self._launch_failed(instance, why)

    def _fail(self, instance: Instance, why: str) -> None:
        self._hooks.failed(Failure(instance.id, instance.version, instance.launched_at, why))

    def _launch_failed(self, instance: Instance, why: str) -> None:
        self._drop(instance)
        said = last_words(instance.output.last_lines) if instance.process is not None else ""
        self._end_entry(instance, f"failed: {why}{said}")
        log.error("%s %s%s", instance, why, said)
        self._hooks.changed()

    # -- death

    def _watch(self, instance: Instance) -> None:
        self._keep(self._see_its_end(instance))

    async def _see_its_end(self, instance: Instance) -> None:
        """Wait for the process by its own pid, and see what its end means."""
        process = instance.process
        assert process is not None
        await process.wait()
        if instance.state == "terminating" or self._instances.get(instance.id) is not instance:
            return  # it was asked to
        was, instance.state = instance.state, "terminating"
        if instance.life is not None:
            instance.life.cancel()
        # Before its files are read: whoever sends a request meanwhile is turned away at once.
        self._retirement.deregister(instance)
        process.reap()
        how = _how_it_ended(process)
        if was == "pending":
            self._fail(instance, f"{how} before it was in service")
            self._launch_failed(instance, f"{how} before it was in service")
            return
        self._drop(instance)
        self._end_entry(instance, "its process ended meanwhile")
        lived = time.monotonic() - (instance.in_service_at or time.monotonic())
        why = f"{how} after {span_of(lived)} in service"
        said = last_words(instance.output.last_lines)
        self._history.add("activity", instance.group, f"lost {instance.id}", why, outcome=said)
        log.error("%s (pid %d) %s%s", instance, process.pid, why, said)
        if was == "in_service":
            killed = process.returncode in KILLED
            self._hooks.failed(
                Failure(instance.id, instance.version, instance.launched_at, how, lived, killed)
            )
        self._hooks.changed()

    def _drop(self, instance: Instance) -> None:
        """It has ended: nothing is left of it but its last lines."""
        self._retirement.bury(instance)
        self._instances.pop(instance.id, None)

    # -- down

    def end(self, instance: Instance, cause: str, drain_timeout: float) -> None:
        """Take it out of service and stop it: unpublished, drained, signalled, killed at last."""
        if instance.state == "terminating":
            return
        if instance.entry is not None:
            self._end_entry(instance, f"given up: {cause}")
        instance.state = "terminating"
        self._records.save(instance.record())
        instance.entry = self._history.add(
            "activity", instance.group, f"terminate {instance.id}", cause
        )
        log.info("%s (pid %d) is taken out of service: %s", instance, instance.pid, cause)
        self._lead(instance, self._end(instance, drain_timeout))
        self._hooks.changed()

    async def _end(self, instance: Instance, drain_timeout: float) -> None:
        began = time.monotonic()
        cut = await self._retirement.unpublish(instance, drain_timeout)
        drained = time.monotonic() - began
        in_time = await stop_process(instance)
        took = time.monotonic() - began - drained
        self._drop(instance)
        outcome = f"drained in {drained:.2f} s, stopped in {took:.2f} s"
        if cut:
            outcome += f"; {cut} still in flight at the drain timeout of {drain_timeout:g} s"
        if not in_time:
            outcome += f"; killed at the stop timeout of {instance.template.stop_timeout:g} s"
        self._end_entry(instance, outcome)
        log.info("%s has ended: %s", instance, outcome)
        self._hooks.changed()

    # -- standby

    def stand_by(self, instance: Instance, drain_timeout: float) -> None:
        """Out of service, and kept running."""
        instance.state = "standby"
        instance.in_service_at = None
        self._records.save(instance.record())
        entry = self._history.add("activity", instance.group, f"standby {instance.id}", "asked for")
        log.info("%s goes to standby", instance)
        self._lead(instance, self._stand_by(instance, drain_timeout, entry))
        self._hooks.changed()

    async def _stand_by(self, instance: Instance, drain_timeout: float, entry: Entry) -> None:
        outcome = "ended while it drained"
        try:
            cut = await self._retirement.unpublish(instance, drain_timeout)
            outcome = f"in standby; {cut} still in flight" if cut else "in standby"
        finally:
            self._history.end(entry, outcome)

    def bring_back(self, instance: Instance, grace: float) -> None:
        """From standby to service, through a health check."""
        life = instance.life
        instance.state = "pending"
        self._records.save(instance.record())
        instance.entry = self._history.add(
            "activity", instance.group, f"return {instance.id}", "asked for"
        )

        async def back() -> None:
            if life is not None:  # it may still be draining
                try:
                    await asyncio.wait({life})
                except asyncio.CancelledError:
                    life.cancel()  # or two would deregister the same target
                    raise
            await self._come_up(instance, grace, time.monotonic())

        self._lead(instance, back(), cancel=False)
        self._hooks.changed()

    # -- a supervisor before us, and one after us

    def adopt(self, record: InstanceRecord, template: LaunchTemplate) -> Instance | None:
        """Take up an Instance of a supervisor that died; None where it is dead."""
        try:
            address = parse_address(record.address)
            process = InstanceProcess.find(record.pid, record.started, record.id)
            if process is None:
                return None
            output = open_output(self._records.spool(record.id), record.id, record.group, template)
        except (ValueError, FastlbError) as error:
            log.error("instance %s cannot be adopted: %s", record.id, error)
            return None
        instance = Instance(
            record.id, record.group, record.version, template, address, output, record.launched_at
        )
        instance.process = process
        instance.state = record.state
        instance.in_service_at = record.in_service_at
        instance.protected = record.protected
        self._instances[record.id] = instance
        if record.state in ("in_service", "terminating"):
            # One that leaves as well: it may not be stopped while workers of the dead supervisor still
            # have requests there, which is what the drain of a registered target waits for.
            self._register(instance)
        log.warning("%s (pid %d) is adopted: %s", instance, process.pid, record.state)
        return instance

    def resume(self, instance: Instance, settings: AutoScalingGroup) -> None:
        """Lead an adopted Instance on from where it was."""
        self._watch(instance)
        self._records.save(instance.record())
        if instance.state == "pending":
            # The time without a supervisor is not the instance's fault.
            grace = settings.health_check_grace
            self._lead(instance, self._come_up(instance, grace, time.monotonic()))
        elif instance.state == "terminating":
            self._lead(instance, self._end(instance, settings.drain_timeout))

    async def stop(self) -> list[str]:
        """End all Instances at once, each with its stop signal and stop timeout; nobody sends them
        requests any more. The ids of those that had to be killed."""
        self._stopping = True
        instances = list(self._instances.values())
        for one in instances:
            one.state = "terminating"
            if one.life is not None:
                one.life.cancel()
        ended = await asyncio.gather(*(stop_process(one) for one in instances))
        for one in instances:
            if one.id in self._instances:
                self._drop(one)
        await self._end_tasks()
        return [one.id for one, in_time in zip(instances, ended, strict=True) if not in_time]

    async def kill(self) -> None:
        """The end where nobody waits any longer."""
        self._stopping = True
        for one in self._instances.values():
            one.state = "terminating"
            if one.process is not None:
                one.process.kill()
        for one in list(self._instances.values()):
            if one.process is not None:
                await one.process.wait()
            self._drop(one)
        await self._end_tasks()

    async def leave(self) -> None:
        """Lead nobody any more: another supervisor adopts them as they are."""
        self._stopping = True
        await self._end_tasks()
        for one in self._instances.values():
            if one.process is not None:
                one.process.let_go()
            one.output.close(remove=False)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def save_all(self) -> None:
        """The run-time folder was made anew."""
        for one in self._instances.values():
            self._records.save(one.record())

    # -- tasks

    def _lead(
        self, instance: Instance, life: Coroutine[Any, Any, None], *, cancel: bool = True
    ) -> None:
        """Let `life` lead the Instance, and whatever did before no more."""
        if cancel and instance.life is not None:
            instance.life.cancel()
        instance.life = self._keep(life)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("an instance is left to itself by a mistake", exc_info=task.exception())

    def _end_entry(self, instance: Instance, outcome: str) -> None:
        entry, instance.entry = instance.entry, None
        if entry is not None:
            self._history.end(entry, outcome)


def _how_it_ended(process: InstanceProcess) -> str:
    """Once it is reaped."""
    if process.returncode == 0:
        return f"{process.ending} (an instance must stay in the foreground)"
    return process.ending
