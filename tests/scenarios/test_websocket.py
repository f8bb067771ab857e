"""WebSocket and other upgrades: the handshake is HTTP, and what follows is a tunnel."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import websockets.exceptions
from websockets.asyncio.client import connect
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_sync

from tests.scenarios.http_stage import HttpStage, Way, field_values, no_more_in_flight
from tests.support.fastlb import FastlbProcess
from tests.support.processes import open_files, resident_bytes, wait_until
from tests.support.raw_client import RawClient
from tests.support.raw_target import RawConnection, RawTarget, answer
from tests.support.targets import DemoTarget

MEGABYTE = 1 << 20
IDLE_SECONDS = 0.8
LATE = 5.0
"""What a busy machine may add to a timeout."""
BOUND = 256 * 1024
"""Bytes that a tunnel may add to a worker's memory: a buffer of 64 KiB a direction, and what came with
the handshake; bulk waits in the kernel's pipes."""


@pytest.fixture(scope="module")
def stage(run_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpStage]:
    """The second listener has a short idle timeout."""
    with HttpStage(
        run_root,
        tmp_path_factory.mktemp("ws"),
        groups=24,
        listeners=("", f'idle_timeout = "{IDLE_SECONDS}s"'),
    ) as stage:
        yield stage
        assert "Traceback" not in stage.fastlb.log()


def demo(stage: HttpStage, listener: int = 0) -> str:
    return f"ws://127.0.0.1:{stage.fastlb.ports[listener]}/ws"


# -- by the library


def test_text_and_binary_messages(stage: HttpStage) -> None:
    with connect_sync(demo(stage)) as ws:
        assert ws.response is not None
        assert ws.response.headers["x-demo-worker"] == "demo"
        for message in ("hello", "", "ä" * 1000, b"", b"\x00\xff" * 5000):
            ws.send(message)
            assert ws.recv(5) == message
        for n in range(500):
            ws.send(str(n))
        assert [ws.recv(5) for _ in range(500)] == [str(n) for n in range(500)]


def test_a_message_of_ten_megabytes(stage: HttpStage) -> None:
    message = os.urandom(10 * MEGABYTE)
    with connect_sync(demo(stage), max_size=None, compression=None) as ws:
        ws.send(message)
        assert ws.recv(20) == message


def test_messages_in_fragments_and_pings(stage: HttpStage) -> None:
    with connect_sync(demo(stage)) as ws:
        ws.send(f"{n}," for n in range(100))
        assert ws.recv(5) == "".join(f"{n}," for n in range(100))
        for _ in range(20):
            assert ws.ping().wait(30)


@pytest.mark.parametrize("code", [1000, 1001, 4000])
def test_a_clients_close_comes_back(stage: HttpStage, code: int) -> None:
    with connect_sync(demo(stage)) as ws:
        ws.send("x")
        assert ws.recv(5) == "x"
        ws.close(code, "done")
        assert ws.close_code == code


def test_a_target_that_dies_closes_the_tunnel(run_root: Path) -> None:
    with (
        DemoTarget("demo") as target,
        FastlbProcess(run_root, targets=[target]) as fastlb,
        connect_sync(f"ws://127.0.0.1:{fastlb.port}/ws") as ws,
    ):
        ws.send("x")
        assert ws.recv(5) == "x"
        target.kill()
        with pytest.raises(websockets.exceptions.ConnectionClosedError):
            ws.recv(5)
        fastlb.stop()


def test_many_at_once_with_http_between(stage: HttpStage) -> None:
    files = open_files(stage.worker())

    async def one(n: int) -> int:
        async with connect(demo(stage)) as ws:
            for turn in range(10):
                await ws.send(f"{n} {turn}")
                assert await ws.recv() == f"{n} {turn}"
            together.release()
            await everybody.wait()
            await ws.send("bye")
            assert await ws.recv() == "bye"
        return n

    together = asyncio.Semaphore(0)
    everybody = asyncio.Event()

    async def run() -> None:
        tasks = [asyncio.create_task(one(n)) for n in range(150)]
        for _ in tasks:
            await asyncio.wait_for(together.acquire(), 20)
        assert stage.fastlb.status()["workers"][0]["connections"] >= 150
        everybody.set()
        assert await asyncio.gather(*tasks) == list(range(150))

    asyncio.run(run())
    wait_until(lambda: open_files(stage.worker()) <= files + 2, 30, "descriptors come back")

    def in_flight() -> int:
        (target,) = stage.fastlb.targets("demo").values()
        return int(target["in_flight"])

    wait_until(lambda: not in_flight(), 30, "nothing is in flight")


def test_subprotocols_and_extensions_are_the_targets_business(stage: HttpStage) -> None:
    with connect_sync(demo(stage), compression="deflate") as ws:
        ws.send("z" * 100_000)
        assert ws.recv(5) == "z" * 100_000


def test_tunnels_are_spread_over_targets_and_end_their_counts(run_root: Path) -> None:
    with ExitStack() as stack:
        targets = [stack.enter_context(DemoTarget(name)) for name in "ab"]
        fastlb = stack.enter_context(FastlbProcess(run_root, targets=targets))
        fastlb.wait_states()
        sockets = [
            stack.enter_context(connect_sync(f"ws://127.0.0.1:{fastlb.port}/ws")) for _ in range(10)
        ]
        names = Counter(ws.response.headers["x-demo-worker"] for ws in sockets if ws.response)
        assert names == {"a": 5, "b": 5}
        wait_until(
            lambda: [one["in_flight"] for one in fastlb.targets().values()] == [5, 5], 30, "counted"
        )
        for ws in sockets:
            ws.close()
        wait_until(
            lambda: not any(one["in_flight"] for one in fastlb.targets().values()), 30, "all over"
        )
        fastlb.stop()


# -- timeouts


def test_an_idle_tunnel_is_closed_and_a_busy_one_is_not(stage: HttpStage) -> None:
    with (
        connect_sync(demo(stage, 1), ping_interval=None) as idle,
        connect_sync(demo(stage, 1), ping_interval=None) as busy,
    ):
        began = time.monotonic()
        ended = threading.Event()
        thread = threading.Thread(target=wait_for_end, args=(idle, ended))
        thread.start()
        while not ended.wait(IDLE_SECONDS / 4):
            busy.send("still here")
            assert busy.recv(5) == "still here"
        took = time.monotonic() - began
        thread.join(5)
        assert IDLE_SECONDS - 0.11 <= took <= IDLE_SECONDS + LATE
        busy.send("and now")
        assert busy.recv(5) == "and now"


def wait_for_end(ws: ClientConnection, ended: threading.Event) -> None:
    with contextlib.suppress(websockets.exceptions.ConnectionClosed):
        ws.recv(20)
    ended.set()


# -- by hand

KEY = base64.b64encode(b"0123456789abcdef").decode()
ACCEPT = base64.b64encode(
    hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
).decode()


def handshake(way: Way, *more: str, protocol: str = "websocket") -> bytes:
    return way.request(
        "/ws",
        "Connection: keep-alive, Upgrade",
        f"Upgrade: {protocol}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        *more,
    )


SWITCH = (
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
).encode()


def echo_after_switch(target: RawConnection) -> None:
    target.read_head()
    target.send(SWITCH)
    while True:
        target.send(target.read_some())


def test_the_handshake_reaches_both_sides(stage: HttpStage) -> None:
    way = stage.take(echo_after_switch)
    with RawClient(stage.port) as client:
        client.send([handshake(way)])
        one = client.answer()
        assert one.status == 101
        assert [value.lower() for value in one.fields("connection")] == ["upgrade"]
        assert one.fields("upgrade") == ["websocket"]
        assert one.fields("sec-websocket-accept") == [ACCEPT]
        received = bytes(way.target.connections[0].received)
        assert field_values(received, "connection") == ["Upgrade"]
        assert field_values(received, "upgrade") == ["websocket"]
        assert field_values(received, "sec-websocket-key") == [KEY]
        client.send([b"\x00 any bytes \r\n\r\n GET / HTTP/1.1\r\n\r\n"])
        assert client._until(b"HTTP/1.1\r\n\r\n").startswith(b"\x00 any bytes")


@pytest.mark.parametrize("size", [1, 1000, 60_000, 300_000])
def test_bytes_sent_right_behind_the_handshake_are_not_lost(stage: HttpStage, size: int) -> None:
    way = stage.take(echo_after_switch)
    early = os.urandom(size)
    with RawClient(stage.port) as client:
        client.socket.sendall(handshake(way) + early)
        assert client.answer().status == 101
        assert take(client, size) == early
        client.send([b"more"])
        assert take(client, 4) == b"more"


def take(client: RawClient, size: int) -> bytes:
    """The next `size` bytes of a tunnel."""
    while len(client.buffer) < size:
        assert client.end is None, "the tunnel ended"
        client._fill()
    return client._take(size)


@pytest.mark.parametrize("size", [1, 60_000, 300_000])
def test_bytes_the_target_sends_right_behind_its_switch_are_not_lost(
    stage: HttpStage, size: int
) -> None:
    first = os.urandom(size)

    def script(target: RawConnection) -> None:
        target.read_head()
        target.send(SWITCH + first)
        while True:
            target.send(target.read_some())

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([handshake(way)])
        assert client.answer().status == 101
        assert take(client, size) == first
        client.send([b"more"])
        assert take(client, 4) == b"more"


def test_a_handshake_after_other_requests_on_the_same_connections(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        while b"Upgrade: " not in target.read_head():
            target.send(answer(b"o" * 50_000))
        target.send(SWITCH)
        while True:
            target.send(target.read_some())

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([way.request() * 5 + handshake(way) + b"early"])
        for _ in range(5):
            assert len(client.answer().body) == 50_000
        assert client.answer().status == 101
        assert client._until(b"early") == b"early"
    assert len(way.target.connections) == 1
    no_more_in_flight(way)
    # And the target's connection is no one else's afterwards.
    wait_until(lambda: way.target.connections[0].ended.is_set(), 30, "the tunnel's end")
    assert way.ask().status == 200


def test_a_slow_reader_with_old_answers_pending_upgrades_in_the_end(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        while b"Upgrade: " not in target.read_head():
            target.send(answer(b"o" * 50_000))
        target.send(SWITCH)
        while True:
            target.send(target.read_some())

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131072)
        client.socket.sendall(way.request() * 150 + handshake(way) + b"early")
        for _ in range(150):
            assert len(client.answer().body) == 50_000
        assert client.answer().status == 101
        assert client._until(b"early") == b"early"


def test_a_refused_upgrade_is_an_answer_like_any_other(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        while True:
            target.read_request()
            target.send(answer(b"no", status="426 Upgrade Required"))

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([handshake(way) + way.request()])
        assert [client.answer().status for _ in range(2)] == [426, 426]
    assert len(way.target.connections) == 1


def test_a_switch_that_nobody_asked_for_is_refused(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        target.read_request()
        target.send(SWITCH + b"smuggled")
        target.read_to_end()

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([way.request()])
        assert client.answer().status == 502
        client.send([way.request("/", version="1.0")])
        assert client.answer().status == 502


def test_half_closed_tunnels_carry_the_other_direction_to_its_end(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        target.read_head()
        target.send(SWITCH)
        target.read_to_end()
        target.send(b"last words")

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([handshake(way)])
        assert client.answer().status == 101
        client.send([b"a" * 100_000])
        client.finish()
        assert client.rest() == b"last words"
    assert bytes(way.target.connections[0].received).endswith(b"a" * 100_000)
    no_more_in_flight(way)


def test_a_vanished_client_ends_the_targets_side(stage: HttpStage) -> None:
    way = stage.take(echo_after_switch)
    with RawClient(stage.port) as client:
        client.send([handshake(way)])
        assert client.answer().status == 101
    wait_until(lambda: way.target.connections[0].ended.is_set(), 30, "the target's side ended")
    no_more_in_flight(way)


def test_slow_readers_of_tunnels_never_grow_memory(stage: HttpStage) -> None:
    sent = [0] * 20
    since = time.monotonic()

    def script(target: RawConnection) -> None:
        target.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 131072)
        target.read_head()
        target.send(SWITCH)
        while True:
            target.send(b"f" * 65536)
            sent[target.number % 20] += 65536

    seen = 0

    def stands_still() -> bool:
        nonlocal seen, since
        if sum(sent) != seen:
            seen, since = sum(sent), time.monotonic()
        return time.monotonic() - since > 0.4

    way = stage.take(script)
    before = resident_bytes(stage.worker())
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(stage.port)) for _ in range(20)]
        for client in clients:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131072)
            client.socket.sendall(handshake(way))
        wait_until(stands_still, 30, "the targets' sends get stuck")
        assert all(sent)
        grown = resident_bytes(stage.worker()) - before
        print(f"20 slow tunnels: {grown / 20 / 1024:.0f} KiB each")
        assert grown < 20 * BOUND
        for client in clients:
            assert client.answer().status == 101
    no_more_in_flight(way)


def test_upgrades_after_retries_leave_the_retry_budget_whole(
    run_root: Path, tmp_path: Path
) -> None:
    """A tunnel that a second target took lives on; it must not count as a retry for all that time."""

    def refuses(target: RawConnection) -> None:
        target.read_head()
        target.reset()

    def well(target: RawConnection) -> None:
        while True:
            head = target.read_head()
            if b"Upgrade: " in head:
                target.send(SWITCH)
                target.read_to_end()
                return
            target.send(answer(b"well"))

    with ExitStack() as stack:
        bad = stack.enter_context(RawTarget(refuses))
        good = stack.enter_context(RawTarget(well))
        # Round robin, and a group of its own for each try: an ejected target would get nothing more.
        text = '[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = { forward = "t0" }\n'
        for n in range(8):
            text += f'[[listeners.rules]]\npriority = {n + 1}\npath = ["/t{n}"]\nforward = "t{n}"\n'
        for n in range(8):
            text += f'[target_groups.t{n}]\nhealth_check = false\nalgorithm = "source_ip_hash"\n'
            text += f'targets = ["{bad},weight=999", "{good},weight=1"]\n'
        config = tmp_path / "retries.toml"
        config.write_text(text)
        fastlb = stack.enter_context(FastlbProcess(run_root, "--config", str(config), listen=()))
        for n in range(6):
            client = stack.enter_context(RawClient(fastlb.port))
            client.send(
                [
                    f"GET /t{n} HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\n"
                    f"Upgrade: websocket\r\n\r\n".encode()
                ]
            )
            assert client.answer().status == 101, n
        with RawClient(fastlb.port) as client:
            client.send([b"GET /t6 HTTP/1.1\r\nHost: t\r\n\r\n"])
            assert client.answer().body == b"well"
        assert len(bad.connections) >= 6
