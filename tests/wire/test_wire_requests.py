"""Every file of `requests/`, sent whole, byte by byte and split at random places."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.raw_client import Answer, Ended, RawClient, pause_between, split
from tests.support.raw_target import request_target
from tests.wire.bench_of_wires import Bench, bench
from tests.wire.corpus import RequestCase, one_of, request_cases

SPLITS = ("whole", "bytewise", "random", "random 2")


@pytest.fixture(scope="module")
def wires(run_root: Path) -> Iterator[Bench]:
    with bench(run_root) as one:
        yield one


@pytest.mark.parametrize("case", request_cases(), ids=str)
def test_request(case: RequestCase, wires: Bench) -> None:
    for number, how in enumerate(SPLITS):
        try:
            run_case(case, wires, how, number)
        except AssertionError as error:
            pytest.fail(f"{case.name} ({case.why}) sent {how}: {error}")


def run_case(case: RequestCase, wires: Bench, how: str, number: int) -> None:
    wires.target.forget()
    before = stuck(wires)  # by an earlier case that failed
    seed = zlib.crc32(case.name.encode()) + number
    with RawClient(wires.port) as client:
        pieces = split(case.data, how, seed)
        client.send(pieces, pause_between(pieces))
        if case.fin:
            client.finish()
        answers = read_answers(case, client)
        if case.closed:
            rest = client.rest()
            assert not rest, f"more than the answers came: {rest[:200]!r}"
        elif case.closed is False:
            wires.canary(client)
    wires.canary()
    good = [one for one in answers if one.status == 200]
    seen = len(good) if case.seen is None else case.seen
    requests = wires.requests()
    assert len(requests) == seen, f"the target saw {requests}"
    names = [request_target(raw) for raw in requests]
    if case.seen is None:
        assert [one.fields("X-Seen")[0] for one in good] == names, "answers were mixed"
    check_forwarded(case, requests)
    if case.seen == 0:
        wait_until(lambda: stuck(wires) <= before, 30, "the target's half request is given up")
    wires.assert_well()


def read_answers(case: RequestCase, client: RawClient) -> list[Answer]:
    """As many answers as the case names, each of an allowed status."""
    answers = []
    for index, allowed in enumerate(case.answers):
        method = case.methods[index] if case.methods else "GET"
        try:
            one = client.answer(method)
        except Ended as end:
            if "cut" in one_of(allowed):
                break
            raise AssertionError(f"no answer {index + 1} ({allowed}) but {end}") from None
        except TimeoutError:
            raise AssertionError(f"no answer {index + 1} ({allowed}) in time") from None
        assert str(one.status) in one_of(allowed), f"answer {index + 1}: {one}"
        assert one.complete, f"answer {index + 1} is cut: {one}"
        answers.append(one)
        if one.status >= 400:
            assert one.fields("Proxy-Status"), f"an error of fastlb's without a cause: {one}"
    return answers


def check_forwarded(case: RequestCase, requests: list[bytes]) -> None:
    sent = b"".join(requests)
    for text in case.forwarded:
        wanted = text.encode("latin-1").lower()
        assert wanted in sent.lower(), f"{text!r} is not in what the target saw: {sent[:600]!r}"
    for text in case.not_forwarded:
        wanted = text.encode("latin-1").lower()
        assert wanted not in sent.lower(), f"{text!r} is in what the target saw: {sent[:600]!r}"
    if case.body is not None:
        assert decoded_body(requests[0]) == case.body.encode("latin-1")


def decoded_body(raw: bytes) -> bytes:
    """Of a request that RawTarget found whole."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if b"transfer-encoding" not in head.lower():
        return body
    pieces = []
    while True:
        line, _, body = body.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            return b"".join(pieces)
        pieces.append(body[:size])
        body = body[size + 2 :]


def stuck(wires: Bench) -> set[int]:
    """Numbers of the target's connections that hold a begun request."""
    with wires.target.changed:
        connections = list(wires.target.connections)
    return {one.number for one in connections if not one.ended.is_set() and one.unread}
