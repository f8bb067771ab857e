"""An upgraded HTTP connection (WebSocket and the like): two sockets taken out of their Streams, and
the same Pump as for TCP between them. Knows no HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable

from fastlb.data_plane.listener_counts import ListenerCounts
from fastlb.data_plane.splice import Pump
from fastlb.data_plane.target_runtime import TargetRuntime
from fastlb.data_plane.timers import NEVER
from fastlb.data_plane.worker_state import WorkerState


class Tunnel:
    """Lives until both sides have ended, one failed, or nothing moved for `idle_timeout` seconds."""

    __slots__ = (
        "_idle_timeout",
        "_on_end",
        "_owner",
        "_pump",
        "armed_at",
        "counts",
        "deadline",
        "listener",
        "target",
    )

    def __init__(
        self,
        owner: WorkerState,
        counts: ListenerCounts,
        target: TargetRuntime,
        client: socket.socket,
        server: socket.socket,
        *,
        to_client: bytes,
        to_target: bytes,
        idle_timeout: float,
        on_end: Callable[[Pump, str], None],
        listener: object = None,
    ) -> None:
        self.armed_at = NEVER
        self.deadline = 0.0
        self.listener = listener
        self.counts = counts
        self.target = target
        self._owner = owner
        self._idle_timeout = idle_timeout
        self._on_end = on_end
        self._pump = Pump(
            owner.loop, client, server, self._done, target, to_a=to_client, to_b=to_target
        )

    def start(self) -> None:
        self._owner.connection_opened(self)
        self._owner.timers.arm(self, self._owner.timers.now + self._idle_timeout)
        self._pump.start()

    def on_deadline(self, now: float) -> None:
        quiet_until = self._pump.last_activity + self._idle_timeout
        if quiet_until > now:
            self._owner.timers.arm(self, quiet_until)
        else:
            self._pump.abort("idle")

    def begin_drain(self) -> None:
        """Nobody can be told to come again inside a stream: it lives until the drain deadline."""

    def abort(self, reason: str) -> None:
        self._pump.abort(reason)

    def _done(self, pump: Pump, reason: str) -> None:
        self._owner.timers.disarm(self)
        self._owner.connection_closed(self)
        self.counts.bytes_in += pump.bytes_a_to_b
        self.counts.bytes_out += pump.bytes_b_to_a
        self._on_end(pump, reason)
