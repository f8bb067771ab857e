"""Answers in bulk on one target connection, one after another: what is spliced past Python comes in order,
behind its head, and not a byte of the next answer with it."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from fastlb.data_plane.http_client import BULK_BYTES, TargetConnection
from fastlb.data_plane.pipe_pool import PipePool
from fastlb.data_plane.response_head import ResponseHead
from tests.support.streams import PAIRS, Recorder, narrow, own_pipes, stage, take
from tests.unit.test_target_connection import GET, User, World


@pytest.fixture(params=PAIRS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with stage() as scene:
        world = World(scene, request.param)
        yield world
        for end in world.ends:
            end.close()


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[PipePool]:
    with own_pipes(monkeypatch, 2) as pool:
        yield pool


class Client(User):
    """Passes the answer on to a stream as an Exchange does."""

    def __init__(self, connection: TargetConnection, sink: Recorder) -> None:
        super().__init__(connection)
        self.sink: Recorder = sink

    def _write(self, data: bytes) -> None:
        sink = self.sink
        sink.to_send += data
        sink.reactor.send_soon(sink)

    def on_whole(self, head: ResponseHead, data: bytes) -> None:
        self._write(data)
        self.on_end(b"")

    def on_response(self, head: ResponseHead, data: bytes, end: int, whole: bool) -> None:
        self._write(data)

    def on_body(self, pieces: list[bytes]) -> None:
        self._write(b"".join(pieces))

    def on_moved(self, count: int) -> None: ...


class Line:
    """A target, its connection, and a client that reads."""

    def __init__(self, world: World, *, is_narrow: bool) -> None:
        self.world = world
        self.connection, self.far = world.connection()
        near, self.drain = PAIRS[world.kind]()
        if is_narrow:
            narrow(near, self.drain)
        world.ends.append(self.drain)
        self.sink = Recorder(world.scene, near)
        self.sink.on = {
            "pause": lambda: self.connection.pace(False),
            "resume": lambda: self.connection.pace(True),
        }

    def answer(self, *pieces: bytes, most: int = 1 << 20) -> bytes:
        """What the client gets of an answer that the target sends in these pieces."""
        user = Client(self.connection, self.sink)
        self.connection.start(user, GET)
        self.world.scene.until(lambda: take(self.far) == GET)
        got = bytearray()
        size = sum(map(len, pieces))
        left = list(pieces)

        def step() -> bool:
            if left:
                try:
                    left[0] = left[0][self.far.send(left[0]) :]
                except BlockingIOError:
                    pass
                if not left[0]:
                    del left[0]
            self.drain.setblocking(False)
            try:
                got.extend(self.drain.recv(most))
            except BlockingIOError:
                pass
            return user.over and len(got) >= size

        self.world.scene.until(step)
        assert self.world.scene.idle_turns() == 0
        got += take(self.drain)
        return bytes(got)

    def close(self) -> None:
        self.connection.close()
        self.sink.drop()
        self.world.scene.until(lambda: self.sink.lost)


def head_of(length: int, *, extra: int = 0) -> bytes:
    padding = b"X: %b\r\n" % (b"x" * extra) if extra else b""
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (padding, length)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_follows_whatever(world: World, pool: PipePool, seed: int) -> None:
    chance = random.Random(seed)
    line = Line(world, is_narrow=seed % 2 == 1)
    for _ in range(12):
        length = chance.choice((0, 2, 255, 256, 257, BULK_BYTES, 5 * BULK_BYTES, 500_000))
        head = head_of(length, extra=chance.choice((0, 0, 0, 1, 100, 400)))
        message = head + chance.randbytes(length)
        cut = chance.choice((0, 10, len(head) - 1, len(head), len(head) + 1, len(message) // 2))
        pieces = [piece for piece in (message[:cut], message[cut:]) if piece]
        assert line.answer(*pieces, most=chance.choice((5_000, 1 << 20))) == message
        assert list(world.pool.idle) == [line.connection]
        world.pool.idle.clear()
    line.close()


@pytest.mark.parametrize("length", [BULK_BYTES * 4, 300_000])
def test_a_byte_too_much_behind_it_ends_the_connection(
    world: World, pool: PipePool, length: int
) -> None:
    """It is nobody's, and must not be taken for the beginning of the next answer."""
    line = Line(world, is_narrow=False)
    message = head_of(length) + b"b" * length
    assert line.answer(message) == message
    world.pool.idle.clear()
    user = Client(line.connection, line.sink)
    line.connection.start(user, GET)
    world.scene.until(lambda: take(line.far) == GET)
    line.far.setblocking(True)
    left = memoryview(message + b"!")
    got = bytearray()

    def step() -> bool:
        nonlocal left
        line.far.setblocking(False)
        try:
            if left:
                left = left[line.far.send(left) :]
        except (BlockingIOError, ConnectionError):
            pass
        line.drain.setblocking(False)
        try:
            got.extend(line.drain.recv(1 << 20))
        except BlockingIOError:
            pass
        return line.connection.closing and len(got) >= len(message)

    world.scene.until(step)
    assert got == message
    assert not world.pool.idle
    line.close()


def test_a_client_that_is_gone_ends_it(world: World, pool: PipePool) -> None:
    line = Line(world, is_narrow=False)
    size = 4 * BULK_BYTES
    message = head_of(size) + b"b" * size
    assert line.answer(message) == message
    user: Any = Client(line.connection, line.sink)
    line.connection.start(user, GET)
    world.scene.until(lambda: take(line.far) == GET)
    line.drain.shutdown(socket.SHUT_RDWR)
    line.drain.close()
    for _ in range(3):
        try:
            line.far.send(message)
        except (BlockingIOError, ConnectionError):
            pass
        world.scene.once()
    world.scene.until(lambda: line.sink.lost)
    line.connection.close()
    world.scene.once()
