"""The listening sockets: one SO_REUSEPORT socket for each Listener and slot, bound and kept here.

The supervisor never reads them and never closes them before the end: as long as it holds them, what
waits in their accept queues outlives any worker. Knows no worker and no table.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from fastlb.errors import FastlbError
from fastlb.model.address import Address
from fastlb.model.listener import Listener
from fastlb.target_table.handover import listener_key

Place = tuple[socket.AddressFamily, str, int]
"""Family, IP literal and port of a listening socket."""


class ListenSockets:
    """All sockets of all Listeners.

    `listeners` are the `given` ones with their real ports, where port 0 was asked for; `sockets` maps
    `listener_key` of these to one socket a slot. `taken_over` are sockets that a dead supervisor
    had bound; missing slots are bound beside them.
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
        self.slots = slots
        try:
            for listener in listeners:
                given = (taken_over or {}).get(listener_key(listener), ())
                sockets = self._fill(listener, given)
                port = sockets[0].getsockname()[1]
                concrete = replace(listener, address=replace(listener.address, port=port))
                self.listeners += (concrete,)
                self.sockets[listener_key(concrete)] = sockets
        except BaseException:
            self.close()
            raise

    def _fill(self, listener: Listener, given: Sequence[socket.socket]) -> list[socket.socket]:
        """The given sockets and what is missing to one a slot, all of them listening."""
        family, host, port = place_of(listener.address)
        sockets = list(given)
        try:
            if not sockets and port:
                sockets.append(_alone((family, host, port)))
            while len(sockets) < self.slots:
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
