"""What the connections of one worker share: its loop, clock, targets, counters and readers.

Knows neither listening sockets nor protocols; `worker` makes one of it and drives it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Protocol

from fastlb.data_plane.access_log import AccessLog
from fastlb.data_plane.reactor import Reactor
from fastlb.data_plane.request_head import HeadReader
from fastlb.data_plane.response_head import ResponseReader
from fastlb.data_plane.retry_budget import RetryBudget
from fastlb.data_plane.target_pool import TargetPool
from fastlb.data_plane.target_runtime import TargetRuntime, TargetTable
from fastlb.data_plane.timers import TimerWheel
from fastlb.target_table.counters import Counters, Worker
from fastlb.target_table.pipe import Evidence, Wanted, send


class Connection(Protocol):
    """A client connection of whatever protocol."""

    @property
    def listener(self) -> object:
        """Through which it came."""

    def begin_drain(self) -> None:
        """The worker stops; called at each tick from then on."""

    def abort(self, reason: str) -> None: ...


_THREE_HEX = [b"%03x" % number for number in range(4096)]

DRAIN_GRACE = 1.0
"""A keep-alive connection that was busy so recently is not closed at a stop: its next request is likely
on its way, and is answered with `Connection: close`."""


class WorkerState:
    """Shared by all connections of a worker."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        row: int,
        pipe: socket.socket,
        on_tick: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.row = counters.row(row)
        self.timers = TimerWheel(loop, on_tick)
        self.reactor = Reactor(loop)
        self.retries = RetryBudget()
        self.heads = HeadReader()
        self.responses = ResponseReader()
        self.targets = TargetTable(loop, counters, row, self._report, self._new_target)
        self.connections: set[Connection] = set()
        self.access_log: AccessLog | None = None
        self.log_dropped = 0
        """By access logs that were closed."""
        self.draining = False
        self.drain_grace = DRAIN_GRACE
        self.generation = 0
        self.leaving = 0
        """HTTP connections of removed listeners."""
        self.requests = self.errors = self.accepted = self.rejected = self.accept_pauses = 0
        self.bytes_in = self.bytes_out = 0
        self.statuses = [0] * 6
        self._pipe = pipe
        self._trace_prefix = b""
        self._trace_random = os.urandom(8).hex().encode()
        self._trace_count = int.from_bytes(os.urandom(4))
        self.row[Worker.PID] = os.getpid()
        self.row[Worker.STARTED_NS] = time.monotonic_ns()
        self._renew_trace_prefix()

    def connection_opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        self.row[3] = len(self.connections)  # Worker.CONNECTIONS, which other workers look at

    def connection_closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.row[3] = len(self.connections)

    def count_status(self, status: int) -> None:
        self.statuses[status // 100] += 1

    def count_error(self) -> None:
        self.errors += 1

    def next_trace_id(self) -> bytes:
        """A new id for X-Amzn-Trace-Id, `1-<8 hex of the time>-<24 hex>` (REFERENCE: AWS).

        The 24 are this worker's random 16 and a counter: as unique, and cheaper than random each time.
        """
        count = self._trace_count = self._trace_count + 1
        low = count & 0xFFF
        if not low:
            self._renew_trace_prefix()
        return self._trace_prefix + _THREE_HEX[low]

    def flush(self) -> None:
        """Store the counts in shared memory."""
        row = self.row
        row[Worker.BEAT_NS] = time.monotonic_ns()
        row[Worker.ACCEPTED] = self.accepted
        row[Worker.REJECTED] = self.rejected
        row[Worker.REQUESTS] = self.requests
        row[Worker.IN_FLIGHT] = self.retries.active
        row[Worker.STATUS_1XX : Worker.STATUS_5XX + 1] = memoryview(
            b"".join(count.to_bytes(8, "little") for count in self.statuses[1:])
        ).cast("Q")
        row[Worker.ERRORS] = self.errors
        row[Worker.RETRIES] = self.retries.total
        row[Worker.BYTES_IN] = self.bytes_in
        row[Worker.BYTES_OUT] = self.bytes_out
        row[Worker.GENERATION] = self.generation
        row[Worker.ACCEPT_PAUSES] = self.accept_pauses
        row[Worker.HELD] = self.targets.held
        row[Worker.LEAVING] = self.leaving
        if self.access_log is not None:
            row[Worker.LOG_DROPPED] = self.log_dropped + self.access_log.dropped
            row[Worker.LOG_REOPENED] = self.access_log.reopened
        self.targets.flush()

    def on_tick(self) -> None:
        """Ten times a second: store the counts, close idle pooled connections, go on draining."""
        self._renew_trace_prefix()
        if self.access_log is not None:
            self.access_log.on_tick()
        self.flush()
        now = self.timers.now
        for target in self.targets.targets.values():
            target.pool.expire(now)
        if self.draining:
            for connection in tuple(self.connections):
                connection.begin_drain()

    def _renew_trace_prefix(self) -> None:
        """What all trace ids begin with, until the time or the counter's upper digits change."""
        self._trace_prefix = b"1-%08x-%b%05x" % (
            int(time.time()) & 0xFFFFFFFF,
            self._trace_random,
            (self._trace_count >> 12) & 0xFFFFF,
        )

    def _report(self, news: Evidence | Wanted) -> None:
        send(self._pipe, news)

    def _new_target(self, target: TargetRuntime) -> None:
        target.pool = TargetPool(target, self.loop, self.reactor, self.timers, self.responses)
