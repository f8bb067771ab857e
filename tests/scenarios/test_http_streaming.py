"""Bodies of any size: streamed at once, whole, and never held. The bound of memory is shown here."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.scenarios.http_stage import HttpStage, no_more_in_flight, request_bytes
from tests.support.processes import resident_bytes, wait_until
from tests.support.raw_client import RawClient
from tests.support.raw_target import RawConnection, Script, answer, echo_requests, replies

MEGABYTE = 1 << 20
BOUND = 512 * 1024
"""Bytes that a connection pair may add to a worker's memory, whatever its peers do: one read of 256 KiB
on top of 64 KiB of a full write buffer, and some of it twice for the moment of a copy."""
SMALL_BUFFER = 128 * 1024
"""For a socket that is not read: some loopback packets of 64 KiB must fit, or it trickles."""
STUCK = 0.4
"""Seconds without progress after which a sender is called stuck."""


@pytest.fixture(scope="module")
def stage(run_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpStage]:
    folder = tmp_path_factory.mktemp("streaming")
    with HttpStage(run_root, folder, groups=20) as stage:
        yield stage
        assert "Traceback" not in stage.fastlb.log()


class Progress:
    """A count of bytes that threads add to, and whether it stands still."""

    def __init__(self) -> None:
        self.bytes = 0
        self._seen = 0
        self._since = time.monotonic()

    def stands_still(self) -> bool:
        now = time.monotonic()
        if self.bytes != self._seen:
            self._seen, self._since = self.bytes, now
        return now - self._since > STUCK


def slow_client(port: int, stack: ExitStack) -> RawClient:
    """A client whose kernel takes little, so that what it does not read stands in the way."""
    client = stack.enter_context(RawClient(port, seconds=20))
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    return client


# -- whole


def test_a_hundred_megabytes_down(stage: HttpStage) -> None:
    expected = hashlib.sha256()
    for _ in range(100):
        expected.update(bytes(range(256)) * 4096)
    seen = hashlib.sha256()
    with httpx.stream("GET", f"{stage.url}/bytes/{100 * MEGABYTE}") as reply:
        assert reply.headers["content-length"] == str(100 * MEGABYTE)
        for piece in reply.iter_raw():
            seen.update(piece)
    assert seen.digest() == expected.digest()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_hundred_megabytes_up(stage: HttpStage, framing: str) -> None:
    piece = bytes(range(256)) * 4096
    expected = hashlib.sha256()
    with RawClient(stage.port, seconds=30) as client:
        if framing == "length":
            field, pieces = f"Content-Length: {100 * MEGABYTE}", [piece] * 100
        else:
            field = "Transfer-Encoding: chunked"
            pieces = [b"%x\r\n%b\r\n" % (len(piece), piece)] * 100 + [b"0\r\n\r\n"]
        client.send([request_bytes("/echo", field, method="POST"), *pieces])
        reply = client.answer("POST")
    for _ in range(100):
        expected.update(piece)
    assert reply.status == 200
    assert expected.hexdigest().encode() in reply.body


def test_twenty_megabytes_both_ways_at_once(stage: HttpStage) -> None:
    piece = bytes(range(256)) * 256
    seen = hashlib.sha256()
    expected = hashlib.sha256(piece * 320)

    def pieces() -> Iterator[bytes]:
        for _ in range(320):
            yield piece

    async def run() -> None:
        async def upload() -> object:
            for one in pieces():
                yield one

        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{stage.url}/echo?raw=1", data=upload()) as reply,
        ):
            async for one in reply.content.iter_any():
                seen.update(one)

    asyncio.run(run())
    assert seen.digest() == expected.digest()


# -- at once


def test_server_sent_events_arrive_while_the_answer_is_open(stage: HttpStage) -> None:
    """Ten events would take ten minutes: the first two cannot have waited for the end."""
    with httpx.stream("GET", f"{stage.url}/stream?n=10&ms=60000") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = reply.iter_lines()
        assert [next(lines), next(lines)] == ["id: 0", "data: demo sends event 0"]


def test_every_piece_of_an_answer_is_flushed_at_once(stage: HttpStage) -> None:
    """The target sends a piece only when the client has the one before it."""
    go = threading.Semaphore(0)

    def script(target: RawConnection) -> None:
        target.read_request()
        target.send(b"HTTP/1.1 200 OK\r\n")
        target.send(b"Transfer-Encoding: chunked\r\n\r\n")
        for n in range(100):
            assert go.acquire(timeout=30)
            target.send(b"6\r\n%06d\r\n" % n)
        target.send(b"0\r\n\r\n")
        target.read_request()
        target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        for n in range(100):
            assert go.acquire(timeout=30)
            target.send(b"%d" % (n % 10))

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([way.request()])
        assert client._until(b"\r\n\r\n")
        for n in range(100):
            go.release()
            assert client._until(b"\r\n%06d\r\n" % n)
        assert client._until(b"0\r\n\r\n")
        client.send([way.request()])
        go.release()  # a head with a length may wait for the first byte of its body
        assert client._until(b"\r\n\r\n")
        for n in range(100):
            assert client._until(b"%d" % (n % 10)) == b"%d" % (n % 10)
            go.release()
    no_more_in_flight(way)


def test_long_polling_clients_are_answered_when_the_target_answers(stage: HttpStage) -> None:
    news = threading.Event()

    def script(target: RawConnection) -> None:
        while True:
            target.read_request()
            assert news.wait(30)
            target.send(answer(b"news"))

    way = stage.take(script)
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(stage.port)) for _ in range(50)]
        for client in clients:
            client.send([way.request()])
        way.target.wait_requests(50)
        news.set()
        assert all(client.answer().body == b"news" for client in clients)


def test_a_request_is_sent_on_before_its_body_is_complete(stage: HttpStage) -> None:
    way = stage.take()

    def wait_for(piece: bytes) -> None:
        wait_until(
            lambda: any(piece in c.received for c in way.target.connections), 30, every=0.001
        )

    with RawClient(stage.port) as client:
        client.send([way.request("/", "Transfer-Encoding: chunked", method="POST")])
        wait_for(b"\r\n\r\n")
        for n in range(50):
            client.send([b"4\r\n%04d\r\n" % n])
            wait_for(b"4\r\n%04d\r\n" % n)
        client.send([b"0\r\n\r\n"])
        assert client.answer().status == 200


# -- backpressure


def flood(sent: Progress, framing: str = "Content-Length: 100000000000") -> Script:
    """A script that answers with more than anybody reads, and counts what was taken."""
    piece = b"f" * 65536
    if "chunked" in framing:
        piece = b"10000\r\n" + piece + b"\r\n"

    def script(target: RawConnection) -> None:
        target.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        target.read_request()
        target.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        while True:
            target.send(piece)
            sent.bytes += len(piece)

    return script


@pytest.mark.parametrize(
    "framing",
    ["Content-Length: 100000000000", "Transfer-Encoding: chunked", "X-Framing: until close"],
)
def test_slow_readers_of_huge_answers_never_grow_memory(stage: HttpStage, framing: str) -> None:
    count = 20
    sent = Progress()
    way = stage.take(flood(sent, framing))
    worker = stage.worker()
    before = resident_bytes(worker)
    with ExitStack() as stack:
        clients = [slow_client(stage.port, stack) for _ in range(count)]
        for client in clients:
            client.send([way.request()])
        wait_until(sent.stands_still, 30, "the targets' sends get stuck")
        assert sent.bytes > count * 65536
        grown = resident_bytes(worker) - before
        print(f"{count} slow readers, {framing}: {grown / count / 1024:.0f} KiB each")
        assert grown < count * BOUND
        # Nobody is forgotten: whoever reads on gets more.
        for client in clients:
            client.socket.settimeout(30)
            for _ in range(200):
                assert client.socket.recv(65536)
        assert resident_bytes(worker) - before < count * BOUND
    no_more_in_flight(way)


def test_slow_targets_of_huge_uploads_never_grow_memory(stage: HttpStage) -> None:
    count = 20
    taken = Progress()
    sent = Progress()
    release = threading.Event()

    def script(target: RawConnection) -> None:
        target.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        target.read_head()
        assert release.wait(30)
        while data := target.socket.recv(65536):
            taken.bytes += len(data)

    way = stage.take(script)
    worker = stage.worker()
    before = resident_bytes(worker)
    with ExitStack() as stack:
        threads = []
        for n in range(count):
            client = stack.enter_context(RawClient(stage.port, seconds=30))
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
            # Bodies that may be sent again (PUT) and bodies that may not (POST).
            method = "PUT" if n % 2 else "POST"
            head = way.request("/", "Content-Length: 100000000000", method=method)
            threads.append(threading.Thread(target=pour, args=(client, head, sent)))
            stack.callback(threads[-1].join, 10)
            stack.callback(client.socket.shutdown, socket.SHUT_RDWR)  # ends the thread's send
            threads[-1].start()
        stack.callback(release.set)
        wait_until(sent.stands_still, 30, "the clients' sends get stuck")
        assert sent.bytes > count * 65536
        grown = resident_bytes(worker) - before
        print(f"{count} slow targets: {grown / count / 1024:.0f} KiB each")
        assert grown < count * BOUND
        release.set()
        stuck_at = sent.bytes
        wait_until(lambda: sent.bytes > stuck_at + count * MEGABYTE, 30, "it flows again")
        assert resident_bytes(worker) - before < count * BOUND
    assert taken.bytes
    no_more_in_flight(way)


def pour(client: RawClient, head: bytes, sent: Progress) -> None:
    """Send without end, until the socket is shut down."""
    piece = b"p" * 65536
    try:
        client.socket.sendall(head)
        while True:
            client.socket.sendall(piece)
            sent.bytes += len(piece)
    except OSError:
        return


@pytest.mark.parametrize("size", [60_000, 200_000, 500_000])
def test_a_client_that_pipelines_and_does_not_read_never_grows_memory(
    stage: HttpStage, size: int
) -> None:
    """The answers of later requests wait as well, and the target's connections serve others."""
    count = 40_000_000 // size
    way = stage.take(replies(answer(b"b" * size)))
    worker = stage.worker()
    before = resident_bytes(worker)
    asked = Progress()

    def stuck() -> bool:
        asked.bytes = len(way.target.requests)
        return asked.stands_still()

    with ExitStack() as stack:
        clients = [slow_client(stage.port, stack) for _ in range(3)]
        for client in clients:
            client.send([way.request() * count])
        wait_until(stuck, 30, "no more requests reach the target")
        assert asked.bytes < 3 * count
        grown = resident_bytes(worker) - before
        print(f"3 clients that pipeline for {size} bytes: {grown / 3 / 1024:.0f} KiB each")
        assert grown < 3 * BOUND
        with ExitStack() as others:
            for _ in range(8):
                other = others.enter_context(RawClient(stage.port))
                other.send([way.request()])
                assert len(other.answer().body) == size
        for client in clients:
            for _ in range(count):
                assert len(client.answer().body) == size
    no_more_in_flight(way)


def test_a_slow_reader_that_half_closed_gets_all_pipelined_answers(stage: HttpStage) -> None:
    way = stage.take(replies(answer(b"h" * 60_000)))
    with ExitStack() as stack:
        client = slow_client(stage.port, stack)
        client.send([way.request() * 300])
        client.finish()
        asked = Progress()

        def stuck() -> bool:
            asked.bytes = len(way.target.requests)
            return asked.stands_still()

        wait_until(stuck, 30, "no more requests reach the target")
        for _ in range(300):
            assert len(client.answer().body) == 60_000
        assert client.rest() == b""


@pytest.mark.parametrize("size", [60_000, 200_000])
def test_a_slow_readers_target_connection_serves_others_at_once(
    stage: HttpStage, size: int
) -> None:
    """An answer ends in the client's full buffer, and its target's connection goes back to the pool."""
    way = stage.take(replies(answer(b"s" * size)))
    worker = stage.worker()
    before = resident_bytes(worker)
    count = 12_000_000 // size
    with ExitStack() as stack:
        slow = slow_client(stage.port, stack)
        fast = stack.enter_context(RawClient(stage.port))
        for _ in range(count):
            slow.socket.sendall(way.request())
            fast.send([way.request()])
            assert len(fast.answer().body) == size
        grown = resident_bytes(worker) - before
        print(f"a slow reader beside a fast one: {grown / 1024:.0f} KiB")
        assert grown < 2 * BOUND
        for _ in range(count):
            assert len(slow.answer().body) == size


def test_a_client_that_sends_ahead_without_end_is_not_read_on(stage: HttpStage) -> None:
    """While one request waits for its answer, those after it stay in the kernel."""
    release = threading.Event()

    def script(target: RawConnection) -> None:
        target.read_request()
        assert release.wait(30)
        target.send(answer(b""))
        echo_requests(target)

    way = stage.take(script)
    worker = stage.worker()
    before = resident_bytes(worker)
    sent = Progress()
    with RawClient(stage.port, seconds=30) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        thread = threading.Thread(target=pour_requests, args=(client, way.request(), sent))
        thread.start()
        try:
            wait_until(sent.stands_still, 30, "the client's send gets stuck")
            assert resident_bytes(worker) - before < BOUND
            release.set()
            assert client.answer().status == 200
            assert client.answer().fields("x-seen") == [way.path()]
        finally:
            release.set()
            client.socket.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def pour_requests(client: RawClient, request: bytes, sent: Progress) -> None:
    pour(client, request * 500, sent)
