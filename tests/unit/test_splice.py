"""PipePool, and the Pump's rule for switching between copy and splice, step by step."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import weakref
from collections.abc import Iterator

import pytest

from fastlb.data_plane import pipe_pool, splice
from fastlb.data_plane.pipe_pool import PipePool
from fastlb.data_plane.splice import Pump
from tests.support.streams import own_pipes, tcp_pair


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[PipePool]:
    with own_pipes(monkeypatch, 4) as pool:
        yield pool


def test_pool_makes_no_pipe_before_it_is_asked() -> None:
    assert PipePool(4).made == 0


def test_pool_gives_an_empty_pipe_again() -> None:
    pool = PipePool(4)
    pipe = pool.take()
    assert pipe is not None
    pool.give(pipe)
    assert pool.take() is pipe
    pool.give(pipe)
    pool.close()
    assert pool.made == 0


def test_pool_closes_a_pipe_with_bytes_in_it() -> None:
    pool = PipePool(4)
    pipe = pool.take()
    assert pipe is not None
    pipe.held = os.write(pipe.write_end, b"another's bytes")
    pool.give(pipe)
    assert pool.made == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe.read_end)


def test_pool_is_bounded() -> None:
    pool = PipePool(2)
    taken = [pool.take(), pool.take()]
    assert pool.take() is None
    for pipe in taken:
        assert pipe is not None
        pool.give(pipe)
    pool.close()


def test_pool_whose_limit_fell_to_nothing_keeps_nothing() -> None:
    pool = PipePool(2)
    pipe = pool.take()
    assert pipe is not None
    pool.limit = 0
    pool.give(pipe)
    assert pool.made == 0
    assert pool.take() is None


def test_pool_without_file_descriptors_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pipe(flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", no_pipe)
    assert PipePool(2).take() is None


def test_pool_refuses_pipes_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe_pool, "LEAST_PIPE_BYTES", 1 << 30)
    before = set(os.listdir("/proc/self/fd"))
    pool = PipePool(2, size=1 << 31)  # more than anybody is given
    assert pool.take() is None
    assert pool.made == 0
    assert set(os.listdir("/proc/self/fd")) == before


class Bench:
    """A Pump whose callbacks the test runs by hand, one step at a time."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.client, a = socket.socketpair()
        self.target, b = socket.socketpair()
        for side in (a, b):
            side.setblocking(False)
        self.reasons: list[str] = []
        self.pump = Pump(self.loop, a, b, lambda pump, reason: self.reasons.append(reason))
        self.flow = self.pump._a_to_b

    def move(self, size: int) -> None:
        """One message of `size` bytes from the client to the target."""
        text = os.urandom(size)
        self.client.sendall(text)
        self.flow.on_readable()
        assert self.target.recv(size, socket.MSG_WAITALL) == text

    def close(self) -> None:
        self.pump.abort("test ends")
        self.client.close()
        self.target.close()
        self.loop.close()


@pytest.fixture
def bench(pool: PipePool) -> Iterator[Bench]:
    bench = Bench()
    bench.pump.start()
    yield bench
    bench.close()


def test_small_messages_never_take_a_pipe(bench: Bench, pool: PipePool) -> None:
    for _ in range(50):
        bench.move(splice.BULK_BYTES - 1)
    assert not bench.flow.bulk
    assert pool.made == 0


def test_large_messages_in_a_row_are_spliced(bench: Bench, pool: PipePool) -> None:
    for _ in range(splice.BULK_AFTER - 1):
        bench.move(splice.BULK_BYTES)
    assert not bench.flow.bulk
    bench.move(1)
    for _ in range(splice.BULK_AFTER):
        assert not bench.flow.bulk
        bench.move(splice.BULK_BYTES)
    assert bench.flow.bulk
    assert pool.made == 0
    bench.move(splice.BULK_BYTES)
    assert pool.made == 1


def test_small_splices_in_a_row_are_copied_again(bench: Bench) -> None:
    bench.flow.bulk = True
    for _ in range(splice.COPY_AFTER - 1):
        bench.move(10)
    bench.move(splice.SMALL_BYTES)
    for _ in range(splice.COPY_AFTER):
        assert bench.flow.bulk
        bench.move(10)
    assert not bench.flow.bulk


def test_one_direction_says_nothing_of_the_other(bench: Bench) -> None:
    for _ in range(splice.BULK_AFTER):
        bench.move(splice.BULK_BYTES)
    assert bench.flow.bulk
    assert not bench.pump._b_to_a.bulk


def test_no_pipe_is_held_between_callbacks(bench: Bench, pool: PipePool) -> None:
    bench.flow.bulk = True
    bench.move(100_000)
    assert bench.flow.pipe is None
    assert len(pool._empty) == pool.made == 1


def test_without_pipes_bulk_is_copied(bench: Bench, pool: PipePool) -> None:
    pool.limit = 0
    bench.flow.bulk = True
    bench.move(100_000)
    assert bench.pump.bytes_a_to_b == 100_000
    assert not bench.flow.bulk


@pytest.mark.parametrize("number", [22, 38, 1])
def test_a_sandbox_without_splice_is_noticed_once(
    bench: Bench, pool: PipePool, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_splice(*args: object, **kwargs: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "splice", no_splice)
    bench.flow.bulk = True
    bench.move(100_000)
    assert pool.limit == pool.made == 0
    assert bench.reasons == []


def test_one_callback_moves_a_fair_share_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splice, "FAIR_BYTES", splice.BUFFER_BYTES)
    bench.client.setblocking(False)
    sent = bench.client.send(bytes(100_000))
    assert sent == 100_000
    for bulk in (False, True):
        bench.flow.bulk = bulk
        bench.flow.moved = 0
        bench.flow.on_readable()
        assert 0 < bench.flow.moved <= pipe_pool.PIPE_BYTES
        assert bench.pump.bytes_a_to_b < 200_000


def test_abort_is_told_once(bench: Bench) -> None:
    bench.pump.abort("idle")
    bench.pump.abort("again")
    assert bench.reasons == ["idle"]
    assert bench.pump.a.fileno() == bench.pump.b.fileno() == -1
    assert bench.target.recv(1) == b""


def test_urgent_data_in_bulk_holds_nothing_up(pool: PipePool) -> None:
    """A splice stops before TCP's urgent byte for ever, though there is something to read."""
    loop = asyncio.new_event_loop()
    (client, a), (b, target) = tcp_pair(), socket.socketpair()
    for one in (client, a, b, target):
        one.setblocking(False)
    pump = Pump(loop, a, b, lambda _pump, _reason: None)
    pump.start()
    flow = pump._a_to_b
    flow.bulk = True
    got = bytearray()

    async def until(size: int) -> None:
        deadline = loop.time() + 10
        while len(got) < size:
            assert loop.time() < deadline, f"{len(got)} of {size} bytes came"
            await asyncio.sleep(0.001)
            try:
                got.extend(target.recv(1 << 20))
            except BlockingIOError:
                pass

    client.send(b"before" * 1000)
    client.send(b"!", socket.MSG_OOB)
    client.send(b"after" * 1000)
    loop.run_until_complete(until(11_000))
    assert got == b"before" * 1000 + b"after" * 1000
    pump.abort("test")
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    client.close()
    target.close()


class Owner:
    """Holds its Pump, which holds its method: a cycle, until the Pump ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, a: socket.socket, b: socket.socket) -> None:
        self.pump = Pump(loop, a, b, self.on_done)
        self.pump.start()

    def on_done(self, pump: Pump, reason: str) -> None:
        """Nothing more is asked of it."""


def test_an_ended_pump_is_freed_without_the_garbage_collector(pool: PipePool) -> None:
    loop = asyncio.new_event_loop()
    (client, a), (b, target) = socket.socketpair(), socket.socketpair()
    gc.disable()
    try:
        owner = Owner(loop, a, b)
        gone = weakref.ref(owner)
        owner.pump.abort("test")
        del owner
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert gone() is None
    finally:
        gc.enable()
        loop.close()
        client.close()
        target.close()
