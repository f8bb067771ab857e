"""Streams of the tests: real sockets in a Reactor of a real loop, and a record of all they were told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from fastlb.data_plane import splice
from fastlb.data_plane.pipe_pool import PipePool
from fastlb.data_plane.reactor import Reactor
from fastlb.data_plane.stream import Stream

RESET = struct.pack("ii", 1, 0)
WAIT_SECONDS = 10.0


@contextlib.contextmanager
def own_pipes(monkeypatch: pytest.MonkeyPatch, limit: int) -> Iterator[PipePool]:
    """A pool of the test's own in the process's place; every pipe must come back."""
    pool = PipePool(limit)
    monkeypatch.setattr(splice, "pipes", pool)
    yield pool
    pool.close()
    assert pool.made == 0, "a pipe was not given back"


class CountingReactor(Reactor):
    """Counts its turns, so that one that spins is seen."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.turns = 0
        super().__init__(loop)

    def _turn(self) -> None:
        self.turns += 1
        super()._turn()


class Stage:
    """A loop and its reactor; `errors` is what the loop's exception handler heard."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.reactor = CountingReactor(self.loop)
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))

    def close(self) -> None:
        self.reactor.close()
        self.loop.close()

    def until(self, done: Callable[[], object], what: str = "") -> None:
        """Run the loop until `done()` holds; AssertionError where it never does."""

        async def wait() -> None:
            deadline = time.monotonic() + WAIT_SECONDS
            while not done():
                assert time.monotonic() < deadline, f"{what or done} was not true in time"
                await asyncio.sleep(0.0005)

        self.loop.run_until_complete(wait())

    def once(self, count: int = 3) -> None:
        """Let the loop turn a few times: what is ready now is handled, and what that has put off."""

        async def turn() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def idle_turns(self, seconds: float = 0.03) -> int:
        """How often the reactor is woken while nothing happens. The first turns may be due to before."""
        self.once()
        before = self.reactor.turns
        self.loop.run_until_complete(asyncio.sleep(seconds))
        return self.reactor.turns - before


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    one = Stage()
    try:
        yield one
    finally:
        one.close()


class Recorder(Stream):
    """Writes down what it is told. `stays` is its answer to an end of the other side; `on` maps a kind of
    call to what is done inside of it."""

    def __init__(self, stage: Stage, sock: socket.socket) -> None:
        super().__init__(stage.loop, stage.reactor)
        self.calls: list[tuple[str, Any]] = []
        self.data = bytearray()
        self.stays = False
        self.on: dict[str, Callable[[], object]] = {}
        self.inside = 0
        sock.setblocking(False)
        self.open(sock)

    def _told(self, kind: str, what: Any = None) -> None:
        assert not self.lost, f"{kind} after connection_lost"
        self.inside += 1
        try:
            self.calls.append((kind, what))
            if kind in self.on:
                self.on[kind]()
        finally:
            self.inside -= 1

    def data_received(self, data: bytes) -> None:
        assert not self.closing, "data for one that has ended"
        self.data += data
        self._told("data", len(data))

    def eof_received(self) -> bool:
        self._told("eof")
        return self.stays

    def connection_lost(self, error: OSError | None) -> None:
        assert not self.inside, "connection_lost from inside another call"
        self._told("lost", error)

    def pause_writing(self) -> None:
        self._told("pause")

    def resume_writing(self) -> None:
        self._told("resume")

    def moved(self, count: int) -> None:
        self._told("moved", count)

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """While the test is inside a call of this stream: no end may be told meanwhile."""
        self.inside += 1
        yield
        self.inside -= 1

    def count(self, kind: str) -> int:
        return sum(1 for one, _ in self.calls if one == kind)

    @property
    def lost(self) -> bool:
        return bool(self.calls) and self.calls[-1][0] == "lost"

    @property
    def error(self) -> OSError | None:
        """Of its connection_lost."""
        kind, error = self.calls[-1]
        assert kind == "lost"
        return error  # type: ignore[no-any-return]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        far = socket.create_connection(listening.getsockname())
        near, _ = listening.accept()
    for one in (near, far):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


PAIRS = {"tcp": tcp_pair, "unix": unix_pair}


def narrow(*socks: socket.socket) -> None:
    """Have the kernel hold little of what is sent between these."""
    for one in socks:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)  # less of RCVBUF makes TCP crawl


def reset(sock: socket.socket) -> None:
    """RST instead of FIN; a unix socket has none, and just closes."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def take(sock: socket.socket) -> bytes:
    """All that waits at `sock` now."""
    sock.setblocking(False)
    data = b""
    try:
        while piece := sock.recv(1 << 20):
            data += piece
    except (BlockingIOError, ConnectionError):
        pass  # a reset takes what was not read yet
    return data
