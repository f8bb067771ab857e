"""Listening sockets that the service manager bound and passes on (LISTEN_FDS).

It keeps them while fastlb is stopped or restarts: what connects meanwhile waits in their queues. Finds
out which Listener each belongs to; what becomes of them is `listen_sockets`'.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping, Sequence

from fastlb.control_plane.listen_sockets import listens_at
from fastlb.model.listener import Listener
from fastlb.target_table.handover import listener_key

log = logging.getLogger("fastlb")

FIRST = 3
SO_DETACH_FILTER = 27
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def passed_sockets(environ: MutableMapping[str, str], pid: int) -> list[tuple[str, socket.socket]]:
    """Those that were passed to `pid`, each with what it is called in messages. The variables are
    removed: they say nothing to a child."""
    whose, count, names = (environ.pop(one, "") for one in VARIABLES)
    if whose != str(pid) or not count.isdecimal():
        return []
    known = names.split(":") if names else []
    found = []
    for fd in range(FIRST, FIRST + int(count)):
        name = known[fd - FIRST] if fd - FIRST < len(known) else ""
        label = f"descriptor {fd} ({name})" if name else f"descriptor {fd}"
        try:
            os.set_inheritable(fd, False)
            found.append((label, socket.socket(fileno=fd)))
        except OSError as error:
            log.warning("%s of LISTEN_FDS is no socket and is not used: %s", label, error.strerror)
    return found


def assign_passed(
    listeners: Sequence[Listener], passed: Sequence[tuple[str, socket.socket]]
) -> dict[str, list[socket.socket]]:
    """The sockets by listener key; one that is no configured listener's is closed, and said."""
    assigned: dict[str, list[socket.socket]] = {}
    for label, one in passed:
        owner = next((it for it in listeners if listens_at(one, it.address)), None)
        if owner is None:
            log.warning(
                "%s of LISTEN_FDS listens on %s, which is no configured listener: it is not used",
                label,
                _name(one),
            )
            one.close()
            continue
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        let_in_again(one)
        assigned.setdefault(listener_key(owner), []).append(one)
        log.info("%s of LISTEN_FDS is used for %s", label, listener_key(owner))
    return assigned


def let_in_again(listening: socket.socket) -> None:
    """A stop has the socket drop what comes, so that nothing is queued where nobody accepts any more.
    The next start accepts from this one."""
    try:
        listening.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    except OSError:
        pass  # it has no filter


def _name(one: socket.socket) -> str:
    """As a person would write it."""
    if one.family == socket.AF_UNIX:
        return f"unix:{one.getsockname()} (fastlb listens on TCP alone)"
    if one.type != socket.SOCK_STREAM:
        return f"a {one.type.name} socket (fastlb listens on TCP alone)"
    try:
        host, port, *_ = one.getsockname()
    except OSError as error:
        return f"an address that cannot be told ({error.strerror})"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
