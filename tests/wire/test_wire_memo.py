"""What was read before, byte for byte, is not read again: the same bytes must mean the same all the same.

Each request goes out by itself on a new connection from an address that nobody used, which is the plain
path; and then in every place where something is remembered. What the target got and what the client got
must not differ in a byte, but for the trace id. The same for responses, which a target's connection
remembers.
"""

from __future__ import annotations

import itertools
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.raw_client import RawClient, pause_between, split
from tests.support.raw_target import Closed, RawConnection, answer, request_target
from tests.wire.bench_of_wires import Bench, bench
from tests.wire.corpus import request_cases, response_cases
from tests.wire.fuzz import Mutator

LEAD = b"GET /lead HTTP/1.1\r\nHost: lead.test\r\n\r\n"
LONGEST = 4000
numbers = itertools.product(range(100, 200), repeat=3)
"""Of clients' addresses, all of the same length: what is remembered beyond a connection, is so for one."""

Outcome = tuple[list[bytes], bytes]
"""What the target got, and what the client did."""


def request(
    path: str, *fields: str, body: bytes = b"", method: str = "POST", rest: bytes = b""
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: trick.test", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body + rest


EVIL = request("/evil", method="GET")
TRICKS = [
    request("/a", body=EVIL),
    request("/a", body=request("/a", body=b"x" * 40)[:-40]),
    request("/a", "Content-Length: 0", rest=EVIL),
    request("/a", "Content-Length: 0"),
    request("/a", method="GET", rest=EVIL + EVIL),
    request("/a", method="GET", rest=request("/a", method="GET")[:-2]),
    request("/a", body=b"\r\n\r\n", rest=EVIL),
    request("/a", body=b"12345", rest=b"\r\n" + EVIL),
    request("/a", body=b"1234", rest=b"5" + EVIL),
    request("/a", "Transfer-Encoding: chunked", rest=b"3\r\nabc\r\n0\r\n\r\n" + EVIL),
    request("/a", "Transfer-Encoding: chunked", rest=b"0\r\n\r\n" + EVIL),
    request("/a", "Transfer-Encoding: chunked", rest=EVIL),
    request("/a", "X-Amzn-Trace-Id: Root=1-12345678-123456789012345678901234;A=b", method="GET"),
    request("/a", "X-Forwarded-For: 192.0.2.1", "Connection: x-forwarded-for", method="GET"),
    request("/a", "Connection: close", method="GET", rest=EVIL),
    request("/a#b", method="GET"),
    request("/a b", method="GET"),
    request('/<>`{}|^"\\', method="GET"),
    request("//evil/", method="GET"),
    request("/a", method="HEAD", rest=EVIL),
    request("/a", method="OPTIONS"),
    request("/a", "Expect: 100-continue", body=b"12345"),
    request("/" + "a" * 3000, method="GET"),
]


def mirror(connection: RawConnection) -> None:
    """The target's script: the answer says all of the request."""
    while True:
        raw = connection.read_request()
        connection.send(answer(canonical(raw), head_only=raw.startswith(b"HEAD ")))


def canonical(raw: bytes) -> bytes:
    """A request less where its chunks begin, which is a proxy's to say."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if b"\r\nTransfer-Encoding: chunked" not in head:
        return raw
    pieces = [head, b"\r\n\r\n"]
    while not body.startswith(b"0\r\n"):
        size, _, body = body.partition(b"\r\n")
        pieces.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    return b"".join((*pieces, b"|", body))


def masked(data: bytes, address: str) -> bytes:
    """Less what may differ: ids, times, who asked, and that a client's end is seen sooner or later."""
    data = data.replace(address.encode(), b"127.client")
    data = re.sub(rb"1-[0-9a-f]{8}-[0-9a-f]{24}", b"1-trace", data)
    error = re.search(rb"HTTP/1\.1 4[0-9]{2} ", data)
    if error is not None:
        # What is wrong may be found in another way, and is told in other words. It is the last.
        head, end, text = data[error.start() :].partition(b"\r\n\r\n")
        whole = not text or b"Content-Length: %d\r\n" % len(text) in head + end
        assert whole, f"not its length after {head!r}: {text!r}"
        data = data[: error.end()]
    # A client of HTTP/1.0 is told either in words: that its connection stays, or nothing.
    return re.sub(rb"\r\nConnection: (close|keep-alive)\r\n", b"\r\n", data)


@pytest.fixture(scope="module")
def wires(run_root: Path) -> Iterator[Bench]:
    with bench(run_root, script=mirror) as one:
        yield one


def new_address() -> str:
    return "127.{}.{}.{}".format(*next(numbers))


class FromAddress(RawClient):
    """A client from this address."""

    def __init__(self, port: int, address: str) -> None:
        super().__init__(port, 10.0)
        self.socket.close()
        self.socket = socket.create_connection(("127.0.0.1", port), self.seconds, (address, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def talk(wires: Bench, address: str, pieces: list[bytes], before: bytes = b"") -> Outcome | None:
    """Send on a new connection from `address`, end our side, and read to the end. `before` is a request
    that is answered first and not counted; None where the connection does not stay open after it."""
    with FromAddress(wires.port, address) as client:
        if before:
            client.send([before])
            first = client.answer("HEAD" if before.startswith(b"HEAD ") else "GET")
            if first.status != 200 or first.fields("Connection") or not first.complete:
                return None
        wires.target.forget()
        client.send(pieces, pause_between(pieces))
        client.finish()
        got = client.rest()
    return [masked(canonical(raw), address) for raw in wires.requests()], masked(got, address)


def is_one(wires: Bench, before: bytes) -> bool:
    """Whether this is one whole request after which another may come."""
    seen = talk(wires, new_address(), [before + LEAD])
    return seen is not None and len(seen[0]) == 2 and seen[0][1].startswith(b"GET /lead ")


def siblings(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Requests that leave something behind by which `data` could be read otherwise."""
    yield "itself", data
    yield "an unlike one", LEAD
    head, _, body = data.partition(b"\r\n\r\n")
    line, _, block = head.partition(b"\r\n")
    words = line.split(b" ")
    if len(words) == 3:
        yield (
            "one with another path",
            b"\r\n".join((b"%b /other %b" % (words[0], words[2]), block, b"", body)),
        )
        yield (
            "one with another method",
            b"\r\n".join((b"HEAD %b %b" % tuple(words[1:]), block, b"", body)),
        )
    if body:
        yield "one with another body", head + b"\r\n\r\n" + b"#" * len(body)
        yield "its own head", head + b"\r\n\r\n"


def compare(wires: Bench, data: bytes, seed: int, how: str = "random") -> None:
    address = new_address()
    plain = talk(wires, address, [data])
    assert plain is not None

    def check(name: str, pieces: list[bytes], before: bytes = b"", *, known: bool = True) -> None:
        got = talk(wires, address if known else new_address(), pieces, before)
        if got is not None:
            assert got == plain, (
                f"{name}, {data!r} is not what it is by itself: {got} and not {plain}"
            )

    check("from an address that sent it before", [data])
    head = data.find(b"\r\n\r\n") + 4
    halves = [data[:head], data[head:]] if 4 <= head < len(data) else [data]
    for former, before in siblings(data):
        if is_one(wires, before):
            check(f"after {former}", [data], before, known=False)
            if len(halves) == 2:
                check(f"after {former}, its body by itself", halves, before)
    check("in pieces", split(data, how, seed), LEAD)
    pipelined = talk(wires, address, [LEAD + data])
    alone = talk(wires, address, [LEAD])
    assert pipelined is not None
    assert alone is not None
    assert pipelined == (alone[0] + plain[0], alone[1] + plain[1]), f"pipelined, {data!r} differs"
    wires.assert_well()


@pytest.mark.parametrize("part", range(4))
def test_requests_of_the_wire_files(wires: Bench, part: int) -> None:
    cases = [case for case in request_cases() if len(case.data) <= LONGEST][part::4]
    assert cases
    for number, case in enumerate(cases):
        compare(wires, case.data, number)


@pytest.mark.parametrize("number", range(len(TRICKS)))
def test_tricks(wires: Bench, number: int) -> None:
    compare(wires, TRICKS[number], number, "bytewise")


@pytest.mark.parametrize("seed", range(2))
def test_random_requests(wires: Bench, seed: int) -> None:
    mutator = Mutator(seed)
    for number in range(12):
        compare(wires, mutator.request(b"tag"), number)


# -- responses

SIMPLE = b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 4\r\n\r\n"
RESPONSES = [
    SIMPLE + b"abcd",
    SIMPLE + b"HTTP",
    SIMPLE.replace(b"200 OK", b"200 Yes") + b"abcd",
    SIMPLE.replace(b"200 OK", b"404 No") + b"abcd",
    SIMPLE.replace(b"200 OK", b"304 Same"),
    SIMPLE.replace(b"200 OK", b"204 None"),
    b"HTTP/1.1 103 Early\r\nX-A: b\r\nContent-Length: 4\r\n\r\n" + SIMPLE + b"abcd",
    SIMPLE.replace(b"h: 4", b"h: 0"),
    SIMPLE.replace(b"h: 4", b"h: %d" % len(SIMPLE)) + SIMPLE,
    SIMPLE.replace(b"h: 4", b"h: 04") + b"abcd",
    SIMPLE.replace(b"X-A: b", b"Keep-Alive: timeout=60") + b"abcd",
    SIMPLE.replace(b"h: 4", b"h: 40000") + b"abcd" * 10000,
    SIMPLE.replace(b"h: 4", b"h: 300000") + b"abcdef" * 50000,
    SIMPLE.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"4\r\nabcd\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nabcd",
    *(
        case.data
        for case in response_cases()
        if case.reused
        and case.method == "GET"
        and case.version == "1.1"
        and not case.idle
        and not case.cut
        and len(case.data) <= LONGEST
    ),
]


def say(connection: RawConnection) -> None:
    """Answers `/N/how` with the response of that number; `alone` on a connection of its own."""
    while True:
        raw = connection.read_request()
        _, number, how = request_target(raw).split("/")
        data = RESPONSES[int(number)]
        if raw.startswith(b"HEAD "):
            data = without_body(data)
        head = data.index(b"\r\n\r\n") + 4
        if how == "parts" and head < len(data):
            connection.send_pieces([data[:head], data[head:]], 0.0005)
        elif how == "pieces":
            connection.send_pieces(split(data, "random", len(connection.requests)))
        else:
            connection.send(data)
        if how == "alone":
            raise Closed


def without_body(data: bytes) -> bytes:
    """The response to HEAD: all heads, and no body."""
    at = 0
    while data[at + 9 : at + 10] == b"1":
        at = data.index(b"\r\n\r\n", at) + 4
    return data[: data.index(b"\r\n\r\n", at) + 4]


def ask(client: RawClient, number: int, method: str, how: str) -> tuple[bytes, bytes, bytes]:
    client.send([f"{method} /{number}/{how} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode()])
    one = client.answer(method)
    assert one.complete
    assert not client.buffer, "more than the answer came"
    return one.head, one.body, one.trailers


def test_responses_after_each_other(run_root: Path) -> None:
    """A long walk over all of them on one connection of the target."""
    chance = random.Random(5)
    plain = {}
    with bench(run_root, script=say) as wires:
        for number in range(len(RESPONSES)):
            for method in ("GET", "HEAD"):
                with RawClient(wires.port) as client:
                    plain[number, method] = ask(client, number, method, "alone")
        wires.target.forget()
        with RawClient(wires.port) as client:
            for step in range(250):
                number = chance.randrange(len(RESPONSES))
                method = chance.choice(("GET", "GET", "HEAD"))
                how = chance.choice(("whole", "whole", "parts", "pieces"))
                for _ in range(chance.choice((1, 2, 3))):
                    got = ask(client, number, method, how)
                    assert got == plain[number, method], f"step {step}: {method} {number} {how}"
        used = {number for number, _ in wires.target.requests}
        assert len(used) == 1, f"connections {used}: then little was remembered"
        wires.assert_well()
