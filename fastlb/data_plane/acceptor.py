"""Accepts connections from one slot of one Listener, while the table says that this worker serves it.

Every worker has every slot's socket; an Acceptor is the only thing in a worker that reads one. It also
decides when not to: over the worker's fair share, over the limit of connections, out of descriptors.
Knows no protocol.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable, Iterable

from fastlb.data_plane.listen_filter import let_nobody_in
from fastlb.data_plane.reactor import READABLE
from fastlb.data_plane.worker_state import WorkerState
from fastlb.target_table.counters import ROW, Worker

BATCH = 64
"""Accepts a turn of the loop, so that a burst of new connections does not starve the open ones."""
SHARE_FACTOR = 1.03
SHARE_SLACK = 1.5
SHARE_LEAST = 8
"""A worker that holds more than `mean * 1.03 + 1.5` connections, and at least 8, asks to be relieved: the
kernel spreads connections by hash, which leaves some workers with twice the load of others."""
OVER_SHARE_PAUSE = 0.004
"""Seconds between two looks of a worker that is over its share. In a burst of new connections whoever runs
first is far over for a moment, until the others have run: only who is still over asks to be relieved."""
OVER_SHARE_PATIENCE = 0.2
"""Seconds after which it accepts all the same: nobody took the slot, and clients wait."""
UNSHARED_BATCH = 8
"""That many then, twice as many the next time, up to BATCH: a supervisor that hangs must not make
clients wait."""
CHURN = 50
"""New connections within a tick, half of them gone again, that are taken for coming and going."""
SHORTAGE_PAUSE = 0.1
DESCRIPTORS_KEPT = 0.25
"""Share of the limit of open files that new clients don't get: the requests of those who are in need
connections to targets."""
REFUSED_SHARE = 0.05
"""Connections over max_connections, as a share of it, that are accepted to be told 503."""

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_EARLY_ENDS = {errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.EPERM}

Accepted = Callable[[socket.socket, str, bool], None]
"""Takes a new connection: its socket, the client's address, and whether it is over the limit."""


class Crowd:
    """How many connections all workers hold, from their counter rows."""

    __slots__ = ("_accepted", "_cells", "_churning", "_closed", "_offsets", "_state")

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._cells = state.targets.counters.cells
        self._offsets: list[int] = []
        self._accepted = self._closed = 0
        self._churning = False

    def tick(self) -> None:
        """Notice whether connections come and go: then evening them out is work for nothing."""
        accepted = self._state.accepted
        closed = accepted - len(self._state.connections)
        fresh = accepted - self._accepted
        self._churning = fresh >= CHURN and 2 * (closed - self._closed) > fresh
        self._accepted, self._closed = accepted, closed

    def see_rows(self, rows: Iterable[int]) -> None:
        self._offsets = [row * ROW for row in rows]

    def counts(self) -> tuple[int, int]:
        """Connections and living workers, all together."""
        cells = self._cells
        total = alive = 0
        for offset in self._offsets:
            if cells[offset]:  # Worker.PID
                alive += 1
                total += cells[offset + Worker.CONNECTIONS]
        return total, alive

    def over_share(self, total: int, alive: int) -> bool:
        own = len(self._state.connections)
        if own < SHARE_LEAST or self._churning:
            return False
        return alive > 1 and own > total / alive * SHARE_FACTOR + SHARE_SLACK


class Acceptor:
    """One slot of one Listener."""

    __slots__ = (
        "_accepted",
        "_crowd",
        "_family",
        "_fd",
        "_grant",
        "_granted",
        "_limit",
        "_listening",
        "_over_since",
        "_relieve",
        "_resume",
        "_socket",
        "_state",
        "slot",
        "wanted",
    )

    def __init__(
        self,
        state: WorkerState,
        crowd: Crowd,
        listening: socket.socket,
        slot: int,
        accepted: Accepted,
        relieve: Callable[[int], bool],
    ) -> None:
        self.slot = slot
        self.wanted = False
        self._state = state
        self._crowd = crowd
        self._socket = listening
        self._fd = listening.fileno()
        self._family = listening.family
        self._accepted = accepted
        self._relieve = relieve
        self._limit = 0
        self._over_since = 0.0
        self._granted = 0
        self._grant = UNSHARED_BATCH
        self._listening = False
        self._resume: asyncio.TimerHandle | None = None

    def serve(self, limit: int) -> None:
        """The slot is ours; `limit` is max_connections."""
        self._limit = limit
        self.wanted = True
        if not self._listening and self._resume is None:
            self._listen()

    def leave(self) -> None:
        """The slot is another worker's."""
        self.wanted = False
        self._granted = 0
        self._over_since = 0.0
        self._pause()
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None

    def empty_and_close(self, *, for_good: bool) -> None:
        """Take what is in the queue, then close this duplicate: a connection that is still queued when
        the last duplicate closes is reset by the kernel. `for_good` where nobody serves the socket
        after us."""
        served = self.wanted
        self.leave()
        if served:
            if for_good:
                let_nobody_in(self._socket)
            while self._accept_one(self._crowd.counts()[0], float("inf")):
                pass
        self._socket.close()

    def let_nobody_in(self) -> None:
        """The Listener is no more. Whose handshake is under way still comes to the queue."""
        self.leave()
        let_nobody_in(self._socket)

    def close_down(self, limit: int) -> None:
        """After `let_nobody_in`: take what is in the queue, and end the socket for all its duplicates,
        that of a worker which hangs included. Each worker does this to every slot's: whoever comes
        first takes what there is. `limit` is max_connections."""
        self.leave()
        self._limit = limit
        try:
            while self._accept_one(self._crowd.counts()[0], float("inf")):
                pass
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # another worker has ended it
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        self._socket.close()

    def _listen(self) -> None:
        self._listening = True
        self._state.reactor.watch(self._fd, self, READABLE)

    def _pause(self) -> None:
        if self._listening:
            self._listening = False
            self._state.reactor.forget(self._fd)

    def _pause_for(self, seconds: float) -> None:
        self._pause()
        self._resume = self._state.loop.call_later(seconds, self._on_resume)

    def _on_resume(self) -> None:
        self._resume = None
        if self.wanted and not self._listening:
            if _descriptors_left(self._fd):
                self._listen()
            else:
                self._shortage()

    def on_event(self, _events: int) -> None:
        """Somebody waits in the queue."""
        most = _most_descriptors()
        for _ in range(BATCH):
            total, alive = self._crowd.counts()
            if self._granted:
                self._granted -= 1
            elif not self._crowd.over_share(total, alive):
                self._over_since = 0.0
                self._grant = UNSHARED_BATCH
            elif self._wait_for_others():
                return
            if not self._accept_one(total, most):
                break

    def _wait_for_others(self) -> bool:
        """Leave what is queued for a moment, since this worker is over its share; False where it has
        been left for too long."""
        now = self._state.loop.time()
        if not self._over_since:
            self._over_since = now
        elif now - self._over_since > OVER_SHARE_PATIENCE:
            self._over_since = 0.0
            self._granted = self._grant - 1
            self._grant = min(2 * self._grant, BATCH)
            return False
        elif not self._relieve(self.slot):
            return False  # without a supervisor nobody passes a slot on
        self._pause_for(OVER_SHARE_PAUSE)
        return True

    def _accept_one(self, total: int, most: float) -> bool:
        """Whether there may be more; a connection whose descriptor is `most` or higher is the last."""
        state = self._state
        refused = total >= self._limit
        if refused and total >= self._limit + max(16, int(self._limit * REFUSED_SHARE)):
            self._shortage()
            return False
        try:
            # Not accept(): it asks the socket for what is known, at a third of the whole cost.
            fd, address = self._socket._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _SHORTAGES:
                self._shortage()
                return False
            if error.errno in _EARLY_ENDS:
                return True
            if error.errno == errno.EINVAL:  # another worker has ended it: the Listener is no more
                self.leave()
                return False
            raise
        state.accepted += 1
        if refused:
            state.rejected += 1
        short = fd >= most  # the kernel gives the lowest that is free
        connection = socket.socket(self._family, socket.SOCK_STREAM, 0, fileno=fd)
        self._accepted(connection, address[0], refused)
        if short:
            self._shortage()
        return not short

    def _shortage(self) -> None:
        """Out of descriptors or room: leave clients in the queue, serve those that are in, look again
        soon. Accepting in a loop that fails would burn a core."""
        self._state.accept_pauses += 1
        if self.wanted and self._resume is None:
            self._pause_for(SHORTAGE_PAUSE)


def _most_descriptors() -> float:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] * (1 - DESCRIPTORS_KEPT)


def _descriptors_left(some: int) -> bool:
    """Whether the lowest free descriptor is one that a new client may have; `some` is any open one."""
    try:
        lowest = os.dup(some)
    except OSError:
        return False
    os.close(lowest)
    return lowest < _most_descriptors()
