"""Where an Instance listens: a free port to give away, is it listening yet, and is it really it?

A port is chosen by us and bound by the app, so that somebody else may be quicker: whose socket it is
is asked of the kernel before anything is sent there.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path

from fastlb.auto_scaling.process import InstanceProcess, group_members, mark_of
from fastlb.child_process import start_time
from fastlb.errors import FastlbError
from fastlb.model.address import Address

LOW, HIGH = 10240, 65535
TRIES = 200


def choose_port(taken: Collection[int], choose: Callable[[int, int], int] = random.randint) -> int:
    """A port of this host that nobody listens on. Raises FastlbError where none is found.

    Not one of those that the kernel gives to outgoing connections: one of them could have it at the
    moment when the app wants to bind it, and a connection to it could even be made with itself.
    """
    ephemeral = _ephemeral_ports()
    for _ in range(TRIES):
        port = choose(LOW, HIGH)
        if port in taken or port in ephemeral:
            continue
        with socket.socket(socket.AF_INET) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise FastlbError(
        f"no free port was found from {LOW} to {HIGH} outside of the ephemeral ones "
        f"({ephemeral.start} to {ephemeral.stop - 1}): let the app listen on {{socket}} instead"
    )


def _ephemeral_ports() -> range:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return range(32768, 61000)
    ephemeral = range(int(low), int(high) + 1)
    # Somebody gave nearly all of them away: then there is no better choice than any.
    return ephemeral if len(ephemeral) < (HIGH - LOW) * 0.9 else range(32768, 61000)


def listens(address: Address) -> bool:
    """Whether somebody takes connections there, asked by making one."""
    family = socket.AF_UNIX if address.is_unix else socket.AF_INET
    where = address.path if address.is_unix else (address.host, address.port)
    try:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as one:
            code = one.connect_ex(where)
            if code == errno.EINPROGRESS:
                # TCP says so of a port that nobody listens on, too. On the same host it is decided by
                # now: asked once more, it tells.
                code = one.connect_ex(where)
            # One whose queue is full says EAGAIN (a unix socket) or EALREADY (TCP).
            return code in (0, errno.EISCONN, errno.EAGAIN, errno.EALREADY)
    except OSError:
        return False


async def until_it_listens(address: Address, process: InstanceProcess | None) -> None:
    """Raises FastlbError where the port has come to be somebody else's."""
    began = time.monotonic()
    while not listens(address):
        waited = time.monotonic() - began
        # A new app is looked after closely: each look is one refused connect, some 10 µs.
        await asyncio.sleep(0.005 if waited < 2 else 0.02 if waited < 10 else 0.1)
    if address.is_unix or process is None:
        return
    stranger = stranger_at(address.port, process.started, process.owns, group_members(process.pid))
    if stranger is not None:
        raise FastlbError(
            f"another process (pid {stranger}) listens on port {address.port}, which was free when "
            "it was given to this instance"
        )


def stranger_at(
    port: int, started: int, ours: Callable[[int], bool], members: Collection[int] = ()
) -> int | None:
    """The pid of a process that listens on the port and is none of `ours`; None where all is well.
    `members` are those of ours that it most likely is.

    Another Instance always is one. Whoever else began after ours (`started`, ticks since boot) may
    well be its helper, such as the proxy of a container; and who cannot be found out is not accused.
    """
    inodes = _listening_inodes(port)
    # Then the descriptors of all the others need not be looked at.
    if not inodes or any(_holds(pid, inodes) for pid in members):
        return None
    stranger = None
    for name in os.listdir("/proc"):
        if not name.isdigit() or not _holds(int(name), inodes):
            continue
        pid = int(name)
        if ours(pid):
            return None
        began = start_time(pid)
        if mark_of(pid) or (began is not None and began < started):
            stranger = pid
    return stranger


def _listening_inodes(port: int) -> set[bytes]:
    inodes = set()
    wanted = re.compile(rb"^ *\d+: [0-9A-F]+:%04X [0-9A-F:]+ 0A (?:\S+ +){5}(\d+)" % port)
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            found = wanted.match(line)
            if found:
                inodes.add(b"socket:[" + found[1] + b"]")
    return inodes


def _holds(pid: int, inodes: set[bytes]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    for name in names:
        try:
            if os.readlink(f"{folder}/{name}".encode()) in inodes:
                return True
        except OSError:
            continue
    return False
