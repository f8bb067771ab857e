"""A change of the listening sockets is bound first, and comes into force, or not, as a whole."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from fastlb.control_plane.listen_sockets import ListenSockets, SocketChange
from fastlb.errors import FastlbError
from fastlb.model.address import parse_address
from fastlb.model.listener import FixedResponse, Listener
from fastlb.target_table import pipe
from fastlb.target_table.handover import listener_key
from fastlb.target_table.pipe import Listen, TableChanged
from tests.support.targets import free_port


def http(where: str, protocol: str = "http") -> Listener:
    return Listener(protocol=protocol, address=parse_address(where), default=FixedResponse())  # type: ignore[arg-type]


@pytest.fixture
def sockets() -> Iterator[ListenSockets]:
    with closing(ListenSockets((http("127.0.0.1:0"), http("127.0.0.1:0")), slots=2)) as one:
        yield one


def in_force(sockets: ListenSockets, change: SocketChange, *given: Listener) -> None:
    sockets.adopt(change, given)
    sockets.listen(change)


def listens(one: socket.socket) -> bool:
    return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_there_stays_and_keeps_the_port_it_came_to(sockets: ListenSockets) -> None:
    before, numbers = dict(sockets.sockets), dict(sockets.bindings)
    given = (http("127.0.0.1:0"), http("127.0.0.1:0"))
    change = sockets.prepare(given, 2)
    assert change.listeners == sockets.listeners
    assert not change.bound
    assert not change.more
    in_force(sockets, change, *given)
    assert sockets.sockets == before
    assert sockets.bindings == numbers


def test_one_comes_and_one_goes(sockets: ListenSockets) -> None:
    first, second = sockets.listeners
    new = http(f"127.0.0.1:{free_port()}")
    given = (http("127.0.0.1:0"), new)
    change = sockets.prepare(given, 2)
    assert [listener_key(one) for one in change.listeners] == [
        listener_key(first),
        listener_key(new),
    ]
    assert all(map(listens, change.bound[listener_key(new)]))
    in_force(sockets, change, *given)
    assert (
        sockets.sockets.keys()
        == sockets.bindings.keys()
        == {
            listener_key(first),
            listener_key(new),
        }
    )
    assert len(change.removed) == 2
    assert not change.removal_is_over
    for one in change.removed:
        one.shutdown(socket.SHUT_RDWR)  # as a worker does, with its duplicates
    assert change.removal_is_over
    change.end_removed()
    # It comes again, as another set of sockets.
    again = (*given, second)
    change = sockets.prepare(again, 2)
    in_force(sockets, change, *again)
    assert len(set(sockets.bindings.values())) == 3


def test_sockets_of_new_slots_do_not_listen_before_they_are_in_force(
    sockets: ListenSockets,
) -> None:
    given = (http("127.0.0.1:0"), http("127.0.0.1:0"))
    change = sockets.prepare(given, 3)
    new = [one for more in change.more.values() for one in more]
    assert len(new) == 2
    assert not any(map(listens, new))
    sockets.adopt(change, given)
    assert not any(map(listens, new))
    sockets.listen(change)
    assert all(map(listens, new))
    assert (sockets.slots, {len(all) for all in sockets.sockets.values()}) == (3, {3})
    assert sockets.prepare(given, 1).slots == 3  # slots never become fewer


def test_what_cannot_be_bound_leaves_nothing_behind(sockets: ListenSockets) -> None:
    before, open_before = dict(sockets.sockets), files()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        given = (http("127.0.0.1:0"), http(f"127.0.0.1:{free_port()}"), http(used))
        with pytest.raises(
            FastlbError, match=rf"listeners\[2\]\.address: cannot listen on .*{used}"
        ):
            sockets.prepare(given, 4)
    assert sockets.sockets == before
    assert sockets.slots == 2
    assert files() == open_before
    change = sockets.prepare(given[:2], 4)
    change.close()
    assert files() == open_before


def test_another_protocol_is_bound_beside_the_one_that_goes(sockets: ListenSockets) -> None:
    first, second = sockets.listeners
    given = (http(str(first.address), "tcp"), second)
    change = sockets.prepare(given, 2)
    in_force(sockets, change, *given)
    assert {key.partition(":")[0] for key in sockets.sockets} == {"tcp", "http"}
    change.end_removed()
    assert all(listens(one) for all in sockets.sockets.values() for one in all)


def test_sockets_travel_down_the_pipe(sockets: ListenSockets) -> None:
    key, found = next(iter(sockets.sockets.items()))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert pipe.send(ours, Listen(key, 7, 1, 2), [one.fileno() for one in found])
        assert pipe.send(ours, TableChanged())
        message = pipe.receive(theirs)
        assert isinstance(message, Listen)
        assert (message.key, message.binding, message.first, message.count) == (key, 7, 1, 2)
        for fd, one in zip(message.fds, found, strict=True):
            with socket.socket(fileno=fd) as came:
                assert came.getsockname() == one.getsockname()
                assert not came.get_inheritable()
        assert pipe.receive(theirs) == TableChanged()
        with pytest.raises(BlockingIOError):
            pipe.receive(theirs)
