"""HealthMonitor and its probes against real sockets that answer, refuse, hang, drip and lie."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from fastlb.control_plane.health_monitor import HealthMonitor, read_waiting
from fastlb.control_plane.health_probes import (
    Prober,
    ProbeResult,
    judge_answer,
    plan_probe,
)
from fastlb.control_plane.registered_target import RegisteredTarget
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.model.address import Address
from fastlb.model.health_check import HealthCheck
from fastlb.model.target_group import Target, TargetGroup
from fastlb.target_table.counters import Cell, Counters, Worker, block
from fastlb.target_table.pipe import Evidence

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
HTTP = HealthCheck(path="/health", interval=0.2, timeout=0.3)
TCP = replace(HTTP, path=None)
WITHIN = 5.0

Answer = Callable[[socket.socket, bytes], None]


def run(scenario: Coroutine[object, object, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


async def until(condition: Callable[[], bool], what: str, within: float = WITHIN) -> float:
    """Wait for a condition; the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + within, f"not within {within:g} s: {what}"
        await asyncio.sleep(0.005)
    return time.monotonic() - begun


class RawTarget:
    """A listening socket whose answers one thread writes; `answer` may be changed at any time."""

    def __init__(self, answer: Answer | None, path: Path | None = None, backlog: int = 64) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.accepted = 0
        self.errors: list[OSError] = []
        if path is None:
            self.listening = socket.create_server(("127.0.0.1", 0), backlog=backlog)
            self.address = Address(host="127.0.0.1", port=self.listening.getsockname()[1])
        else:
            self.listening = socket.socket(socket.AF_UNIX)
            self.listening.bind(str(path))
            self.listening.listen(backlog)
            self.address = Address(path=str(path))
        self._thread: threading.Thread | None = None
        if answer is not None:
            self._thread = threading.Thread(target=self._serve)
            self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self.listening.accept()
            except OSError:
                return
            self.accepted += 1
            with sock:
                sock.settimeout(2)
                try:
                    request = sock.recv(4096)
                    if request:
                        self.requests.append(request)
                        assert self.answer is not None
                        self.answer(sock, request)
                except OSError as error:
                    self.errors.append(error)

    def close(self) -> None:
        try:
            self.listening.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listening.close()
        if self._thread is not None:
            self._thread.join(5)
            assert not self._thread.is_alive()


def says(data: bytes) -> Answer:
    return lambda sock, request: sock.sendall(data)


def drips(sock: socket.socket, request: bytes) -> None:
    for one in OK:
        sock.sendall(bytes([one]))
        time.sleep(0.05)


@pytest.fixture
def make_target() -> Iterator[Callable[..., RawTarget]]:
    made: list[RawTarget] = []

    def make(answer: Answer | None, **settings: object) -> RawTarget:
        made.append(RawTarget(answer, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for target in made:
        target.close()


MakeTarget = Callable[..., RawTarget]


def free_port() -> int:
    """A port that nobody listens on, as long as nobody else is given it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Watch:
    """A registry and its monitor over the given addresses, in one group `web`."""

    def __init__(self, addresses: list[Address], check: HealthCheck, **settings: object) -> None:
        group = TargetGroup(
            name="web",
            targets=tuple(Target(address) for address in addresses),
            health_check=check,
            **settings,  # type: ignore[arg-type]
        )
        self.changes = 0
        self.counters = Counters()
        self.row = self.counters.row(0)
        self.row[Worker.PID] = os.getpid()
        self.registry = TargetRegistry([group], {"web"}, self._changed)
        self.monitor = HealthMonitor(self.registry, self.counters, 4, asyncio.get_running_loop())

    def _changed(self) -> None:
        self.changes += 1

    async def __aenter__(self) -> Watch:
        self.monitor.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.monitor.stop()
        self.row.release()
        self.counters.close()

    def target(self, index: int = 0) -> RegisteredTarget:
        found = self.registry.by_index(index)
        assert found is not None
        return found

    def state(self, index: int = 0) -> str:
        return self.target(index).state

    def reason(self, index: int = 0) -> str:
        return self.target(index).describe(time.monotonic())

    def fails(self, index: int = 0, kind: str = "refused") -> None:
        """Report what a worker would."""
        epoch = self.target(index).health.epoch
        self.monitor.on_evidence(Evidence(index, epoch, kind, "errno 111"))

    def waits(self, index: int, count: int = 3) -> None:
        """Requests wait at the target from now on."""
        at = block(index)
        self.row[at + Cell.WAITING_SINCE_NS] = time.monotonic_ns()
        self.row[at + Cell.WAITING] = count

    def sends(self, index: int) -> None:
        self.row[block(index) + Cell.LAST_BYTE_NS] = time.monotonic_ns()


async def probe(address: Address, check: HealthCheck) -> ProbeResult:
    loop = asyncio.get_running_loop()
    prober = Prober(loop)
    done: asyncio.Future[ProbeResult] = loop.create_future()
    prober.start(plan_probe(address, check), done.set_result)
    try:
        return await asyncio.wait_for(done, WITHIN)
    finally:
        prober.close()


# -- probes


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(OK), ""),
        (says(b"HTTP/1.0 204 \r\n\r\n"), ""),
        (says(b"HTTP/1.1 302\r\nLocation: /\r\n\r\n"), ""),
        (says(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK), ""),
        (says(b"HTTP/1.1 503 Busy\r\n\r\n"), "answered 503, expected 200-399"),
        (says(b"SSH-2.0-OpenSSH_9\r\n"), "not an HTTP answer: 'SSH-2.0-OpenSSH_9'"),
        (says(b"\x00\xff\x80"), r"not an HTTP answer: '\x00\\xff\\x80'"),
        (says(b"HTTP/1.1 abc\r\n"), "not an HTTP answer: 'HTTP/1.1 abc'"),
        (says(b""), "closed the connection without an answer"),
        (says(b"HTTP/1.1 2"), "closed the connection in its status line"),
        (drips, "no complete status line within 0.3 s"),
    ],
)
def test_http_probes(make_target: MakeTarget, answer: Answer, reason: str) -> None:
    target = make_target(answer)

    async def scenario() -> None:
        result = await probe(target.address, HTTP)
        assert result.reason == reason
        assert (result.outcome == "passed") == (not reason)

    run(scenario())


@pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_every_prefix_of_an_answer_is_waited_for(cut: bytes) -> None:
    data = cut + b"HTTP/1.1 200 OK\r\n"
    for size in range(len(data)):
        assert judge_answer(data[:size], HTTP.matcher) is None, data[:size]
    result = judge_answer(data, HTTP.matcher)
    assert result is not None
    assert result.outcome == "passed"
    endless = judge_answer(b"HTTP/1.1 200 " + b"x" * 10000, HTTP.matcher)
    assert endless is not None
    assert endless.outcome == "failed"


def test_what_a_probe_sends(make_target: MakeTarget, tmp_path: Path) -> None:
    tcp = make_target(says(OK))
    unix = make_target(says(OK), path=tmp_path / "app.sock")

    async def scenario() -> None:
        assert (await probe(tcp.address, HTTP)).outcome == "passed"
        assert (await probe(unix.address, replace(HTTP, host="app.example"))).outcome == "passed"
        by_port = replace(HTTP, port=tcp.address.port)
        assert (await probe(unix.address, by_port)).outcome == "passed"
        assert (await probe(Address(host="127.0.0.1", port=1), by_port)).outcome == "passed"

    run(scenario())
    first, second = tcp.requests[0], unix.requests[0]
    assert first.startswith(b"GET /health HTTP/1.1\r\nHost: %s\r\n" % str(tcp.address).encode())
    assert b"\r\nUser-Agent: fastlb-health-check\r\n" in first
    assert b"\r\nConnection: close\r\n" in first
    assert b"\r\nHost: app.example\r\n" in second
    assert len(tcp.requests) == 3
    assert len(unix.requests) == 1


def test_a_target_that_writes_its_body_late_is_not_cut_off(make_target: MakeTarget) -> None:
    ended = threading.Event()

    def in_pieces(sock: socket.socket, request: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        for piece in (b"b", b"o", b"d", b"y"):
            time.sleep(0.01)
            sock.sendall(piece)
        ended.set()

    target = make_target(in_pieces)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        prober = Prober(loop)
        done: asyncio.Future[ProbeResult] = loop.create_future()
        prober.start(plan_probe(target.address, HTTP), done.set_result)
        assert (await asyncio.wait_for(done, WITHIN)).outcome == "passed"
        await until(ended.is_set, "the target wrote its body")
        await until(lambda: not prober._lingering, "the connection was closed")

    run(scenario())
    assert not target.errors


def test_tcp_probes(make_target: MakeTarget, tmp_path: Path) -> None:
    silent = make_target(None)
    unix = make_target(None, path=tmp_path / "app.sock")
    gone, port = tmp_path / "gone.sock", free_port()

    async def scenario() -> None:
        assert (await probe(silent.address, TCP)).outcome == "passed"
        assert (await probe(unix.address, TCP)).outcome == "passed"
        refused = await probe(Address(host="127.0.0.1", port=port), TCP)
        assert refused == ProbeResult("failed", f"connection refused on 127.0.0.1:{port}")
        missing = await probe(Address(path=str(gone)), TCP)
        assert missing == ProbeResult("failed", f"no socket file at unix:{gone}")

    run(scenario())


def test_a_full_accept_queue_is_a_time_out(make_target: MakeTarget, tmp_path: Path) -> None:
    full = make_target(None, path=tmp_path / "app.sock", backlog=0)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    clients[0].connect(str(tmp_path / "app.sock"))

    async def scenario() -> None:
        result = await probe(full.address, TCP)
        assert result.outcome == "timeout"
        assert result.reason.startswith("no connection on unix:")

    run(scenario())
    for client in clients:
        client.close()


def test_a_hung_target_times_out(make_target: MakeTarget) -> None:
    hung = make_target(None)

    async def scenario() -> None:
        begun = time.monotonic()
        result = await probe(hung.address, HTTP)
        assert result == ProbeResult("timeout", "no answer within 0.3 s")
        assert 0.25 < time.monotonic() - begun < 10

    run(scenario())


# -- the monitor


def test_the_first_round_tells_the_living_from_the_dead(make_target: MakeTarget) -> None:
    living, wrong = make_target(says(OK)), make_target(says(b"HTTP/1.1 500 No\r\n\r\n"))
    dead = Address(host="127.0.0.1", port=free_port())

    async def scenario() -> None:
        async with Watch([living.address, wrong.address, dead], HTTP) as watch:
            await watch.monitor.first_round(WITHIN)
            assert watch.state(0) == "healthy"
            assert watch.changes == 1
            await until(lambda: watch.state(1) == watch.state(2) == "unhealthy", "both are out")
            assert watch.reason(1).startswith("answered 500, expected 200-399, ")
            assert watch.reason(2).startswith(f"connection refused on 127.0.0.1:{dead.port}, ")
            assert "checks failed, last 0." in watch.reason(2)

    run(scenario())


def test_the_first_round_does_not_wait_for_ever(make_target: MakeTarget) -> None:
    hung = make_target(None)

    async def scenario() -> None:
        async with Watch([hung.address], replace(HTTP, timeout=30.0)) as watch:
            begun = time.monotonic()
            await watch.monitor.first_round(0.1)
            assert time.monotonic() - begun < 10
            assert watch.state() == "initial"

    run(scenario())


def test_evidence_ejects_and_a_check_brings_back_at_once(make_target: MakeTarget) -> None:
    target = make_target(says(OK))

    async def scenario() -> None:
        async with Watch([target.address], replace(HTTP, interval=30.0)) as watch:
            await watch.monitor.first_round(WITHIN)
            watch.fails()
            assert watch.state() == "unhealthy"
            took = await until(lambda: watch.state() == "healthy", "it is back")
            assert took < 10, "long before the next check is due"
            watch.fails()
            took = await until(lambda: watch.state() == "healthy", "it is back again")
            assert took > 0.45, "the second ejection in a row lasts half a second"
            watch.monitor.on_evidence(Evidence(0, 1, "refused", "of before"))
            watch.monitor.on_evidence(Evidence(77, 1, "refused", "of nobody"))
            assert watch.state() == "healthy"

    run(scenario())


def test_evidence_does_not_wait_for_a_probe_that_hangs(make_target: MakeTarget) -> None:
    target = make_target(says(OK))
    release = threading.Event()

    def hangs(sock: socket.socket, request: bytes) -> None:
        release.wait(5)

    async def scenario() -> None:
        check = replace(HTTP, interval=0.1, timeout=30.0)
        async with Watch([target.address], check) as watch:
            await watch.monitor.first_round(WITHIN)
            target.answer = hangs
            before = len(target.requests)
            await until(lambda: len(target.requests) > before, "a probe hangs")
            target.answer = says(OK)
            watch.fails()
            assert watch.state() == "unhealthy"
            release.set()
            await until(lambda: watch.state() == "healthy", "a new probe brought it back")

    run(scenario())


def test_a_dead_target_stays_out_and_comes_back_when_it_listens_again(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    target = RawTarget(says(OK), path)

    async def scenario() -> None:
        nonlocal target
        async with Watch([target.address], HTTP) as watch:
            await watch.monitor.first_round(WITHIN)
            await asyncio.to_thread(target.close)
            watch.fails()
            await until(lambda: "checks failed" in watch.reason(), "a check failed")
            assert "connection refused on unix:" in watch.reason()
            assert watch.state() == "unhealthy"
            path.unlink()
            target = RawTarget(says(OK), path)
            await until(lambda: watch.state() == "healthy", "it is back")

    try:
        run(scenario())
    finally:
        target.close()


def test_flapping_is_seen_and_forgiven_by_the_thresholds(make_target: MakeTarget) -> None:
    answers = {"bad": 0}

    def flaps(sock: socket.socket, request: bytes) -> None:
        answers["bad"] += 1
        sock.sendall(OK if answers["bad"] % 3 == 0 else b"HTTP/1.1 500 No\r\n\r\n")

    target = make_target(says(OK))

    async def scenario() -> None:
        async with Watch([target.address], replace(HTTP, interval=0.1)) as watch:
            await watch.monitor.first_round(WITHIN)
            target.answer = flaps
            await until(lambda: answers["bad"] > 15, "it flapped")
            assert watch.state() == "healthy"
            assert watch.changes == 1
            target.answer = says(b"HTTP/1.1 500 No\r\n\r\n")
            await until(lambda: watch.state() == "unhealthy", "it is out")
            target.answer = says(OK)
            await until(lambda: watch.state() == "healthy", "it is back")

    run(scenario())


def test_a_time_out_of_a_target_that_answers_requests_is_no_failure(
    make_target: MakeTarget,
) -> None:
    hung = make_target(says(OK))

    async def scenario() -> None:
        async with Watch([hung.address], replace(HTTP, interval=0.1, timeout=0.1)) as watch:
            await watch.monitor.first_round(WITHIN)
            hung.answer = lambda sock, request: time.sleep(0.15)

            def busy() -> bool:
                watch.sends(0)
                return "busy, not dead" in watch.reason()

            await until(busy, "the time-out was taken for overload")
            before = hung.accepted

            def still_busy() -> bool:
                watch.sends(0)
                return hung.accepted >= before + 4

            await until(still_busy, "more checks timed out")
            assert watch.state() == "healthy"
            await until(lambda: watch.state() == "unhealthy", "without bytes it is dead")

    run(scenario())


def test_unchecked_targets_are_not_probed(make_target: MakeTarget) -> None:
    target = make_target(says(OK))

    async def scenario() -> None:
        async with Watch([target.address], replace(HTTP, enabled=False)) as watch:
            await watch.monitor.first_round(WITHIN)
            assert watch.state() == "healthy"
            watch.fails()
            assert watch.state() == "unhealthy"
            took = await until(lambda: watch.state() == "healthy", "its time was over")
            assert 0.9 < took < 15

    run(scenario())
    assert target.accepted == 0


def test_targets_come_and_go_while_the_monitor_runs(make_target: MakeTarget) -> None:
    first, second = make_target(says(OK)), make_target(says(OK))

    async def scenario() -> None:
        async with Watch([first.address], HTTP) as watch:
            await watch.monitor.first_round(WITHIN)
            added = watch.registry.register("web", Target(second.address))
            await until(lambda: added.state == "healthy", "the new target was checked")
            watch.registry.deregister(0)
            seen: list[int] = []

            def quiet() -> bool:
                seen.append(first.accepted)
                return len(seen) > 120 and len(set(seen[-100:])) == 1

            await until(quiet, "nobody probes it any more")
            watch.fails(1)
            assert added.state == "unhealthy"

    run(scenario())


def test_a_thousand_targets_are_probed_once_each_in_the_first_round(
    make_target: MakeTarget,
) -> None:
    """On addresses of the loopback network, so that one listening socket is a thousand targets."""

    async def scenario() -> None:
        listening = socket.create_server(("0.0.0.0", 0), backlog=1024)
        port = listening.getsockname()[1]
        addresses = [
            Address(host=f"127.0.{high}.{low}", port=port)
            for high in range(1, 5)
            for low in range(1, 251)
        ]
        with listening:
            async with Watch(addresses, replace(TCP, interval=5.0)) as watch:
                await watch.monitor.first_round(WITHIN)
                assert watch.registry.eligible("web") == 1000
                assert watch.changes == 1000

    run(scenario())


# -- stalls


def test_a_hung_http_target_is_suspect_within_its_stall_timeout(make_target: MakeTarget) -> None:
    hung, well = make_target(says(OK)), make_target(says(OK))
    release = threading.Event()

    def hangs(sock: socket.socket, request: bytes) -> None:
        if not release.wait(5):
            return
        sock.sendall(OK)

    async def scenario() -> None:
        check = replace(HTTP, interval=20.0, timeout=3.0)
        async with Watch([hung.address, well.address], check, stall_timeout=0.6) as watch:
            await watch.monitor.first_round(WITHIN)
            hung.answer = hangs
            watch.waits(0)
            took = await until(lambda: watch.target().health.suspect, "it is suspect")
            assert took < 2.5, "before the check is over"
            assert watch.state() == "healthy"
            assert watch.registry.entries()[0].suspect
            assert "requests wait, suspect for 0." in watch.reason()
            release.set()
            await until(lambda: not watch.target().health.suspect, "a passed check ends it")

    run(scenario())


def test_a_long_poll_is_no_stall(make_target: MakeTarget) -> None:
    polled, well = make_target(says(OK)), make_target(says(OK))

    async def scenario() -> None:
        check = replace(HTTP, interval=20.0)
        async with Watch([polled.address, well.address], check, stall_timeout=0.3) as watch:
            await watch.monitor.first_round(WITHIN)
            watch.waits(0, 1)
            await until(lambda: polled.accepted == 2, "its silence made a probe")
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline:
                assert not watch.target().health.suspect
                await asyncio.sleep(0.01)
            assert polled.accepted == 2, "proof of life holds"

    run(scenario())


def test_a_stopped_process_behind_a_tcp_check_is_suspect_until_it_sends(tmp_path: Path) -> None:
    program = (
        "import socket\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\n"
        "while True: s.accept()[0].close()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    async def scenario() -> None:
        addresses = []
        for process in processes:
            assert process.stdout is not None
            addresses.append(Address(host="127.0.0.1", port=int(process.stdout.readline())))
        async with Watch(addresses, TCP, stall_timeout=0.3) as watch:
            await watch.monitor.first_round(WITHIN)
            processes[0].send_signal(signal.SIGSTOP)
            watch.waits(0)
            await until(lambda: watch.target().health.suspect, "it is suspect")
            assert watch.state() == "healthy", "the kernel accepts for it"
            assert watch.registry.eligible("web") == 1
            processes[0].send_signal(signal.SIGCONT)
            watch.sends(0)
            await until(lambda: not watch.target().health.suspect, "a byte ends it")
            watch.row[block(0) + Cell.WAITING] = 0
            assert not watch.target(1).health.suspect

    try:
        run(scenario())
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()


def test_a_stopped_process_behind_an_http_check_goes_out_and_comes_back() -> None:
    program = (
        "import socket\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\n"
        "while True:\n"
        "    c = s.accept()[0]\n"
        "    try:\n"
        "        c.recv(4096); c.sendall(b'HTTP/1.1 200 OK\\r\\n\\r\\n')\n"
        "    except OSError: pass\n"
        "    c.close()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)

    async def scenario() -> None:
        assert process.stdout is not None
        address = Address(host="127.0.0.1", port=int(process.stdout.readline()))
        async with Watch([address], HTTP) as watch:
            await watch.monitor.first_round(WITHIN)
            assert watch.state() == "healthy"
            process.send_signal(signal.SIGSTOP)
            await until(lambda: watch.state() == "unhealthy", "it hangs")
            assert watch.reason().startswith("no answer within 0.3 s, ")
            assert " checks failed, last " in watch.reason()
            assert watch.registry.fail_open("web")
            process.send_signal(signal.SIGCONT)
            await until(lambda: watch.state() == "healthy", "it goes on")

    try:
        run(scenario())
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def test_reading_the_waiting_cells() -> None:
    counters = Counters()
    try:
        for row, index, count, since in ((0, 0, 2, 50), (1, 0, 3, 40), (1, 7, 1, 9), (2, 8, 1, 1)):
            counters.row(row)[block(index) + Cell.WAITING] = count
            counters.row(row)[block(index) + Cell.WAITING_SINCE_NS] = since
        assert read_waiting(counters.cells, [0, 1], 8) == {0: (5, 40), 7: (1, 9)}
        assert read_waiting(counters.cells, [0, 1, 2], 7) == {0: (5, 40)}
        assert read_waiting(counters.cells, [], 7) == {}
        assert read_waiting(counters.cells, [0], 0) == {}
    finally:
        counters.close()


def test_nothing_is_left_open(make_target: MakeTarget) -> None:
    targets = [make_target(None), make_target(says(OK))]

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def scenario() -> None:
        before = open_files()
        async with Watch([target.address for target in targets], HTTP) as watch:
            await until(lambda: watch.state(1) == "healthy", "it was probed")
        assert open_files() <= before

    run(scenario())
