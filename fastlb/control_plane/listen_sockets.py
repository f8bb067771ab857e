"""The listening sockets: one SO_REUSEPORT socket for each Listener and slot, bound and kept here.

The supervisor never reads them and never closes those of a Listener that is configured: as long as it
holds them, what waits in their accept queues outlives any worker. A change of the Listeners, or of
the number of slots, is bound first and comes into force as a whole. Knows no worker and no table.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from fastlb.control_plane.faults import Faults
from fastlb.errors import FastlbError
from fastlb.model.address import Address
from fastlb.model.listener import Listener
from fastlb.target_table.handover import listener_key

Place = tuple[socket.AddressFamily, str, int]
"""Family, IP literal and port of a listening socket."""


@dataclass(slots=True)
class SocketChange:
    """What is bound for a change, until `ListenSockets.adopt` or `close`.

    `listeners` are all with their real ports. `bound` are the sockets of new ones, which listen;
    `more` those of new slots of the ones that stay, which do not yet: nobody must come to a socket
    that may be closed again. `removed` is filled by `adopt`: what `end_removed` must close.
    """

    listeners: tuple[Listener, ...] = ()
    slots: int = 0
    bound: dict[str, list[socket.socket]] = field(default_factory=dict)
    more: dict[str, list[socket.socket]] = field(default_factory=dict)
    removed: list[socket.socket] = field(default_factory=list)

    def close(self) -> None:
        """Nothing comes of it."""
        for sockets in (*self.bound.values(), *self.more.values()):
            for one in sockets:
                one.close()

    @property
    def removal_is_over(self) -> bool:
        """Whether the workers have emptied and ended all removed sockets."""
        return not any(_listens(one) for one in self.removed)

    def end_removed(self) -> None:
        """Close our duplicates. One that still listens, for want of a worker, is ended first."""
        for one in self.removed:
            if _listens(one):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.removed.clear()


class ListenSockets:
    """All sockets of all Listeners.

    `listeners` are the `given` ones with their real ports, where port 0 was asked for; `sockets` maps
    `listener_key` of these to one socket a slot, and `bindings` to the number of this set of sockets.
    `taken_over` are sockets that a dead supervisor had bound; missing slots are bound beside them.
    Raises FastlbError, with a line for each Listener that cannot be bound, and everything closed again.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        slots: int,
        taken_over: Mapping[str, list[socket.socket]] | None = None,
    ) -> None:
        self.given = tuple(listeners)
        self.listeners: tuple[Listener, ...] = ()
        self.sockets: dict[str, list[socket.socket]] = {}
        self.bindings: dict[str, int] = {}
        self.slots = slots
        self._bindings = 0
        faults = Faults()
        try:
            for listener in listeners:
                given = (taken_over or {}).get(listener_key(listener), ())
                with faults.noted():
                    sockets = self._fill(listener, given)
                    port = sockets[0].getsockname()[1]
                    concrete = _at_port(listener, port)
                    self.listeners += (concrete,)
                    self._add(listener_key(concrete), sockets)
            faults.refuse()
        except BaseException:
            self.close()
            raise

    def _add(self, key: str, sockets: list[socket.socket]) -> None:
        self._bindings += 1
        self.sockets[key] = sockets
        self.bindings[key] = self._bindings

    def prepare(self, listeners: Sequence[Listener], slots: int) -> SocketChange:
        """Bind what `listeners` and `slots` need and we have not. Nothing that is there is touched;
        may run in a thread. Raises FastlbError as at the start."""
        change = SocketChange(slots=max(slots, self.slots))
        faults = Faults()
        wanted = self.concrete(listeners)
        leaving = self.sockets.keys() - {listener_key(one) for one in wanted}
        ports = {self.sockets[key][0].getsockname()[1] for key in leaving}
        try:
            for place, listener in enumerate(wanted):
                key = listener_key(listener)
                if key in self.sockets:
                    missing = change.slots - len(self.sockets[key])
                    if missing:
                        where = self.sockets[key][0]
                        change.more[key] = [_beside(where) for _ in range(missing)]
                    change.listeners += (listener,)
                    continue
                try:
                    sockets = self._fill(listener, (), change.slots, ports)
                except FastlbError as error:
                    faults.note(f"listeners[{place}].address: {error}")
                    continue
                concrete = _at_port(listener, sockets[0].getsockname()[1])
                change.listeners += (concrete,)
                change.bound[listener_key(concrete)] = sockets
            faults.refuse()
        except BaseException as error:
            change.close()
            if isinstance(error, OSError):
                why = error.strerror or error
                raise FastlbError(
                    f"workers: cannot bind sockets for more of them: {why}"
                ) from error
            raise
        return change

    def concrete(self, listeners: Sequence[Listener]) -> list[Listener]:
        """With the real port where port 0 was asked for before: it is the same Listener then."""
        known: dict[str, list[int]] = {}
        for given, real in zip(self.given, self.listeners, strict=True):
            known.setdefault(listener_key(given), []).append(real.address.port)
        found = []
        for listener in listeners:
            ports = known.get(listener_key(listener), [])
            found.append(_at_port(listener, ports.pop(0)) if ports else listener)
        return found

    def adopt(self, change: SocketChange, given: Sequence[Listener]) -> None:
        """The change is in force, `given` what was configured. The sockets of `more` do not listen yet:
        the workers must have them first (`listen`)."""
        wanted = {listener_key(one) for one in change.listeners}
        for key in self.sockets.keys() - wanted:
            change.removed += self.sockets.pop(key)
            del self.bindings[key]
        for key, sockets in change.more.items():
            self.sockets[key] += sockets
        for key, sockets in change.bound.items():
            self._add(key, sockets)
        self.listeners, self.slots, self.given = change.listeners, change.slots, tuple(given)
        change.bound = {}

    def listen(self, change: SocketChange) -> None:
        """Let clients come to the new slots."""
        for sockets in change.more.values():
            for one in sockets:
                one.listen(_backlog())
        change.more = {}

    def _fill(
        self,
        listener: Listener,
        given: Sequence[socket.socket],
        slots: int = 0,
        leaving: Collection[int] = (),
    ) -> list[socket.socket]:
        """The given sockets and what is missing to one a slot, all of them listening. Beside sockets of
        ours at the ports `leaving`, which still listen."""
        family, host, port = place_of(listener.address)
        sockets = list(given)
        try:
            if not sockets and port and port not in leaving:
                sockets.append(_alone((family, host, port)))
            while len(sockets) < (slots or self.slots):
                sockets.append(_one_more(sockets, (family, host, port)))
                port = sockets[0].getsockname()[1]
            for one in sockets:
                one.listen(_backlog())
        except OSError as error:
            for one in sockets:
                one.close()
            raise FastlbError(_why(listener_key(listener), (family, host, port), error)) from error
        return sockets

    def close(self) -> None:
        for sockets in self.sockets.values():
            for one in sockets:
                one.close()
        self.sockets.clear()


def _at_port(listener: Listener, port: int) -> Listener:
    return replace(listener, address=replace(listener.address, port=port))


def is_taken(address: Address) -> bool:
    """Whether somebody listens where a Listener of this address would."""
    try:
        _bound(place_of(address), reuse_port=False).close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    except FastlbError:
        return False  # it is told where it is bound
    return False


def _listens(one: socket.socket) -> bool:
    return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _beside(one: socket.socket) -> socket.socket:
    """One more at the same address, which does not listen yet if it is one of its own. Raises OSError."""
    host, port, *_ = one.getsockname()
    return _one_more([one], (one.family, host, port))


def place_of(address: Address) -> Place:
    """Where a Listener's address is bound; of a name's addresses the first, IPv4 before IPv6."""
    if address.is_unix:
        raise FastlbError(
            f"cannot listen on {address}: a listener needs HOST:PORT, for the kernel spreads only "
            "TCP connections over the workers"
        )
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise FastlbError(f"cannot listen on {address}: {address.host}: {error.strerror}") from None
    family, _, _, _, where = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, str(where[0]), address.port


def listens_at(one: socket.socket, address: Address) -> bool:
    """Whether a socket that came from elsewhere is a listening one of this address."""
    family, host, port = place_of(address)
    if one.family != family or one.type != socket.SOCK_STREAM:
        return False
    if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    name = one.getsockname()
    return ip_address(name[0]) == ip_address(host) and name[1] == port


def _bound(place: Place, reuse_port: bool) -> socket.socket:
    family, host, port = place
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Against what lingers in TIME_WAIT; two listening sockets still exclude each other.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        one.setblocking(False)
        one.bind((host, port))
    except BaseException:
        one.close()
        raise
    return one


def _one_more(sockets: Sequence[socket.socket], place: Place) -> socket.socket:
    """One more socket of an address. Where the service manager bound the first one for itself alone, or
    as another user, all slots accept from that one's queue."""
    if not sockets:
        return _bound(place, reuse_port=True)
    first = sockets[0]
    if first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        try:
            return _bound(place, reuse_port=True)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    return first.dup()


def _alone(place: Place) -> socket.socket:
    """The first socket of an address. Raises OSError where anybody has the address.

    SO_REUSEPORT from the beginning would share it silently, with a process that does the same in
    the same moment too. Listening, this one excludes all others; then it lets ours in beside it.
    """
    one = _bound(place, reuse_port=False)
    try:
        one.listen(_backlog())
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        one.close()
        raise
    return one


def _backlog() -> int:
    try:
        return int(Path("/proc/sys/net/core/somaxconn").read_text())
    except OSError:
        return socket.SOMAXCONN


def _why(text: str, place: Place, error: OSError) -> str:
    port = place[2]
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {text}: the address is in use{_holder_sentence(place)}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"cannot listen on {text}: no permission for port {port}; use a port from 1024 up, "
            f"or give the process CAP_NET_BIND_SERVICE, or set net.ipv4.ip_unprivileged_port_start"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {text}: no network interface of this host has {place[1]}"
    return f"cannot listen on {text}: {error.strerror}"


def _holder_sentence(place: Place) -> str:
    holders = holders_of(place)
    if os.getpid() in holders:
        return " by another listener of this configuration"
    if not holders:
        return "; who holds it cannot be told (`ss -ltnp` as root may)"
    pid = min(holders)
    others = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    return f" by pid {pid} ({holders[pid]}){others}"


def holders_of(place: Place) -> dict[int, str]:
    """Processes, as far as /proc shows them to us, that listen on the address's port."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(place)}
    holders: dict[int, str] = {}
    if not wanted:
        return holders
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fds = f"/proc/{pid}/fd"
            if any(os.readlink(f"{fds}/{fd}") in wanted for fd in os.listdir(fds)):
                command = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ")
                holders[int(pid)] = command.decode(errors="replace").strip()[:80]
        except OSError:
            continue  # not ours to look into, or gone meanwhile
    return holders


def _inodes(place: Place) -> set[str]:
    """Inodes of the listening sockets that exclude the address."""
    _, host, port = place
    address = ip_address(host)
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/self/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
            raw, _, hex_port = local.partition(":")
            if state == "0A" and int(hex_port, 16) == port:
                other = _address_of(raw)
                if other.is_unspecified or address.is_unspecified or other == address:
                    found.add(inode)
    return found


def _address_of(raw: str) -> IPv4Address | IPv6Address:
    """The kernel prints each 32-bit word of an address in the host's byte order."""
    words = bytes.fromhex(raw)
    swapped = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    return ip_address(swapped if sys.byteorder == "little" else words)
