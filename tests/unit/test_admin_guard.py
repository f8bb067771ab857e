"""Wrong tokens, by a clock that the test moves; sessions that end; hosts that are ours."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse

from fastlb.admin.attempts import (
    COMPARED_WITHIN,
    MOST_ADDRESSES,
    MOST_COMPARED,
    MOST_FAILURES,
    WITHIN,
    Attempts,
)
from fastlb.admin.events import encoded
from fastlb.admin.guard import SESSION_SECONDS, Guard

TOKEN = "correct-horse-battery"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_who_fails_often_waits_and_is_forgiven_in_time() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for n in range(MOST_FAILURES):
        assert attempts.barred("10.0.0.1") == 0
        attempts.failed("10.0.0.1")
        clock.now += n
    assert attempts.barred("10.0.0.1") == pytest.approx(WITHIN - 10)
    assert attempts.barred("10.0.0.2") == 0
    clock.now += WITHIN - 10
    assert attempts.barred("10.0.0.1") == 0


def test_a_network_is_one() -> None:
    attempts = Attempts(Clock())
    for n in range(MOST_FAILURES):
        attempts.failed(f"2001:db8::{n + 1}")
    assert attempts.barred("2001:db8::ffff") > 0
    assert attempts.barred("2001:db8:0:1::1") == 0


def test_the_right_token_is_taken_however_many_wrong_ones_its_address_sends() -> None:
    clock = Clock()
    guard = Guard(PlainTextResponse("in"), TOKEN, ("0.0.0.0", 1), clock)
    right, wrong = ({"Authorization": f"Bearer {token}"} for token in (TOKEN, "wrong"))
    for n in range(100):
        assert asked(guard, **wrong).status_code == (401 if n < MOST_FAILURES else 429)
        assert asked(guard, **right).status_code == 200
        clock.now += 0.2


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.01, 0.1, 0.5])), max_size=80))
def test_guesses_a_second_are_bounded(sent: list[tuple[bool, float]]) -> None:
    """Whether one is right can be told only where it is compared; a right one in between resets nothing."""
    clock = Clock()
    attempts = Attempts(clock)
    compared: list[float] = []
    for right, pause in sent:
        if not right and not attempts.closed("10.0.0.1"):
            attempts.failed("10.0.0.1")
            compared.append(clock.now)
        clock.now += pause
    for at in compared:
        assert sum(at <= one < at + COMPARED_WITHIN for one in compared) <= MOST_COMPARED


def test_who_guesses_faster_is_not_compared_and_for_a_moment_nobody_beside_him() -> None:
    clock = Clock()
    guard = Guard(PlainTextResponse("in"), TOKEN, ("0.0.0.0", 1), clock)
    wrong = {"Authorization": "Bearer wrong"}
    for _ in range(MOST_COMPARED):
        asked(guard, **wrong)
    barred = asked(guard, Authorization=f"Bearer {TOKEN}")
    assert (barred.status_code, barred.headers["retry-after"]) == (429, "1")
    clock.now += COMPARED_WITHIN
    assert asked(guard, Authorization=f"Bearer {TOKEN}").status_code == 200


def test_what_is_remembered_is_bounded() -> None:
    attempts = Attempts(Clock())
    for n in range(MOST_ADDRESSES + 10):
        attempts.failed(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(attempts._failures) == MOST_ADDRESSES


def asked(guard: Guard, method: str = "GET", path: str = "/x", **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(guard, client=("10.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, path, headers=given)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9900", 200),
        ("localhost:9900", 200),
        ("LOCALHOST", 200),
        ("a.localhost", 200),
        ("[::1]:9900", 200),
        ("127.9.9.9", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.0.2.1", 403),
        ("[", 403),
        ("", 403),
        ("a@127.0.0.1:9900", 200),
    ],
)
def test_without_a_token_only_our_own_hosts_are_answered(host: str, status: int) -> None:
    guard = Guard(PlainTextResponse("inside"), None, ("127.0.0.1", 9900))
    assert asked(guard, host=host).status_code == status


def test_a_session_ends_with_its_time_and_with_the_token() -> None:
    clock = Clock()
    guard = Guard(PlainTextResponse("inside"), TOKEN, ("0.0.0.0", 9900), clock)
    cookie = f"fastlb_9900={guard._new_session()}"
    assert asked(guard, cookie=cookie).text == "inside"
    other = Guard(PlainTextResponse("inside"), TOKEN + "x", ("0.0.0.0", 9900), clock)
    assert asked(other, cookie=cookie).status_code == 401
    clock.now += SESSION_SECONDS
    assert asked(guard, cookie=cookie).status_code == 401


@pytest.mark.parametrize(
    "cookie", ["", ".", "..", "9999999999..", "9999999999.aa.bb", "x.y.z", "1" * 400]
)
def test_a_session_that_nobody_gave_is_none(cookie: str) -> None:
    guard = Guard(PlainTextResponse("inside"), TOKEN, ("0.0.0.0", 9900))
    assert asked(guard, cookie=f"fastlb_9900={cookie}").status_code == 401


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}"]
)
def test_only_the_token_is_the_token(given: str) -> None:
    guard = Guard(PlainTextResponse("inside"), TOKEN, ("0.0.0.0", 9900))
    assert asked(guard, authorization=given).status_code == 401
    assert asked(guard, authorization=f"bearer {TOKEN}").text == "inside"


def test_every_answer_has_the_headers_that_protect_it() -> None:
    guard = Guard(PlainTextResponse("inside"), TOKEN, ("0.0.0.0", 9900))
    for answer in (
        asked(guard),
        asked(guard, authorization=f"Bearer {TOKEN}"),
        asked(guard, path="/login"),
    ):
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["http://[", "//[::", "http://a]b", "null", "http://evil"])
def test_an_origin_that_is_none_is_refused_as_a_foreign_one(origin: str) -> None:
    guard = Guard(PlainTextResponse("in"), None, ("h", 1))
    answer = asked(guard, "POST", origin=origin, content_type="application/json")
    assert answer.status_code == 403
    assert "own page" in answer.json()["error"]


def test_half_a_surrogate_pair_is_said_again_in_json() -> None:
    text = encoded({"error": "\ud800é"})
    assert json.loads(text.encode()) == {"error": "\ud800é"}
