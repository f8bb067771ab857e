"""Every file of `responses/`, sent by a target whole, byte by byte and split at random places."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.raw_client import Answer, Ended, RawClient, pause_between, split
from tests.support.raw_target import Closed, RawConnection, echo_answer, request_target
from tests.wire.bench_of_wires import Bench, bench
from tests.wire.corpus import ResponseCase, one_of, response_cases, unescape

SPLITS = ("whole", "bytewise", "random", "random 2")
CASE = "/case"
WAIT_SECONDS = 5.0


class Misbehaving:
    """The target's script: a request for CASE gets the bytes of the case, all others their echo."""

    def __init__(self) -> None:
        self.case: ResponseCase | None = None
        self.pieces: list[bytes] = []
        self.connection: RawConnection | None = None
        """The one that the case's bytes were sent by."""

    def __call__(self, connection: RawConnection) -> None:
        while True:
            raw = connection.read_request()
            if request_target(raw) == CASE:
                self.misbehave(connection)
            else:
                connection.send(echo_answer(raw))

    def misbehave(self, connection: RawConnection) -> None:
        assert self.case is not None
        self.connection = connection
        connection.send_pieces(self.pieces, pause_between(self.pieces))
        if self.case.end == "close":
            connection.close()
        elif self.case.end == "reset":
            connection.reset()


@pytest.fixture(scope="module")
def script() -> Misbehaving:
    return Misbehaving()


@pytest.fixture(scope="module")
def wires(run_root: Path, script: Misbehaving) -> Iterator[Bench]:
    # Long enough that no connection is closed for its age while a case looks at it.
    with bench(run_root, "--response-timeout", "20s", script=script) as one:
        yield one


@pytest.mark.parametrize("case", response_cases(), ids=str)
def test_response(case: ResponseCase, wires: Bench, script: Misbehaving) -> None:
    for number, how in enumerate(SPLITS):
        seed = zlib.crc32(case.name.encode()) + number
        script.case, script.connection = case, None
        script.pieces = split(case.data, how, seed)
        wires.target.forget()
        try:
            (run_idle if case.idle else run_case)(case, wires, script)
        except AssertionError as error:
            pytest.fail(f"{case.name} ({case.why}) sent {how}: {error}")


def run_case(case: ResponseCase, wires: Bench, script: Misbehaving) -> None:
    with RawClient(wires.port) as client:
        host = "Host: a.test\r\n"
        client.send([f"{case.method} {CASE} HTTP/{case.version}\r\n{host}\r\n".encode()])
        try:
            one = client.answer(case.method)
        except Ended as end:
            if not case.cut:
                raise AssertionError(f"no answer but {end}") from None
        except TimeoutError:
            raise AssertionError("no answer in time") from None
        else:
            check_answer(case, one)
            ended = not one.complete or case.version == "1.0"
            ended = ended or "close" in " ".join(one.fields("Connection"))
            if ended:
                rest = client.rest()
                assert not rest, f"more than the answer came: {rest[:200]!r}"
            else:
                wait_given_up(case, script.connection)
                wires.canary(client)
    check_reuse(case, wires, script.connection)


def run_idle(case: ResponseCase, wires: Bench, script: Misbehaving) -> None:
    """The bytes come by a connection that waits in the pool."""
    wires.canary()
    number = wires.canary_connections()[-1]
    with wires.target.changed:
        connection = next(one for one in wires.target.connections if one.number == number)
    try:
        connection.send_pieces(script.pieces, pause_between(script.pieces))
    except Closed:
        pass  # the first piece was enough for fastlb
    check_reuse(case, wires, connection)


def check_answer(case: ResponseCase, one: Answer) -> None:
    if case.cut:
        assert one.status == 502 or not one.complete, f"taken for whole: {one}"
    else:
        assert str(one.status) in one_of(case.status or ""), f"{one}"
        assert one.complete, f"cut: {one}"
    if one.status == 502:
        assert one.fields("Proxy-Status"), f"no cause: {one}"
        return
    head = one.head.lower()
    if case.body is not None:
        body = unescape(case.body)
        assert one.body == body, f"{len(one.body)} bytes {one.body[:200]!r}"
    if case.interim is not None:
        assert one.interim == case.interim
    for text in case.has:
        assert text.encode("latin-1").lower() in head, f"{text!r} is not in {head!r}"
    for text in case.has_not:
        assert text.encode("latin-1").lower() not in head, f"{text!r} is in {head!r}"
    for name in case.once:
        assert len(one.fields(name)) == 1, f"{name} in {head!r}"
    for text in case.trailers:
        assert text.encode("latin-1") in one.trailers, f"{text!r} is not in {one.trailers!r}"
    for text in case.no_trailers:
        assert text.encode("latin-1") not in one.trailers, f"{text!r} is in {one.trailers!r}"


def wait_given_up(case: ResponseCase, connection: RawConnection | None) -> None:
    """Until fastlb has closed a connection that is in doubt.

    Leftover bytes that come later than the next request on their connection are that request's
    answer to anybody who reads them: nobody can do better than to close at the first one seen.
    """
    assert connection is not None, "the target never got the request"
    if case.reused is False:
        assert connection.ended.wait(WAIT_SECONDS), "fastlb keeps a connection that is in doubt"


def check_reuse(case: ResponseCase, wires: Bench, connection: RawConnection | None) -> None:
    """That the target's connection serves on, or is closed and never used again."""
    wait_given_up(case, connection)
    assert connection is not None
    for _ in range(2):
        wires.canary()
    used = wires.canary_connections()
    if case.reused:
        assert set(used) == {connection.number}, f"connections {used}, not {connection.number}"
    elif case.reused is False:
        # The canary of an idle case had come by it before its bytes.
        assert connection.number not in used[-2:]
    wires.assert_well()
