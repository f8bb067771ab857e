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
from collections.abc import Sequence, Set
from functools import partial

import uvloop

from fastlb.child_process import UNREAPED
from fastlb.control_plane.activation import passed_sockets
from fastlb.control_plane.administration import Administration
from fastlb.control_plane.charge import Charge
from fastlb.control_plane.control_socket import Command, ControlSocket
from fastlb.control_plane.faults import Faults
from fastlb.control_plane.foundation import lay
from fastlb.control_plane.housekeeping import Housekeeping
from fastlb.control_plane.leadership import Leadership
from fastlb.control_plane.left_behind import stay
from fastlb.control_plane.log_reopening import LogReopening
from fastlb.control_plane.reconfiguration import Reconfiguration
from fastlb.control_plane.reload import Reload, Source
from fastlb.control_plane.run_dir import RunDir, run_dir_path
from fastlb.control_plane.scaling import Scaling
from fastlb.control_plane.service_manager import ServiceManager, in_short
from fastlb.control_plane.slot_assignment import assign_slots
from fastlb.control_plane.slot_keeping import SlotKeeper
from fastlb.control_plane.status import Status
from fastlb.control_plane.stop import Stop
from fastlb.control_plane.stop_signals import StopSignals
from fastlb.control_plane.surroundings import (
    fill_standard_files,
    raise_open_files,
)
from fastlb.control_plane.table_content import TableContent
from fastlb.control_plane.tenure import Belongings, Tenure
from fastlb.control_plane.watch import Watch
from fastlb.control_plane.wording import count_of
from fastlb.control_plane.worker_events import WorkerEvents, worker_start
from fastlb.control_plane.worker_pool import PoolHooks, Worker, WorkerMain, WorkerPool
from fastlb.control_plane.zombies import FIRST_PROCESS, Reaper
from fastlb.errors import FastlbError
from fastlb.logs import keep_log, start_logging
from fastlb.model.configuration import Configuration
from fastlb.model.target_override import key_of
from fastlb.target_table.pipe import (
    TableChanged,
)

log = logging.getLogger("fastlb")


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
        self.draining = False
        self._main = worker_main
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

    @property
    def workers(self) -> Sequence[Worker]:
        return self._pool.workers

    @property
    def scaling(self) -> Scaling:
        return self._leadership.scaling

    @property
    def slots(self) -> tuple[int, ...]:
        return self._slots.slots

    @property
    def hung(self) -> Set[int]:
        return self._slots.hung

    # --- birth ------------------------------------------------------------------------------

    async def _start(self, run_dir: RunDir, cleanup: contextlib.AsyncExitStack) -> None:
        """Make all parts, in the order in which each needs the one before; none serves yet."""
        given = self.configuration
        self._run_dir = run_dir
        left = await self._tenure.inherit(run_dir, given.listeners)
        count = given.workers or len(os.sched_getaffinity(0))
        faults = Faults()
        self._admin = Administration(run_dir.admin_socket)
        if self._tenure.in_charge:
            with faults.noted():
                admin = self._admin.prepare(given.admin)
                cleanup.callback(admin.close)  # unless it is applied, and then closed by then
        base = lay(
            given,
            count,
            run_dir,
            left,
            snapshot=lambda: self._content.snapshot(),
            on_published=lambda: self._pool.broadcast(TableChanged()),
            pids=self._pids,
            cleanup=cleanup,
            others_serve=not self._tenure.in_charge,
            faults=faults,
        )
        self._base = base
        self.configuration = base.configuration
        self.counters, self.totals = base.counters, base.totals
        self.overrides, self.registry, self.columns = base.overrides, base.registry, base.columns

        self._commands: dict[str, Command] = {}
        self._leadership = Leadership(
            base, run_dir, self._tenure, lambda: self.configuration, self._commands
        )
        cleanup.push_async_callback(self._leadership.end)
        self.registry.left = self.overrides.left
        self.overrides.keep({key_of(one.group.name, one.target) for one in self.registry})
        self.registry.released = self.totals.retire
        self.registry.seed(left.health)

        cleanup.push_async_callback(self._admin.end)
        if self._tenure.in_charge:
            self._admin.apply(admin)

        hooks = PoolHooks(
            lambda worker: self._events.ready(worker),
            lambda worker, pid: self._events.died(worker, pid),
            lambda worker, message: self._events.said(worker, message),
        )
        start = partial(worker_start, base, run_dir, given.log_format)
        self._pool = WorkerPool(count, self._main, start, hooks)
        cleanup.callback(self._end_pool)
        self._slots = SlotKeeper(
            base.sockets,
            self._pool,
            self.counters,
            assign_slots(base.slots, range(count), {}, ()),
            base.publication.changed,
            lambda: self.draining,
        )
        self._content = TableContent(
            self.configuration, base.sockets, self.registry, self._slots, self._pool, base.columns
        )
        cleanup.push_async_callback(base.departures.close)
        self._live = Reconfiguration(
            self.configuration,
            base.sockets,
            self._pool,
            base.parts,
            base.targets,
            self._leadership,
            base.departures,
            self.overrides,
            base.columns,
            self._admin,
            self._swap,
            lambda: self.draining or self._tenure.passing_on or not self._tenure.in_charge,
        )
        self._events = WorkerEvents(
            base,
            run_dir,
            self._slots,
            self._on_wanted,
            self._live.send_sockets,
            self._end_orphans,
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

        self._charge = Charge(
            lambda: self.configuration,
            base.monitor,
            base.publication,
            self._tenure,
            self._leadership,
            self._admin,
            self._manager,
            self._signals.stop,
            self._is_well,
            self._end_orphans,
        )

        status = Status(self, os.getpid())
        self._control = ControlSocket(run_dir.control_socket, self._commands)
        cleanup.push_async_callback(self._control.close)
        own = Belongings(
            run_dir,
            base.sockets,
            base.writer,
            self.counters,
            self.totals,
            self.registry,
            base.columns,
            self._pool,
            self._control,
            self._leadership.leave,
            self._leadership.lead_again,
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

    # --- life -------------------------------------------------------------------------------

    async def _serve(self) -> None:
        for key in self._base.sockets.sockets:
            log.info("listening on %s with %s", key, count_of(len(self.workers), "worker"))
        self._pool.start()
        self._base.monitor.start()
        self.scaling.start()
        keeping = asyncio.create_task(self._housekeeping().run())
        try:
            await self._charge.publish_first()
            self._admin.start(self, self._commands)
            self._slots.tick()
            self._watch.set(self.configuration.watch)
            await self._charge.hold()
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
            self._slots.stop()
            self._base.monitor.stop()

    def _is_well(self) -> bool:
        """For the watchdog: this loop turns, and somebody serves."""
        return self.draining or any(worker.index not in self.hung for worker in self._pool.running)

    def _swap(self, configuration: Configuration) -> None:
        """Have the next table say this configuration, and who accepts from which slot in it."""
        self.configuration = configuration
        self._content.use(configuration)
        self._slots.assign()
        self._base.publication.changed()
        self._watch.set(configuration.watch)

    def _on_wanted(self, target_group: str) -> None:
        self._tenure.wanted(target_group)
        self.scaling.wanted(target_group)

    def _on_reopen(self) -> None:
        if self._reopening is not None:
            self._reopening.ask()

    def _on_hangup(self) -> None:
        self._reload.signalled()

    def _end_orphans(self) -> None:
        """Once all of ours are ready: until then the orphans are who serves."""
        if self._pool.all_ready:
            self._charge.all_ready.set()
        if self._pool.all_ready and self._tenure.in_charge:
            self._base.orphans.end(self.configuration.drain_timeout, self._base.writer.fd)

    def _awaited(self) -> set[int]:
        return self._pids() | UNREAPED

    def _pids(self) -> set[int]:
        return {worker.pid for worker in self._pool.workers if worker.pid}

    def _housekeeping(self) -> Housekeeping:
        return Housekeeping(
            self._run_dir,
            self._tenure,
            self._control,
            self._admin,
            self._base.orphans,
            self._live,
            self._reaper,
            save=self._save,
            tell=self._tell_how_it_goes,
            end_orphans=self._end_orphans,
        )

    def _save(self) -> None:
        self.scaling.save_all()
        self.overrides.save()

    def _tell_how_it_goes(self) -> None:
        states = [one.state for one in self.registry]
        running = len(self._pool.running)
        self._manager.status(in_short(running, len(self.workers), states, self.draining))

    # --- end --------------------------------------------------------------------------------

    async def _stop(self) -> None:
        self.draining = True
        self._manager.stopping()
        stop = Stop(
            self._base.sockets,
            self._pool,
            self._base.orphans,
            self._base.monitor,
            self.registry,
            self.totals,
            self.scaling,
            self._signals,
        )
        await stop.run(self.configuration.drain_timeout)
