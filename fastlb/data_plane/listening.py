"""Which listening sockets this worker has, and which Listeners they serve: followed from table to table.

The table says which Listeners there are, by which set of sockets, and who serves which slot; this
makes it so, under living connections. Knows no request, and not how connections are read.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator

from fastlb.data_plane.acceptor import Accepted, Acceptor, Crowd
from fastlb.data_plane.http_server import HttpConnection
from fastlb.data_plane.listener_runtime import HttpListener, TcpListener
from fastlb.data_plane.worker_state import WorkerState
from fastlb.model.listener import Listener
from fastlb.target_table.handover import listener_key
from fastlb.target_table.layout import Snapshot
from fastlb.target_table.pipe import Listen, WorkerStart

log = logging.getLogger("fastlb.worker")

LAST_ACCEPTS = 0.1
"""Seconds between the word that a socket's time is over and the last look into its queue: by then every
other worker has heard it too, and handshakes that were under way are complete."""

ASKED_APART = 1.0

AnyListener = HttpListener | TcpListener


class Listening:
    """The sockets in `start.listen`, kept true there, and an Acceptor for each that is configured.

    `accepted_by` makes what takes an HTTP Listener's new connections; `relieve` asks for another
    worker to accept from a slot; `missing` asks for the sockets of a Listener.
    """

    def __init__(
        self,
        state: WorkerState,
        crowd: Crowd,
        start: WorkerStart,
        accepted_by: Callable[[HttpListener], Accepted],
        relieve: Callable[[int], bool],
        missing: Callable[[str], None],
    ) -> None:
        self._state = state
        self._crowd = crowd
        self._held = start.listen
        self._bindings = start.bindings
        self._accepted_by = accepted_by
        self._relieve = relieve
        self._missing = missing
        self._listeners: dict[str, AnyListener] = {}
        self._acceptors: dict[str, list[Acceptor]] = {}
        self._leaving: dict[HttpListener, float] = {}
        """Removed ones that may still have connections, and when they were removed."""
        self._slots = self._limit = 0
        self._asked = float("-inf")

    # -- what the table says

    def configure(self, snapshot: Snapshot) -> None:
        """The Listeners may be others. Before `assign`, after the targets' groups."""
        config = snapshot.config
        self._limit = config.max_connections
        named = {listener_key(one): one for one in config.listeners}
        for key in self._listeners.keys() - named.keys():
            self._remove(key, config.drain_timeout)
        if not self._state.draining:  # else they are somebody else's by now
            bindings = dict(zip(named, snapshot.bindings, strict=False))
            for key in tuple(self._held):
                if key not in named or self._bindings.get(key, 0) != bindings.get(key, 0):
                    self._give_up(key)
        changed = [one for key, listener in named.items() if (one := self._update(key, listener))]
        if changed:
            for connection in tuple(self._state.connections):
                if isinstance(connection, HttpConnection) and connection.listener in changed:
                    connection.renew()

    def _update(self, key: str, settings: Listener) -> AnyListener | None:
        """The Listener where it was here and has changed."""
        groups = self._state.targets.groups
        known = self._listeners.get(key)
        if known is not None:
            return known if known.update(settings, groups) else None
        if settings.protocol == "tcp":
            known = TcpListener(self._state, settings, self._state.counts_of(key))
        else:
            known = HttpListener(settings, groups, self._state.counts_of(key))
        known.draining = self._state.draining
        self._listeners[key] = known
        return None

    def assign(self, snapshot: Snapshot, mine: Callable[[int], bool]) -> None:
        """Accept from the slots that are `mine`, and from no other."""
        self._slots = len(snapshot.slots)
        for key in self._listeners:
            for acceptor in self._acceptors_of(key):
                if mine(acceptor.slot):
                    acceptor.serve(self._limit)
                elif acceptor.wanted:
                    acceptor.leave()
        self.ask_for_missing()

    def _acceptors_of(self, key: str) -> list[Acceptor]:
        """One for each socket that is here."""
        made = self._acceptors.setdefault(key, [])
        sockets = self._held.get(key, [])
        for slot in range(len(made), len(sockets)):
            sockets[slot].setblocking(False)
            made.append(
                Acceptor(
                    self._state,
                    self._crowd,
                    sockets[slot],
                    slot,
                    self._accepted(self._listeners[key]),
                    self._relieve,
                )
            )
        return made

    def _accepted(self, listener: AnyListener) -> Accepted:
        if isinstance(listener, TcpListener):
            return listener.accepted
        return self._accepted_by(listener)

    # -- sockets that come later

    def take(self, message: Listen) -> None:
        """Sockets that the supervisor has bound meanwhile; which were lost are asked for again."""
        came = [socket.socket(fileno=fd) for fd in message.fds]
        key, binding = message.key, message.binding
        if self._state.draining or binding < self._bindings.get(key, 0):
            for one in came:
                one.close()
            return
        if binding != self._bindings.get(key, 0) and self._held.get(key):
            self._give_up(key)
        self._bindings[key] = binding
        held = self._held.setdefault(key, [])
        for slot, one in enumerate(came, message.first):
            if slot == len(held):
                held.append(one)
            else:
                one.close()
        if len(came) < message.count:
            log.error("listening sockets of %s were lost, for want of file descriptors", key)

    def ask_for_missing(self) -> None:
        """Ask for sockets that the table names and that are not here, once a second."""
        now = self._state.loop.time()
        if self._state.draining or now - self._asked < ASKED_APART:
            return
        for key in self._listeners:
            if len(self._held.get(key, [])) < self._slots:
                self._asked = now
                self._missing(key)

    # -- the end of a Listener

    def _remove(self, key: str, seconds: float) -> None:
        """Its connections end with their next answer, and streams after `seconds`."""
        listener = self._listeners.pop(key)
        listener.draining = True
        if isinstance(listener, HttpListener):
            self._leaving[listener] = self._state.loop.time()
            self._state.leaving = max(self._state.leaving, 1)  # its queue is still to be emptied
        self._state.loop.call_later(seconds, self._cut, listener)

    def _cut(self, listener: AnyListener) -> None:
        left = [one for one in self._state.connections if one.listener is listener]
        if left:
            log.warning(
                "cut %d connections of the removed listener %s, at the drain time-out",
                len(left),
                listener_key(listener.settings),
            )
        for connection in left:
            connection.abort("the listener was removed")

    def _give_up(self, key: str) -> None:
        """These sockets serve no more: nobody is let in, and whoever is in the queue is taken."""
        sockets = self._held.pop(key)
        self._bindings.pop(key, None)
        acceptors = self._acceptors.pop(key, [])
        for acceptor in acceptors:
            acceptor.let_nobody_in()
        for one in sockets[len(acceptors) :]:  # never configured here
            one.close()
        self._state.loop.call_later(LAST_ACCEPTS, self._close_down, acceptors)

    def _close_down(self, acceptors: list[Acceptor]) -> None:
        for acceptor in acceptors:
            acceptor.close_down(self._limit)

    def tick(self) -> None:
        """Some times a second: have the idle connections of removed Listeners end."""
        state = self._state
        if not self._leaving:
            return
        now = state.loop.time()
        with_some = {one for one, since in self._leaving.items() if now - since < 2 * LAST_ACCEPTS}
        left = len(with_some)
        for connection in tuple(state.connections):
            if isinstance(connection, HttpConnection) and connection.listener in self._leaving:
                left += 1
                with_some.add(connection.listener)
                connection.begin_drain()
        state.leaving = left
        self._leaving = {one: at for one, at in self._leaving.items() if one in with_some}

    # -- the end of the worker

    def drop_unnamed(self) -> None:
        """Nobody will name them any more: bound for a change that did not come."""
        for key in self._held.keys() - self._listeners.keys():
            for one in self._held.pop(key):
                one.close()
        for key, sockets in self._held.items():
            while sockets and not _listens(sockets[-1]):
                sockets.pop().close()
            del self._acceptors.get(key, [])[len(sockets) :]

    def begin_drain(self) -> None:
        """No connection is kept any more, and the sockets of others are closed."""
        for listener in self._listeners.values():
            listener.draining = True
        for acceptor in self._all():
            if not acceptor.wanted:
                acceptor.empty_and_close(for_good=False)

    def stop(self, *, for_good: bool) -> None:
        """Empty the queues of what is served here, and close."""
        for acceptor in self._all():
            acceptor.empty_and_close(for_good=for_good)
        self._acceptors.clear()

    def _all(self) -> Iterator[Acceptor]:
        for acceptors in self._acceptors.values():
            yield from acceptors


def _listens(one: socket.socket) -> bool:
    return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
