"""Bodies in bulk, which go past the worker in the kernel: where they end, early, late or in the middle, and
that the next request never gets a byte of them. And what is sent once is got once.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.raw_client import Ended, RawClient
from tests.support.raw_target import RawConnection, answer, echo_answer, request_target
from tests.wire.bench_of_wires import Bench, bench

SIZES = [16383, 16384, 16385, 65536, 81920, 81921, 262144, 262145, 1_000_003]
"""About the bounds of a read, of what is held, of a pipe, and from where on splicing pays."""


class Target:
    """A script by the request's path: /size/N, /more/N (a byte too many), /cut/N (closes at half), /reset/N,
    /early (answers a body's first bytes), /early-close; all else gets its echo and the body's digest."""

    def __call__(self, connection: RawConnection) -> None:
        while True:
            head = connection.read_head()
            _, kind, *rest = request_target(head).split("/")
            if kind.startswith("early"):
                connection.read_exactly(30_000)
                fields = ["Connection: close"] if kind == "early-close" else []
                connection.send(answer(b"too much", *fields, status="413 Content Too Large"))
                if kind == "early-close":
                    connection.close()
                connection.read_to_end()
            connection._read -= len(head)  # it is read again, whole
            raw = connection.read_request()
            if kind in ("size", "more", "cut", "reset"):
                self.bulk(connection, kind, int(rest[0]))
            elif kind == "digest":
                body = raw[len(head) :]
                connection.send(answer(hashlib.sha256(body).hexdigest().encode()))
            elif kind == "once":
                connection.send(answer(b"once"))
                connection.close()
            else:
                connection.send(echo_answer(raw))

    def bulk(self, connection: RawConnection, kind: str, size: int) -> None:
        data = answer(body_of(size))
        if kind in ("cut", "reset"):
            connection.send(data[: len(data) // 2])
            connection.close() if kind == "cut" else connection.reset()
        connection.send(data + (b"!" if kind == "more" else b""))


def body_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture(scope="module")
def wires(run_root: Path) -> Iterator[Bench]:
    with bench(run_root, script=Target()) as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_stays_behind(wires: Bench) -> Iterator[None]:
    yield
    wires.canary()
    wires.assert_well()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode()


def post(path: str, body: bytes, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    head = f"POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + body


def in_flight_is_over(wires: Bench) -> None:
    wait_until(
        lambda: all(one["in_flight"] == 0 for one in wires.fastlb.targets("default").values()),
        10,
        "nothing in flight",
    )


@pytest.mark.parametrize("size", SIZES)
def test_a_request_body_ends_where_it_says(wires: Bench, size: int) -> None:
    """The next request follows it at once, and looks like it."""
    body = body_of(size)
    with RawClient(wires.port) as client:
        for path in ("/next-1", "/next-2"):
            client.send([post("/digest", body) + get(path)])
            assert client.answer().body.decode() == hashlib.sha256(body).hexdigest()
            assert client.answer().body == f"seen {path}\n".encode()
        # In two parts, of which the second is spliced, and the next request with its end.
        client.send([post("/digest", body[:1000], size)], 0.001)
        client.send([body[1000:] + get("/next-3")], 0.002)
        assert client.answer().body.decode() == hashlib.sha256(body).hexdigest()
        assert client.answer().body == b"seen /next-3\n"
        wires.canary(client)


@pytest.mark.parametrize("size", SIZES)
def test_a_response_body_ends_where_it_says(wires: Bench, size: int) -> None:
    with RawClient(wires.port) as client:
        client.send([get(f"/size/{size}")])
        assert client.answer().body == body_of(size)
        # What the target sends beyond it is nobody's, whatever was asked meanwhile.
        client.send([get(f"/more/{size}") + get("/next")])
        assert client.answer().body == body_of(size)
        assert client.answer().body == b"seen /next\n"
        wires.canary(client)


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_a_response_that_breaks_off_is_seen_to(wires: Bench, kind: str) -> None:
    with RawClient(wires.port) as client:
        client.send([get(f"/{kind}/600000") + get("/never")])
        try:
            one = client.answer()
        except Ended:
            return
        assert not one.complete
        assert body_of(600_000).startswith(one.body)
        assert not client.rest()


@pytest.mark.parametrize("kind", ["early", "early-close"])
def test_a_refusal_in_the_middle_of_a_body_is_passed_on(wires: Bench, kind: str) -> None:
    """And the target's connection, in which the rest of the body may still come, is never used again."""
    wires.target.forget()
    with RawClient(wires.port) as client:
        client.send([post(f"/{kind}", body_of(200_000), 8_000_000)])
        one = client.answer()
        assert one.status == 413
        assert one.body == b"too much"
        client.send([body_of(1_000_000), get("/never")])
    with wires.target.changed:
        used = [one for one in wires.target.connections if b"/early" in one.received]
    assert len(used) == 1
    assert used[0].ended.wait(10)
    assert b"/canary" not in used[0].received.partition(b"/early")[2]
    assert b"/never" not in b"".join(wires.requests())
    in_flight_is_over(wires)


@pytest.mark.parametrize("how", ["reset", "close", "fin"])
def test_a_client_that_leaves_in_the_middle_of_a_body(wires: Bench, how: str) -> None:
    """The target sees half of it, and then the end: nothing that could be taken for the rest."""
    wires.target.forget()
    sent = body_of(500_000)
    client = RawClient(wires.port)
    client.send([post("/left", sent, 9_000_000)])
    wait_until(lambda: any(len(one.received) > len(sent) for one in wires.target.connections), 10)
    if how == "fin":
        client.finish()
        assert client.answer().status == 400
    elif how == "reset":
        client.socket.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SOL_SOCKET, SO_LINGER
    client.socket.close()
    (used,) = [one for one in wires.target.connections if b"/left" in one.received]
    assert used.ended.wait(10)
    assert bytes(used.received).endswith(sent)
    in_flight_is_over(wires)


def test_a_client_that_leaves_in_the_middle_of_an_answer(wires: Bench) -> None:
    wires.target.forget()
    for _ in range(5):
        with RawClient(wires.port) as client:
            client.send([get("/size/3000000")])
            client.socket.recv(20_000)
        wires.canary()
    in_flight_is_over(wires)


def test_a_client_that_does_not_read_is_waited_for(wires: Bench) -> None:
    """After small answers that have filled its buffer, and with a large one to come."""
    size = 30_000_000
    wires.target.forget()
    with RawClient(wires.port, 5) as client:
        client.socket.setsockopt(1, 8, 4096)  # SOL_SOCKET, SO_RCVBUF
        before = memory(wires)
        for path in [*["/size/30000"] * 200, f"/size/{size}"]:
            client.socket.sendall(get(path))
            time.sleep(0.0005)
        grown = 0
        for _ in range(30):
            grown = max(grown, memory(wires) - before)
            time.sleep(0.01)
        assert grown < 10_000_000, f"{grown} bytes are held for a client that does not read"


def memory(wires: Bench) -> int:
    """Resident bytes of the worker."""
    text = Path(f"/proc/{wires.worker_pids[0]}/statm").read_text()
    return int(text.split()[1]) * 4096


def test_what_is_sent_once_is_got_once(wires: Bench) -> None:
    """The target closes each connection right after an answer that did not say so."""
    wires.target.forget()
    answers = []
    chance = random.Random(1)
    with RawClient(wires.port) as client:
        for number in range(150):
            client.send([post(f"/once/{number}", b"x" * chance.choice((1, 3000)))])
            one = client.answer()
            answers.append(one.status)
            assert not one.fields("Connection"), "the client's connection is another matter"
            if chance.random() < 0.5:
                time.sleep(chance.random() * 0.001)
    got = [request_target(raw) for raw in wires.requests()]
    assert len(got) == len(set(got)), "a target got a request twice"
    for number, status in enumerate(answers):
        assert status in (200, 502)
        if status == 200:
            assert f"/once/{number}" in got
    assert answers.count(200) > 75
