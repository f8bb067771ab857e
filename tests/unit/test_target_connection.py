"""A TargetConnection between a real target socket and a recorder: whose answer it is, what counts as sent,
and when it may be used again.

Each of these is a race of one turn of the loop; here both sides of it are made ready first.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastlb.data_plane.http_client import TargetConnection
from fastlb.data_plane.response_head import ResponseHead, ResponseReader
from fastlb.data_plane.stream import Stream
from fastlb.errors import RequestError
from tests.support.streams import PAIRS, Stage, narrow, reset, stage, take

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class User:
    """Who uses a connection for one request (http_client.Receiver)."""

    def __init__(
        self, connection: TargetConnection | None = None, *, is_head: bool = False
    ) -> None:
        self.connection = connection
        self.is_head = is_head
        self.wants_upgrade = False
        self.request_done = True
        self.answer = b""
        self.over = False
        self.lost: tuple[RequestError, str] | None = None
        self.unsent = b""
        self.sink: Stream | None = None
        self.held_heads = 0

    def on_head_held(self) -> None:
        self.held_heads += 1

    def on_interim(self, head: ResponseHead) -> None:
        self.answer += head.raw

    def on_upgrade(self, head: ResponseHead, rest: bytes) -> None:
        raise AssertionError("nobody asked for that")

    def on_whole(self, head: ResponseHead, data: bytes) -> None:
        self.answer += data
        self.on_end(b"")

    def on_response(self, head: ResponseHead, data: bytes, end: int, whole: bool) -> None:
        self.answer += data

    def on_body(self, pieces: list[bytes]) -> None:
        self.answer += b"".join(pieces)

    def bulk_sink(self) -> Stream | None:
        return self.sink

    def on_moved(self, count: int) -> None:
        raise AssertionError("nothing was to be spliced")

    def on_end(self, trailers: bytes) -> None:
        assert not self.over
        self.over = True

    def on_target_lost(self, error: RequestError, kind: str) -> None:
        assert not self.over
        assert self.lost is None
        self.lost = error, kind
        if self.connection is not None:
            self.unsent = self.connection.to_send

    def on_target_writable(self, writable: bool) -> None: ...


class Pool:
    """As much of a TargetPool as a connection sees."""

    def __init__(self) -> None:
        self.idle: deque[TargetConnection] = deque()
        self.keeps = True
        self.timers: Any = SimpleNamespace(now=time.monotonic())

    def release(self, connection: TargetConnection, reusable: bool) -> None:
        if reusable:
            self.idle.append(connection)
        elif connection in self.idle:
            self.idle.remove(connection)


class World:
    def __init__(self, scene: Stage, kind: str) -> None:
        self.scene = scene
        self.kind = kind
        self.pool = Pool()
        self.ends: list[socket.socket] = []

    def connection(self) -> tuple[TargetConnection, socket.socket]:
        near, far = PAIRS[self.kind]()
        narrow(near)
        near.setblocking(False)
        target: Any = SimpleNamespace(
            bytes_in=0, heard=True, connection_opened=bool, connection_closed=bool
        )
        one = TargetConnection(
            self.scene.loop, self.scene.reactor, target, self.pool, ResponseReader()
        )
        one.open(near)
        self.ends.append(far)
        return one, far

    def pooled(self) -> tuple[TargetConnection, socket.socket]:
        """One that has answered a request with OK, and waits for the next."""
        one, far = self.connection()
        user = User(one)
        one.start(user, GET)
        self.scene.until(lambda: take(far) == GET)
        far.send(OK)
        self.scene.until(lambda: user.over)
        assert self.pool.idle.pop() is one
        return one, far


@pytest.fixture(params=PAIRS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with stage() as scene:
        made = World(scene, request.param)
        yield made
        for one in made.ends:
            one.close()
        scene.once()


START: dict[str, Callable[[TargetConnection, User, bytes], None]] = {
    "start": TargetConnection.start,
    "start_once": TargetConnection.start_once,
}


@pytest.mark.parametrize("how", START)
@pytest.mark.parametrize("early", [OK, TOO_LATE, OK[:20], b"garbage"])
def test_what_came_before_the_request_left_is_not_its_answer(
    world: World, how: str, early: bytes
) -> None:
    """Also where it is, byte for byte, what the target answered before."""
    one, far = world.pooled()
    user = User(one)
    far.send(early)
    START[how](one, user, GET)
    one.on_event(1)  # in the same turn, before the request leaves
    world.scene.until(lambda: user.lost)
    assert user.unsent == GET
    assert not user.answer
    assert take(far) == b"", "the request went out, and could come twice"
    assert one not in world.pool.idle


@pytest.mark.parametrize("how", START)
def test_what_waits_where_the_request_cannot_be_sent_is_not_its_answer(
    world: World, how: str
) -> None:
    one, far = world.pooled()
    user = User(one)
    far.send(TOO_LATE)
    if world.kind == "tcp":
        # A reset leaves in our kernel what came before it.
        far.shutdown(socket.SHUT_WR)
        one.sock.send(b"unread")
        _wait_for(far)
    reset(far)
    START[how](one, user, GET)
    one.send_now() if how == "start" else one.send_body(b"")
    world.scene.until(lambda: user.lost)
    assert not user.answer
    assert user.unsent == GET


def _wait_for(sock: socket.socket) -> None:
    """Until something waits at `sock`, which is left there."""
    sock.setblocking(True)
    sock.settimeout(5)
    sock.recv(1, socket.MSG_PEEK)


@pytest.mark.parametrize("how", START)
def test_a_body_after_a_head_that_could_not_leave_is_unsent_too(world: World, how: str) -> None:
    one, far = world.pooled()
    user = User(one)
    reset(far)
    _gone(one)
    START[how](one, user, b"head, first piece, ")
    one.send_body(b"second piece, ")
    one.send_body(b"third piece")
    world.scene.until(lambda: user.lost)
    assert user.unsent == b"head, first piece, second piece, third piece"


def _gone(one: TargetConnection) -> None:
    """Until the other side's end is known to our kernel, and before the loop has seen it."""
    one.sock.settimeout(5)
    try:
        one.sock.recv(1, socket.MSG_PEEK)
    except ConnectionError:
        pass
    one.sock.setblocking(False)


@pytest.mark.parametrize("body", [b"", b"and its body"])
def test_once_is_once_where_the_target_has_just_closed(world: World, body: bytes) -> None:
    """A FIN that the loop has not seen: the first bytes would still be taken by the kernel."""
    one, far = world.pooled()
    user = User(one)
    far.shutdown(socket.SHUT_WR)
    one.start_once(user, b"POST")
    if body:
        one.send_body(body)
    world.scene.until(lambda: user.lost)
    assert user.unsent == b"POST" + body
    assert take(far) == b""


def test_once_that_left_is_sent(world: World) -> None:
    one, far = world.pooled()
    user = User(one)
    one.start_once(user, b"POST")
    world.scene.until(lambda: take(far) == b"POST")
    far.close()
    world.scene.until(lambda: user.lost)
    assert not user.unsent


@pytest.mark.parametrize("twice", [False, True])
def test_one_that_answers_before_it_has_read_all_is_not_used_again(
    world: World, twice: bool
) -> None:
    """The next request would wait behind a body that nobody reads. `twice`: as it answered before."""
    one, far = world.pooled() if twice else world.connection()
    user = User(one)
    one.start(user, b"x" * (4 << 20))
    world.scene.until(lambda: one.backlog_bytes)
    far.send(OK)
    world.scene.until(lambda: user.over)
    assert user.answer == OK
    assert one.closing
    assert one not in world.pool.idle


@pytest.mark.parametrize(
    ("second", "reused"),
    [
        (OK, True),
        (OK.replace(b"ok", b"no"), True),
        (OK.replace(b"200 OK", b"404 No"), True),
        (OK + b"x", False),
        (OK + OK, False),
        (b"HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\n", True),
        (b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", True),
        (b"HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\nok", False),
        (b"HTTP/1.1 103 No\r\nContent-Length: 2\r\n\r\n" + OK, True),
        (OK.replace(b": 2", b": 02"), True),
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), False),
        (OK.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
    ],
)
@pytest.mark.parametrize("cut", range(0, 39, 13))
def test_a_second_answer_beside_the_first(
    world: World, second: bytes, reused: bool, cut: int
) -> None:
    one, far = world.pooled()
    user = User(one)
    one.start(user, GET)
    world.scene.until(lambda: take(far) == GET)
    if cut:
        far.send(second[:cut])
        world.scene.until(lambda: not _waits(one))
    far.send(second[cut:])
    world.scene.until(lambda: user.over)
    leftover = {OK + b"x": 1, OK + OK: len(OK)}.get(second, 0)
    leftover = 2 if second.endswith(b"\r\n\r\nok") and b"304" in second else leftover
    assert user.answer == second[: len(second) - leftover]
    assert (one in world.pool.idle) is reused
    assert one.closing is not reused


def _waits(one: TargetConnection) -> bool:
    try:
        return bool(one.sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_an_answer_to_head_has_no_body_though_its_head_came_before(world: World) -> None:
    one, far = world.pooled()
    user = User(one, is_head=True)
    one.start_bodyless(user, GET)
    world.scene.until(lambda: take(far) == GET)
    far.send(OK[:-2])
    world.scene.until(lambda: user.over)
    assert user.answer == OK[:-2]
    assert list(world.pool.idle) == [one]
    # And one that sends a body all the same is not trusted any more.
    world.pool.idle.clear()
    user = User(one, is_head=True)
    one.start_bodyless(user, GET)
    world.scene.until(lambda: take(far) == GET)
    far.send(OK)
    world.scene.until(lambda: user.over)
    assert user.answer == OK[:-2]
    assert one.closing


@pytest.mark.parametrize("size", [2, 20_000, 300_000])
def test_a_second_whole_answer_in_the_pool_is_nobodys(world: World, size: int) -> None:
    one, far = world.pooled()
    world.pool.idle.append(one)
    far.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    world.scene.until(lambda: one.closing)
    assert not world.pool.idle


def test_a_paused_answer_waits_and_is_whole(world: World) -> None:
    one, far = world.pooled()
    user = User(one)
    one.start(user, GET)
    world.scene.until(lambda: take(far) == GET)
    one.pace(False)
    far.send(OK)
    assert world.scene.idle_turns() == 0
    assert not user.answer
    one.pace(True)
    world.scene.until(lambda: user.over)
    assert user.answer == OK
    assert list(world.pool.idle) == [one]


def test_the_rest_of_a_reset_answer_is_not_taken_for_whole(world: World) -> None:
    """An answer that ends with the connection is whole only where that ends in order."""
    one, far = world.pooled()
    user = User(one)
    one.start(user, GET)
    world.scene.until(lambda: take(far) == GET)
    far.send(b"HTTP/1.1 200 OK\r\n\r\npart")
    world.scene.until(lambda: user.answer)
    if world.kind == "tcp":
        reset(far)
        world.scene.until(lambda: user.lost)
        assert not user.over
    else:
        far.close()
        world.scene.until(lambda: user.over)
    assert user.answer.endswith(b"part")


def test_typing_of_the_recorder() -> None:
    """User and Pool are what http_client says of Receiver and Pool."""
    from fastlb.data_plane.http_client import Pool as PoolProtocol
    from fastlb.data_plane.http_client import Receiver

    cast(Receiver, User())
    _: PoolProtocol = Pool()
