"""The Reactor: who is called, in which order, and that nothing wakes it for nothing."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import socket
from collections.abc import Callable, Iterator

import pytest

from fastlb.data_plane.reactor import BATCH, READABLE, WRITABLE
from tests.support.streams import Stage, stage


@pytest.fixture
def scene() -> Iterator[Stage]:
    with stage() as one:
        yield one


class Party:
    """A socket pair of which the near end is watched; notes its calls in a record that all share."""

    def __init__(self, scene: Stage, name: str, record: list[str], *, watch: bool = True) -> None:
        self.reactor = scene.reactor
        self.name = name
        self.record = record
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.on_ready: Callable[[], object] = lambda: None
        self.on_send: Callable[[], object] = lambda: None
        self.on_end: Callable[[], object] = lambda: None
        if watch:
            self.reactor.watch(self.near.fileno(), self, READABLE)

    def poke(self) -> None:
        self.far.send(b"x")

    def on_event(self, _events: int) -> None:
        self.near.recv(100)
        self.record.append(f"event {self.name}")
        self.on_ready()

    def send_now(self) -> None:
        self.record.append(f"send {self.name}")
        self.on_send()

    def tell_end(self) -> None:
        self.record.append(f"end {self.name}")
        self.on_end()

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def record() -> list[str]:
    return []


@pytest.fixture
def party(scene: Stage, record: list[str]) -> Iterator[Callable[[str], Party]]:
    made: list[Party] = []

    def make(name: str) -> Party:
        made.append(Party(scene, name, record))
        return made[-1]

    yield make
    for one in made:
        one.close()


def boom() -> None:
    raise RuntimeError("boom")


def test_events_then_messages_then_ends(
    scene: Stage, record: list[str], party: Callable[[str], Party]
) -> None:
    for name in "abc":
        one = party(name)
        one.on_ready = lambda one=one: (  # type: ignore[misc]
            scene.reactor.end_soon(one),
            scene.reactor.send_soon(one),
        )
        one.poke()
    scene.until(lambda: len(record) == 9)
    assert [step.split()[0] for step in record] == ["event"] * 3 + ["send"] * 3 + ["end"] * 3
    assert scene.reactor.turns == 1


@pytest.mark.parametrize("which", ["on_ready", "on_send", "on_end"])
def test_one_that_fails_keeps_no_other_from_its_turn(
    scene: Stage, record: list[str], party: Callable[[str], Party], which: str
) -> None:
    parties = [party(name) for name in "abcd"]
    for one in parties:
        one.on_ready = lambda one=one: (  # type: ignore[misc]
            scene.reactor.send_soon(one),
            scene.reactor.end_soon(one),
            boom() if which == "on_ready" and one.name in "bc" else None,
        )
        one.poke()
    if which != "on_ready":
        for one in parties[1:3]:
            setattr(one, which, boom)
    scene.until(lambda: len(record) == 12)
    for kind in ("event", "send", "end"):
        assert {step for step in record if step.startswith(kind)} == {f"{kind} {n}" for n in "abcd"}
    assert [str(context["exception"]) for context in scene.errors] == ["boom", "boom"]
    assert scene.reactor.turns == 1
    # And it works on.
    record.clear()
    parties[0].on_ready = lambda: None
    parties[0].poke()
    scene.until(lambda: record == ["event a"])


def test_what_a_message_adds_leaves_in_the_same_turn(
    scene: Stage, record: list[str], party: Callable[[str], Party]
) -> None:
    first, second = party("a"), party("b")
    first.on_ready = lambda: scene.reactor.send_soon(first)
    first.on_send = lambda: scene.reactor.send_soon(second)
    second.on_send = lambda: scene.reactor.end_soon(second)
    first.poke()
    scene.until(lambda: record == ["event a", "send a", "send b", "end b"])
    assert scene.reactor.turns == 1


def test_an_end_from_inside_an_end_is_told_by_itself(
    scene: Stage, record: list[str], party: Callable[[str], Party]
) -> None:
    first, second = party("a"), party("b")
    inside: list[bool] = []

    def ends_another() -> None:
        inside.append(True)
        scene.reactor.end_soon(second)
        scene.reactor.send_soon(second)
        inside.pop()

    first.on_end = ends_another
    second.on_end = lambda: record.append("nested") if inside else None
    scene.reactor.end_soon(first)
    scene.until(lambda: "end b" in record)
    assert record == ["end a", "send b", "end b"]


def test_from_outside_of_a_turn_it_is_the_next_turn_of_the_loop(
    scene: Stage, record: list[str], party: Callable[[str], Party]
) -> None:
    one = party("a")
    scene.reactor.send_soon(one)
    scene.reactor.send_soon(one)
    scene.reactor.end_soon(one)
    assert not record
    scene.once()
    assert record == ["send a", "send a", "end a"]


@pytest.mark.parametrize("way", ["forget", "abandon"])
def test_who_was_forgotten_in_the_turn_is_not_called(
    scene: Stage, record: list[str], party: Callable[[str], Party], way: str
) -> None:
    """Whoever of the two comes first: the other's event is at hand already."""
    parties = [party("a"), party("b")]
    for one, other in (parties, parties[::-1]):
        one.on_ready = lambda other=other: getattr(scene.reactor, way)(  # type: ignore[misc]
            other.near.fileno()
        )
        one.poke()
    scene.once()
    assert len(record) == 1
    if way == "abandon":
        for one in parties:
            one.close()  # which is what makes the kernel forget it
    assert scene.idle_turns() == 0


def test_a_descriptor_that_is_used_again_within_the_turn(
    scene: Stage, record: list[str], party: Callable[[str], Party]
) -> None:
    """The one event too many goes to the new one, who finds nothing to read; the old one is not called."""
    parties = [party("a"), party("b")]
    new: list[Party] = []
    spurious: list[str] = []

    def replace(other: Party) -> None:
        number = other.near.fileno()
        scene.reactor.forget(number)
        other.close()
        one = Party(scene, "new", record, watch=False)
        if one.near.fileno() != number:
            taken = socket.socket(fileno=os.dup2(one.near.fileno(), number))
            one.near.close()
            one.near = taken
        new.append(one)
        scene.reactor.watch(number, Watcher(one), READABLE)

    class Watcher:
        def __init__(self, one: Party) -> None:
            self.one = one

        def on_event(self, events: int) -> None:
            try:
                self.one.on_event(events)
            except BlockingIOError:
                spurious.append("nothing there")

    for one, other in (parties, parties[::-1]):
        one.on_ready = lambda other=other: replace(other)  # type: ignore[misc]
        one.poke()
    scene.once()
    assert len(record) == 1
    assert spurious == ["nothing there"]
    new[0].poke()
    scene.until(lambda: record[-1] == "event new")
    new[0].close()
    assert not scene.errors


def test_more_than_a_batch_leaves_room_for_timers(scene: Stage, record: list[str]) -> None:
    sockets = [socket.socketpair() for _ in range(BATCH + 20)]
    served: list[int] = []
    between: list[int] = []

    class One:
        def __init__(self, near: socket.socket) -> None:
            self.near = near

        def on_event(self, _events: int) -> None:
            self.near.recv(10)
            served.append(self.near.fileno())
            if len(served) == 1:
                scene.loop.call_soon(lambda: between.append(len(served)))

    try:
        for near, far in sockets:
            scene.reactor.watch(near.fileno(), One(near), READABLE)
            far.send(b"x")
        scene.until(lambda: len(served) == len(sockets))
        assert len(set(served)) == len(sockets)
        assert between == [BATCH]
    finally:
        for pair in sockets:
            for one in pair:
                one.close()


def test_a_high_descriptor(scene: Stage, record: list[str], party: Callable[[str], Party]) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    one = party("a")
    scene.reactor.forget(one.near.fileno())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(5000, before[1]), before[1]))
        high = fcntl.fcntl(one.near.fileno(), fcntl.F_DUPFD, 3000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with socket.socket(fileno=high) as again:
        one.near.close()
        one.near = again
        scene.reactor.watch(high, one, READABLE)
        one.poke()
        scene.until(lambda: record == ["event a"])
        scene.reactor.forget(high)


def test_other_events_of_the_same_descriptor(
    scene: Stage, record: list[str], party: Callable[[str], Party]
) -> None:
    one = party("a")
    assert scene.idle_turns() == 0
    one.poke()
    scene.until(lambda: record == ["event a"])
    scene.reactor.change(one.near.fileno(), READABLE | WRITABLE)
    one.on_ready = lambda: scene.reactor.change(one.near.fileno(), READABLE)
    one.poke()
    scene.until(lambda: len(record) == 2)
    assert scene.idle_turns() == 0


def test_a_closed_reactor_is_not_called(record: list[str]) -> None:
    with stage() as scene:
        one = Party(scene, "a", record)
        one.poke()
        scene.reactor.close()
        scene.loop.run_until_complete(asyncio.sleep(0.01))
        assert not record
        one.close()
        scene.reactor = type(scene.reactor)(scene.loop)  # the stage closes one
