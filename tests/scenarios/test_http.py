"""HTTP/1.1 and 1.0 through a real fastlb: connections, framing, interim answers, ends of every kind."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.scenarios.http_stage import (
    HttpStage,
    Way,
    field_values,
    no_more_in_flight,
    send_split,
)
from tests.support.fastlb import FastlbProcess
from tests.support.processes import open_files, wait_until
from tests.support.raw_client import Ended, RawClient
from tests.support.raw_target import RawConnection, answer, replies, request_target
from tests.support.targets import StdlibHttpTarget

RESET = struct.pack("ii", 1, 0)
SPLITS = ["whole", "bytewise", "random"]


@pytest.fixture(scope="module")
def stage(run_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpStage]:
    with HttpStage(run_root, tmp_path_factory.mktemp("http"), groups=70) as stage:
        yield stage
        assert "Traceback" not in stage.fastlb.log()


# -- connections of both sides


def test_one_target_connection_serves_many_client_connections(stage: HttpStage) -> None:
    way = stage.take()
    for _ in range(5):
        with RawClient(stage.port) as client:
            for n in range(20):
                client.send([way.request(f"/{n}")])
                assert client.answer().fields("x-seen") == [way.path(f"/{n}")]
    assert len(way.target.connections) == 1


def test_httpx_and_aiohttp_share_the_pool(stage: HttpStage) -> None:
    way = stage.take()

    async def both() -> None:
        limits = httpx.Limits(max_connections=4)
        async with (
            httpx.AsyncClient(limits=limits) as one,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=4)) as other,
        ):

            async def by_httpx(n: int) -> None:
                reply = await one.get(f"{stage.url}{way.path()}{n}")
                assert reply.headers["x-seen"] == way.path(f"/{n}")

            async def by_aiohttp(n: int) -> None:
                async with other.post(f"{stage.url}{way.path()}{n}", data=b"x" * n) as reply:
                    assert reply.headers["x-seen"] == way.path(f"/{n}")

            await asyncio.gather(*map(by_httpx, range(100)), *map(by_aiohttp, range(100)))

    asyncio.run(both())
    assert len(way.target.requests) == 200
    assert len(way.target.connections) <= 8


def test_each_request_of_a_connection_may_go_to_another_target(stage: HttpStage) -> None:
    ways = [stage.take() for _ in range(4)]
    with RawClient(stage.port) as client:
        for way in ways * 3:
            client.send([way.request()])
            assert client.answer().fields("x-seen") == [way.path()]
    assert [len(way.target.connections) for way in ways] == [1] * 4


def test_http_10_closes_unless_it_asks_to_stay(stage: HttpStage) -> None:
    way = stage.take()
    with RawClient(stage.port) as client:
        client.send([way.request("/a", version="1.0")])
        one = client.answer()
        assert one.complete
        assert one.fields("connection") == ["close"]
        assert client.rest() == b""
    with RawClient(stage.port) as client:
        for name in ("/b", "/c"):
            client.send([way.request(name, "Connection: keep-alive", version="1.0")])
            one = client.answer()
            assert one.fields("connection") == ["keep-alive"]
            assert one.fields("x-seen") == [way.path(name)]
    raw = way.target.wait_requests(3)
    assert len(way.target.connections) == 1
    assert all(b" HTTP/1.1\r\n" in one for one in raw)


def test_http_10_without_host_gets_the_listener_as_host(stage: HttpStage) -> None:
    way = stage.take()
    assert way.ask(version="1.0", host=None).status == 200
    assert field_values(way.target.requests[0][1], "host")[0].startswith("127.0.0.1:")


def test_a_client_that_closes_leaves_the_target_connection_in_the_pool(stage: HttpStage) -> None:
    way = stage.take()
    for n in range(10):
        with RawClient(stage.port) as client:
            client.send([way.request(f"/{n}", "Connection: close")])
            one = client.answer()
            assert one.fields("connection") == ["close"]
            assert one.body
            assert client.rest() == b""
    assert len(way.target.connections) == 1
    assert not field_values(way.target.requests[0][1], "connection")


def test_a_target_that_says_close_leaves_the_client_connection_open(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        raw = target.read_request()
        target.send(answer(b"bye", f"X-Seen: {request_target(raw)}", "Connection: close"))

    way = stage.take(script)
    with RawClient(stage.port) as client:
        for n in range(20):
            client.send([way.request(f"/{n}", method="POST", body=b"x")])
            one = client.answer()
            assert (one.status, one.body) == (200, b"bye")
            assert not one.fields("connection")
    assert len(way.target.connections) == 20


def test_a_target_that_closes_without_a_word_after_each_answer_costs_no_request(
    stage: HttpStage,
) -> None:
    def script(target: RawConnection) -> None:
        raw = target.read_request()
        target.send(answer(b"bye", f"X-Seen: {request_target(raw)}"))
        target.close()

    way = stage.take(script)
    with RawClient(stage.port) as client:
        for n in range(100):
            client.send([way.request(f"/{n}")])
            one = client.answer()
            assert (one.status, one.fields("x-seen")) == (200, [way.path(f"/{n}")])


# -- pipelining


def test_a_thousand_pipelined_requests_are_answered_in_order(stage: HttpStage) -> None:
    way = stage.take()
    names = [f"/{n}" for n in range(1000)]
    with RawClient(stage.port) as client:
        client.send([b"".join(way.request(name) for name in names)])
        for name in names:
            assert client.answer().fields("x-seen") == [way.path(name)]
    assert [request_target(raw) for raw in way.target.wait_requests(1000)] == [
        way.path(name) for name in names
    ]
    assert len(way.target.connections) == 1


def chunked(way: Way, rest: str, *, method: str = "POST", trailers: str = "") -> bytes:
    head = way.request(rest, "Transfer-Encoding: chunked", method=method)
    return head + b"3\r\nabc\r\n5;note=x\r\ndefgh\r\n0\r\n" + trailers.encode() + b"\r\n"


def mixed(way: Way, count: int) -> list[tuple[str, str, bytes]]:
    """(method, rest of the path, bytes) of requests of every framing."""
    requests = []
    for n in range(count):
        rest = f"/{n}"
        kind = n % 6
        if kind == 0:
            requests.append(("GET", rest, way.request(rest)))
        elif kind == 1:
            body = b"%d," % n * (n % 50 + 1)
            requests.append(("POST", rest, way.request(rest, method="POST", body=body)))
        elif kind == 2:
            requests.append(("HEAD", rest, way.request(rest, method="HEAD")))
        elif kind == 3:
            requests.append(("PUT", rest, chunked(way, rest, method="PUT")))
        elif kind == 4:
            requests.append(("DELETE", rest, b"\r\n" + way.request(rest, method="DELETE")))
        else:
            requests.append(
                ("PATCH", rest, chunked(way, rest, method="PATCH", trailers="A: b\r\n"))
            )
    return requests


def test_a_thousand_pipelined_requests_of_mixed_methods_with_bodies(stage: HttpStage) -> None:
    way = stage.take()
    requests = mixed(way, 1000)
    with RawClient(stage.port) as client:
        client.send([raw for _, _, raw in requests])
        for method, rest, _ in requests:
            assert client.answer(method).fields("x-seen") == [way.path(rest)]
    assert [request_target(raw) for raw in way.target.wait_requests(1000)] == [
        way.path(rest) for _, rest, _ in requests
    ]
    assert not way.target.errors()


@pytest.mark.parametrize("how", SPLITS)
def test_pipelined_requests_however_they_are_cut(stage: HttpStage, how: str) -> None:
    way = stage.take()
    requests = mixed(way, 12)
    with RawClient(stage.port) as client:
        send_split(client, b"".join(raw for _, _, raw in requests), how)
        for method, rest, _ in requests:
            assert client.answer(method).fields("x-seen") == [way.path(rest)]
    assert len(way.target.connections) == 1


def test_pipelined_errors_and_answers_keep_their_order(stage: HttpStage) -> None:
    """What fastlb answers itself stands in its place among the targets' answers."""
    way = stage.take()

    def refuses(target: RawConnection) -> None:
        target.close()

    gone = stage.take(refuses)
    with RawClient(stage.port) as client:
        client.send([b"".join((way.request("/1"), gone.request("/2"), way.request("/3")) * 5)])
        statuses = [client.answer().status for _ in range(15)]
    assert statuses == [200, 502, 200] * 5


def test_a_pipelined_slow_answer_holds_back_the_fast_one(stage: HttpStage) -> None:
    asked = threading.Event()
    release = threading.Event()

    def slow(target: RawConnection) -> None:
        target.read_request()
        asked.set()
        assert release.wait(30)
        target.send(answer(b"slow"))

    first, second = stage.take(slow), stage.take()
    with RawClient(stage.port) as client:
        client.send([first.request() + second.request()])
        assert asked.wait(30)
        assert not second.target.requests
        release.set()
        assert client.answer().body == b"slow"
        assert client.answer().fields("x-seen") == [second.path()]


# -- bodies and trailers


@pytest.mark.parametrize("how", SPLITS)
def test_chunked_requests_reach_the_target_with_their_trailers(stage: HttpStage, how: str) -> None:
    way = stage.take()
    trailers = "X-Sum: 1\r\nContent-Length: 9\r\nX-Two: 2\r\n"
    with RawClient(stage.port) as client:
        send_split(client, chunked(way, "/t", trailers=trailers), how)
        assert client.answer().status == 200
    (raw,) = way.target.wait_requests(1)
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert field_values(head, "transfer-encoding") == ["chunked"]
    assert unchunk(rest) == (b"abcdefgh", b"X-Sum: 1\r\nX-Two: 2\r\n")


def unchunk(data: bytes) -> tuple[bytes, bytes]:
    """The body, and the trailer lines."""
    body = b""
    while True:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            return body, data.removesuffix(b"\r\n")
        body += data[:size]
        data = data[size + 2 :]


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_chunked_answers_reach_the_client_with_their_trailers(
    stage: HttpStage, pieces: int
) -> None:
    reply = (
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'4\r\nWiki\r\n7;a="b"\r\npedia i\r\nB\r\nn \r\nchunks.\r\n0\r\nX-Sum: 42\r\n\r\n'
    )
    way = stage.take(replies(reply, pieces))
    with RawClient(stage.port) as client:
        for _ in range(3):
            client.send([way.request()])
            one = client.answer()
            assert one.complete
            assert one.body == b"Wikipedia in \r\nchunks."
            assert one.trailers == b"X-Sum: 42\r\n"
    assert len(way.target.connections) == 1


def test_a_chunked_answer_reaches_a_http_10_client_without_chunks(stage: HttpStage) -> None:
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nA: b\r\n\r\n"
    way = stage.take(replies(reply, 9))
    with RawClient(stage.port) as client:
        client.send([way.request("/", "Connection: keep-alive", version="1.0")])
        one = client.answer()
        assert (one.body, one.complete) == (b"abcde", True)
        assert not one.fields("transfer-encoding")
        assert one.fields("connection") == ["close"]


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_an_answer_until_close_is_chunked_to_http_11_and_closed_to_10(
    stage: HttpStage, version: str
) -> None:
    def script(target: RawConnection) -> None:
        target.read_request()
        target.send_pieces([f"{version} 200 OK\r\nA: b\r\n\r\n".encode(), b"until", b" close"])

    way = stage.take(script)
    with RawClient(stage.port) as client:
        for _ in range(3):
            client.send([way.request()])
            one = client.answer()
            assert (one.body, one.complete) == (b"until close", True)
            assert one.fields("transfer-encoding") == ["chunked"]
            assert not one.fields("connection")
    with RawClient(stage.port) as client:
        client.send([way.request(version="1.0")])
        one = client.answer()
        assert (one.body, one.complete) == (b"until close", True)
        assert one.fields("connection") == ["close"]
    assert len(way.target.connections) == 4


@pytest.mark.parametrize(
    "begin",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
def test_a_truncated_answer_is_cut_and_never_completed(stage: HttpStage, begin: bytes) -> None:
    def script(target: RawConnection) -> None:
        target.read_request()
        target.send(begin)

    way = stage.take(script)
    one = way.ask()
    assert one.status == 200
    assert b"abc".startswith(one.body)  # a reset may overtake what was read already
    assert not one.complete


def test_an_answer_until_close_that_ends_with_a_reset_is_cut(stage: HttpStage) -> None:
    begun = threading.Event()

    def script(target: RawConnection) -> None:
        target.read_request()
        target.send(b"HTTP/1.0 200 OK\r\n\r\nabc")
        assert begun.wait(30)
        target.reset()

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([way.request()])
        while b"abc" not in client.buffer:
            client._fill()
        begun.set()
        one = client.answer()
        assert not one.complete


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n'),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000000\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_answers_without_a_body_end_with_their_head(
    stage: HttpStage, method: str, reply: bytes
) -> None:
    way = stage.take(replies(reply))
    with RawClient(stage.port) as client:
        for _ in range(3):
            client.send([way.request(method=method) * 2])
            for _ in range(2):
                one = client.answer(method)
                assert one.status == int(reply[9:12])
                assert one.body == b""
                if one.status == 204:
                    assert not one.fields("content-length")
                elif b"1000000" in reply:
                    assert one.fields("content-length") == ["1000000"]
        assert not client.buffer
    assert len(way.target.connections) == 1


# -- 1xx


def test_expect_continue_is_answered_by_the_target(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        while True:
            head = target.read_head()
            assert field_values(head, "expect") == ["100-continue"]
            target.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert target.read_exactly(4) == b"body"
            target.send(answer(b"ok"))

    way = stage.take(script)
    with RawClient(stage.port) as client:
        for _ in range(2):
            raw = way.request("/", "Expect: 100-continue", method="POST", body=b"body")
            client.send([raw[:-4]])
            assert client._until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send([b"body"])
            one = client.answer()
            assert (one.status, one.body, one.interim) == (200, b"ok", [])
    assert not way.target.errors()
    assert len(way.target.connections) == 1


def test_a_target_that_ignores_expect_gets_the_body_all_the_same(stage: HttpStage) -> None:
    got_head = threading.Event()

    def script(target: RawConnection) -> None:
        target.read_head()
        got_head.set()
        assert target.read_exactly(4) == b"body"
        target.send(answer(b"ok"))

    way = stage.take(script)
    with RawClient(stage.port) as client:
        raw = way.request("/", "Expect: 100-continue", method="POST", body=b"body")
        client.send([raw[:-4]])
        assert got_head.wait(30)
        client.send([b"body"])
        one = client.answer()
        assert (one.status, one.interim) == (200, [])
    assert not way.target.errors()


@pytest.mark.parametrize("status", ["417 Expectation Failed", "413 Content Too Large"])
def test_a_target_that_refuses_an_expectation_is_heard_at_once(
    stage: HttpStage, status: str
) -> None:
    def script(target: RawConnection) -> None:
        target.read_head()
        target.send(answer(b"no", status=status))
        target.read_to_end()

    way = stage.take(script)
    with RawClient(stage.port) as client:
        head = way.request("/", "Expect: 100-continue", "Content-Length: 9999999", method="POST")
        client.send([head])
        one = client.answer("POST")
        assert (one.status, one.body) == (int(status[:3]), b"no")
        # Whether the body comes is open for ever: neither connection can be used again.
        assert one.fields("connection") == ["close"]
        assert client.rest() == b""
    wait_until(
        lambda: way.target.connections[0].ended.is_set(), 30, "the target's connection ended"
    )
    no_more_in_flight(way)


def test_curl_uploads_with_an_expectation(stage: HttpStage, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    body = tmp_path / "body"
    body.write_bytes(b"0123456789" * 300_000)
    command = ["curl", "-sS", "-T", str(body), "-H", "Expect: 100-continue", f"{stage.url}/echo"]
    done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    assert json.loads(done.stdout)["length"] == 3_000_000


@pytest.mark.parametrize("pieces", [1, 60])
def test_early_hints_are_passed_on(stage: HttpStage, pieces: int) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    way = stage.take(replies(hints + hints + answer(b"page"), pieces))
    with RawClient(stage.port) as client:
        for _ in range(2):
            client.send([way.request()])
            one = client.answer()
            assert (one.interim, one.status, one.body) == ([103, 103], 200, b"page")
        client.send([way.request()])
        assert b"\r\nLink: </a.css>; rel=preload\r\n" in client._until(b"\r\n\r\n")
        assert client.answer().interim == [103]
    assert way.ask(version="1.0").interim == []
    assert len(way.target.connections) == 1


def test_early_hints_are_passed_on_before_the_answer(stage: HttpStage) -> None:
    seen = threading.Event()

    def script(target: RawConnection) -> None:
        target.read_request()
        target.send(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n")
        assert seen.wait(30)
        target.send(answer(b"page"))

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([way.request()])
        assert client._until(b"\r\n\r\n").startswith(b"HTTP/1.1 103 ")
        seen.set()
        assert client.answer().body == b"page"


# -- header fields


def test_hop_by_hop_fields_end_at_the_proxy_both_ways(stage: HttpStage) -> None:
    way = stage.take(
        replies(
            answer(
                b"x",
                "Connection: X-Private, keep-alive",
                "X-Private: 1",
                "Keep-Alive: timeout=5",
                "Proxy-Connection: keep-alive",
                "X-Public: 2",
            )
        )
    )
    one = way.ask(
        "/",
        "Connection: close, X-Secret",
        "X-Secret: 1",
        "Keep-Alive: timeout=9",
        "Proxy-Connection: close",
        "TE: trailers",
        "X-Open: 2",
        "Accept: a, b",
    )
    (raw,) = way.target.wait_requests(1)
    for name in ("connection", "x-secret", "keep-alive", "proxy-connection", "te"):
        assert not field_values(raw, name), name
    assert field_values(raw, "x-open") == ["2"]
    assert field_values(raw, "accept") == ["a, b"]
    for name in ("x-private", "keep-alive", "proxy-connection"):
        assert not one.fields(name), name
    assert one.fields("x-public") == ["2"]


def test_many_and_repeated_and_long_fields_go_through_unchanged(stage: HttpStage) -> None:
    cookies = [f"Set-Cookie: c{n}={'v' * 500}" for n in range(30)]
    way = stage.take(replies(answer(b"x", *cookies)))
    sent = [f"X-Field: {n} {'w' * 300}" for n in range(60)]
    one = way.ask("/", *sent)
    assert one.fields("set-cookie") == [cookie.partition(": ")[2] for cookie in cookies]
    (raw,) = way.target.wait_requests(1)
    assert field_values(raw, "x-field") == [field.partition(": ")[2] for field in sent]


# -- ends: early answers, half-closed and vanished clients


def test_an_answer_before_the_body_is_complete(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        target.read_head()
        target.send(answer(b"enough"))
        target.read_to_end()

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([way.request("/", "Content-Length: 1000", method="POST") + b"x" * 10])
        one = client.answer()
        assert (one.status, one.body, one.complete) == (200, b"enough", True)
        assert one.fields("connection") == ["close"]
        client.send([b"y" * 990, way.request("/smuggled")])
        assert client.rest() == b""
    wait_until(
        lambda: way.target.connections[0].ended.is_set(), 30, "the target's connection ended"
    )
    assert b"smuggled" not in way.target.connections[0].received
    assert len(way.target.connections) == 1


def test_an_answer_that_begins_before_the_body_is_complete_streams_on(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        target.read_head()
        target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(50):
            target.send(b"4\r\n" + target.read_exactly(4) + b"\r\n")
        target.send(b"0\r\n\r\n")

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([way.request("/", "Content-Length: 200", method="POST")])
        assert client._until(b"\r\n\r\n")
        for n in range(50):
            client.send([b"%04d" % n])
            assert client._until(b"4\r\n%04d\r\n" % n)
        assert client.rest().endswith(b"0\r\n\r\n")


def test_a_target_that_answers_and_closes_before_the_body_is_complete(stage: HttpStage) -> None:
    """A 413 of an app server that closes at once, under a client that goes on sending."""

    def script(target: RawConnection) -> None:
        target.read_head()
        target.send(answer(b"too much", "Connection: close", status="413 Content Too Large"))
        target.close()

    way = stage.take(script)
    for _ in range(5):
        with RawClient(stage.port) as client:
            head = way.request("/", f"Content-Length: {1 << 19}", method="POST")
            client.send([head, *[b"x" * 65536] * 8])
            assert client.answer().status == 413


def test_what_follows_a_last_request_does_not_cost_its_answer(stage: HttpStage) -> None:
    """Closing over unread bytes would send a reset, which overtakes the answer."""
    way = stage.take(replies(answer(b"l" * 300_000)))
    for _ in range(5):
        with RawClient(stage.port) as client:
            client.socket.sendall(way.request("/", "Connection: close") + way.request("/n") * 5000)
            one = client.answer()
            assert (len(one.body), one.complete) == (300_000, True)
            assert client.rest() == b""
    assert len(way.target.requests) == 5


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_a_half_closed_client_gets_its_whole_answer(stage: HttpStage, size: int) -> None:
    way = stage.take(replies(answer(b"z" * size)))
    with RawClient(stage.port) as client:
        client.send([way.request()])
        client.finish()
        one = client.answer()
        assert (one.status, len(one.body), one.complete) == (200, size, True)
        assert client.rest() == b""


def test_a_half_closed_client_gets_a_late_answer(stage: HttpStage) -> None:
    asked, release = threading.Event(), threading.Event()

    def script(target: RawConnection) -> None:
        target.read_request()
        asked.set()
        assert release.wait(30)
        target.send(answer(b"late"))

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.send([way.request()])
        client.finish()
        assert asked.wait(30)
        release.set()
        assert client.answer().body == b"late"
        assert client.rest() == b""


def test_a_half_closed_client_gets_all_pipelined_answers(stage: HttpStage) -> None:
    way = stage.take()
    requests = mixed(way, 300)
    with RawClient(stage.port) as client:
        client.send([b"".join(raw for _, _, raw in requests)])
        client.finish()
        for method, rest, _ in requests:
            assert client.answer(method).fields("x-seen") == [way.path(rest)]
        assert client.rest() == b""


def test_a_client_that_ends_inside_its_body_is_told(stage: HttpStage) -> None:
    way = stage.take()
    for rest in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"):
        with RawClient(stage.port) as client:
            client.send([way.request(method="POST")[:-2] + rest])
            client.finish()
            assert client.answer().status == 400
            assert client.rest() == b""
    assert not way.target.requests
    no_more_in_flight(way)


def test_a_client_that_ends_inside_its_head_is_closed(stage: HttpStage) -> None:
    way = stage.take()
    with RawClient(stage.port) as client:
        client.send([way.request()[:-2]])
        client.finish()
        with pytest.raises(Ended):
            client.answer()
    assert not way.target.connections


def vanish(client: RawClient) -> None:
    """Reset, as a killed client with unread data does."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.socket.close()


def test_a_client_that_vanishes_while_waiting_ends_the_targets_connection(
    stage: HttpStage,
) -> None:
    def script(target: RawConnection) -> None:
        target.read_request()
        target.never_answer()

    way = stage.take(script)
    files = open_files(stage.worker())
    for _ in range(20):
        with RawClient(stage.port) as client:
            client.send([way.request()])
            way.target.wait_requests(1)
            vanish(client)
        wait_until(lambda: all(c.ended.is_set() for c in way.target.connections), 30, "all ended")
        way.target.forget()
    no_more_in_flight(way)
    wait_until(lambda: open_files(stage.worker()) <= files, 30, "no descriptor leaks")


def test_a_client_that_closes_while_waiting_is_taken_for_half_closed(stage: HttpStage) -> None:
    """A FIN says no more than that; the answer comes, nobody has it, and nothing is left."""
    release = threading.Event()

    def script(target: RawConnection) -> None:
        while True:
            raw = target.read_request()
            assert release.wait(30)
            target.send(answer(b"x" * 1000, f"X-Seen: {request_target(raw)}"))

    way = stage.take(script)
    files = open_files(stage.worker())
    for n in range(20):
        with RawClient(stage.port) as client:
            client.send([way.request(f"/{n}")])
            way.target.wait_requests(n + 1)
    release.set()
    no_more_in_flight(way)
    with RawClient(stage.port) as client:
        for n in range(20, 60):
            client.send([way.request(f"/{n}")])
            assert client.answer().fields("x-seen") == [way.path(f"/{n}")]
    # The clients are gone; the target's twenty connections may wait in the pool.
    wait_until(lambda: open_files(stage.worker()) <= files + 20, 30, "no descriptor leaks")


def test_a_client_that_vanishes_inside_the_answer_ends_the_targets_connection(
    stage: HttpStage,
) -> None:
    def script(target: RawConnection) -> None:
        target.read_request()
        target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            target.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    way = stage.take(script)
    for end in (vanish, lambda client: client.socket.close()):
        with RawClient(stage.port) as client:
            client.send([way.request()])
            client._until(b"\r\n\r\n")
            end(client)
    wait_until(lambda: all(c.ended.is_set() for c in way.target.connections), 30, "all ended")
    assert len(way.target.connections) == 2
    no_more_in_flight(way)


def test_a_client_that_vanishes_inside_its_body_ends_the_targets_connection(
    stage: HttpStage,
) -> None:
    way = stage.take()
    with RawClient(stage.port) as client:
        client.send([way.request("/", "Content-Length: 1000", method="POST") + b"abc"])
        wait_until(
            lambda: way.target.connections and b"abc" in way.target.connections[0].received, 30
        )
        vanish(client)
    wait_until(lambda: way.target.connections[0].ended.is_set(), 30, "ended")
    assert not way.target.requests
    no_more_in_flight(way)


# -- other people's programs


def test_the_standard_librarys_server_and_curl(run_root: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.txt").write_bytes(b"hello")
    (files / "big").write_bytes(bytes(range(256)) * 20_000)
    with (
        StdlibHttpTarget(files) as target,
        FastlbProcess(run_root, targets=[target]) as fastlb,
        httpx.Client(base_url=fastlb.url) as client,
    ):
        for _ in range(20):
            reply = client.get("/a.txt")
            assert (reply.status_code, reply.text) == (200, "hello")
        assert client.get("/big").content == (files / "big").read_bytes()
        assert client.head("/big").headers["content-length"] == "5120000"
        assert client.get("/missing").status_code == 404
        since = {"If-Modified-Since": reply.headers["last-modified"]}
        assert client.get("/a.txt", headers=since).status_code == 304
        if shutil.which("curl"):
            urls = [f"{fastlb.url}/a.txt"] * 5
            for version in ("--http1.0", "--http1.1"):
                done = subprocess.run(
                    ["curl", "-sS", version, "-w", "%{num_connects}", *urls],
                    capture_output=True,
                    timeout=20,
                    check=True,
                )
                counts = "10000" if version == "--http1.1" else "11111"
                assert done.stdout.decode() == "".join(f"hello{count}" for count in counts)
        fastlb.stop()


def test_the_demo_app_says_what_arrived(stage: HttpStage) -> None:
    with httpx.Client(base_url=stage.url) as client:
        said = client.post("/echo/a%2Fb?q=%20", content=b"body").json()
    assert (said["method"], said["path"], said["query"]) == ("POST", "/echo/a%2Fb", "q=%20")
    assert said["length"] == 4
