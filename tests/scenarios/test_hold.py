"""Requests wait for an instance: a real worker, real sockets, and the supervisor is the test."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastlb.data_plane.hold import LOOK_SECONDS
from fastlb.data_plane.worker import worker_main
from fastlb.model.address import parse_address
from fastlb.model.configuration import Configuration
from fastlb.model.listener import Forward, Listener, WeightedGroup
from fastlb.model.target_group import Hold, TargetGroup, TargetState
from fastlb.target_table import pipe
from fastlb.target_table.counters import Counters, TargetTotals, Worker
from fastlb.target_table.layout import Snapshot, TargetEntry
from fastlb.target_table.pipe import Drain, Evidence, InheritedFd, TableChanged, Wanted, WorkerStart
from fastlb.target_table.writer import TableWriter
from tests.scenarios.http_stage import request_bytes
from tests.support.load import LoadClient
from tests.support.processes import wait_until
from tests.support.raw_client import Answer, Ended, RawClient, split
from tests.support.raw_target import RawConnection, RawTarget, answer, resets_after
from tests.support.targets import LightTarget

LONG = 60.0
RESET = struct.pack("ii", 1, 0)


class Stage:
    """One worker with an HTTP and a TCP listener, both for a group that holds; the test publishes
    its targets and reads its pipe."""

    def __init__(self, folder: Path, seconds: float = LONG, requests: int = 100) -> None:
        self.log = folder / "access.log"
        self.index = 0
        self.messages: list[pipe.Message] = []
        self._listening = {}
        listeners = []
        self._ports = {}
        for protocol in ("http", "tcp"):
            one = socket.create_server(("127.0.0.1", 0), backlog=512)
            self._ports[protocol] = one.getsockname()[1]
            where = f"127.0.0.1:{self._ports[protocol]}"
            self._listening[f"{protocol}://{where}"] = [one]
            to_app = Forward(groups=(WeightedGroup("app"),))
            listeners.append(
                Listener(protocol=protocol, address=parse_address(where), default=to_app)
            )
        self._config = Configuration(
            listeners=tuple(listeners),
            target_groups=(TargetGroup(name="app", hold=Hold(seconds, requests)),),
            workers=1,
            access_log=str(self.log),
        )
        self._table, self.counters = TableWriter(), Counters()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.publish()
        start = WorkerStart(
            0,
            self._listening,
            InheritedFd(self._table.fd),
            InheritedFd(self.counters.fd),
            theirs,
            str(folder),
        )
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=worker_main, args=(start,))
        self.process.start()
        theirs.close()
        wait_until(self.read_pipe, 30, "the worker is ready")

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join(10)
        self.process.close()
        for (one,) in self._listening.values():
            one.close()
        self._ours.close()
        self._table.close()
        self.counters.close()

    @property
    def port(self) -> int:
        return self._ports["http"]

    @property
    def tcp_port(self) -> int:
        return self._ports["tcp"]

    def entry(self, address: object, state: TargetState = "healthy", epoch: int = 0) -> TargetEntry:
        """A target that was not there before."""
        self.index += 1
        return TargetEntry(self.index, "app", str(address), 1, False, state, epoch=epoch)

    def publish(self, *entries: TargetEntry) -> None:
        self._table.publish(Snapshot(self._config, 1, entries, (0,)))
        pipe.send(self._ours, TableChanged())

    def wait_followed(self) -> None:
        """Until the worker has acted on the last table, and said so at a tick."""
        wait_until(
            lambda: self.head(Worker.GENERATION) == self._table.generation, 30, "it is followed"
        )

    def tell(self, message: pipe.Message) -> None:
        assert pipe.send(self._ours, message)

    def read_pipe(self) -> list[pipe.Message]:
        """All that has come so far."""
        while True:
            try:
                message = pipe.receive(self._ours)
            except BlockingIOError:
                return self.messages
            if message is None:
                return self.messages
            self.messages.append(message)

    def wanted(self) -> int:
        return self.read_pipe().count(Wanted("app"))

    def head(self, cell: Worker) -> int:
        return self.counters.row(0)[cell]

    def held(self) -> int:
        return self.head(Worker.HELD)

    def wait_held(self, count: int) -> None:
        wait_until(lambda: self.held() == count, 30, f"{count} are held")

    def totals(self, entry: TargetEntry) -> TargetTotals:
        return self.counters.target(entry.index, 1)

    def client(self, *pieces: bytes) -> RawClient:
        """A connection that has sent this."""
        client = RawClient(self.port, 15)
        client.send(pieces)
        return client


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    """Starts stages, which end with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Stage(tmp_path, **options))


@pytest.fixture
def instance() -> Iterator[RawTarget]:
    with RawTarget() as target:
        yield target
        assert target.errors() == []


@pytest.fixture
def stage(stages: Callable[..., Stage]) -> Stage:
    return stages()


def silent(client: RawClient) -> bool:
    """Whether nothing has come. Only after something else has shown that it would be there."""
    client.socket.setblocking(False)
    try:
        client.socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        client.socket.settimeout(client.seconds)
    return False


def reset(client: RawClient) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.socket.close()


def is_503(found: Answer, why: str) -> bool:
    assert found.status == 503, found
    assert found.fields("Retry-After") == ["1"]
    (status,) = found.fields("Proxy-Status")
    assert "error=destination_unavailable" in status
    assert why in status
    return True


REQUESTS = {
    "GET": request_bytes("/get"),
    "HEAD": request_bytes("/head", method="HEAD"),
    "POST": request_bytes("/post", method="POST", body=b"x" * 300),
    "chunked": request_bytes("/chunks", "Transfer-Encoding: chunked", method="PUT")
    + b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("how", ["whole", "bytewise"])
def test_held_until_an_instance_is_there(stage: Stage, instance: RawTarget, how: str) -> None:
    clients = {}
    for name, request in REQUESTS.items():
        clients[name] = stage.client(*split(request, how))
        stage.wait_held(len(clients))
    time_held = time.monotonic()
    entry = stage.entry(instance)
    stage.publish(entry)
    for name, client in clients.items():
        with client:
            found = client.answer("HEAD" if name == "HEAD" else "GET")
            assert (found.status, found.complete) == (200, True), name
            # What waited is an ordinary connection again.
            client.send(split(request_bytes(f"/again/{name}"), how))
            assert client.answer().fields("X-Seen") == [f"/again/{name}"]
    by_line = {raw.split(b" ")[1]: raw for _, raw in instance.requests}
    assert by_line[b"/post"].endswith(b"\r\n\r\n" + b"x" * 300)
    assert by_line[b"/chunks"].endswith(b"0\r\n\r\n")
    # A tick stores what it knows: that of the held ones may be one before that of the last requests.
    wait_until(
        lambda: (stage.totals(entry).queued, stage.totals(entry).requests) == (4, 8),
        30,
        "the held ones and all are counted",
    )
    waited = stage.totals(entry).queue_wait_us / 1e6
    assert 0 < waited < 4 * (time.monotonic() - time_held + 5)
    stage.wait_held(0)


def test_the_first_is_served_first(stage: Stage, instance: RawTarget) -> None:
    with ExitStack() as stack:
        clients = []
        for number in range(12):
            clients.append(stack.enter_context(stage.client(request_bytes(f"/{number}"))))
            stage.wait_held(number + 1)
        stage.publish(stage.entry(instance))
        for client in clients:
            assert client.answer().status == 200
    order = [one.requests[0].split(b" ")[1] for one in instance.connections]
    assert order == [b"/%d" % number for number in range(12)]


def test_one_more_than_the_bound_is_told_so_at_once(stages: Callable[..., Stage]) -> None:
    stage = stages(requests=2)
    with stage.client(REQUESTS["GET"]), stage.client(REQUESTS["GET"]):
        stage.wait_held(2)
        with stage.client(REQUESTS["GET"]) as third:
            assert is_503(third.answer(), "2 requests are held already")
            third.send([REQUESTS["GET"]])
            assert is_503(third.answer(), "2 requests are held already")
        assert stage.held() == 2

    def lines() -> list[dict[str, object]]:
        return [json.loads(line) for line in stage.log.read_text().splitlines()]

    wait_until(lambda: len(lines()) >= 2, 30, "the access log is written")
    assert lines()[0]["termination"] == "destination_unavailable"
    assert "held already" in str(lines()[0]["detail"])


@pytest.mark.parametrize("limit", [{"seconds": 0.0}, {"requests": 0}])
def test_a_limit_of_nothing_holds_nothing(
    stages: Callable[..., Stage], limit: dict[str, float]
) -> None:
    stage = stages(**limit)
    with stage.client(REQUESTS["GET"]) as client:
        assert is_503(client.answer(), "no instance")
    assert stage.wanted() == 0


def test_no_instance_in_time(stages: Callable[..., Stage], instance: RawTarget) -> None:
    stage = stages(seconds=0.4)
    begun = time.monotonic()
    with stage.client(REQUESTS["GET"]) as client:
        assert is_503(client.answer(), "no instance in time")
        assert 0.25 < time.monotonic() - begun < 10
        stage.wait_held(0)
        stage.publish(stage.entry(instance))
        client.send([REQUESTS["GET"]])
        assert client.answer().status == 200, "the connection is as good as before"
    wait_until(lambda: "no instance in time" in stage.log.read_text(), 30, "the log names it")


def test_a_client_that_resets_leaves_the_queue(
    stages: Callable[..., Stage], instance: RawTarget
) -> None:
    stage = stages(requests=1)
    gone = stage.client(REQUESTS["GET"])
    stage.wait_held(1)
    reset(gone)
    stage.wait_held(0)
    with stage.client(request_bytes("/stays")) as client:
        stage.wait_held(1)
        stage.publish(stage.entry(instance))
        assert client.answer().fields("X-Seen") == ["/stays"]
    assert len(instance.requests) == 1


def test_who_has_ended_its_side_stays_while_there_is_room(
    stages: Callable[..., Stage], instance: RawTarget
) -> None:
    stage = stages(requests=2)
    ended = stage.client(request_bytes("/ended"))
    stage.wait_held(1)
    ended.finish()
    with ended, stage.client(request_bytes("/first")) as first:
        stage.wait_held(2)
        # No room is left for one who certainly waits: its place is that of one who may be gone.
        with stage.client(request_bytes("/second")) as second:
            assert is_503(ended.answer(), "others wait")
            stage.publish(stage.entry(instance))
            assert first.answer().fields("X-Seen") == ["/first"]
            assert second.answer().fields("X-Seen") == ["/second"]
    with stage.client() as half:
        stage.publish()
        stage.wait_followed()
        half.send([request_bytes("/half")])
        stage.wait_held(1)
        half.finish()
        stage.publish(stage.entry(instance))
        assert half.answer().fields("X-Seen") == ["/half"]


def test_body_bytes_do_not_put_off_the_end(stages: Callable[..., Stage]) -> None:
    stage = stages(seconds=0.5)
    begun = time.monotonic()
    head = request_bytes("/slow", "Content-Length: 100000", method="POST")
    with stage.client(head) as client:
        while client.end is None and not client.buffer and time.monotonic() - begun < 10:
            client.send([b"x"], pause=0.02)
        assert is_503(client.answer(), "no instance in time")
        assert time.monotonic() - begun < 10


def test_a_large_body_waits_in_the_kernel(stage: Stage, instance: RawTarget) -> None:
    size = 8 << 20
    head = request_bytes("/large", f"Content-Length: {size}", method="POST")
    with stage.client(head) as client:
        client.socket.setblocking(False)
        sent = 0
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 0.3:  # nobody takes any more
            try:
                sent += client.socket.send(b"y" * min(65536, size - sent))
                quiet_since = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
        assert sent < size
        stage.wait_held(1)
        client.socket.settimeout(30)
        stage.publish(stage.entry(instance))
        client.socket.sendall(b"y" * (size - sent))
        assert client.answer().status == 200
    (request,) = instance.wait_requests(1)
    assert request.endswith(b"\r\n\r\n" + b"y" * size)


def test_requests_sent_ahead_wait_their_turn(stage: Stage, instance: RawTarget) -> None:
    ahead = b"".join(request_bytes(f"/{number}") for number in range(3))
    for how in ("whole", "bytewise"):
        with stage.client(*split(ahead, how)) as client:
            stage.wait_held(1)
            stage.publish(stage.entry(instance))
            seen = [client.answer().fields("X-Seen") for _ in range(3)]
            assert seen == [["/0"], ["/1"], ["/2"]]
            stage.publish()


def test_expect_and_upgrade_after_the_wait(stage: Stage) -> None:
    def script(connection: RawConnection) -> None:
        head = connection.read_head()
        if b"Upgrade" in head:
            connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
            )
            connection.send(connection.read_exactly(4))
            connection.read_to_end()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.send(answer(connection.read_exactly(5)))

    expecting = request_bytes(
        "/", "Expect: 100-continue", "Content-Length: 5", "Connection: close", method="POST"
    )
    upgrading = request_bytes("/", "Connection: Upgrade", "Upgrade: echo")
    with (
        RawTarget(script) as instance,
        stage.client(expecting) as poster,
        stage.client(upgrading) as upgrader,
    ):
        stage.wait_held(2)
        stage.publish(stage.entry(instance))
        assert upgrader.answer().status == 101
        upgrader.send([b"ping"])
        assert upgrader.socket.recv(4, socket.MSG_WAITALL) == b"ping"
        poster.send([b"hello"])
        found = poster.answer()
        assert (found.interim, found.status, found.body) == ([100], 200, b"hello")


def test_an_instance_gets_nothing_before_its_first_passed_check(
    stage: Stage, instance: RawTarget
) -> None:
    new = stage.entry(instance, "initial")
    stage.publish(new)
    with stage.client(REQUESTS["GET"]) as client:
        stage.wait_held(1)
        stage.publish(new, stage.entry("127.0.0.1:9", "initial"))
        stage.publish(new)
        stage.wait_followed()
        assert silent(client)
        assert not instance.connections
        stage.publish(TargetEntry(new.index, "app", new.address, 1, False, "healthy"))
        assert client.answer().status == 200


def test_an_unhealthy_one_is_asked_all_the_same(stage: Stage, instance: RawTarget) -> None:
    stage.publish(stage.entry(instance, "unhealthy"))
    with stage.client(REQUESTS["GET"]) as client:
        assert client.answer().status == 200
    assert stage.wanted() == 0


def test_a_dead_unhealthy_one_is_asked_once_until_it_is_well(
    stage: Stage, instance: RawTarget
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        address = f"127.0.0.1:{one.getsockname()[1]}"
    dead = stage.entry(address, "unhealthy")
    stage.publish(dead)
    with stage.client(REQUESTS["GET"]) as client:
        stage.wait_held(1)
        for _ in range(3):
            stage.publish(dead, stage.entry("127.0.0.1:9", "initial"))
            stage.publish(dead)
        stage.wait_followed()
        assert stage.held() == 1
        with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))) as back:
            stage.publish(TargetEntry(dead.index, "app", address, 1, False, "healthy", epoch=1))
            taken, _ = back.accept()
            with taken:
                taken.recv(65536)
                taken.sendall(answer(b"back"))
                assert client.answer().body == b"back"
    refusals = [one for one in stage.read_pipe() if isinstance(one, Evidence)]
    assert len(refusals) == 1


def test_the_supervisor_hears_of_it_at_once_and_once_a_second(
    stage: Stage, instance: RawTarget
) -> None:
    begun = time.monotonic()
    clients = [stage.client(REQUESTS["GET"]) for _ in range(3)]
    wait_until(lambda: stage.wanted() == 1, 30, "it is told at once", every=0.001)
    first = time.monotonic()
    assert first - begun < 0.95
    wait_until(lambda: stage.wanted() == 2, 30, "it is told again", every=0.001)
    # Not since the first was seen, which may have been late.
    assert time.monotonic() - begun > 0.9
    stage.publish(stage.entry(instance))
    for client in clients:
        with client:
            assert client.answer().status == 200
    stage.wait_held(0)


def test_an_only_instance_that_refuses_is_replaced(stage: Stage, instance: RawTarget) -> None:
    """Between the crash and the new table: requests that no target got wait, POSTs too."""
    with RawTarget() as first:
        dead = stage.entry(first)
        stage.publish(dead)
        with stage.client(REQUESTS["POST"]) as client:
            assert client.answer().status == 200
    clients = [stage.client(REQUESTS[name]) for name in ("GET", "POST", "POST")]
    stage.wait_held(3)
    wait_until(lambda: stage.wanted() == 1, 30, "the supervisor is told")
    stage.publish()
    stage.publish(stage.entry(instance))
    for client in clients:
        with client:
            assert client.answer().status == 200


def test_what_a_crash_interrupted(stage: Stage, instance: RawTarget) -> None:
    """A GET goes to the replacement; a POST that an instance has got cannot."""
    with RawTarget(resets_after()) as crashing:
        entry = stage.entry(crashing)
        stage.publish(entry)
        with stage.client(REQUESTS["GET"]) as getter:
            stage.wait_held(1)
            with stage.client(REQUESTS["POST"]) as poster:
                assert poster.answer().status == 502
            stage.publish(stage.entry(instance))
            assert getter.answer().fields("X-Seen") == ["/get"]


def test_a_request_that_kills_every_instance_ends(stage: Stage) -> None:
    with RawTarget(resets_after()) as first, RawTarget(resets_after()) as second:
        stage.publish(stage.entry(first))
        with stage.client(REQUESTS["GET"]) as client:
            stage.wait_held(1)
            stage.publish(stage.entry(second))
            assert client.answer().status == 502


def test_the_only_instance_is_killed_under_load(stage: Stage) -> None:
    with ExitStack() as stack:
        instances = [stack.enter_context(LightTarget(f"d{n}")) for n in range(3)]
        entry = stage.entry(instances[0])
        stage.publish(entry)
        load = stack.enter_context(LoadClient(stage.port, connections=16, pause=0.005)).started()
        for old, new in itertools.pairwise(instances):
            old.kill()
            wait_until(
                lambda entry=entry: Evidence in {type(one) for one in stage.read_pipe()}, 30, "told"
            )
            stage.messages.clear()
            stage.publish()
            wait_until(lambda: stage.held() > 0, 30, "requests are held")
            entry = stage.entry(new)
            stage.publish(entry)
            before = stage.totals(entry).requests
            wait_until(lambda e=entry, b=before: stage.totals(e).requests > b + 100, 30, "served")
        result = load.stop()
    assert not result.failures, result
    assert result.requests > 200


def test_a_drain_ends_the_wait_at_once(stage: Stage) -> None:
    with (
        stage.client(REQUESTS["GET"]) as client,
        stage.client() as idle,
        tcp_client(stage) as stream,
    ):
        stage.wait_held(2)
        begun = time.monotonic()
        stage.tell(Drain(20.0))
        found = client.answer()
        assert is_503(found, "fastlb is stopping")
        assert found.fields("Connection") == ["close"]
        with pytest.raises(Ended):
            stream.answer()
        idle.send([REQUESTS["GET"]])
        assert is_503(idle.answer(), "fastlb is stopping")
        stage.process.join(15)
        assert stage.process.exitcode == 0
        assert time.monotonic() - begun < 10


def test_without_a_supervisor_it_goes_on(stage: Stage, instance: RawTarget) -> None:
    """An only instance that is gone for a moment: the worker tries it again by itself."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    stage.publish(stage.entry(f"127.0.0.1:{port}"))
    stage._ours.close()
    with stage.client(REQUESTS["GET"]) as client:
        stage.wait_held(1)
        with socket.create_server(("127.0.0.1", port)) as back:
            back.settimeout(30)
            taken, _ = back.accept()
            with taken:
                taken.recv(65536)
                taken.sendall(answer(b"back"))
                assert client.answer().body == b"back"
        assert stage.process.pid is not None
        os.kill(stage.process.pid, signal.SIGTERM)
        stage.process.join(15)


def test_more_than_one_turn_lets_go(stages: Callable[..., Stage], instance: RawTarget) -> None:
    stage = stages(requests=250)
    with ExitStack() as stack:
        clients = [stack.enter_context(stage.client(REQUESTS["POST"])) for _ in range(250)]
        stage.wait_held(250)
        entry = stage.entry(instance)
        stage.publish(entry)
        for client in clients:
            assert client.answer().status == 200
    wait_until(lambda: stage.totals(entry).queued == 250, 30, "all are counted")


# -- TCP


def tcp_client(stage: Stage, data: bytes = b"") -> RawClient:
    client = RawClient(stage.tcp_port, 15)
    client.send([data] if data else [])
    return client


def greet(connection: RawConnection) -> None:
    connection.send(b"hello")
    connection.read_to_end()


def test_tcp_connections_wait_too(stage: Stage) -> None:
    def echo(connection: RawConnection) -> None:
        while True:
            connection.send(connection.read_some())

    with (
        RawTarget(echo) as instance,
        tcp_client(stage) as quiet,
        tcp_client(stage, b"early") as one,
    ):
        stage.wait_held(2)
        assert stage.wanted() == 1
        entry = stage.entry(instance)
        stage.publish(entry)
        assert one.socket.recv(5, socket.MSG_WAITALL) == b"early"
        quiet.send([b"late"])
        assert quiet.socket.recv(4, socket.MSG_WAITALL) == b"late"
        wait_until(lambda: stage.totals(entry).queued == 2, 30, "both are counted")
        stage.wait_held(0)


def test_tcp_connections_are_bounded_and_leave(stages: Callable[..., Stage]) -> None:
    stage = stages(requests=2)
    with (
        RawTarget(greet) as instance,
        tcp_client(stage) as first,
        tcp_client(stage, b"x") as second,
    ):
        stage.wait_held(2)
        # Seen by connect() already, where the worker is fast.
        with pytest.raises((Ended, ConnectionResetError)) as ended, tcp_client(stage) as third:
            third.answer()
        looked = time.monotonic()
        assert not isinstance(ended.value, Ended) or ended.value.reset
        reset(first)
        stage.wait_held(1)
        # What this one sent lies unread, so that nobody looked at it since: but where there is no room.
        reset(second)
        with tcp_client(stage) as fourth:
            stage.wait_held(2)
            wait_until(lambda: time.monotonic() - looked > LOOK_SECONDS, what="a look is due")
            with tcp_client(stage) as fifth:
                wait_until(lambda: stage.head(Worker.ACCEPTED) == 5, what="all are accepted")
                assert stage.held() == 2
                stage.publish(stage.entry(instance))
                for client in (fourth, fifth):
                    assert client.socket.recv(5, socket.MSG_WAITALL) == b"hello"


def test_a_tcp_connection_is_reset_when_its_time_is_over(stages: Callable[..., Stage]) -> None:
    stage = stages(seconds=0.3)
    with tcp_client(stage, b"hello") as client, pytest.raises(Ended) as ended:
        client.answer()
    assert ended.value.reset
    stage.wait_held(0)


def test_a_tcp_connection_outlives_an_only_instance(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        address = f"127.0.0.1:{one.getsockname()[1]}"
    stage.publish(stage.entry(address))
    with RawTarget(greet) as instance, tcp_client(stage) as client:
        stage.wait_held(1)
        stage.publish(stage.entry(instance))
        assert client.socket.recv(5, socket.MSG_WAITALL) == b"hello"
