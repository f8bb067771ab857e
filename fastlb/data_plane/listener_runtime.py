"""A worker's view of one Listener: its rules compiled, and what it does with each new connection."""

from __future__ import annotations

import socket
from collections.abc import Callable
from random import random

from fastlb.data_plane.client_address import TrustedProxies
from fastlb.data_plane.listener_counts import ListenerCounts
from fastlb.data_plane.request_head import ForwardedFields, RequestHead, listener_host
from fastlb.data_plane.splice import reset_at_close
from fastlb.data_plane.target_runtime import GroupRuntime
from fastlb.data_plane.tcp_server import TcpConnection, TcpEnd
from fastlb.data_plane.worker_state import WorkerState
from fastlb.model.listener import Forward, Listener
from fastlb.model.matching import Router, choose_group

REMEMBERED_PEERS = 4096
"""Addresses whose fields are kept after their connections ended; some 1 MB."""


class HttpListener:
    """One HTTP Listener, which its connections hold: a reload changes it in place, so that each acts by
    the new settings and rules from its next request on. `only_group` is set where every request goes
    to the same group; `draining` once no connection is kept: the worker stops, or it was removed."""

    __slots__ = (
        "_fields",
        "counts",
        "draining",
        "host",
        "key",
        "only_group",
        "port",
        "router",
        "settings",
        "trusted",
    )

    def __init__(
        self,
        settings: Listener,
        groups: dict[str, GroupRuntime],
        counts: ListenerCounts | None = None,
    ) -> None:
        self.counts = counts or ListenerCounts()
        self.draining = False
        self._set(settings)
        self.find_group(groups)

    def _set(self, settings: Listener) -> None:
        self.settings = settings
        self.key = f"http://{settings.address}"
        self.port = str(settings.address.port).encode()
        self.host = listener_host(settings.address)
        self.trusted = TrustedProxies(settings.trusted_proxies)
        self.router = Router(settings)
        self._fields: dict[str, ForwardedFields] = {}

    def update(self, settings: Listener, groups: dict[str, GroupRuntime]) -> bool:
        """Take over what the table says now; whether the settings are others."""
        changed = settings != self.settings
        if changed:
            self._set(settings)
        self.find_group(groups)
        return changed

    def find_group(self, groups: dict[str, GroupRuntime]) -> None:
        """The groups' run-time objects may be others after a reload."""
        default = self.settings.default
        self.only_group: GroupRuntime | None = None
        if self.router.is_trivial and isinstance(default, Forward) and len(default.groups) == 1:
            self.only_group = groups[default.groups[0].group]

    def fields_for(self, peer: str) -> ForwardedFields:
        """What each request of a connection from `peer` gets."""
        found = self._fields.get(peer)
        if found is not None:
            return found
        if len(self._fields) >= REMEMBERED_PEERS:
            self._fields.clear()
        self._fields[peer] = made = ForwardedFields(
            peer=peer,
            client=peer.encode(),
            port=self.port,
            host=self.host,
            mode=self.settings.x_forwarded_for,
            trusted=self.trusted.trusts(peer),
            strict=bool(self.trusted),
        )
        return made


class RequestFacts:
    """What rules may ask of a request (matching.Facts), read only when they do."""

    __slots__ = ("_fields", "_head", "source_ip")

    def __init__(self, head: RequestHead, source_ip: str) -> None:
        self._head = head
        self._fields: dict[str, list[str]] | None = None
        self.source_ip = source_ip

    @property
    def host(self) -> str:
        host = self._head.block.host.decode("latin-1").lower()
        if host.startswith("["):
            return host.partition("]")[0] + "]"
        return host.partition(":")[0]

    @property
    def port(self) -> int:
        """The port that the client believes to talk to: Host's, or HTTP's own."""
        host = self._head.block.host.decode("latin-1")
        digits = host.rpartition("]")[2].partition(":")[2]
        return int(digits) if digits else 80

    @property
    def path(self) -> str:
        return self._head.target.partition(b"?")[0].decode("latin-1")

    @property
    def query(self) -> str:
        return self._head.target.partition(b"?")[2].decode("latin-1")

    @property
    def method(self) -> str:
        return self._head.method.decode("latin-1")

    def header(self, name: str) -> list[str]:
        if self._fields is None:
            fields: dict[str, list[str]] = {}
            for line in self._head.block.raw.split(b"\r\n"):
                key, colon, value = line.partition(b":")
                if colon:
                    values = fields.setdefault(key.decode("latin-1").lower(), [])
                    values.append(value.strip(b" \t").decode("latin-1"))
            self._fields = fields
        return self._fields.get(name, [])


class TcpListener:
    """One TCP Listener: each connection goes to a group by the weights of its Forward. A reload changes
    it in place, for new connections."""

    __slots__ = ("_state", "counts", "draining", "key", "settings")

    def __init__(self, state: WorkerState, settings: Listener, counts: ListenerCounts) -> None:
        self._state = state
        self.settings = settings
        self.counts = counts
        self.key = f"tcp://{settings.address}"
        self.draining = False

    def update(self, settings: Listener, groups: dict[str, GroupRuntime]) -> bool:
        """Take over what the table says now; whether the settings are others."""
        changed = settings != self.settings
        self.settings = settings
        return changed

    def accepted(self, connection: socket.socket, address: str, refused: bool) -> None:
        """Take a new connection; `refused` is over the limit, and TCP has no word for that but a reset."""
        self.counts.accepted += 1
        connection.setblocking(False)
        forward = self.settings.default
        if refused or not isinstance(forward, Forward):
            if self._state.access_log is not None:
                why, detail = "connection_limit_reached", "too many connections"
                end = TcpEnd((), 0, 0, 0.0, -1.0, 0.0, why, detail)
                self._logged(connection, address, "-")(end)
            reset_at_close(connection)
            connection.close()
            return
        group = self._state.targets.groups[choose_group(forward, random())]
        logged = None
        if self._state.access_log is not None:
            logged = self._logged(connection, address, group.name)
        timeout = self.settings.idle_timeout
        opened = TcpConnection(
            self._state, self.counts, group, timeout, connection, address, logged
        )
        opened.listener = self
        opened.start()

    def _logged(
        self, connection: socket.socket, address: str, group: str
    ) -> Callable[[TcpEnd], None]:
        """Writes the connection into the access log that there is when it ends."""
        try:
            port = connection.getpeername()[1]
        except OSError:
            port = 0  # it is reset already

        def ended(end: TcpEnd) -> None:
            log = self._state.access_log
            if log is not None:
                log.tcp(self.key, address, port, group, end)

        return ended
