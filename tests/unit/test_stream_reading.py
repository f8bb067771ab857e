"""That a Stream reads everything, though the Reactor tells it only once of what has come."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from fastlb.data_plane.stream import READ_BYTES
from tests.support.streams import PAIRS, Recorder, Stage, narrow, stage, take, tcp_pair

ROOM = 4 * READ_BYTES


@pytest.fixture
def scene() -> Iterator[Stage]:
    with stage() as one:
        yield one


def roomy(kind: str) -> tuple[socket.socket, socket.socket]:
    """Two sockets between which a few reads fit."""
    near, far = PAIRS[kind]()
    for one in (near, far):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
    return near, far


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("size", [0, 1, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 2 * READ_BYTES])
def test_what_waits_is_read_and_the_end_behind_it(
    scene: Stage, kind: str, stays: bool, size: int
) -> None:
    near, far = roomy(kind)
    data = random.Random(size).randbytes(size)
    far.sendall(data)
    far.shutdown(socket.SHUT_WR)
    stream = Recorder(scene, near)
    stream.stays = stays
    scene.until(lambda: stream.count("eof"))
    assert stream.data == data
    assert stream.count("eof") == 1
    assert scene.idle_turns() == 0
    stream.drop()
    scene.until(lambda: stream.lost)
    far.close()


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("seed", range(12))
def test_nothing_that_comes_is_left_unread(scene: Stage, kind: str, seed: int) -> None:
    """Whatever happens meanwhile: pauses, a backlog in the other direction, turns between."""
    chance = random.Random(seed)
    near, far = PAIRS[kind]()
    narrow(near, far)
    far.setblocking(False)
    stream = Recorder(scene, near)
    stream.stays = True
    sent = bytearray()
    answered = 0
    for _ in range(80):
        step = chance.randrange(7)
        if step < 3:
            data = chance.randbytes(chance.choice((1, 200, 5000, READ_BYTES)))
            try:
                sent += data[: far.send(data)]
            except BlockingIOError:
                pass
        elif step == 3:
            stream.pause_reading()
        elif step == 4:
            stream.resume_reading()
        elif step == 5:
            with stream.calling():
                stream.send(bytes(chance.choice((10, 60_000))))
        else:
            answered += len(take(far))
        if chance.random() < 0.5:
            scene.once(1)
    stream.resume_reading()
    scene.until(lambda: (take(far), len(stream.data) == len(sent))[1])
    assert stream.data == sent
    far.shutdown(socket.SHUT_WR)
    scene.until(lambda: (take(far), stream.count("eof"))[1])
    stream.drop()
    scene.until(lambda: stream.lost)
    far.close()


@pytest.mark.parametrize("before", [b"", b"before"])
@pytest.mark.parametrize("after", [b"", b"after"])
def test_urgent_data_holds_nothing_up(scene: Stage, before: bytes, after: bytes) -> None:
    """A read stops before TCP's urgent byte, which is no part of the stream."""
    near, far = tcp_pair()
    if before:
        far.send(before)
    far.send(b"!", socket.MSG_OOB)
    if after:
        far.send(after)
    stream = Recorder(scene, near)
    scene.until(lambda: stream.data == before + after)
    far.send(b"more")
    scene.until(lambda: stream.data == before + after + b"more")
    assert scene.idle_turns() == 0
    far.send(b"!", socket.MSG_OOB)
    far.send(b"end")
    far.close()
    scene.until(lambda: stream.lost)
    assert stream.data == before + after + b"moreend"
