"""Limits and failures, each with its proper answer and its cause in Proxy-Status (RFC 9209)."""

from __future__ import annotations

import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.scenarios.http_stage import HttpStage, no_more_in_flight, request_bytes
from tests.support.fastlb import FastlbProcess
from tests.support.processes import open_files, wait_until
from tests.support.raw_client import Answer, RawClient, exchange
from tests.support.raw_target import RawConnection, RawTarget, answer
from tests.support.targets import free_port

HEADER_BYTES = 4096
HEADERS = 20
BODY_BYTES = 10_000
HEADER_SECONDS = 0.5
IDLE_SECONDS = 1.2
SOON_IDLE_SECONDS = 0.4
"""Of a listener for tests that only wait for it: no pause of a busy machine can be too long there."""
RESPONSE_SECONDS = 0.5
CONNECT_SECONDS = 0.3
RESET = struct.pack("ii", 1, 0)
LATE = 1.5
"""What a busy machine may add to a timeout."""

LIMITS = f"""
max_header_bytes = {HEADER_BYTES}
max_headers = {HEADERS}
max_body_bytes = {BODY_BYTES}
header_timeout = "{HEADER_SECONDS}s"
idle_timeout = "{IDLE_SECONDS}s"
"""
SOON_IDLE = LIMITS.replace(f"{IDLE_SECONDS}s", f"{SOON_IDLE_SECONDS}s")
TIMEOUTS = f"""
response_timeout = "{RESPONSE_SECONDS}s"
connect_timeout = "{CONNECT_SECONDS}s"
"""


@pytest.fixture(scope="module")
def stage(run_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpStage]:
    """The first listener has the limits, the second one the defaults, the third one the limits and
    little patience."""
    with HttpStage(
        run_root,
        tmp_path_factory.mktemp("limits"),
        groups=40,
        settings=TIMEOUTS,
        listeners=(LIMITS, "", SOON_IDLE),
        demo=False,
    ) as stage:
        yield stage
        assert "Traceback" not in stage.fastlb.log()


def cause(one: Answer) -> str:
    """Of an answer that fastlb made."""
    (status,) = one.fields("proxy-status")
    assert status.startswith("fastlb; error=")
    return status.removeprefix("fastlb; error=").partition(";")[0]


class Clock:
    """Seconds since it was made; `within` checks a timeout against them."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def within(self, least: float) -> None:
        taken = time.monotonic() - self.began
        assert least - 0.11 <= taken <= least + LATE, f"after {taken:.2f} s instead of {least} s"


# -- sizes


def test_a_request_line_that_is_too_long(stage: HttpStage) -> None:
    one = exchange(stage.port, request_bytes("/" + "a" * HEADER_BYTES))
    assert (one.status, cause(one)) == (414, "http_request_error")
    assert one.fields("connection") == ["close"]
    # Not waited for: the line's end has not come.
    one = exchange(stage.port, b"GET /" + b"a" * HEADER_BYTES)
    assert one.status == 414


def test_a_request_line_over_16_kib_whatever_the_headers_may_be(stage: HttpStage) -> None:
    port = stage.fastlb.ports[1]
    assert exchange(port, request_bytes("/" + "a" * 17000)).status == 414
    way = stage.take()
    with RawClient(port) as client:
        client.send([way.request("/" + "a" * 16000)])
        assert client.answer().status == 200


def test_headers_that_are_too_long(stage: HttpStage) -> None:
    one = exchange(stage.port, request_bytes("/", "A: " + "a" * HEADER_BYTES))
    assert (one.status, cause(one)) == (431, "http_request_error")
    assert exchange(stage.port, b"GET / HTTP/1.1\r\nA: " + b"a" * HEADER_BYTES).status == 431
    assert exchange(stage.fastlb.ports[1], request_bytes("/", "A: " + "a" * 66000)).status == 431


def test_headers_at_their_limit_pass(stage: HttpStage) -> None:
    way = stage.take()
    room = HEADER_BYTES - len(way.request("/", "A: "))
    assert way.ask("/", "A: " + "a" * room).status == 200
    assert way.ask("/", "A: " + "a" * (room + 1)).status == 431


def test_too_many_headers(stage: HttpStage) -> None:
    way = stage.take()
    fields = [f"A{n}: b" for n in range(HEADERS)]
    assert way.ask("/", *fields[1:]).status == 200  # with Host
    one = way.ask("/", *fields)
    assert (one.status, cause(one)) == (431, "http_request_error")
    assert len(way.target.requests) == 1


def test_a_declared_body_that_is_too_long_is_refused_before_it_comes(stage: HttpStage) -> None:
    way = stage.take()
    one = way.ask("/", f"Content-Length: {BODY_BYTES + 1}", method="POST")
    assert (one.status, cause(one)) == (413, "http_request_denied")
    assert one.fields("connection") == ["close"]
    assert not way.target.connections
    assert way.ask(method="POST", body=b"x" * BODY_BYTES).status == 200


def test_a_client_that_sends_too_much_all_the_same_reads_the_413(stage: HttpStage) -> None:
    way = stage.take()
    for _ in range(10):
        with RawClient(stage.port) as client:
            head = way.request("/", "Content-Length: 500000", method="POST")
            client.socket.sendall(head + b"x" * 500_000)
            assert client.answer().status == 413


def test_a_chunked_body_that_becomes_too_long(stage: HttpStage) -> None:
    way = stage.take()
    head = way.request("/", "Transfer-Encoding: chunked", method="POST")
    chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    with RawClient(stage.port) as client:
        client.send([head, chunk * 10, b"0\r\n\r\n"])
        assert client.answer().status == 200
        client.send([head, chunk * 10, b"1\r\nx\r\n"])
        one = client.answer()
        assert (one.status, cause(one)) == (413, "http_request_denied")
    assert len(way.target.requests) == 1
    no_more_in_flight(way)


# -- silence


def test_slowloris_is_answered_408(stage: HttpStage) -> None:
    """A byte now and then does not help: the whole head has its time."""
    clock = Clock()
    with RawClient(stage.port) as client:
        sent = 0
        head = request_bytes("/", "A: " + "a" * 500)
        while not select.select([client.socket], [], [], 0.05)[0]:
            client.socket.sendall(head[sent : sent + 1])
            sent += 1
        one = client.answer()
        assert (one.status, cause(one)) == (408, "http_request_error")
        clock.within(HEADER_SECONDS)
        assert client.rest() == b""


def test_a_client_that_says_nothing_is_closed_without_a_word(stage: HttpStage) -> None:
    clock = Clock()
    with RawClient(stage.port) as client:
        assert client.rest() == b""
    clock.within(HEADER_SECONDS)


def test_an_idle_client_is_closed_without_a_word(stage: HttpStage) -> None:
    way = stage.take()
    with RawClient(stage.fastlb.ports[2]) as client:
        client.send([way.request()])
        assert client.answer().status == 200
        clock = Clock()
        assert client.rest() == b""
    clock.within(SOON_IDLE_SECONDS)


def test_a_head_that_begins_on_an_idle_connection_has_its_time(stage: HttpStage) -> None:
    way = stage.take()
    with RawClient(stage.port) as client:
        client.send([way.request()])
        assert client.answer().status == 200
        clock = Clock()
        client.send([b"GET / HT"])
        assert client.answer().status == 408
    clock.within(HEADER_SECONDS)


@pytest.mark.parametrize("part", [b"", b"abc"])
def test_a_body_that_stops_is_answered_408(stage: HttpStage, part: bytes) -> None:
    way = stage.take()
    with RawClient(stage.fastlb.ports[2]) as client:
        clock = Clock()
        client.send([way.request("/", "Content-Length: 10", method="POST") + part])
        one = client.answer()
        assert (one.status, cause(one)) == (408, "http_request_error")
        clock.within(SOON_IDLE_SECONDS)
    no_more_in_flight(way)
    assert way.target.connections[0].ended.wait(30)


def test_a_slow_body_may_take_longer_than_any_timeout(stage: HttpStage) -> None:
    """Each pause is longer than the target's time to answer, which does not run yet."""
    way = stage.take()
    with RawClient(stage.port) as client:
        client.send([way.request("/", "Content-Length: 3", method="POST")])
        for _ in range(3):
            assert not select.select([client.socket], [], [], RESPONSE_SECONDS + 0.3)[0]
            client.send([b"x"])
        assert client.answer().status == 200


def test_a_target_that_never_takes_the_body(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        target.read_head()
        target.never_read()

    way = stage.take(script)
    with RawClient(stage.port) as client:
        head = way.request("/", "Content-Length: 9000", method="POST")
        client.send([head + b"x" * 9000])
        clock = Clock()
        one = client.answer()
        assert (one.status, cause(one)) == (504, "http_response_timeout")
        clock.within(RESPONSE_SECONDS)
    no_more_in_flight(way)


def test_a_target_that_never_answers(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        target.read_request()
        target.never_answer()

    way = stage.take(script)
    clock = Clock()
    one = way.ask()
    assert (one.status, cause(one)) == (504, "http_response_timeout")
    clock.within(RESPONSE_SECONDS)
    assert way.target.connections[0].ended.wait(30)
    no_more_in_flight(way)


def test_the_clients_connection_outlives_a_504(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        target.read_request()
        target.never_answer()

    way, other = stage.take(script), stage.take()
    with RawClient(stage.port) as client:
        client.send([way.request() + other.request()])
        assert client.answer().status == 504
        assert client.answer().status == 200


@pytest.mark.parametrize(
    "framing", ["Content-Length: 9", "Transfer-Encoding: chunked", "Connection: close"]
)
def test_a_target_that_stops_inside_its_answer_is_cut(stage: HttpStage, framing: str) -> None:
    def script(target: RawConnection) -> None:
        target.read_request()
        start = b"3\r\nabc\r\n" if "chunked" in framing else b"abc"
        target.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + start)
        target.never_answer()

    way = stage.take(script)
    clock = Clock()
    one = way.ask()
    assert (one.status, one.complete) == (200, False)
    clock.within(RESPONSE_SECONDS)
    assert way.target.connections[0].ended.wait(30)


def test_a_steady_answer_may_take_longer_than_the_response_timeout(stage: HttpStage) -> None:
    go = threading.Semaphore(0)

    def script(target: RawConnection) -> None:
        target.read_request()
        target.send(b"HTTP/1.1 200 OK\r\nServer: t\r\nContent-Length: 5\r\n\r\n")
        for _ in range(5):
            assert go.acquire(timeout=30)
            target.send(b"x")
        target.read_request()
        target.send(answer(b""))

    way = stage.take(script)
    with RawClient(stage.port) as client:
        clock = Clock()
        client.send([way.request()])
        for _ in range(5):
            go.release()
            client._until(b"x")
            assert not select.select([client.socket], [], [], RESPONSE_SECONDS * 0.5)[0]
        clock.within(RESPONSE_SECONDS * 2.5)
        client.send([way.request("/next")])
        assert client.answer().status == 200


def test_a_slow_reader_has_the_idle_timeout_and_not_the_response_timeout(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        target.read_request()
        target.send(answer(b"s" * 30_000_000))

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131072)
        client.send([way.request()])
        way.target.wait_requests(1)
        # Longer than the target's time, shorter than the client's own.
        assert not way.target.connections[0].ended.wait(IDLE_SECONDS * 0.7)
        one = client.answer()
        assert one.complete
        assert len(one.body) == 30_000_000
        client.send([way.request()])
        assert way.target.wait_requests(2)
        # And one that reads nothing at all is cut off.
        assert way.target.connections[-1].ended.wait(IDLE_SECONDS + LATE)
    no_more_in_flight(way)


def test_a_client_that_pipelines_and_reads_nothing_is_cut_off(stage: HttpStage) -> None:
    def script(target: RawConnection) -> None:
        while True:
            target.read_request()
            target.send(answer(b"p" * 60_000))

    way = stage.take(script)
    with RawClient(stage.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131072)
        client.socket.sendall(way.request() * 200)
        way.target.wait_requests(1)
        clock = Clock()

        def held() -> int:
            held: int = stage.fastlb.status()["workers"][0]["connections"]
            return held

        wait_until(lambda: held() == 1, 30, "only this client is left")
        wait_until(lambda: not held(), 30, "the client is cut off")
        clock.within(IDLE_SECONDS)
    assert len(way.target.requests) < 200


# -- targets that cannot be reached


@pytest.fixture
def deaf() -> Iterator[str]:
    """A target whose accept queue is full: connecting takes for ever."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        filled = 0
        while True:
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(address)
            if not select.select([], [one], [], 0.2)[1]:
                break
            filled += 1
            assert filled < 64
        yield f"127.0.0.1:{address[1]}"


def test_clients_that_vanish_while_a_target_is_being_connected_leave_nothing(
    run_root: Path, deaf: str
) -> None:
    with FastlbProcess(
        run_root, "--no-health-check", "--connect-timeout", "20s", targets=[deaf]
    ) as fastlb:
        (worker,) = fastlb.worker_pids()
        files = open_files(worker)
        with ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(RawClient(fastlb.port))
                client.send([request_bytes("/")])
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            wait_until(lambda: fastlb.targets()[deaf]["in_flight"] == 20, 30, "all are waiting")
        wait_until(lambda: fastlb.targets()[deaf]["in_flight"] == 0, 30, "none is in flight")
        wait_until(lambda: open_files(worker) <= files + 3, 30, "no descriptor leaks")
        fastlb.stop()


def test_each_cause_of_a_missing_target(run_root: Path, tmp_path: Path, deaf: str) -> None:
    def closes(target: RawConnection) -> None:
        target.read_request()
        target.close()

    def resets(target: RawConnection) -> None:
        target.read_request()
        target.reset()

    def babbles(target: RawConnection) -> None:
        target.read_request()
        target.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        target.read_to_end()

    with RawTarget(closes) as closing, RawTarget(resets) as reset, RawTarget(babbles) as other:
        targets = {
            "empty": ([], 503, "destination_unavailable"),
            "refused": ([f"127.0.0.1:{free_port()}"], 502, "connection_refused"),
            "nowhere": ([f"unix:{tmp_path}/none.sock"], 502, "connection_refused"),
            "deaf": ([deaf], 504, "connection_timeout"),
            "closing": ([closing.address], 502, "connection_terminated"),
            "reset": ([reset.address], 502, "connection_terminated"),
            "other": ([other.address], 502, "http_protocol_error"),
        }
        text = '[[listeners]]\naddress = "http://127.0.0.1:0"\n'
        text += 'default = { fixed_response = { status = 404, body = "none" } }\n'
        for n, name in enumerate(targets):
            text += f'[[listeners.rules]]\npriority = {n + 1}\npath = ["/{name}"]\n'
            text += f'forward = "{name}"\n'
        for name, (addresses, _, _) in targets.items():
            listed = ", ".join(f'"{address}"' for address in addresses)
            text += f"[target_groups.{name}]\ntargets = [{listed}]\nhealth_check = false\n"
            text += TIMEOUTS
        config = tmp_path / "causes.toml"
        config.write_text(text)
        with (
            FastlbProcess(run_root, "--config", str(config), listen=()) as fastlb,
            RawClient(fastlb.port) as client,
        ):
            for name, (_, status, expected) in targets.items():
                for method in ("GET", "POST", "HEAD"):
                    client.send([request_bytes(f"/{name}", method=method)])
                    one = client.answer(method)
                    assert (one.status, cause(one)) == (status, expected), name
                    assert one.fields("retry-after") == (["1"] if status == 503 else [])
                    if method == "GET":
                        assert one.body.startswith(f"{status} ".encode())
                    # The connection is as good as before.
                    client.send([request_bytes("/")])
                    assert client.answer().body == b"none"
            fastlb.stop()


def test_a_refused_request_with_a_body_is_answered_in_order(run_root: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        FastlbProcess(run_root, "--no-health-check", targets=[address]) as fastlb,
        RawClient(fastlb.port) as client,
    ):
        one = request_bytes("/", method="POST", body=b"x" * 1000)
        client.send([one * 20])
        assert [client.answer().status for _ in range(20)] == [502] * 20


# -- connections and descriptors


def test_over_max_connections_are_told_so_and_then_served(run_root: Path) -> None:
    with (
        RawTarget() as target,
        FastlbProcess(
            run_root, "--no-health-check", "--max-connections", "5", targets=[target]
        ) as fastlb,
        ExitStack() as stack,
    ):
        served = [stack.enter_context(RawClient(fastlb.port)) for _ in range(5)]
        for client in served:
            client.send([request_bytes("/in")])
            assert client.answer().status == 200
        # More than are accepted at once to be told: the others wait in the queue for their turn.
        many = [stack.enter_context(RawClient(fastlb.port)) for _ in range(60)]
        for client in many:
            client.send([request_bytes("/out")])
        for client in many:
            one = client.answer()
            assert (one.status, cause(one)) == (503, "connection_limit_reached")
            assert one.fields("retry-after") == ["1"]
            assert client.rest() == b""
            client.socket.close()
        for client in served:
            client.send([request_bytes("/still")])
            assert client.answer().status == 200
        served[0].socket.close()

        def is_served() -> bool:
            with RawClient(fastlb.port) as client:
                client.send([request_bytes("/again")])
                return client.answer().status == 200

        wait_until(is_served, 30, "a new client is served")
        assert b"/out" not in b"".join(raw for _, raw in target.requests)
        fastlb.stop()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_out_of_descriptors_a_worker_serves_on_and_recovers(run_root: Path) -> None:
    with (
        RawTarget() as target,
        FastlbProcess(run_root, "--no-health-check", targets=[target]) as fastlb,
        ExitStack() as stack,
    ):
        (worker,) = fastlb.worker_pids()
        served = [stack.enter_context(RawClient(fastlb.port)) for _ in range(4)]

        def all_served() -> None:
            for client in served:
                client.send([request_bytes("/in")])
                assert client.answer().status == 200

        all_served()
        soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (open_files(worker), hard))
        crowd = [stack.enter_context(RawClient(fastlb.port)) for _ in range(8)]
        for client in crowd:
            client.send([request_bytes("/late")])
        before = cpu_seconds(worker)
        began = time.monotonic()
        while time.monotonic() < began + 1.0:
            all_served()
            waiting = [client.socket for client in crowd]
            assert not select.select(waiting, [], [], 0.1)[0]
        share = (cpu_seconds(worker) - before) / (time.monotonic() - began)
        print(f"out of descriptors: {share:.0%} of a core")
        assert share < 0.25
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (soft, hard))
        assert all(client.answer().status == 200 for client in crowd)
        assert fastlb.worker_pids() == [worker]
        assert "Traceback" not in fastlb.log()
        fastlb.stop()


def test_nearly_out_of_descriptors_those_who_are_in_still_reach_the_target(run_root: Path) -> None:
    """New clients must not take the descriptors that the requests of those who are in need."""
    asked = threading.Semaphore(0)
    release = threading.Event()

    def script(target: RawConnection) -> None:
        while True:
            raw = target.read_request()
            if b"/wait" in raw:
                asked.release()
                assert release.wait(30)
            target.send(answer(b"ok"))

    with (
        RawTarget(script) as target,
        FastlbProcess(run_root, "--no-health-check", targets=[target]) as fastlb,
        ExitStack() as stack,
    ):
        (worker,) = fastlb.worker_pids()
        served = [stack.enter_context(RawClient(fastlb.port)) for _ in range(4)]
        for client in served:
            client.send([request_bytes("/in")])
            assert client.answer().status == 200
        _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        limit = open_files(worker) + 40
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, hard))
        crowd = [stack.enter_context(RawClient(fastlb.port)) for _ in range(80)]
        wait_until(lambda: fastlb.status()["workers"][0]["connections"] > 10, 30, "some are in")
        for client in served:
            client.send([request_bytes("/wait")])
        stack.callback(release.set)
        for _ in served:
            assert asked.acquire(timeout=30), "a request does not reach the target"
        release.set()
        assert all(client.answer().status == 200 for client in served)
        connections = fastlb.status()["workers"][0]["connections"]
        assert connections < limit
        waiting = crowd[connections:]  # the queue is served in its order
        for client in crowd:
            client.send([request_bytes("/late")])
        assert not select.select([waiting[-1].socket], [], [], 0.3)[0]
        for client in crowd[:connections]:
            client.socket.close()
        for client in waiting[:10]:
            assert client.answer().status == 200
        fastlb.stop()
