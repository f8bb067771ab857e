"""Pumps between real sockets, on both kinds of loop: nothing lost, mixed or left behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from fastlb.data_plane import splice
from fastlb.data_plane.pipe_pool import PipePool
from fastlb.data_plane.splice import Pump

PATIENCE = 20.0
MIB = 1024 * 1024


@dataclass
class Counted:
    """The bytes that a Pump reported."""

    to_target: int = 0
    from_target: int = 0

    def sent(self, count: int) -> None:
        self.to_target += count

    def received(self, count: int) -> None:
        self.from_target += count


@dataclass
class Link:
    """A Pump with what is outside of it: the client's and the target's ends, in blocking mode."""

    client: socket.socket
    target: socket.socket
    pump: Pump
    counted: Counted
    reasons: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def ended(self) -> str:
        assert self.done.wait(PATIENCE), "the pump did not end"
        assert len(self.reasons) == 1
        assert self.pump.a.fileno() == self.pump.b.fileno() == -1
        return self.reasons[0]

    def close(self) -> None:
        self.client.close()
        self.target.close()


class Pumps:
    """A loop in a thread of its own, and the Pumps that run in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Path) -> None:
        self.loop = loop
        self.directory = directory
        self.links: list[Link] = []
        self._thread = threading.Thread(target=loop.run_forever)
        self._thread.start()

    def run(self, call: Callable[[], object]) -> None:
        """Run `call` in the loop's thread and wait for it."""

        async def in_loop() -> None:
            call()

        asyncio.run_coroutine_threadsafe(in_loop(), self.loop).result(PATIENCE)

    def link(self, kind: str, *, to_client: bytes = b"", to_target: bytes = b"") -> Link:
        client, a = self._connected(kind)
        target, b = self._connected(kind)
        a.setblocking(False)
        b.setblocking(False)
        counted = Counted()

        def done(pump: Pump, reason: str) -> None:
            link.reasons.append(reason)
            link.done.set()

        pump = Pump(self.loop, a, b, done, counted, to_a=to_client, to_b=to_target)
        link = Link(client, target, pump, counted)
        self.links.append(link)
        self.run(pump.start)
        return link

    def _connected(self, kind: str) -> tuple[socket.socket, socket.socket]:
        if kind == "unix":
            path = str(self.directory / f"{len(os.listdir(self.directory))}.sock")
            server = socket.socket(socket.AF_UNIX)
            server.bind(path)
            server.listen(1)
            outer = socket.socket(socket.AF_UNIX)
            outer.connect(path)
        else:
            server = socket.create_server(("127.0.0.1", 0))
            outer = socket.create_connection(server.getsockname())
        with server:
            inner, _ = server.accept()
        if kind == "tcp":
            for side in (outer, inner):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        outer.settimeout(PATIENCE)
        return outer, inner

    def close(self) -> None:
        for link in self.links:
            self.run(lambda link=link: link.pump.abort("the test ends"))  # type: ignore[misc]
            link.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture(params=["uvloop", "asyncio"])
def pumps(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Pumps]:
    """Ends with a look at /proc/self/fd: no pipe and no socket may be left."""
    pool = PipePool(8)
    monkeypatch.setattr(splice, "pipes", pool)
    uvloop.new_event_loop().close()  # libuv keeps a pipe of its own from its first loop on
    before = open_files()
    pumps = Pumps((uvloop if request.param == "uvloop" else asyncio).new_event_loop(), tmp_path)
    yield pumps
    pumps.close()
    assert len(pool._empty) == pool.made, "a pipe was not given back"
    pool.close()
    assert open_files() == before


kinds = pytest.mark.parametrize("kind", ["tcp", "unix"])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def steady(value: Callable[[], int]) -> int:
    """`value` once it has stayed the same for a while."""
    deadline = time.monotonic() + PATIENCE
    before, since = value(), time.monotonic()
    while time.monotonic() < since + 0.2:
        assert time.monotonic() < deadline, "it never came to rest"
        time.sleep(0.01)
        if value() != before:
            before, since = value(), time.monotonic()
    return before


def read(side: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes (a socket with a timeout ignores MSG_WAITALL)."""
    parts = []
    while size:
        part = side.recv(size)
        assert part, "ended too early"
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_all(side: socket.socket) -> bytes:
    parts = []
    while part := side.recv(65536):
        parts.append(part)
    return b"".join(parts)


def reset(side: socket.socket) -> None:
    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()


@kinds
def test_client_half_closes_first(pumps: Pumps, kind: str) -> None:
    link = pumps.link(kind)
    link.client.sendall(b"question")
    link.client.shutdown(socket.SHUT_WR)
    assert read_all(link.target) == b"question"
    link.target.sendall(b"first")
    assert read(link.client, 5) == b"first"
    link.target.sendall(b"second")
    link.target.close()
    assert read_all(link.client) == b"second"
    assert link.ended() == "closed"
    assert (link.counted.to_target, link.counted.from_target) == (8, 11)
    assert (link.pump.bytes_a_to_b, link.pump.bytes_b_to_a) == (8, 11)


@kinds
def test_target_half_closes_first(pumps: Pumps, kind: str) -> None:
    link = pumps.link(kind)
    link.target.sendall(b"greeting")
    link.target.shutdown(socket.SHUT_WR)
    assert read_all(link.client) == b"greeting"
    link.client.sendall(b"more")
    assert read(link.target, 4) == b"more"
    link.client.close()
    assert read_all(link.target) == b""
    assert link.ended() == "closed"


@kinds
def test_half_close_behind_bytes_that_wait(pumps: Pumps, kind: str) -> None:
    link = pumps.link(kind)
    text = os.urandom(16 * MIB)
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(link.client.sendall, text)
        steady(lambda: link.pump.bytes_a_to_b)
        link.target.sendall(b"the other direction is free")
        assert read(link.client, 27) == b"the other direction is free"
        reading = pool.submit(read_all, link.target)
        sending.result(PATIENCE)
        link.client.shutdown(socket.SHUT_WR)
        assert reading.result(PATIENCE) == text
    link.target.close()
    assert link.ended() == "closed"


@kinds
def test_first_bytes_go_first(pumps: Pumps, kind: str) -> None:
    link = pumps.link(kind, to_client=b"switching ", to_target=b"hello ")
    link.client.sendall(b"target")
    link.target.sendall(b"protocols")
    assert read(link.target, 12) == b"hello target"
    assert read(link.client, 19) == b"switching protocols"


@kinds
def test_first_bytes_larger_than_the_kernel_takes(pumps: Pumps, kind: str) -> None:
    text = os.urandom(16 * MIB)
    link = pumps.link(kind, to_target=text)
    link.client.sendall(b"end")
    link.client.shutdown(socket.SHUT_WR)
    assert read_all(link.target) == text + b"end"


@kinds
def test_byte_by_byte(pumps: Pumps, kind: str) -> None:
    link = pumps.link(kind)
    for number in range(256):
        byte = bytes([number])
        link.client.sendall(byte)
        assert link.target.recv(10) == byte
        link.target.sendall(byte)
        assert link.client.recv(10) == byte
    assert link.counted == Counted(256, 256)
    assert splice.pipes.made == 0


def digest_of(side: socket.socket) -> str:
    digest = hashlib.blake2b()
    room = bytearray(256 * 1024)
    while count := side.recv_into(room):
        digest.update(memoryview(room)[:count])
    return digest.hexdigest()


@kinds
def test_200_mb_both_ways_at_once(pumps: Pumps, kind: str) -> None:
    link = pumps.link(kind)
    texts = [os.urandom(MIB + 7), os.urandom(MIB + 13)]

    def send(side: socket.socket, text: bytes) -> str:
        digest = hashlib.blake2b()
        for _ in range(95):
            side.sendall(text)
            digest.update(text)
        side.shutdown(socket.SHUT_WR)
        return digest.hexdigest()

    with ThreadPoolExecutor() as pool:
        sent = [
            pool.submit(send, link.client, texts[0]),
            pool.submit(send, link.target, texts[1]),
        ]
        got = [pool.submit(digest_of, link.target), pool.submit(digest_of, link.client)]
        assert [one.result(60) for one in sent] == [one.result(60) for one in got]
    assert link.ended() == "closed"
    assert link.counted == Counted(95 * (MIB + 7), 95 * (MIB + 13))
    assert 1 <= splice.pipes.made <= 2


@kinds
@pytest.mark.parametrize("spliced", [True, False])
def test_slow_reader_holds_one_buffer_or_one_pipe(pumps: Pumps, kind: str, spliced: bool) -> None:
    if not spliced:
        splice.pipes.limit = 0
    link = pumps.link(kind)
    # What the kernel holds is bounded by these sizes; what the Pump holds is told by its counts.
    for side in (link.client, link.target, link.pump.a, link.pump.b):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        side.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    link.pump._a_to_b.bulk = spliced
    link.client.setblocking(False)
    pushed = 0

    def push() -> int:
        nonlocal pushed
        try:
            while True:
                pushed += link.client.send(bytes(65536))
        except BlockingIOError:
            return pushed

    total = steady(push)
    flow = link.pump._a_to_b
    held = len(flow.pending) + (flow.pipe.held if flow.pipe else 0)
    assert 0 < held <= (splice.pipes.size if spliced else splice.BUFFER_BYTES)
    assert (flow.pipe is not None) == spliced
    # Linux doubles the sizes that are asked for, and may overshoot a buffer by one packet.
    assert total < held + 4 * (2 * 65536 + 65536)
    link.client.shutdown(socket.SHUT_WR)
    assert len(read_all(link.target)) == total


@kinds
def test_switches_in_mid_stream(pumps: Pumps, kind: str) -> None:
    link = pumps.link(kind)
    rng = random.Random(2)
    flow = link.pump._a_to_b
    modes = set()
    sizes = [300] * 6 + [150_000] * 8 + [300] * 8 + [150_000] * 8 + [1] * 8
    sizes += [rng.randrange(1, 60_000) for _ in range(200)]
    for size in sizes:
        text = rng.randbytes(size)
        link.client.sendall(text)
        assert read(link.target, size) == text
        modes.add((size > 100_000, flow.bulk))
    assert {(True, True), (False, False), (False, True)} <= modes


@kinds
def test_many_at_once_do_not_mix(pumps: Pumps, kind: str) -> None:
    """Each of 60 directions has its own random bytes, sizes and pauses, and few pipes to share."""
    splice.pipes.limit = 3
    links = [pumps.link(kind) for _ in range(30)]

    def send(side: socket.socket, seed: int) -> str:
        rng = random.Random(seed)
        digest = hashlib.blake2b()
        for _ in range(rng.randrange(5, 40)):
            text = rng.randbytes(rng.choice([1, 100, 5_000, 30_000, 200_000]))
            side.sendall(text)
            digest.update(text)
            if rng.random() < 0.2:
                time.sleep(rng.random() * 0.005)
        side.shutdown(socket.SHUT_WR)
        return digest.hexdigest()

    def receive(side: socket.socket, seed: int) -> str:
        rng = random.Random(seed)
        digest = hashlib.blake2b()
        while text := side.recv(rng.choice([100, 10_000, 300_000])):
            digest.update(text)
            if rng.random() < 0.02:
                time.sleep(rng.random() * 0.005)
        return digest.hexdigest()

    with ThreadPoolExecutor(120) as pool:
        sent, got = [], []
        for number, link in enumerate(links):
            sent.append(pool.submit(send, link.client, 4 * number))
            got.append(pool.submit(receive, link.target, 4 * number + 1))
            sent.append(pool.submit(send, link.target, 4 * number + 2))
            got.append(pool.submit(receive, link.client, 4 * number + 3))
        assert [one.result(60) for one in sent] == [one.result(60) for one in got]
    assert {link.ended() for link in links} == {"closed"}


def test_a_reset_reaches_the_target(pumps: Pumps) -> None:
    link = pumps.link("tcp")
    link.client.sendall(b"x")
    assert link.target.recv(1) == b"x"
    reset(link.client)
    with pytest.raises(ConnectionResetError):
        link.target.recv(1)
    assert link.ended() == "reset by a"


def test_a_reset_reaches_the_client(pumps: Pumps) -> None:
    link = pumps.link("tcp")
    reset(link.target)
    with pytest.raises(ConnectionResetError):
        link.client.recv(1)
    assert link.ended() == "reset by b"


def test_a_reset_reaches_through_a_blocked_direction(pumps: Pumps) -> None:
    link = pumps.link("tcp")
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(link.client.sendall, bytes(64 * MIB))
        steady(lambda: link.pump.bytes_a_to_b)
        reset(link.target)
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            sending.result(PATIENCE)
    assert link.ended() == "reset by b"


def test_a_reader_that_is_gone_ends_a_half_closed_pump(pumps: Pumps) -> None:
    link = pumps.link("tcp")
    link.client.close()
    assert link.target.recv(1) == b""

    def write() -> bool:
        try:
            link.target.sendall(b"to nobody")
        except (ConnectionResetError, BrokenPipeError):
            return True
        return False

    eventually(write)
    assert link.ended() == "reset by a"


def test_a_unix_target_that_goes_with_bytes_unread(pumps: Pumps) -> None:
    link = pumps.link("unix")
    link.client.sendall(b"unread")
    eventually(lambda: link.counted.to_target == 6)
    link.target.close()
    assert link.client.recv(1) == b""
    assert link.ended() == "reset by b"


@kinds
def test_abort_with_bytes_in_a_pipe(pumps: Pumps, kind: str) -> None:
    """The pipe's bytes belong to nobody else: it is closed, not given to the next."""
    link = pumps.link(kind)
    flow = link.pump._a_to_b
    flow.bulk = True
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(link.client.sendall, bytes(64 * MIB))
        eventually(lambda: flow.pipe is not None)
        steady(lambda: link.pump.bytes_a_to_b)
        assert flow.pipe is not None
        made = splice.pipes.made
        pumps.run(lambda: link.pump.abort("drain deadline"))
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            sending.result(PATIENCE)
    assert link.ended() == "drain deadline"
    assert splice.pipes.made == made - 1


def test_without_file_descriptors_for_pipes(pumps: Pumps, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pipe(flags: int) -> tuple[int, int]:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(os, "pipe2", no_pipe)
    link = pumps.link("tcp")
    text = os.urandom(20 * MIB)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read_all, link.target)
        link.client.sendall(text)
        link.client.shutdown(socket.SHUT_WR)
        assert reading.result(PATIENCE) == text
    assert splice.pipes.made == 0


def test_bulk_leaves_others_their_turn(pumps: Pumps) -> None:
    """A ping-pong goes on beside a connection that always has more to move."""
    bulk, small = pumps.link("unix"), pumps.link("tcp")
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            bulk.client.sendall(bytes(MIB))
        bulk.client.shutdown(socket.SHUT_WR)

    with ThreadPoolExecutor() as pool:
        flooding, reading = pool.submit(flood), pool.submit(digest_of, bulk.target)
        try:
            eventually(lambda: bulk.pump.bytes_a_to_b > 10 * MIB)
            began = time.monotonic()
            for _ in range(50):
                small.client.sendall(b"ping")
                assert small.target.recv(10) == b"ping"
            assert time.monotonic() - began < 15
        finally:
            stop.set()
        flooding.result(PATIENCE)
        reading.result(PATIENCE)


def test_last_activity_moves_with_the_bytes(pumps: Pumps) -> None:
    link = pumps.link("tcp")
    before = link.pump.last_activity
    eventually(lambda: pumps.loop.time() > before + 0.05)
    assert link.pump.last_activity == before
    link.target.sendall(b"x")
    assert link.client.recv(1) == b"x"
    eventually(lambda: link.pump.last_activity >= before + 0.05)
