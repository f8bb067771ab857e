"""The supervisor process: from the lock on the run-time folder to the last worker's end.

Brings the parts together and decides nothing that they can decide: sockets, workers, health, the
table and the control socket. It is never on a request's way. What a worker runs is handed in, so
that the control plane does not know the data plane.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import replace

import uvloop

from fastlb.child_process import UNREAPED
from fastlb.control_plane.activation import passed_sockets
from fastlb.control_plane.administration import Administration
from fastlb.control_plane.control_socket import Command, ControlSocket
from fastlb.control_plane.departures import Departures
from fastlb.control_plane.group_targets import GroupTargets, Parts
from fastlb.control_plane.health_monitor import HealthMonitor
from fastlb.control_plane.left_behind import stay
from fastlb.control_plane.listen_sockets import ListenSockets
from fastlb.control_plane.listener_columns import ListenerColumns
from fastlb.control_plane.log_reopening import LogReopening
from fastlb.control_plane.name_resolution import resolve
from fastlb.control_plane.operator_overrides import OperatorOverrides
from fastlb.control_plane.orphans import Orphans
from fastlb.control_plane.publication import Publication
from fastlb.control_plane.reconfiguration import Reconfiguration, used_groups
from fastlb.control_plane.reload import Reload, Source
from fastlb.control_plane.run_dir import RunDir, run_dir_path
from fastlb.control_plane.scaling import Scaling, with_holds
from fastlb.control_plane.service_manager import ServiceManager, in_short
from fastlb.control_plane.slot_assignment import Relief, ReliefBudget, assign_slots, home_of
from fastlb.control_plane.status import Status
from fastlb.control_plane.stop_signals import StopSignals
from fastlb.control_plane.surroundings import (
    check_access_log,
    fill_standard_files,
    raise_open_files,
)
from fastlb.control_plane.target_commands import TargetCommands
from fastlb.control_plane.target_registry import TargetRegistry, tell_nobody
from fastlb.control_plane.tenure import Belongings, Tenure
from fastlb.control_plane.totals import Totals
from fastlb.control_plane.watch import Watch
from fastlb.control_plane.wording import count_of
from fastlb.control_plane.worker_pool import PoolHooks, Worker, WorkerMain, WorkerPool
from fastlb.control_plane.zombies import FIRST_PROCESS, Reaper
from fastlb.errors import FastlbError
from fastlb.logs import keep_log, start_logging
from fastlb.model.configuration import Configuration
from fastlb.model.target_override import key_of
from fastlb.target_table.counters import Counters
from fastlb.target_table.counters import Worker as Head
from fastlb.target_table.handover import listener_key
from fastlb.target_table.layout import Snapshot
from fastlb.target_table.pipe import (
    Evidence,
    InheritedFd,
    Message,
    Missing,
    Relieve,
    TableChanged,
    Wanted,
    WorkerStart,
)
from fastlb.target_table.writer import TableWriter

log = logging.getLogger("fastlb")

TICK = 0.1
"""Time between two looks at whether lent slots go home, and whether a worker hangs."""
HUNG_NS = 2_000_000_000
"""A worker beats ten times a second; without a beat for so long it accepts nobody either."""
GRACE = 1.0
"""Over the drain time-out, before workers that are still there are killed."""
REAP_WITHIN = 5.0
FIRST_ROUND_SLACK = 0.2
HOUSEKEEPING = 1.0
"""Time between two looks at the run-time folder."""
CUT_LOOK = 0.05
"""So long before the drain time-out it is counted what that will cut: afterwards it is gone."""


def run_supervisor(
    configuration: Configuration,
    worker_main: WorkerMain,
    source: Source | None = None,
    *,
    takes_over: bool = False,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run an instance until SIGTERM or SIGINT, or until another supervisor has taken over; the exit
    status.

    `source` gives the configuration anew, for a reload. With `takes_over`, from the living supervisor of
    the name. `arguments` are those of `fastlb run`, with which an upgrade starts the next one. Raises
    FastlbError where it cannot start: a live instance of the name, an address in use.
    """
    passed = passed_sockets(os.environ, os.getpid())
    fill_standard_files()
    manager = ServiceManager(os.environ, replaces=takes_over)
    stop_logging = start_logging(configuration.log_level, "", configuration.log_format)
    try:
        check_access_log(configuration.access_log)
        raise_open_files()
        tenure = Tenure(
            configuration.name,
            takes_over=takes_over,
            arguments=arguments,
            manager=manager,
            passed=passed,
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            supervisor = Supervisor(configuration, worker_main, source, tenure, manager)
            status = runner.run(supervisor.run())
    finally:
        stop_logging()
    if tenure.heir and tenure.stays:
        return stay(run_dir_path(configuration.name), tenure.heir)
    return status


class Supervisor:
    """One instance. `run` is its life."""

    def __init__(
        self,
        configuration: Configuration,
        worker_main: WorkerMain,
        source: Source | None,
        tenure: Tenure,
        manager: ServiceManager,
    ) -> None:
        self.configuration = configuration
        self._tenure = tenure
        self._manager = manager
        self._source = source
        self._config_id = 1
        self.draining = False
        self.slots: tuple[int, ...] = ()
        self._main = worker_main
        self._ticking: asyncio.TimerHandle | None = None
        self.hung: set[int] = set()
        self._folder_trouble = ""
        self._cut = (0, 0)
        self._relief = ReliefBudget(time.monotonic())
        self._all_ready = asyncio.Event()
        self._reaper = Reaper(self._awaited) if os.getpid() == FIRST_PROCESS else None
        self._reopening: LogReopening | None = None

    async def run(self) -> int:
        self._signals = StopSignals(asyncio.get_running_loop(), self._on_hangup, self._on_reopen)
        async with contextlib.AsyncExitStack() as cleanup:
            run_dir = await self._tenure.begin()
            cleanup.callback(self._end_run_dir, run_dir)
            cleanup.callback(self._tenure.close)
            cleanup.callback(keep_log(run_dir.log))
            try:
                await self._start(run_dir, cleanup)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP, signal.SIGUSR1})
                cleanup.callback(self._end_overrides)
                await self._serve()
            except BaseException as error:
                self._tenure.failed(str(error) or type(error).__name__)
                raise
        self._signals.close()
        if self._tenure.heir:
            log.info("handed over to pid %d", self._tenure.heir)
        else:
            log.info("stopped")
        return 0

    def _end_run_dir(self, run_dir: RunDir) -> None:
        if self._tenure.in_charge:
            run_dir.release()
        else:
            run_dir.leave()

    def _end_overrides(self) -> None:
        if self._tenure.in_charge:
            self.overrides.forget()

    def _end_pool(self) -> None:
        """The end where nobody waits. Whoever is not in charge must cut nobody."""
        if self._tenure.in_charge:
            self._pool.close()
        else:
            self._pool.abandon()

    async def _end_scaling(self) -> None:
        if self._tenure.in_charge:
            await self.scaling.kill()
        elif not self._tenure.heir:
            await self.scaling.leave()

    @property
    def workers(self) -> Sequence[Worker]:
        return self._pool.workers

    # --- birth ------------------------------------------------------------------------------

    async def _start(self, run_dir: RunDir, cleanup: contextlib.AsyncExitStack) -> None:
        """Make all parts, in the order in which each needs the one before; none serves yet."""
        given = self.configuration
        self._run_dir = run_dir
        left = await self._tenure.inherit(run_dir, given.listeners)
        self._orphans = Orphans(run_dir, left.orphans, self._pids)
        cleanup.push_async_callback(self._orphans.close)
        count = given.workers or len(os.sched_getaffinity(0))
        slots = max(count, left.slots)
        self._sockets = ListenSockets(given.listeners, slots, left.sockets)
        cleanup.callback(self._sockets.close)
        # Port 0 and 0 workers mean "whatever it comes to": the workers read what it came to.
        self.configuration = replace(given, listeners=self._sockets.listeners, workers=count)

        self._writer = TableWriter()
        cleanup.callback(self._writer.close)
        self.counters = Counters()
        cleanup.callback(self.counters.close)
        self.totals = Totals(self.counters, count)
        self.columns = ListenerColumns(self.totals.forget_listener)
        self.columns.assign(listener_key(one) for one in self.configuration.listeners)
        self._publication = Publication(self._writer, self._snapshot, self._on_published)
        cleanup.callback(self._publication.end)
        self.overrides = OperatorOverrides(run_dir.path)
        self.registry = TargetRegistry(
            self.overrides.take(given.target_groups, resolve),
            used_groups(given),
            self._publication.changed,
            override_of=self.overrides.of,
        )
        self._monitor = HealthMonitor(
            self.registry, self.counters, count, asyncio.get_running_loop()
        )
        self._parts = Parts(
            self.registry,
            self._monitor,
            self._publication,
            self.counters,
            self.totals,
            count,
            lambda: self._orphans.living,
        )
        self._commands: dict[str, Command] = {}
        self._targets = GroupTargets(self._parts)
        self._departures = Departures(self._targets, self.registry)
        self.scaling = self._scale()
        cleanup.push_async_callback(self._end_scaling)
        self.registry.left = self.overrides.left
        self.overrides.keep({key_of(one.group.name, one.target) for one in self.registry})
        self.registry.released = self.totals.retire
        self.registry.seed(left.health)
        self._for_workers = with_holds(self.configuration)
        self._bindings = self._bound()

        self._admin = Administration(run_dir.admin_socket)
        cleanup.push_async_callback(self._admin.end)
        if self._tenure.in_charge:
            self._admin.apply(self._admin.prepare(given.admin))

        hooks = PoolHooks(self._on_ready, self._on_died, self._on_message)
        self._pool = WorkerPool(count, self._main, self._birth, hooks)
        cleanup.callback(self._end_pool)
        self.slots = assign_slots(slots, range(count), {}, ())
        cleanup.push_async_callback(self._departures.close)
        self._live = Reconfiguration(
            self.configuration,
            self._sockets,
            self._pool,
            self._parts,
            self._targets,
            self.scaling,
            self._departures,
            self.overrides,
            self.columns,
            self._admin,
            self._swap,
            lambda: self.draining or self._tenure.passing_on or not self._tenure.in_charge,
        )
        self._reload = Reload(
            self._source,
            self._live,
            lambda: self.scaling.not_in_force(),
            self._manager.while_reloading,
            lambda changes: self.registry.told("routing", "configuration", "reloaded", changes),
        )
        cleanup.push_async_callback(self._reload.close)
        path = self._source.path if self._source is not None else None
        self._watch = Watch(path, self._reload.signalled)
        cleanup.callback(self._watch.set, False)
        self._reopening = LogReopening(
            self.counters,
            lambda: self._pool.running,
            self._pool.broadcast,
            lambda: self.configuration.access_log,
        )

        status = Status(self, os.getpid())
        self._control = ControlSocket(run_dir.control_socket, self._commands)
        cleanup.push_async_callback(self._control.close)
        own = Belongings(
            run_dir,
            self._sockets,
            self._writer,
            self.counters,
            self.totals,
            self.registry,
            self.columns,
            self._pool,
            self._control,
            self._leave_instances,
            self._lead_instances_again,
            self._signals.stop.is_set,
        )
        commands: dict[str, Command] = {
            "status": lambda _: status.answer(),
            "reload": self._reload.answer,
            "reopen_logs": self._reopening.answer,
            **self._tenure.settle(own, cleanup),
        }
        self._commands |= self._tenure.guarded(commands)
        if self._tenure.in_charge:
            await self._control.start()

    def _scale(self) -> Scaling:
        """The auto scaling groups, with the Instances that are there; they act from their start on."""
        given = self.configuration
        scaling = Scaling(
            given, used_groups(given), self._run_dir, self._targets, self._parts.strangers
        )
        self.registry.told = scaling.told
        self._commands |= self._tenure.guarded(
            {
                **scaling.commands.by_name,
                **TargetCommands(
                    self._parts,
                    self._targets,
                    self._departures,
                    self.overrides,
                    scaling,
                    lambda: self.configuration.drain_timeout,
                ).by_name,
            }
        )
        scaling.adopt()
        return scaling

    async def _leave_instances(self) -> None:
        """Another supervisor leads them from now on, and writes their histories."""
        self.registry.told = tell_nobody
        await self.scaling.leave()

    def _lead_instances_again(self) -> None:
        """That supervisor has failed. It may have launched or lost some."""
        health = {
            (one.group, one.address): (one.state, one.epoch) for one in self.registry.entries()
        }
        self.scaling.deregister_all()
        self.scaling = self._live.scaling = self._scale()
        self.registry.seed(health)
        self.scaling.start()

    def _birth(self, index: int, pipe: socket.socket) -> WorkerStart:
        return WorkerStart(
            index=index,
            listen=self._sockets.sockets,
            table=InheritedFd(self._writer.fd),
            counters=InheritedFd(self.counters.fd),
            pipe=pipe,
            run_dir=str(self._run_dir.path),
            bindings=self._sockets.bindings,
            log=str(self._run_dir.log),
            log_format=self.configuration.log_format,
        )

    # --- life -------------------------------------------------------------------------------

    async def _serve(self) -> None:
        for key in self._sockets.sockets:
            log.info("listening on %s with %s", key, count_of(len(self.workers), "worker"))
        self._pool.start()
        self._monitor.start()
        self.scaling.start()
        keeping = asyncio.create_task(self._keep_house())
        try:
            await self._publish_first()
            self._admin.start(self, self._commands)
            self._tick()
            self._watch.set(self.configuration.watch)
            charge = asyncio.create_task(self._take_charge())
            await self._until_end(charge)
            keeping.cancel()
            if self._tenure.heir:
                self._tenure.see_heir()
                return
            if not self._tenure.in_charge:
                raise FastlbError("stopped before it had taken over: the other supervisor goes on")
            await self._stop()
        finally:
            self._manager.end_watch()
            keeping.cancel()
            if self._ticking is not None:
                self._ticking.cancel()
            self._monitor.stop()

    async def _publish_first(self) -> None:
        """The first table knows the targets' health, as far as the time of one check tells."""
        checks = [group.health_check for group in self.configuration.target_groups]
        longest = max((check.timeout for check in checks if check.enabled), default=0.0)
        known = asyncio.create_task(self._monitor.first_round(longest + FIRST_ROUND_SLACK))
        stop = asyncio.create_task(self._signals.stop.wait())
        await asyncio.wait({known, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if known.done():
            known.result()
        known.cancel()
        self._publication.begin()

    async def _take_charge(self) -> None:
        """Once all workers are ready; the service manager is told then."""
        await self._all_ready.wait()
        was_in_charge = self._tenure.in_charge
        for target_group in await self._tenure.take_charge():
            self.scaling.wanted(target_group)
        if not was_in_charge:
            await self._admin.take_over(self.configuration.admin)
        self._manager.watch(self._is_well)
        self._end_orphans()

    async def _until_end(self, charge: asyncio.Task[None]) -> None:
        """Until the instance is to stop, or another supervisor has it. Raises what `charge` does."""
        ends = [self._signals.stop, self._tenure.over]
        waits = [asyncio.create_task(one.wait()) for one in ends]
        try:
            done, _ = await asyncio.wait({charge, *waits}, return_when=asyncio.FIRST_COMPLETED)
            if charge in done:
                charge.result()
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            elif self._tenure.asking:  # the answer decides whose the instance is to stop
                await asyncio.wait({charge})
                charge.result()
            if not self._tenure.over.is_set():
                await self._tenure.break_off()
        finally:
            for task in (charge, *waits):
                task.cancel()
            await asyncio.wait({charge, *waits})

    def _is_well(self) -> bool:
        """For the watchdog: this loop turns, and somebody serves."""
        return self.draining or any(worker.index not in self.hung for worker in self._pool.running)

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)
        hung = {worker.index for worker in self._pool.running if self._hangs(worker)}
        for index in hung ^ self.hung:
            worker = self._pool.by_index(index)
            what = "does not answer: others accept from its slots" if index in hung else "is back"
            if worker is not None:
                log.warning("worker %d (pid %d) %s", index, worker.pid, what)
        homes = self._homes()
        lent = any(holder != home_of(slot, homes) for slot, holder in enumerate(self.slots))
        if lent or hung != self.hung:
            self.hung = hung
            self._assign()

    def _hangs(self, worker: Worker) -> bool:
        """Whether a worker does not beat (any more): deadlocked, or stopped by a signal."""
        beat = max(self.counters.row(worker.index)[Head.BEAT_NS], int(worker.ready_at * 1e9))
        return time.monotonic_ns() - beat > HUNG_NS

    def _homes(self) -> list[int]:
        """The workers to which the slots belong."""
        return [worker.index for worker in self._pool.active]

    def _assign(self, *relief: Relief) -> bool:
        """Look anew at who accepts from which slot; whether that moved one."""
        connections = {
            worker.index: self.counters.row(worker.index)[Head.CONNECTIONS]
            for worker in self._pool.running
            if worker.index not in self.hung
        }
        homes = self._homes()
        slots = assign_slots(self._sockets.slots, homes, connections, self.slots, relief)
        if slots == self.slots or self.draining:
            return False
        log.debug("slots %s pass to workers %s", self.slots, slots)
        self.slots = slots
        self._publication.changed()
        return True

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            self._for_workers,
            self._config_id,
            self.registry.entries(),
            self.slots,
            self._bindings,
            self._pool.rows,
            self.columns.items(),
        )

    def _swap(self, configuration: Configuration) -> None:
        """Have the next table say this configuration, and who accepts from which slot in it."""
        self.configuration = configuration
        self._for_workers = with_holds(configuration)
        self._bindings = self._bound()
        self._config_id += 1
        self._assign()
        self._publication.changed()
        self._watch.set(configuration.watch)

    def _bound(self) -> tuple[int, ...]:
        keys = [listener_key(one) for one in self.configuration.listeners]
        return tuple(self._sockets.bindings[key] for key in keys)

    def _on_published(self) -> None:
        self._pool.broadcast(TableChanged())

    def _on_ready(self, worker: Worker) -> None:
        self._assign()
        self._end_orphans()

    def _on_died(self, worker: Worker, pid: int) -> None:
        self.hung.discard(worker.index)
        targets = (*self.registry.entries(), *self.registry.leaving())
        listeners = [column for _, column in self.columns.items()]
        self.totals.absorb(worker.index, targets, self.registry.columns, listeners)
        if worker.retired:
            self._publication.changed()  # the others need not look at its row any more
        self._run_dir.remove_worker_socket(pid)
        self._assign()

    def _on_message(self, worker: Worker, message: Message) -> None:
        if isinstance(message, Evidence):
            self._monitor.on_evidence(message)
        elif isinstance(message, Relieve) and self._relief.take(time.monotonic()):
            moved = self._assign(Relief(worker.index, message.slot))
            if not moved:
                self._relief.give_back()
        elif isinstance(message, Wanted):
            self._tenure.wanted(message.group)
            self.scaling.wanted(message.group)
        elif isinstance(message, Missing):
            self._live.send_sockets(worker, message.key)

    def _on_reopen(self) -> None:
        if self._reopening is not None:
            self._reopening.ask()

    def _on_hangup(self) -> None:
        self._reload.signalled()

    def _end_orphans(self) -> None:
        """Once all of ours are ready: until then the orphans are who serves."""
        if self._pool.all_ready:
            self._all_ready.set()
        if self._pool.all_ready and self._tenure.in_charge:
            self._orphans.end(self.configuration.drain_timeout, self._writer.fd)

    def _awaited(self) -> set[int]:
        return self._pids() | UNREAPED

    def _pids(self) -> set[int]:
        return {worker.pid for worker in self._pool.workers if worker.pid}

    async def _keep_house(self) -> None:
        """Look after the run-time folder: it is ours, and who else has come up in it?"""
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            try:
                await self._keep_folder()
                self._folder_trouble = ""
            except (OSError, FastlbError) as error:
                if str(error) != self._folder_trouble:
                    self._folder_trouble = str(error)
                    log.error("the run-time folder cannot be made anew: %s", error)
            if self._tenure.in_charge:
                states = [one.state for one in self.registry]
                running = len(self._pool.running)
                self._manager.status(in_short(running, len(self.workers), states, self.draining))
            if self._reaper is not None:
                self._reaper.look()
            if self._tenure.passing_on:
                continue  # the workers that come up are no orphans
            await self._orphans.look_round()
            self._end_orphans()
            if not self._orphans.living:
                self._tenure.orphans_ended()
            await self._live.look_round()

    async def _keep_folder(self) -> None:
        """A cleaner of /tmp or an `rm` may take the folder from under a running instance."""
        if not self._tenure.in_charge or self._tenure.passing_on:
            return
        present = self._control.present and self._tenure.present
        if self._run_dir.intact and present:
            if self._admin.keep():
                log.warning("the admin socket in %s was removed: made anew", self._run_dir.path)
            return
        if not self._run_dir.intact:
            self._run_dir.renew()
            self.scaling.save_all()
            self.overrides.save()
        if not self._control.present:
            await self._control.close()
            await self._control.start()
        await self._tenure.renew()
        log.warning("files of the run-time folder %s were removed: made anew", self._run_dir.path)

    # --- end --------------------------------------------------------------------------------

    async def _stop(self) -> None:
        """Let the workers finish what they have, until the drain time-out or a second signal."""
        self.draining = True
        self._manager.stopping()
        seconds = self.configuration.drain_timeout
        loop = asyncio.get_running_loop()
        self._sockets.close()
        log.info("draining: at most %g s for %s", seconds, _said(self._held()))
        all_ended = asyncio.create_task(self._ended(seconds, loop.time() + seconds + GRACE))
        looking = loop.call_later(max(seconds - CUT_LOOK, 0), self._look_what_is_cut)
        at_once = asyncio.create_task(self._signals.end.wait())
        await asyncio.wait({all_ended, at_once}, return_when=asyncio.FIRST_COMPLETED)
        looking.cancel()
        at_once.cancel()
        if all_ended.done():
            all_ended.result()
            why = f"the drain time-out of {seconds:g} s is over (--drain-timeout)"
        else:
            self._look_what_is_cut()
            why = "the end was asked for at once"
        if any(self._cut):
            log.warning("%s: cut %s", why, _said(self._cut))
        all_ended.cancel()
        killed = self._pool.kill()
        if killed:
            log.warning("killed the workers that had not finished: pids %s", killed)
        await self._pool.wait_gone(loop.time() + REAP_WITHIN)
        await self._orphans.look_round()
        await self._orphans.kill()
        await self._end_instances()

    async def _end_instances(self) -> None:
        """Once nobody sends them requests any more; nor are they checked, since they are to end."""
        self._monitor.stop()
        stopping = asyncio.create_task(self.scaling.stop())
        at_once = asyncio.create_task(self._signals.end.wait())
        await asyncio.wait({stopping, at_once}, return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        if not stopping.done():
            stopping.cancel()
            await asyncio.wait({stopping})
            await self.scaling.kill()
        else:
            stopping.result()

    async def _ended(self, seconds: float, deadline: float) -> None:
        """Wait for the end of all workers and orphans, or for the loop's `deadline`."""
        await asyncio.gather(
            self._pool.drain(seconds, deadline), self._orphans_ended(seconds, deadline)
        )

    async def _orphans_ended(self, seconds: float, deadline: float) -> None:
        await self._orphans.look_round()
        self._orphans.end(seconds)
        await self._orphans.wait_gone(max(deadline - asyncio.get_running_loop().time(), 0))

    def _held(self) -> tuple[int, int]:
        """Requests (TCP connections among them) that targets have, and clients' connections."""
        requests = self.totals.in_flight(self.registry.entries())
        return requests, self.totals.head(Head.CONNECTIONS)

    def _look_what_is_cut(self) -> None:
        self._cut = self._held()


def _said(held: tuple[int, int]) -> str:
    requests, connections = held
    return f"{count_of(requests, 'request')} on {count_of(connections, 'connection')}"
