"""Where the admin server listens: which addresses others can reach, and the sockets themselves."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from pathlib import Path

from fastlb.errors import FastlbError
from fastlb.model.address import Address

BACKLOG = 64


def listen_at_path(path: Path) -> socket.socket:
    """A unix socket that its owner alone may connect to. What nobody serves any more is replaced.

    Raises FastlbError where somebody serves it, or where it cannot be made.
    """
    if _is_served(path):
        raise FastlbError(f"admin.address: unix:{path} is in use: choose another path")
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink(missing_ok=True)
        one.bind(str(path))
        os.chmod(path, 0o600)
        one.listen(BACKLOG)
    except OSError as error:
        one.close()
        raise FastlbError(
            f"admin.address: cannot listen on unix:{path}: {error.strerror}"
        ) from error
    one.setblocking(False)
    return one


def remove(path: str | Path) -> None:
    """The file of a unix socket that is served no more."""
    Path(path).unlink(missing_ok=True)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def listen_at_port(address: Address) -> socket.socket:
    """A listening TCP socket. Raises FastlbError."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise FastlbError(
            f"admin.address: cannot resolve {address.host!r}: {error.strerror or error}"
        ) from error
    # As with targets: an app on "localhost" is mostly sought on 127.0.0.1.
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    family, kind, protocol, _, where = found[0]
    one = socket.socket(family, kind, protocol)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(where)
        one.listen(BACKLOG)
    except OSError as error:
        one.close()
        hint = ": choose another one" if error.errno == errno.EADDRINUSE else ""
        raise FastlbError(
            f"admin.address: cannot listen on {address}: {error.strerror}{hint}"
        ) from error
    one.setblocking(False)
    return one


def is_loopback(one: socket.socket) -> bool:
    """Whether only processes of this host can reach a bound socket."""
    if one.family == socket.AF_UNIX:
        return True
    return ipaddress.ip_address(one.getsockname()[0].partition("%")[0]).is_loopback


def url_of(one: socket.socket) -> str:
    """For a person: `http://127.0.0.1:9900`, `unix:/run/fastlb/admin.sock`."""
    name = one.getsockname()
    if one.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"
