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
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import uvloop

from fastlb.control_plane.control_socket import ControlSocket
from fastlb.control_plane.health_monitor import HealthMonitor
from fastlb.control_plane.listen_sockets import ListenSockets
from fastlb.control_plane.publication import Publication
from fastlb.control_plane.run_dir import RunDir
from fastlb.control_plane.slot_assignment import Relief, ReliefBudget, assign_slots, home_of
from fastlb.control_plane.status import Status
from fastlb.control_plane.takeover import end_orphans, take_over, terminate_orphans
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.control_plane.totals import Totals
from fastlb.control_plane.worker_pool import PoolHooks, Worker, WorkerMain, WorkerPool
from fastlb.model.configuration import Configuration
from fastlb.model.listener import Forward
from fastlb.target_table.counters import Counters
from fastlb.target_table.counters import Worker as Head
from fastlb.target_table.layout import Snapshot
from fastlb.target_table.pipe import (
    Evidence,
    InheritedFd,
    Message,
    Relieve,
    TableChanged,
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
MOST_OPEN_FILES = 1 << 20


def run_supervisor(configuration: Configuration, worker_main: WorkerMain) -> int:
    """Run an instance until SIGTERM or SIGINT; the exit status.

    Raises FastlbError where it cannot start: a live instance of the name, an address in use.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=configuration.log_level.upper(),
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    _raise_open_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Supervisor(configuration, worker_main).run())


class Supervisor:
    """One instance. `run` is its life."""

    def __init__(self, configuration: Configuration, worker_main: WorkerMain) -> None:
        self.configuration = configuration
        self.draining = False
        self.slots: tuple[int, ...] = ()
        self._main = worker_main
        self._stop_asked = asyncio.Event()
        self._end_asked = asyncio.Event()
        self._orphans_end: asyncio.Task[None] | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._hung: set[int] = set()
        self._relief = ReliefBudget(time.monotonic())

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(
            signal.SIGHUP, log.warning, "SIGHUP is ignored: restart to read the configuration anew"
        )
        async with contextlib.AsyncExitStack() as cleanup:
            run_dir = RunDir.take(self.configuration.name)
            cleanup.callback(run_dir.release)
            await self._start(run_dir, cleanup)
            await self._serve()
        log.info("stopped")
        return 0

    @property
    def workers(self) -> Sequence[Worker]:
        return self._pool.workers

    # --- birth ------------------------------------------------------------------------------

    async def _start(self, run_dir: RunDir, cleanup: contextlib.AsyncExitStack) -> None:
        """Make all parts, in the order in which each needs the one before; none serves yet."""
        given = self.configuration
        self._run_dir = run_dir
        self._left = await asyncio.to_thread(take_over, run_dir, given.listeners)
        cleanup.callback(self._left.close)
        count = given.workers or len(os.sched_getaffinity(0))
        slots = max(count, self._left.slots)
        self._sockets = ListenSockets(given.listeners, slots, self._left.sockets)
        cleanup.callback(self._sockets.close)
        # Port 0 and 0 workers mean "whatever it comes to": the workers read what it came to.
        self.configuration = replace(given, listeners=self._sockets.listeners, workers=count)

        self._writer = TableWriter()
        cleanup.callback(self._writer.close)
        self.counters = Counters()
        cleanup.callback(self.counters.close)
        self.totals = Totals(self.counters, count)
        self._publication = Publication(self._writer, self._snapshot, self._on_published)
        cleanup.callback(self._publication.end)
        self.registry = TargetRegistry(
            given.target_groups, used_groups(given), self._publication.changed
        )
        self.registry.seed(self._left.health)
        self._monitor = HealthMonitor(
            self.registry, self.counters, count, asyncio.get_running_loop()
        )

        hooks = PoolHooks(self._on_ready, self._on_died, self._on_message)
        self._pool = WorkerPool(count, self._main, self._birth, hooks)
        cleanup.callback(self._pool.close)
        self.slots = assign_slots(slots, count, {}, ())

        status = Status(self, os.getpid())
        control = ControlSocket(run_dir.control_socket, {"status": lambda _: status.answer()})
        await control.start()
        cleanup.push_async_callback(control.close)

    def _birth(self, index: int, pipe: socket.socket) -> WorkerStart:
        return WorkerStart(
            index=index,
            listen=self._sockets.sockets,
            table=InheritedFd(self._writer.fd),
            counters=InheritedFd(self.counters.fd),
            pipe=pipe,
            run_dir=str(self._run_dir.path),
        )

    # --- life -------------------------------------------------------------------------------

    async def _serve(self) -> None:
        for key in self._sockets.sockets:
            log.info("listening on %s with %d workers", key, len(self.workers))
        self._pool.start()
        self._monitor.start()
        try:
            await self._publish_first()
            self._tick()
            await self._stop_asked.wait()
            await self._stop()
        finally:
            if self._ticking is not None:
                self._ticking.cancel()
            self._monitor.stop()

    async def _publish_first(self) -> None:
        """The first table knows the targets' health, as far as the time of one check tells."""
        checks = [group.health_check for group in self.configuration.target_groups]
        longest = max((check.timeout for check in checks if check.enabled), default=0.0)
        known = asyncio.create_task(self._monitor.first_round(longest + FIRST_ROUND_SLACK))
        stop = asyncio.create_task(self._stop_asked.wait())
        await asyncio.wait({known, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if known.done():
            known.result()
        known.cancel()
        self._publication.begin()

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)
        hung = {worker.index for worker in self._pool.running if self._hangs(worker)}
        for index in hung ^ self._hung:
            what = "does not answer: others accept from its slots" if index in hung else "is back"
            log.warning("worker %d (pid %d) %s", index, self.workers[index].pid, what)
        count = len(self.workers)
        lent = any(holder != home_of(slot, count) for slot, holder in enumerate(self.slots))
        if lent or hung != self._hung:
            self._hung = hung
            self._assign()

    def _hangs(self, worker: Worker) -> bool:
        """Whether a worker that has begun to beat stopped: deadlocked, or stopped by a signal."""
        beat = self.counters.row(worker.index)[Head.BEAT_NS]
        return bool(beat) and time.monotonic_ns() - beat > HUNG_NS

    def _assign(self, *relief: Relief) -> bool:
        """Look anew at who accepts from which slot; whether that moved one."""
        connections = {
            worker.index: self.counters.row(worker.index)[Head.CONNECTIONS]
            for worker in self._pool.running
            if worker.index not in self._hung
        }
        slots = assign_slots(len(self.slots), len(self.workers), connections, self.slots, relief)
        if slots == self.slots or self.draining:
            return False
        log.debug("slots %s pass to workers %s", self.slots, slots)
        self.slots = slots
        self._publication.changed()
        return True

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.configuration, 1, self.registry.entries(), self.slots)

    def _on_published(self) -> None:
        self._pool.broadcast(TableChanged())

    def _on_ready(self, worker: Worker) -> None:
        self._assign()
        if self._pool.all_ready and self._orphans_end is None and self._left.orphans:
            self._end_orphans()

    def _on_died(self, worker: Worker, pid: int) -> None:
        self._hung.discard(worker.index)
        self.totals.absorb(worker.index, self.registry.entries())
        self._run_dir.remove_worker_socket(pid)
        self._assign()

    def _on_message(self, worker: Worker, message: Message) -> None:
        if isinstance(message, Evidence):
            self._monitor.on_evidence(message)
        elif isinstance(message, Relieve) and self._relief.take(time.monotonic()):
            moved = self._assign(Relief(worker.index, message.slot))
            if not moved:
                self._relief.give_back()

    def _end_orphans(self) -> None:
        self._orphans_end = asyncio.create_task(
            end_orphans(self._left.orphans, self.configuration.drain_timeout)
        )

    # --- end --------------------------------------------------------------------------------

    def _on_stop_signal(self, number: signal.Signals) -> None:
        if self._stop_asked.is_set():
            log.warning("%s again: ending at once", signal.Signals(number).name)
            self._end_asked.set()
        else:
            log.info("%s: stopping", signal.Signals(number).name)
            self._stop_asked.set()

    async def _stop(self) -> None:
        """Let the workers finish what they have, until the drain time-out or a second signal."""
        self.draining = True
        seconds = self.configuration.drain_timeout
        loop = asyncio.get_running_loop()
        self._sockets.close()
        if self._left.orphans and self._orphans_end is None:
            self._end_orphans()
        all_ended = asyncio.create_task(self._ended(seconds, loop.time() + seconds + GRACE))
        at_once = asyncio.create_task(self._end_asked.wait())
        await asyncio.wait({all_ended, at_once}, return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
        if all_ended.done():
            all_ended.result()
        all_ended.cancel()
        killed = self._pool.kill()
        if killed:
            log.warning("killed the workers that had not finished: pids %s", killed)
        await self._pool.wait_gone(loop.time() + REAP_WITHIN)
        if self._orphans_end is not None and not self._orphans_end.done():
            self._orphans_end.cancel()
            terminate_orphans(self._left.orphans)

    async def _ended(self, seconds: float, deadline: float) -> None:
        """Wait for the end of all workers and orphans, or for the loop's `deadline`."""
        await self._pool.drain(seconds, deadline)
        if self._orphans_end is not None:
            left = max(deadline - asyncio.get_running_loop().time(), 0)
            await asyncio.wait({self._orphans_end}, timeout=left)


def used_groups(configuration: Configuration) -> frozenset[str]:
    """The target groups to which some listener forwards."""
    actions = [
        action
        for listener in configuration.listeners
        for action in (listener.default, *(rule.action for rule in listener.rules))
    ]
    return frozenset(
        one.group for action in actions if isinstance(action, Forward) for one in action.groups
    )


def _raise_open_files() -> None:
    """A connection through the balancer takes two descriptors, and the usual limit is 1,024.

    The workers inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
