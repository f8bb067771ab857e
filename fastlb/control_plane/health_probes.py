"""One probe of one target: a new connection, an HTTP status line or a mere connect, and a verdict.

Hand-written on raw non-blocking sockets: most TCP probes are over before the event loop hears of
them. Knows no schedule and no thresholds; what a result means is the health monitor's affair.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastlb.model.address import Address
from fastlb.model.health_check import HealthCheck

USER_AGENT = "fastlb-health-check"
LONGEST_HEAD = 8192
"""More bytes than this before a final status line are no HTTP answer."""
CONNECT_AGAIN = 0.05
"""Pause before another try at a unix socket whose accept queue is full."""
LINGER = 0.2
"""Time for a target to end its answer, whose body nobody reads, until the connection is cut."""

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_STATUS = re.compile(rb"HTTP/1\.\d ([1-5]\d\d)(?: [^\r\n]*)?\r?\n")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_OWN_TROUBLE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`unclear` says nothing of the target: this process itself could not probe."""

    outcome: Literal["passed", "failed", "timeout", "unclear"]
    reason: str = ""


PASSED = ProbeResult("passed")


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """What to connect to, what to send (nothing: a connect is the probe), and what passes."""

    family: socket.AddressFamily
    address: tuple[str, int] | str
    where: str
    timeout: float
    request: bytes | None
    matcher: tuple[tuple[int, int], ...]


def plan_probe(target: Address, check: HealthCheck) -> ProbePlan:
    """The probe of `check` for a target whose address holds an IP literal or a path.

    With a port of its own a unix socket's check goes to that port of 127.0.0.1.
    """
    at = target
    if check.port is not None:
        at = Address(host=target.host or "127.0.0.1", port=check.port)
    request = None
    if check.path is not None:
        host = check.host or ("localhost" if target.is_unix else str(target))
        request = (
            f"GET {check.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n"
        ).encode("latin-1", "replace")
    family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
    if at.is_unix:
        family = socket.AF_UNIX
    address = at.path or (at.host, at.port)
    return ProbePlan(family, address, str(at), check.timeout, request, check.matcher)


def judge_answer(data: bytes, matcher: tuple[tuple[int, int], ...]) -> ProbeResult | None:
    """The verdict on the bytes so far; None while the final status line is not complete."""
    while True:
        found = _STATUS.match(data)
        if found is None:
            line, end, _ = data.partition(b"\n")
            if end or len(data) > LONGEST_HEAD or not b"HTTP/1.".startswith(line[:7]):
                shown = line[:40].decode("ascii", "backslashreplace").strip()
                return ProbeResult("failed", f"not an HTTP answer: {shown!r}")
            return None
        status = int(found[1])
        if status >= 200 or status == 101:
            if any(low <= status <= high for low, high in matcher):
                return PASSED
            wanted = ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in matcher)
            return ProbeResult("failed", f"answered {status}, expected {wanted}")
        head = _END_OF_HEAD.search(data, found.end() - 2)
        if head is None:
            if len(data) > LONGEST_HEAD:
                return ProbeResult("failed", f"not an HTTP answer: an endless {status}")
            return None
        data = data[head.end() :]


class Probe:
    """One probe under way. `done` is called once, perhaps before `start` returns."""

    __slots__ = (
        "_deadline",
        "_done",
        "_fd",
        "_linger",
        "_loop",
        "_plan",
        "_read",
        "_retry",
        "_sock",
        "_watch",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        plan: ProbePlan,
        done: Callable[[ProbeResult], None],
        linger: Callable[[socket.socket], None],
    ) -> None:
        self._loop = loop
        self._plan = plan
        self._done: Callable[[ProbeResult], None] | None = done
        self._linger = linger
        self._sock: socket.socket | None = None
        self._fd = -1
        self._read = b""
        self._watch = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        try:
            kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._sock = socket.socket(self._plan.family, kind)
        except OSError as error:
            self._finish(_failure(error.errno or 0, self._plan.where))
            return
        self._fd = self._sock.fileno()
        self._connect()
        if self._done is not None:
            self._deadline = self._loop.call_later(self._plan.timeout, self._timed_out)

    def cancel(self) -> None:
        """End without a verdict."""
        self._done = None
        self._close()

    def _connect(self) -> None:
        assert self._sock is not None
        try:
            code = self._sock.connect_ex(self._plan.address)
            if code == errno.EINPROGRESS:
                # On the same host the handshake was made within the first call: ask once more, and
                # spare the event loop two system calls and a turn.
                code = self._sock.connect_ex(self._plan.address)
        except OSError as error:  # a scoped address whose interface is gone
            code = error.errno or errno.EADDRNOTAVAIL
        if code in (0, errno.EISCONN):
            self._connected()
        elif code in (errno.EINPROGRESS, errno.EALREADY):
            self._watch = "write"
            self._loop.add_writer(self._fd, self._writable)
        elif code == errno.EAGAIN:
            self._retry = self._loop.call_later(CONNECT_AGAIN, self._connect)
        else:
            self._finish(_failure(code, self._plan.where))

    def _writable(self) -> None:
        assert self._sock is not None
        self._unwatch()
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._finish(_failure(code, self._plan.where))
        else:
            self._connected()

    def _connected(self) -> None:
        assert self._sock is not None
        plan = self._plan
        try:
            # A port that nobody listens on can be drawn as our own local port: TCP then connects
            # the socket with itself, and the dead target would seem to live.
            if plan.family != socket.AF_UNIX and self._sock.getsockname()[:2] == plan.address:
                self._finish(_failure(errno.ECONNREFUSED, plan.where))
                return
            if plan.request is None:
                self._finish(PASSED)
                return
            sent = self._sock.send(plan.request)
        except OSError as error:
            self._finish(_failure(error.errno or 0, plan.where))
            return
        if sent < len(plan.request):
            # A new connection takes a few hundred bytes at once, or something is very odd.
            self._finish(ProbeResult("unclear", "could not send the check in one piece"))
            return
        self._watch = "read"
        self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(1024)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(_failure(error.errno or 0, self._plan.where))
            return
        self._read = self._read + data if self._read else data
        result = judge_answer(self._read, self._plan.matcher)
        if result is None and not data:
            what = "in its status line" if self._read else "without an answer"
            result = ProbeResult("failed", f"closed the connection {what}")
        if result is not None:
            sock = self._sock
            if data:
                self._unwatch()
                self._sock = None
                self._linger(sock)
            self._finish(result)

    def _timed_out(self) -> None:
        within = f"within {self._plan.timeout:g} s"
        if self._read:
            reason = f"no complete status line {within}"
        elif self._watch == "read":
            reason = f"no answer {within}"
        else:
            reason = f"no connection on {self._plan.where} {within}"
        self._finish(ProbeResult("timeout", reason))

    def _finish(self, result: ProbeResult) -> None:
        done, self._done = self._done, None
        self._close()
        if done is not None:
            done(result)

    def _unwatch(self) -> None:
        if self._watch == "read":
            self._loop.remove_reader(self._fd)
        elif self._watch == "write":
            self._loop.remove_writer(self._fd)
        self._watch = ""

    def _close(self) -> None:
        for timer in (self._deadline, self._retry):
            if timer is not None:
                timer.cancel()
        self._unwatch()
        if self._sock is not None:
            close_at_once(self._sock, self._plan.family)
            self._sock = None


class Prober:
    """Starts probes, and ends their connections so that neither side is left with debris.

    Closing the moment that the status line is here would make the target's next write fail, and
    many apps print a traceback then; waiting for its end would mean to read the body. So the
    connection is left alone for a moment, unread, and cut then: mostly it is closed by that time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lingering: deque[tuple[float, socket.socket]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, plan: ProbePlan, done: Callable[[ProbeResult], None]) -> Probe:
        probe = Probe(self._loop, plan, done, self._linger)
        probe.start()
        return probe

    def close(self) -> None:
        """Close what lingers. Probes under way are their starter's to cancel."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._lingering:
            sock = self._lingering.popleft()[1]
            close_at_once(sock, sock.family)

    def _linger(self, sock: socket.socket) -> None:
        self._lingering.append((self._loop.time() + LINGER, sock))
        if self._timer is None:
            self._timer = self._loop.call_later(LINGER, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._lingering and self._lingering[0][0] <= now + 0.05:
            sock = self._lingering.popleft()[1]
            close_at_once(sock, sock.family)
        if self._lingering:
            self._timer = self._loop.call_later(self._lingering[0][0] - now, self._sweep)


def close_at_once(sock: socket.socket, family: int) -> None:
    """Close with a reset, so that thousands of probes leave no connection in TIME_WAIT."""
    if family != socket.AF_UNIX:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        except OSError:
            pass  # already dead, then there is nothing to reset
    sock.close()


def _failure(code: int, where: str) -> ProbeResult:
    if code == errno.ECONNREFUSED:
        return ProbeResult("failed", f"connection refused on {where}")
    if code == errno.ENOENT:
        return ProbeResult("failed", f"no socket file at {where}")
    if code in (errno.ECONNRESET, errno.EPIPE):
        return ProbeResult("failed", f"reset the connection on {where}")
    if code in _OWN_TROUBLE:
        return ProbeResult("unclear", f"could not check: {os.strerror(code).lower()}")
    return ProbeResult("failed", f"{os.strerror(code).lower()} on {where}")
