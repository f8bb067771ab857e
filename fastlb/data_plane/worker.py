"""The life of a worker process: starts its loop, follows the table, serves its slots, drains, ends.

Composes the data plane; decides nothing about single requests. Its supervisor may die: it then serves
every slot with the last table until a new supervisor asks for its sockets.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import time
from pathlib import Path

import uvloop

from fastlb.data_plane.acceptor import Accepted, Crowd
from fastlb.data_plane.access_log import AccessLog, lines_of
from fastlb.data_plane.http_server import HttpConnection
from fastlb.data_plane.listener_runtime import HttpListener
from fastlb.data_plane.listening import LAST_ACCEPTS, Listening
from fastlb.data_plane.worker_state import WorkerState
from fastlb.errors import FastlbError
from fastlb.logs import keep_log, start_logging
from fastlb.model.configuration import Configuration
from fastlb.target_table.counters import ROW, Counters
from fastlb.target_table.counters import Worker as Head
from fastlb.target_table.handover import answer_takeover, bind_handover_socket
from fastlb.target_table.layout import Snapshot
from fastlb.target_table.pipe import (
    Drain,
    Listen,
    Missing,
    Ready,
    Relieve,
    Reopen,
    Retire,
    Stop,
    TableChanged,
    WorkerStart,
    receive,
    send,
)
from fastlb.target_table.reader import TableReader

log = logging.getLogger("fastlb.worker")

HANDOVER_LOOK = 10
"""Ticks, so that it is once a second: looks whether the takeover socket is still there."""
STOPPING = "fastlb is stopping, and no instance is there"
_DEAD_NS = 2_000_000_000
"""Age of its last beat at which a worker's row counts no more, where no supervisor clears it."""
_SUPERVISORS_SIGNALS = (
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def worker_main(start: WorkerStart) -> None:
    """The whole of a worker process; returns when it has drained."""
    # The terminal's Ctrl-C goes to the whole group, and so does what log rotation and the like send: the
    # supervisor alone decides what follows.
    for ignored in _SUPERVISORS_SIGNALS:
        signal.signal(ignored, signal.SIG_IGN)
    name = f"worker {start.index} (pid {os.getpid()})"
    stop_logging = start_logging("info", name, start.log_format, start.index)
    stop_keeping = keep_log(Path(start.log), start.index) if start.log else None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(Worker(loop, start).run())
    finally:
        loop.close()
        if stop_keeping is not None:
            stop_keeping()
        stop_logging()


class Worker:
    """One worker process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start: WorkerStart) -> None:
        self._loop = loop
        self._start = start
        self._pipe = start.pipe
        self._counters = Counters(start.counters.fd)
        self._reader = TableReader(start.table.fd)
        self._state = WorkerState(loop, self._counters, start.index, start.pipe, self._on_tick)
        self._crowd = Crowd(self._state)
        self._snapshot: Snapshot | None = None
        self._handover: tuple[socket.socket, asyncio.Task[None]] | None = None
        self._ticks = 0
        self._rows = range(0)
        self._living: tuple[int, ...] = ()
        """The rows that count, of the workers that live without a supervisor."""
        self._orphaned = False
        self._instance_ends = False
        self._access_log_is = ("off", "json")
        self._ended: asyncio.Future[None] = loop.create_future()
        self._listening = Listening(
            self._state, self._crowd, start, self._http_accepted, self._relieve, self._missing
        )

    async def run(self) -> None:
        """Serve until drained or stopped."""
        state = self._state
        self._handover = self._offer_handover()
        self._pipe.setblocking(False)
        self._loop.add_reader(self._pipe.fileno(), self._on_pipe)
        self._loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        state.timers.start()
        # After the handover socket is there, so that a next supervisor finds whoever serves: one whose
        # supervisor died before may have been overlooked, and must not serve.
        self._on_pipe()
        if not self._orphaned:
            self._follow_table()
        # What is there now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        try:
            await self._ended
        finally:
            self._end_handover()
            state.timers.stop()
            self._loop.remove_reader(self._pipe.fileno())
            for connection in tuple(state.connections):
                connection.abort("stopping")
            await asyncio.sleep(0)
            state.flush()
            if state.access_log is not None:
                state.access_log.close()
            state.reactor.close()

    # -- the takeover socket

    def _offer_handover(self) -> tuple[socket.socket, asyncio.Task[None]] | None:
        try:
            server = bind_handover_socket(self._start.run_dir)
        except OSError as error:
            # Serving comes first. A next supervisor cannot take over from this worker, that is all.
            log.warning(
                "no takeover socket in %s: %s", self._start.run_dir, error.strerror or error
            )
            return None
        answering = answer_takeover(server, self._start, self._is_orphaned, self._drain)
        return server, self._loop.create_task(answering)

    def _keep_handover(self) -> None:
        """Somebody may have removed the run-time folder, which the supervisor makes anew: without the
        socket a next supervisor would find this worker's addresses in use, and nobody to ask."""
        if self._handover is None or os.path.exists(self._handover[0].getsockname()):
            return
        if os.path.isdir(self._start.run_dir):
            self._end_handover()
            self._handover = self._offer_handover()

    def _end_handover(self) -> None:
        if self._handover is None:
            return
        server, answering = self._handover
        self._handover = None
        path = server.getsockname()
        answering.cancel()
        server.close()
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    # -- the table

    def _follow_table(self) -> None:
        """Act on the current snapshot, if it is another than the last."""
        state = self._state
        if self._reader.words[0] == state.generation:
            return
        found = self._reader.read()
        if found is None:
            return
        first = self._snapshot is None
        generation, snapshot = found
        renewed = first or self._snapshot is None or snapshot.config_id != self._snapshot.config_id
        self._snapshot = snapshot
        state.targets.apply(snapshot)
        state.see_columns(snapshot.listener_columns)
        state.generation = generation
        self._rows = snapshot.all_rows
        self._crowd.see_rows(self._rows)
        if renewed:
            self._configure(snapshot)
        if not state.draining:
            self._assign(snapshot)
        for connection in tuple(state.connections):
            if isinstance(connection, HttpConnection):
                connection.leave_suspects()
        if first:
            send(self._pipe, Ready())

    def _configure(self, snapshot: Snapshot) -> None:
        config = snapshot.config
        logging.getLogger().setLevel(config.log_level.upper())
        self._open_access_log(config)
        self._listening.configure(snapshot)

    def _open_access_log(self, config: Configuration) -> None:
        """Where it is another than before. One that cannot be opened leaves the old one in use."""
        state = self._state
        old = state.access_log
        wanted = config.access_log, config.access_log_format
        if wanted == self._access_log_is:
            return
        try:
            lines = lines_of(config.access_log_format, config.name, os.getpid())
            state.access_log = (
                AccessLog(config.access_log, lines) if config.access_log != "off" else None
            )
        except OSError as error:
            what = "the former access log goes on" if old is not None else "no access log"
            log.error("%s: %s", what, error.strerror or error)
            return
        self._access_log_is = wanted
        if old is not None:
            state.log_dropped += old.dropped
            old.close(0)

    def _assign(self, snapshot: Snapshot) -> None:
        slots, index = snapshot.slots, self._start.index
        # Without a supervisor nobody passes a dead worker's slot on: then all serve all.
        self._listening.assign(
            snapshot, lambda slot: self._orphaned or (slot < len(slots) and slots[slot] == index)
        )

    def _on_tick(self) -> None:
        self._state.on_tick()
        self._crowd.tick()
        self._follow_table()
        self._listening.tick()
        if self._orphaned:
            self._leave_dead_rows()
        self._ticks += 1
        if self._ticks % HANDOVER_LOOK == 0:
            self._keep_handover()
            self._listening.ask_for_missing()

    def _leave_dead_rows(self) -> None:
        """Without a supervisor nobody clears a dead worker's row: its connections must not use up
        max_connections, nor its requests make a target look busy."""
        cells = self._counters.cells
        since = time.monotonic_ns() - _DEAD_NS
        living = tuple(
            row
            for row in self._rows
            if row == self._start.index or cells[row * ROW + Head.BEAT_NS] > since
        )
        if living != self._living:
            self._living = living
            self._crowd.see_rows(living)
            self._state.targets.see_rows(living)

    # -- connections

    def _http_accepted(self, listener: HttpListener) -> Accepted:
        state = self._state

        def accepted(connection: socket.socket, address: str, refused: bool) -> None:
            listener.counts.accepted += 1
            client = HttpConnection(state, listener, address, refused)
            try:
                connection.setblocking(False)
                client.open(connection)
            except OSError as error:
                log.warning("a new connection from %s failed: %s", address, error)
                connection.close()
                return
            state.connection_opened(client)

        return accepted

    def _relieve(self, slot: int) -> bool:
        return not self._orphaned and send(self._pipe, Relieve(slot))

    def _missing(self, key: str) -> None:
        if not self._orphaned:
            send(self._pipe, Missing(key))

    # -- the supervisor's words, and its absence

    def _on_pipe(self) -> None:
        changed = False
        while True:
            try:
                message = receive(self._pipe)
            except BlockingIOError:
                break
            if message is None:
                self._on_orphaned()
                return
            if isinstance(message, TableChanged):
                changed = True
            elif isinstance(message, Drain):
                self._instance_ends = True
                self._drain(message.seconds)
            elif isinstance(message, Retire):
                self._begin_drain(message.seconds)
            elif isinstance(message, Listen):
                self._listening.take(message)
                if self._snapshot is not None and not self._state.draining:
                    self._assign(self._snapshot)
            elif isinstance(message, Reopen):
                if self._state.access_log is not None:
                    self._state.access_log.reopen(message.number)
            elif isinstance(message, Stop):
                self._end()
        if changed:
            self._follow_table()

    def _is_orphaned(self) -> bool:
        if not self._orphaned:
            self._on_pipe()  # it may have died in this moment
        return self._orphaned

    def _on_orphaned(self) -> None:
        self._orphaned = True
        self._loop.remove_reader(self._pipe.fileno())
        if self._state.draining:
            return
        if self._snapshot is None:
            log.warning("the supervisor died before this worker served; ending")
            self._end()
        else:
            log.warning("the supervisor is gone; serving on with the last target table")
            self._follow_table()
            self._listening.drop_unnamed()
            self._assign(self._snapshot)

    def _on_sigterm(self) -> None:
        """systemd and the like send it to every process at once: the supervisor alone decides then."""
        if not self._is_orphaned():
            log.info("SIGTERM is for the supervisor (pid %d); ignored", os.getppid())
            return
        self._drain(self._snapshot.config.drain_timeout if self._snapshot is not None else 0.0)

    def _act_on(self, table: int) -> bool:
        """Follow the table of a new supervisor from now on: its targets are the ones that live. False
        where it has not all of our groups, which those who are still here may ask for."""
        try:
            reader = TableReader(table)
            found = reader.read()
        except (OSError, ValueError, TypeError, KeyError, FastlbError) as error:
            log.warning("the table of the new supervisor cannot be read: %r", error)
            return False
        finally:
            os.close(table)
        groups = {one.name for one in found[1].config.target_groups} if found is not None else set()
        if not groups >= self._state.targets.groups.keys():
            reader.close()
            return False
        self._reader.close()
        self._reader = reader
        self._state.generation = 0
        self._follow_table()
        return True

    def _drain(self, seconds: float, table: int | None = None) -> None:
        """Empty the accept queues, finish what is in flight within `seconds`, end. `table` is the memfd
        of a new supervisor's."""
        self._begin_drain(seconds)
        if table is None or not self._act_on(table):
            # At once, and not at the deadline: no instance is launched for one that stops, and a client
            # that is told can ask whoever serves next.
            self._state.targets.end_holding(STOPPING)

    def _begin_drain(self, seconds: float) -> None:
        state = self._state
        state.drain_grace = min(state.drain_grace, seconds)
        self._loop.call_later(seconds, self._end)
        if state.draining:
            return  # it was retired before: now the instance ends, perhaps sooner
        state.draining = True
        self._listening.begin_drain()
        self._loop.call_later(min(LAST_ACCEPTS, seconds), self._stop_accepting)

    def _stop_accepting(self) -> None:
        self._listening.stop(for_good=self._instance_ends)
        self._end_when_idle()

    def _end_when_idle(self) -> None:
        if not self._state.connections:
            self._end()
        elif not self._ended.done():
            self._loop.call_later(0.02, self._end_when_idle)

    def _end(self) -> None:
        if not self._ended.done():
            self._state.targets.end_holding(STOPPING)
            self._ended.set_result(None)
