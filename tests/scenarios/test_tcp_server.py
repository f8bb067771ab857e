"""TcpConnection between real clients and real targets; only the choice of targets is the test's own."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop

from fastlb.data_plane import tcp_server
from fastlb.data_plane.listener_counts import ListenerCounts
from fastlb.data_plane.tcp_server import TcpConnection
from fastlb.data_plane.timers import TICK, TimerWheel
from fastlb.model.address import Address, parse_address
from fastlb.model.target_group import TargetGroup

PATIENCE = 20.0


class FakeTarget:
    """Notes what a TargetRuntime would count."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.in_flight = self.connections = self.answering = self.begun = 0
        self.from_target = self.to_target = 0
        self.latencies: list[float | None] = []
        self.failures: list[tuple[str, str]] = []

    def begin(self) -> None:
        self.begun += 1
        self.in_flight += 1

    def end(self, seconds: float | None) -> None:
        self.in_flight -= 1
        self.latencies.append(seconds)

    def connection_opened(self) -> None:
        self.connections += 1

    def connection_closed(self) -> None:
        self.connections -= 1

    def failed(self, kind: str, detail: str) -> None:
        self.failures.append((kind, detail))

    def received(self, count: int) -> None:
        self.from_target += count

    def sent(self, count: int) -> None:
        self.to_target += count


class FakeGroup:
    """Gives its targets in their order."""

    def __init__(self, settings: TargetGroup, targets: Sequence[FakeTarget]) -> None:
        self.settings = settings
        self.targets = targets
        self.asked: list[str] = []

    def pick(self, client: str, tried: Sequence[FakeTarget]) -> FakeTarget | None:
        self.asked.append(client)
        return next((target for target in self.targets if target not in tried), None)


class FakeWorker:
    """A loop in a thread of its own, with the worker's real timers."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.timers = TimerWheel(self.loop, lambda: None)
        self.connections: set[TcpConnection] = set()
        self.counts = ListenerCounts()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.run(self.timers.start)

    def connection_opened(self, connection: TcpConnection) -> None:
        self.connections.add(connection)

    def connection_closed(self, connection: TcpConnection) -> None:
        self.connections.remove(connection)

    def run(self, call: Callable[[], object]) -> None:
        async def in_loop() -> None:
            call()

        asyncio.run_coroutine_threadsafe(in_loop(), self.loop).result(PATIENCE)

    def abort_all(self) -> None:
        for connection in tuple(self.connections):
            connection.abort("the test ends")

    def close(self) -> None:
        self.run(self.abort_all)
        self.run(self.timers.stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Stage:
    """One worker, its targets, and clients on loopback."""

    def __init__(self, directory: Path) -> None:
        self.worker = FakeWorker()
        self.directory = directory
        self.sockets: list[socket.socket] = []

    def keep(self, side: socket.socket) -> socket.socket:
        side.settimeout(PATIENCE)
        self.sockets.append(side)
        return side

    def target(self, kind: str = "tcp", backlog: int = 16) -> tuple[FakeTarget, socket.socket]:
        """A target that listens; the test accepts for it."""
        if kind == "unix":
            path = str(self.directory / f"{len(self.sockets)}.sock")
            listening = self.keep(socket.socket(socket.AF_UNIX))
            listening.bind(path)
            address = Address(path=path)
        else:
            host = "::1" if kind == "tcp6" else "127.0.0.1"
            family = socket.AF_INET6 if kind == "tcp6" else socket.AF_INET
            listening = self.keep(socket.socket(family))
            listening.bind((host, 0))
            address = Address(host, listening.getsockname()[1])
        listening.listen(backlog)
        return FakeTarget(address), listening

    def accept(self, listening: socket.socket) -> socket.socket:
        return self.keep(listening.accept()[0])

    def connect(
        self,
        *targets: FakeTarget,
        idle: float = 60.0,
        timeout: float = 10.0,
        retries: int = 1,
        before: Callable[[socket.socket], object] = lambda client: None,
    ) -> tuple[socket.socket, TcpConnection]:
        """A client's connection; `before` acts as the client before the worker has it."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = self.keep(socket.create_connection(server.getsockname()))
            accepted, _ = server.accept()
        accepted.setblocking(False)
        before(client)
        settings = TargetGroup(name="g", connect_timeout=timeout, retries=retries)
        group = FakeGroup(settings, targets)
        connection = TcpConnection(
            self.worker,
            self.worker.counts,
            group,  # type: ignore[arg-type]
            idle,
            accepted,
            "127.0.0.1",
        )
        self.worker.run(connection.start)
        return client, connection

    def close(self) -> None:
        self.worker.close()
        for side in self.sockets:
            side.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    uvloop.new_event_loop().close()  # libuv keeps a pipe of its own from its first loop on
    before = len(os.listdir("/proc/self/fd"))
    stage = Stage(tmp_path)
    yield stage
    stage.close()
    assert not stage.worker.connections
    assert len(os.listdir("/proc/self/fd")) == before


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def nobody() -> FakeTarget:
    """A target whose port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return FakeTarget(Address(*server.getsockname()))


def reset(side: socket.socket) -> None:
    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()


def fill(stage: Stage, target: FakeTarget) -> None:
    """Connect until the target's accept queue takes no more."""
    address = target.address
    while True:
        side = stage.keep(socket.socket(socket.AF_UNIX if address.is_unix else socket.AF_INET))
        side.setblocking(False)
        code = side.connect_ex(address.path or (address.host, address.port))
        if code == errno.EAGAIN:
            return
        if code == errno.EINPROGRESS:
            time.sleep(0.02)
            if side.connect_ex((address.host, address.port)) == errno.EALREADY:
                return


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "unix"])
def test_forwards_both_ways_and_counts(stage: Stage, kind: str) -> None:
    target, listening = stage.target(kind)
    client, _ = stage.connect(target)
    inner = stage.accept(listening)
    client.sendall(b"question")
    assert inner.recv(100) == b"question"
    assert (target.in_flight, target.connections) == (1, 1)
    inner.sendall(b"the answer")
    assert client.recv(100) == b"the answer"
    client.close()
    assert inner.recv(1) == b""
    inner.close()
    eventually(lambda: not stage.worker.connections)
    assert (target.begun, target.in_flight, target.connections) == (1, 0, 0)
    assert (target.to_target, target.from_target) == (8, 10)
    assert (stage.worker.counts.bytes_in, stage.worker.counts.bytes_out) == (8, 10)
    assert target.latencies[0] is not None
    assert target.failures == []
    assert stage.worker.counts.errors == 0


def test_nagle_is_off_on_both_sides(stage: Stage) -> None:
    target, listening = stage.target()
    _, connection = stage.connect(target)
    stage.accept(listening)
    eventually(lambda: connection._pump is not None)
    assert connection._pump is not None
    for side in (connection._pump.a, connection._pump.b):
        assert side.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("dead", ["no port", "no file"])
def test_refused_goes_to_the_next_at_once(stage: Stage, dead: str) -> None:
    gone = nobody() if dead == "no port" else FakeTarget(parse_address("unix:/nowhere/a.sock"))
    target, listening = stage.target()
    client, _ = stage.connect(gone, target, before=lambda client: client.sendall(b"early bytes"))
    inner = stage.accept(listening)
    assert inner.recv(100) == b"early bytes"
    inner.sendall(b"x")
    assert client.recv(1) == b"x"
    assert [kind for kind, _ in gone.failures] == ["refused"]
    assert str(gone.address) in gone.failures[0][1]
    assert (gone.in_flight, gone.latencies) == (0, [None])
    assert stage.worker.counts.errors == 0


def test_all_refused_resets_the_client(stage: Stage) -> None:
    first, second, third = nobody(), nobody(), nobody()
    client, _ = stage.connect(first, second, third, retries=1)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    # A refused connect has cost nobody anything: each eligible target is tried.
    assert (first.begun, second.begun, third.begun) == (1, 1, 1)
    assert stage.worker.counts.errors == 1
    assert not stage.worker.connections


def test_no_target_at_all_resets_the_client(stage: Stage) -> None:
    client, _ = stage.connect()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert stage.worker.counts.errors == 1


def test_no_more_retries_than_the_group_says(stage: Stage) -> None:
    gone, (target, _) = nobody(), stage.target()
    client, _ = stage.connect(gone, target, retries=0)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert target.begun == 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_full_accept_queue_times_out_to_the_next(stage: Stage, kind: str) -> None:
    full, _ = stage.target(kind, backlog=0)
    fill(stage, full)
    target, listening = stage.target()
    client, _ = stage.connect(full, target, timeout=0.2)
    client.sendall(b"waits")
    inner = stage.accept(listening)
    assert inner.recv(100) == b"waits"
    assert [failure for failure, _ in full.failures] == ["timeout"]
    assert full.in_flight == 0


def test_a_unix_target_whose_queue_empties_in_time_is_not_blamed(stage: Stage) -> None:
    full, listening = stage.target("unix", backlog=0)
    fill(stage, full)
    client, connection = stage.connect(full)
    assert connection._pump is None
    client.sendall(b"late")
    inner = [stage.accept(listening)]  # those that filled the queue come first
    while not (talking := select.select(inner, [], [], 0.01)[0]):
        listening.settimeout(0.1)
        with suppress(TimeoutError):
            inner.append(stage.accept(listening))
    assert talking[0].recv(100) == b"late"
    assert full.failures == []


def test_a_client_that_resets_while_a_connect_waits(stage: Stage) -> None:
    full, _ = stage.target(backlog=0)
    fill(stage, full)
    client, _ = stage.connect(full)
    assert stage.worker.connections
    reset(client)
    eventually(lambda: not stage.worker.connections)
    assert full.failures == []
    assert (full.in_flight, full.latencies) == (0, [None])


def test_a_client_that_half_closes_while_a_connect_waits_is_served(stage: Stage) -> None:
    full, _ = stage.target(backlog=0)
    fill(stage, full)
    target, listening = stage.target()
    client, _ = stage.connect(full, target, timeout=0.3)
    client.sendall(b"all I have")
    client.shutdown(socket.SHUT_WR)
    inner = stage.accept(listening)
    assert inner.recv(100) == b"all I have"
    assert inner.recv(100) == b""
    inner.sendall(b"answer")
    inner.close()
    assert client.recv(100) == b"answer"
    assert client.recv(100) == b""


def test_bytes_that_wait_for_a_connect_do_not_spin_the_loop(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[TcpConnection] = []
    look = TcpConnection._look_at_client

    def count(connection: TcpConnection) -> None:
        looks.append(connection)
        look(connection)

    monkeypatch.setattr(TcpConnection, "_look_at_client", count)
    full, _ = stage.target(backlog=0)
    fill(stage, full)
    client, _ = stage.connect(full)
    client.sendall(b"x")
    eventually(lambda: bool(looks))
    for _ in range(10):
        stage.worker.run(lambda: None)
    assert len(looks) == 1
    assert stage.worker.connections


def test_a_target_that_resets_reaches_the_client(stage: Stage) -> None:
    target, listening = stage.target()
    client, _ = stage.connect(target)
    reset(stage.accept(listening))
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    eventually(lambda: not stage.worker.connections)
    # Services reset for reasons of their own: a stream that ends so is no evidence against them.
    assert target.failures == []


def test_silence_ends_the_connection(stage: Stage) -> None:
    target, listening = stage.target()
    idle = 1.0  # ten times the pause below: a machine that stands still for half a second changes nothing
    client, _ = stage.connect(target, idle=idle)
    inner = stage.accept(listening)
    began = last = time.monotonic()
    while last < began + idle + 0.2:  # longer than the timeout, but never silent for so long
        time.sleep(0.1)
        last = time.monotonic()
        client.sendall(b"x")
        assert inner.recv(1) == b"x"
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionResetError):
        inner.recv(1)
    assert time.monotonic() - last > idle - TICK
    eventually(lambda: not stage.worker.connections)
    assert stage.worker.counts.errors == 0


def test_drain_leaves_it_alone_until_it_is_aborted(stage: Stage) -> None:
    target, listening = stage.target()
    client, connection = stage.connect(target)
    inner = stage.accept(listening)
    stage.worker.run(connection.begin_drain)
    client.sendall(b"x")
    assert inner.recv(1) == b"x"
    stage.worker.run(lambda: connection.abort("drain deadline"))
    stage.worker.run(lambda: connection.abort("again"))
    for side in (client, inner):
        with pytest.raises(ConnectionResetError):
            side.recv(1)
    assert target.latencies != [None]
    assert target.in_flight == 0


def test_abort_while_a_connect_waits(stage: Stage) -> None:
    full, _ = stage.target(backlog=0)
    fill(stage, full)
    client, connection = stage.connect(full)
    stage.worker.run(lambda: connection.abort("drain deadline"))
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert full.failures == []
    assert full.in_flight == 0
    assert not any(stage.worker.timers._buckets.values())


def test_want_of_file_descriptors_is_not_the_targets_fault(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, _ = stage.target()

    def no_socket(*args: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def exhaust(client: socket.socket) -> None:
        monkeypatch.setattr(socket, "socket", no_socket)

    client, _ = stage.connect(target, before=exhaust)
    monkeypatch.undo()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert target.failures == []
    assert (target.begun, target.in_flight) == (1, 0)
    assert stage.worker.counts.errors == 1


def test_a_socket_joined_with_itself_is_known() -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.connect(own.getsockname())
        assert tcp_server._is_itself(own, Address(*own.getsockname()))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as side,
    ):
        assert not tcp_server._is_itself(side, Address(*server.getsockname()))


def test_many_connections_one_after_the_other_leave_nothing(stage: Stage) -> None:
    gone, (target, listening) = nobody(), stage.target()
    for number in range(200):
        client, _ = stage.connect(gone, target) if number % 2 else stage.connect(target)
        inner, _ = listening.accept()
        with inner, client:
            client.sendall(b"x")
            assert inner.recv(1) == b"x"
    eventually(lambda: not stage.worker.connections)
    assert target.in_flight == gone.in_flight == target.connections == 0
    assert not any(stage.worker.timers._buckets.values())
