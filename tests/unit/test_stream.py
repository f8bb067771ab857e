"""A Stream: what it promises of the order of bytes, of pausing, of half-closed connections and of ends.

Over TCP and unix sockets. Nothing is waited for but conditions; that nothing more comes is seen from the
Reactor, which is not woken.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from fastlb.data_plane import splice
from fastlb.data_plane.pipe_pool import PipePool
from fastlb.data_plane.stream import BACKLOG_HIGH, BACKLOG_LOW
from tests.support.streams import PAIRS, Recorder, Stage, narrow, own_pipes, reset, stage, take

Pair = tuple[Recorder, socket.socket]
MUCH = bytes(range(256)) * 2048
"""512 KiB: more than the kernel holds between two narrow sockets, and than BACKLOG_HIGH."""


@pytest.fixture
def scene() -> Iterator[Stage]:
    with stage() as one:
        yield one


@pytest.fixture(params=PAIRS)
def new(request: pytest.FixtureRequest, scene: Stage) -> Iterator[Callable[[], Pair]]:
    """Makes a Stream and the socket at its other end."""
    made: list[Pair] = []

    def make() -> Pair:
        near, far = PAIRS[request.param]()
        narrow(near, far)
        far.setblocking(False)
        made.append((Recorder(scene, near), far))
        return made[-1]

    yield make
    for stream, far in made:
        far.close()
        if not stream.lost:
            stream.drop()
            scene.once()
        assert stream.count("lost") == 1
        if stream.sock is not None:
            assert stream.sock.fileno() == -1, "its socket is open still"


@pytest.fixture
def pair(new: Callable[[], Pair]) -> Pair:
    return new()


def fill(stream: Recorder) -> None:
    """Give it more than its socket takes."""
    with stream.calling():
        stream.send(MUCH)
    assert stream.backlog_bytes or stream.closing


# -- ends


@pytest.mark.parametrize(
    "way",
    ["drop", "finish", "finish, drop", "drop, drop", "peer closes", "peer resets", "send fails"],
)
@pytest.mark.parametrize("backlog", [False, True])
def test_the_end_is_told_once_from_outside(
    scene: Stage, pair: Pair, way: str, backlog: bool
) -> None:
    stream, far = pair
    if backlog:
        fill(stream)
    with stream.calling():
        if way == "peer closes":
            far.close()
        elif way == "peer resets":
            reset(far)
        elif way == "send fails":
            reset(far)
            stream.pause_reading()
            for _ in range(3):  # the first may go to nobody unnoticed
                stream.to_send = b"for nobody"
                stream.send_now()
        else:
            for step in way.split(", "):
                getattr(stream, step)()
    if way == "finish" and backlog:
        assert scene.idle_turns() == 0
        assert not stream.lost, "what was written is not sent yet"
        far.close()
    scene.until(lambda: stream.lost)
    assert scene.idle_turns() == 0
    assert not scene.errors


@pytest.mark.parametrize("inside", ["data", "eof", "pause", "resume"])
@pytest.mark.parametrize("way", ["drop", "finish", "write_eof"])
def test_an_end_from_inside_a_call(scene: Stage, pair: Pair, inside: str, way: str) -> None:
    stream, far = pair
    stream.on[inside] = lambda: getattr(stream, way)()
    if inside == "data":
        far.send(b"x")
    elif inside == "eof":
        far.shutdown(socket.SHUT_WR)
    else:
        fill(stream)
        if inside == "resume":
            scene.until(lambda: take(far) and stream.count("resume"))
    scene.until(lambda: (take(far), stream.lost or way == "write_eof")[1])
    assert not scene.errors


def test_an_end_within_the_end(scene: Stage, pair: Pair) -> None:
    stream, _ = pair

    def everything() -> None:
        stream.drop()
        stream.finish()
        stream.write_eof()
        stream.pause_reading()
        stream.resume_reading()
        stream.send(b"x")

    stream.on["lost"] = everything
    stream.drop()
    scene.until(lambda: stream.lost)
    assert stream.calls == [("lost", None)]
    assert not scene.errors


def test_nothing_is_read_after_the_end(scene: Stage, pair: Pair) -> None:
    """Recorder asserts that no data comes to one that is closing."""
    stream, far = pair
    fill(stream)
    far.send(b"too late")
    stream.finish()
    stream.resume_reading()
    scene.until(lambda: (take(far), stream.lost)[1])
    assert stream.count("data") == 0


def test_finish_sends_what_waits_then_closes(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    fill(stream)
    stream.to_send = b"and this"
    stream.finish()
    got = bytearray()
    scene.until(lambda: (got.extend(take(far)), stream.lost)[1])
    got += take(far)
    assert bytes(got) == MUCH + b"and this"
    assert far.recv(1) == b""
    assert stream.error is None


def test_finish_before_the_turn_is_over_sends_too(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    stream.to_send = b"a word"
    scene.reactor.send_soon(stream)
    stream.finish()
    scene.until(lambda: stream.lost)
    assert take(far) == b"a word"


def test_drop_waits_for_nothing(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    fill(stream)
    stream.drop()
    assert stream.backlog_bytes == 0
    scene.until(lambda: stream.lost)
    assert len(take(far)) < len(MUCH)
    assert stream.error is None


def test_a_failure_is_told_with_the_end(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    stream.pause_reading()
    reset(far)
    for _ in range(3):
        stream.to_send = b"x"
        stream.send_now()
    assert stream.closing
    scene.until(lambda: stream.lost)
    assert isinstance(stream.error, OSError)
    assert stream.to_send == b"x", "nothing of it was sent, and its owner must know"


def test_one_that_fails_inside_a_call_is_dropped_and_keeps_no_other(
    scene: Stage, new: Callable[[], Pair]
) -> None:
    (first, first_far), (second, second_far), (third, third_far) = new(), new(), new()

    def boom() -> None:
        raise RuntimeError("boom")

    second.on["data"] = boom
    for far in (first_far, second_far, third_far):
        far.send(b"x")
    scene.until(lambda: first.data and second.lost and third.data)
    assert [str(context["exception"]) for context in scene.errors] == ["boom"]
    assert second_far.recv(1) == b""
    assert scene.idle_turns() == 0


# -- the order of what is sent


@pytest.mark.parametrize("seed", range(6))
def test_all_that_is_sent_comes_in_order(scene: Stage, pair: Pair, seed: int) -> None:
    stream, far = pair
    chance = random.Random(seed)
    sent, got = bytearray(), bytearray()
    paused = False

    def some() -> bytes:
        return chance.randbytes(chance.choice((0, 1, 100, 3000, 30000, 90000)))

    for _ in range(60):
        step = chance.randrange(5)
        with stream.calling():
            if step == 0:
                data = some()
                stream.to_send += data
                scene.reactor.send_soon(stream)
                sent += data
            elif step == 1:
                head, data = some(), some()
                at = chance.randint(0, len(data))
                stream.send_parts(head, data, at)
                sent += head + data[at:]
            elif step == 2:
                stream.send_now()
                data = some()
                stream.send(data)
                sent += data
        if step == 3:
            try:
                got += far.recv(chance.choice((1, 5000, 200000)))
            except BlockingIOError:
                pass
        elif step == 4:
            scene.once(1)
        for kind, _ in stream.calls:
            assert (kind == "pause") is not paused, "not paused and resumed in turns"
            paused = not paused
        stream.calls.clear()
        assert paused or stream.backlog_bytes <= BACKLOG_HIGH
    stream.finish()
    scene.until(lambda: (got.extend(take(far)), stream.lost)[1])
    got += take(far)
    assert got == sent


class ShortSocket:
    """Takes `room` bytes, then none until it is given room again."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def send(self, data: bytes) -> int:
        if not self.room:
            raise BlockingIOError(errno.EAGAIN, "full")
        piece = bytes(data[: self.room])
        self.taken += piece
        self.room -= len(piece)
        return len(piece)

    def sendmsg(self, parts: tuple[bytes, ...]) -> int:
        return self.send(b"".join(parts))


@pytest.mark.parametrize("waiting", [b"", b"wait"])
@pytest.mark.parametrize("at", [0, 3])
def test_parts_split_anywhere(
    scene: Stage, pair: Pair, at: int, waiting: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, _ = pair
    real = stream.sock
    whole = waiting + b"head" + b"the body"[at:]
    for room in range(len(whole) + 1):
        short = ShortSocket(room)
        stream.sock = cast(Any, short)
        monkeypatch.setattr("fastlb.data_plane.stream.write", lambda _, data: short.send(data))  # noqa: B023
        stream.to_send = waiting
        stream.send_parts(b"head", b"the body", at)
        assert short.taken == whole[:room]
        assert stream.backlog_bytes == len(whole) - room
        short.room = 1000
        stream.on_event(4)
        assert short.taken == whole, f"split at {room}"
        assert not stream.backlog_bytes
    stream.sock = real


def test_parts_to_one_that_is_gone(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    stream.pause_reading()
    reset(far)
    for _ in range(3):
        stream.send_parts(b"head", b"body", 1)
    assert stream.backlog_bytes == 0
    scene.until(lambda: stream.lost)


# -- pausing


def test_whoever_writes_pauses_and_goes_on(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    fill(stream)
    stream.send(b"more")
    assert [kind for kind, _ in stream.calls] == ["pause"]
    got = bytearray()
    while stream.backlog_bytes > BACKLOG_LOW:
        assert stream.count("resume") == 0
        got += take(far)
        scene.once(1)
    assert [kind for kind, _ in stream.calls] == ["pause", "resume"]
    scene.until(lambda: (got.extend(take(far)), not stream.backlog_bytes)[1])
    got += take(far)
    assert got == MUCH + b"more"
    assert scene.idle_turns() == 0


def test_one_that_ends_is_not_told_to_go_on(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    fill(stream)
    stream.finish()
    scene.until(lambda: (take(far), stream.lost)[1])
    assert stream.count("resume") == 0


def test_what_is_not_read_stays_in_the_kernel(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    stream.pause_reading()
    far.send(b"first")
    assert scene.idle_turns() == 0
    stream.resume_reading()
    stream.on["data"] = stream.pause_reading
    scene.until(lambda: stream.data == b"first")
    far.send(b"second")
    far.shutdown(socket.SHUT_WR)
    assert scene.idle_turns() == 0
    stream.on.clear()
    stream.resume_reading()
    scene.until(lambda: stream.lost)
    assert stream.data == b"firstsecond"
    assert [kind for kind, _ in stream.calls] == ["data", "data", "eof", "lost"]


# -- half-closed, and hung up


def test_the_other_side_ends_and_still_reads(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    stream.stays = True
    far.send(b"request")
    far.shutdown(socket.SHUT_WR)
    scene.until(lambda: stream.count("eof"))
    assert stream.data == b"request"
    assert scene.idle_turns() == 0, "an end is told once, not again and again"
    stream.resume_reading()
    assert scene.idle_turns() == 0
    fill(stream)
    stream.finish()
    got = bytearray()
    scene.until(lambda: (got.extend(take(far)), stream.lost)[1])
    got += take(far)
    assert got == MUCH
    assert stream.count("eof") == 1


@pytest.mark.parametrize("backlog", [False, True])
def test_our_side_ends_and_still_reads(scene: Stage, pair: Pair, backlog: bool) -> None:
    stream, far = pair
    got = bytearray()
    if backlog:
        fill(stream)
    stream.to_send = b"last word"
    stream.write_eof()
    scene.until(
        lambda: (got.extend(take(far)), not stream.backlog_bytes and got.endswith(b"word"))[1]
    )
    assert got == (MUCH if backlog else b"") + b"last word"
    scene.once()
    assert far.recv(1) == b"", "our end did not come"
    assert scene.idle_turns() == 0
    far.send(b"answer")
    scene.until(lambda: stream.data == b"answer")
    far.close()
    scene.until(lambda: stream.lost)


def test_both_sides_have_ended_and_it_is_kept(scene: Stage, pair: Pair) -> None:
    """The kernel calls that a hang-up, and would tell of it with each look."""
    stream, far = pair
    stream.stays = True
    stream.write_eof()
    far.shutdown(socket.SHUT_WR)
    scene.until(lambda: stream.count("eof"))
    assert scene.idle_turns() == 0
    assert not stream.lost
    far.close()
    assert scene.idle_turns() == 0


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("ended", [False, True])
def test_hung_up_while_it_is_not_read(scene: Stage, pair: Pair, how: str, ended: bool) -> None:
    stream, far = pair
    stream.stays = True
    if ended:
        stream.write_eof()
    stream.pause_reading()
    far.close() if how == "close" else reset(far)
    assert scene.idle_turns() == 0
    stream.stays = False
    stream.resume_reading()
    scene.until(lambda: stream.lost)


def test_hung_up_with_a_backlog_while_it_is_not_read(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    fill(stream)
    stream.pause_reading()
    reset(far)
    scene.until(lambda: stream.lost)
    assert isinstance(stream.error, OSError)


# -- given away


def test_a_socket_that_is_given_away_stays_open(scene: Stage, pair: Pair) -> None:
    stream, far = pair
    far.send(b"not yet read")
    with stream.calling():
        taken = stream.release()
    with taken:
        scene.until(lambda: stream.lost)
        assert stream.calls == [("lost", None)]
        far.send(b", nor this")
        assert scene.idle_turns() == 0
        assert take(taken) == b"not yet read, nor this"
        taken.send(b"mine now")
        assert take(far) == b"mine now"
        stream.resume_reading()
        stream.pause_reading()
        stream.send(b"not sent")
        assert take(far) == b""


# -- spliced


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[PipePool]:
    with own_pipes(monkeypatch, 2) as pool:
        yield pool


class Line:
    """A source that is spliced into a sink, paced by it as connections are."""

    def __init__(self, new: Callable[[], Pair], size: int) -> None:
        self.source, self.feed = new()
        self.sink, self.drain = new()
        self.source.sink, self.source.sink_left = self.sink, size
        self.sink.on = {"pause": self.source.pause_reading, "resume": self.source.resume_reading}
        self.source.on |= {"moved": self._moved, "data": self._copy}
        self.got = bytearray()
        self.rest = b""
        """What came after what was to go to the sink."""
        self._to_feed = memoryview(b"")

    def _moved(self) -> None:
        if not self.source.sink_left:
            self.source.sink = None

    def _copy(self) -> None:
        """What could not be spliced goes the same way."""
        source, sink = self.source, self.sink
        data = bytes(source.data)
        source.data.clear()
        piece, rest = data[: source.sink_left], data[source.sink_left :]
        source.sink_left -= len(piece)
        self.rest += rest
        sink.send_now()
        sink.send(piece)
        self._moved()

    def give(self, data: bytes) -> None:
        self._to_feed = memoryview(bytes(self._to_feed) + data)

    def step(self, most: int = 1 << 20) -> bool:
        """Feed and drain what goes; whether everything is fed."""
        try:
            self._to_feed = self._to_feed[self.feed.send(self._to_feed) :]
        except BlockingIOError:
            pass
        try:
            if self.drain.fileno() >= 0:
                self.got += self.drain.recv(most)
        except BlockingIOError:
            pass
        return not self._to_feed

    @property
    def moved(self) -> int:
        return sum(what for kind, what in self.source.calls if kind == "moved")


@pytest.fixture
def line(new: Callable[[], Pair], pool: PipePool) -> Callable[[int], Line]:
    return lambda size: Line(new, size)


@pytest.mark.parametrize("most", [1 << 20, 20_000])
def test_spliced_as_much_as_was_asked_and_not_a_byte_more(
    scene: Stage, line: Callable[[int], Line], most: int
) -> None:
    """To a fast reader and to a slow one; what follows is read, in order."""
    one = line(len(MUCH))
    one.give(MUCH + b"what follows")
    scene.until(lambda: (one.step(most), one.rest == b"what follows")[1])
    scene.until(lambda: (one.step(most), len(one.got) >= len(MUCH))[1])
    one.step()
    assert one.got == MUCH
    assert one.source.sink_left == 0
    assert one.moved > 0
    assert scene.idle_turns() == 0


def test_urgent_data_is_stepped_over(scene: Stage, line: Callable[[int], Line]) -> None:
    """A splice stops before TCP's urgent byte for ever, though there is something to read."""
    one = line(200_000)
    one.give(b"a" * 100_000)
    scene.until(lambda: (one.step(), len(one.got) == 100_000)[1])
    if one.feed.family != socket.AF_UNIX:
        one.feed.send(b"!", socket.MSG_OOB)
    one.give(b"b" * 100_000)
    scene.until(lambda: (one.step(), len(one.got) == 200_000)[1])
    assert one.got == b"a" * 100_000 + b"b" * 100_000
    assert scene.idle_turns() == 0


def test_a_sink_that_has_something_to_send_gets_it_first(
    scene: Stage, line: Callable[[int], Line]
) -> None:
    """Nothing is spliced past what waits: it is read, and its owner puts it behind."""
    one = line(10)
    one.sink.to_send = b"before "
    one.feed.send(b"0123456789")
    scene.until(lambda: (one.step(), len(one.got) == 17)[1])
    assert one.got == b"before 0123456789"
    assert one.moved == 0


def test_a_sink_that_does_not_read_stops_the_source(
    scene: Stage, line: Callable[[int], Line]
) -> None:
    one = line(len(MUCH))
    one.give(MUCH)

    def stuck() -> bool:
        try:
            one._to_feed = one._to_feed[one.feed.send(one._to_feed) :]
        except BlockingIOError:
            return bool(one.sink.count("pause"))
        return False

    scene.until(stuck)
    assert scene.idle_turns() == 0
    assert one.sink.backlog_bytes < 4 * BACKLOG_HIGH + splice.pipes.size
    scene.until(lambda: (one.step(), len(one.got) == len(MUCH))[1])
    assert one.got == MUCH


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_sink_that_dies(scene: Stage, line: Callable[[int], Line], how: str) -> None:
    one = line(len(MUCH))
    one.give(MUCH)
    scene.until(lambda: (one.step(), one.moved > 100_000)[1])
    one.drain.close() if how == "close" else reset(one.drain)
    one.sink.stays = True  # so that it is writing that finds out
    one.sink.pause_reading()
    one.sink.on.clear()
    scene.until(lambda: (one.step(), one.sink.lost)[1])
    assert not one.source.lost
    scene.until(one.step)
    assert not one.source.lost, "its owner says what becomes of it"
    assert one.source.sink_left == 0, "it is read on all the same"


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_a_source_that_ends_in_the_middle(
    scene: Stage, line: Callable[[int], Line], how: str
) -> None:
    one = line(len(MUCH))
    one.give(MUCH[:300_000])
    scene.until(lambda: (one.step(), len(one.got) == 300_000)[1])
    if how == "eof":
        one.feed.shutdown(socket.SHUT_WR)
    else:
        reset(one.feed)
    scene.until(lambda: one.source.lost)
    assert one.source.sink_left == len(MUCH) - 300_000
    assert one.source.count("eof") <= 1
    assert not one.sink.lost, "its owner says what becomes of it"
    assert one.got == MUCH[:300_000]


def test_without_a_pipe_it_is_read(
    scene: Stage, line: Callable[[int], Line], pool: PipePool
) -> None:
    pool.limit = 0
    one = line(1000)
    one.feed.send(b"x" * 1001)
    scene.until(lambda: (one.step(), len(one.got) == 1000)[1])
    assert one.moved == 0
    assert one.rest == b"x"


def test_where_the_kernel_cannot_splice_it_is_read(
    scene: Stage, line: Callable[[int], Line], pool: PipePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "splice", refuse)
    one = line(1000)
    one.feed.send(b"x" * 1000)
    scene.until(lambda: (one.step(), len(one.got) == 1000)[1])
    assert pool.made == 0
