"""The access log of a running fastlb: one line for each request whatever becomes of it, through rotations
and over slow, full and missing files, none of which a request waits for."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from fastlb.data_plane.log_writer import LogWriter
from fastlb.data_plane.splice import reset_at_close
from tests.support.fastlb import ROOT, FastlbProcess
from tests.support.processes import RUN_DIR_VARIABLE, wait_until
from tests.support.raw_client import RawClient
from tests.support.raw_target import RawConnection, RawTarget, answer, echo_requests
from tests.support.targets import DemoTarget

TOML = """
access_log = "{log}"
drain_timeout = "1s"
workers = 1

[[listeners]]
address = "http://127.0.0.1:0"
default = {{ forward = "raw" }}
idle_timeout = "1s"

[[listeners.rules]]
priority = 5
path = ["/ws"]
forward = "demo"

[[listeners.rules]]
priority = 6
path = ["/gone"]
redirect = {{ path = "/there" }}

[[listeners]]
address = "tcp://127.0.0.1:0"
default = {{ forward = "echo" }}

[[listeners]]
address = "tcp://127.0.0.1:0"
default = {{ forward = "nobody" }}

[target_groups.raw]
targets = ["{raw}"]
health_check = false
response_timeout = "1s"

[target_groups.demo]
targets = ["{demo}"]
health_check = false

[target_groups.echo]
targets = ["127.0.0.1:{echo}"]
health_check = false

[target_groups.nobody]
targets = ["127.0.0.1:{nobody}"]
health_check = false
"""
Line = dict[str, Any]
ASKED = threading.Event()
"""The raw target has a request for /slow."""


class Logged:
    """A fastlb with an access log, and targets that do what a path says."""

    def __init__(self, root: Path, folder: Path, stack: ExitStack) -> None:
        self.log = folder / "access.log"
        echo = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.echo = echo.getsockname()[1]
        threading.Thread(target=_echo_once, args=(echo,), daemon=True).start()
        self.nobody = stack.enter_context(socket.socket())
        self.nobody.bind(("127.0.0.1", 0))
        self.raw = stack.enter_context(RawTarget(_as_asked))
        self.demo = stack.enter_context(DemoTarget("demo"))
        config = folder / "fastlb.toml"
        config.write_text(
            TOML.format(
                log=self.log,
                raw=self.raw,
                demo=self.demo,
                echo=self.echo,
                nobody=self.nobody.getsockname()[1],
            )
        )
        self.fastlb = stack.enter_context(
            FastlbProcess(root, "--config", str(config), listen=(), workers=None)
        )

    def line(self, wanted: Callable[[Line], bool]) -> Line:
        """The only line that is wanted, once it is there."""
        found = wait_until(
            lambda: [one for one in lines_of(self.log) if wanted(one)], 30, "the line"
        )
        (one,) = found
        return one

    def of(self, path: str) -> Line:
        return self.line(lambda one: one["target_uri"] == path)


def _echo_once(server: socket.socket) -> None:
    try:
        connection, _ = server.accept()
    except OSError:
        return
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def _as_asked(connection: RawConnection) -> None:
    while True:
        raw = connection.read_request()
        path = raw.split(b" ")[1]
        if path.startswith(b"/slow"):
            ASKED.set()
            connection.never_answer()
        elif path == b"/cut":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            time.sleep(0.05)
            connection.close()
            return
        elif path == b"/parts":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
            time.sleep(0.2)
            connection.send(b"67890")
        else:
            connection.send(answer(b"ok"))


def lines_of(*paths: Path) -> list[Line]:
    found = []
    for path in paths:
        if path.exists():
            found += [json.loads(line) for line in path.read_bytes().splitlines()]
    return found


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


@pytest.fixture(scope="module")
def logged(run_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    with ExitStack() as stack:
        stage = Logged(run_root, tmp_path_factory.mktemp("logged"), stack)
        yield stage
        assert "Traceback" not in stage.fastlb.log()


def test_a_response_in_parts_has_the_time_of_its_first_byte(logged: Logged) -> None:
    with RawClient(logged.fastlb.port) as client:
        client.send([get("/parts")])
        size = len(client.answer().body)
        port = client.socket.getsockname()[1]
    one = logged.of("/parts")
    assert size == 10
    assert one["response_ms"] < 150 < one["total_ms"]
    assert one["bytes_out"] == 10 + len(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    assert one["client"] == f"127.0.0.1:{port}"


def test_a_request_with_a_body(logged: Logged) -> None:
    raw = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    with RawClient(logged.fastlb.port) as client:
        client.send([raw])
        assert client.answer("POST").status == 200
    assert logged.of("/body")["bytes_in"] == len(raw)
    chunked = b"POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with RawClient(logged.fastlb.port) as client:
        client.send([chunked + b"5\r\nhello\r\n0\r\n\r\n"])
        assert client.answer("POST").status == 200
    assert logged.of("/chunks")["bytes_in"] == len(chunked) + 5


def test_a_client_that_goes_is_a_499(logged: Logged) -> None:
    with RawClient(logged.fastlb.port) as client:
        client.send([get("/slow/gone")])
        assert ASKED.wait(30)
        # By a reset: one that only ends its side may wait for the answer.
        reset_at_close(client.socket)
    one = logged.of("/slow/gone")
    assert (one["status"], one["ended_by"], one["termination"]) == (499, "client", "client_gone")
    assert one["response_ms"] is None


def test_a_target_that_is_silent_or_breaks_off(logged: Logged) -> None:
    with RawClient(logged.fastlb.port) as client:
        client.send([get("/slow")])
        assert client.answer().status == 504
    one = logged.of("/slow")
    assert (one["status"], one["ended_by"]) == (504, "target")
    assert one["termination"] == "http_response_timeout"
    assert one["total_ms"] >= 950
    with RawClient(logged.fastlb.port) as client:
        client.send([get("/cut")])
        client.rest()
    one = logged.of("/cut")
    assert (one["status"], one["ended_by"]) == (200, "target")
    assert one["termination"] == "http_response_incomplete"
    assert one["detail"].startswith("cut: ")


def test_a_redirect(logged: Logged) -> None:
    with RawClient(logged.fastlb.port) as client:
        client.send([get("/gone")])
        assert client.answer().status == 302
    one = logged.of("/gone")
    assert (one["status"], one["rule"], one["target"]) == (302, 6, "-")


def test_a_websocket_is_logged_when_it_ends(logged: Logged) -> None:
    with connect(f"ws://127.0.0.1:{logged.fastlb.port}/ws", compression=None) as socket_:
        socket_.send("x" * 1000)
        assert len(socket_.recv()) >= 1000
        assert not [one for one in lines_of(logged.log) if one["target_uri"] == "/ws"]
    one = logged.of("/ws")
    assert (one["type"], one["status"], one["rule"]) == ("ws", 101, 5)
    assert one["bytes_in"] > 1000
    assert one["bytes_out"] > 1000
    assert one["termination"] == "complete"


def test_tcp_connections(logged: Logged) -> None:
    with socket.create_connection(("127.0.0.1", logged.fastlb.ports[1])) as client:
        port = client.getsockname()[1]
        client.sendall(b"hello")
        assert client.recv(10) == b"hello"
    one = logged.line(lambda one: one["type"] == "tcp" and one["target_group"] == "echo")
    assert one["client"] == f"127.0.0.1:{port}"
    assert (one["bytes_in"], one["bytes_out"], one["termination"]) == (5, 5, "complete")
    assert one["target"] == f"127.0.0.1:{logged.echo}"
    with (
        socket.create_connection(("127.0.0.1", logged.fastlb.ports[2])) as client,
        pytest.raises(ConnectionResetError),
    ):
        client.recv(1)
    one = logged.line(lambda one: one["target_group"] == "nobody")
    assert (one["ended_by"], one["termination"]) == ("fastlb", "destination_unavailable")
    assert "connection refused" in one["detail"]


# -- rotation


def test_each_request_has_one_line_through_rotations(
    start_fastlb: Callable[..., FastlbProcess],
    start_load: Callable[..., Any],
    start_demo: Callable[..., DemoTarget],
    tmp_path: Path,
) -> None:
    log = tmp_path / "access.log"
    fastlb = start_fastlb("--access-log", str(log), targets=[start_demo()], workers=2)
    fastlb.wait_states()
    load = start_load(fastlb.port, connections=8, path="/?{id}", pause=0.005).started()

    def grows(path: Path, size: int = 0) -> None:
        wait_until(lambda: path.exists() and path.stat().st_size > size, 30, f"{path} grows")

    grows(log)
    log.rename(tmp_path / "first")  # noticed by itself
    grows(log)
    log.rename(tmp_path / "second")
    fastlb.process.send_signal(signal.SIGUSR1)
    grows(log)
    log.rename(tmp_path / "third")
    done = subprocess.run(
        [sys.executable, "-m", "fastlb", "logs", "reopen", "--name", fastlb.name],
        cwd=ROOT,
        env=os.environ | {RUN_DIR_VARIABLE: str(fastlb.run_dir)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == f"2 workers opened {log} anew\n", done.stderr
    # Nobody writes to it any more: it may be packed.
    size = (tmp_path / "third").stat().st_size
    grows(log)
    assert (tmp_path / "third").stat().st_size == size
    result = load.stop()
    assert not result.failures
    fastlb.stop()
    found = lines_of(*(tmp_path / name for name in ("first", "second", "third", "access.log")))
    asked = [one["target_uri"] for one in found if one["status"] == 200]
    assert len(asked) == len(set(asked))
    # A connection that the load's end cut has asked, and was not answered in time to count.
    assert result.succeeded <= len(asked) <= result.succeeded + 8


# -- what takes no lines


def test_a_pipe_that_nobody_reads_costs_no_request_anything(
    start_fastlb: Callable[..., FastlbProcess],
    start_raw_target: Callable[..., RawTarget],
    tmp_path: Path,
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    fastlb = start_fastlb("--access-log", str(pipe), targets=[start_raw_target(echo_requests)])
    fastlb.wait_states()
    count = 500
    with RawClient(fastlb.port) as client:
        slowest = 0.0
        for _ in range(count):
            began = time.perf_counter()
            client.send([get("/")])
            assert client.answer().status == 200
            slowest = max(slowest, time.perf_counter() - began)
        assert slowest < 5.0  # one that waited for the pipe would wait for ever
        wait_until(
            lambda: fastlb.status()["totals"]["log_lines_dropped"] == count, 30, "they are counted"
        )
        with open(pipe, "rb") as reader:  # who comes learns what is missing
            wait_until(lambda: _asked(client), 30, "a line more")
            first = json.loads(reader.readline())
            assert first.get("dropped_lines") or first["target_uri"] == "/"
    wait_until(lambda: "lines of the access log" in fastlb.log(), 30, "it is told")
    fastlb.stop()


def _asked(client: RawClient) -> bool:
    client.send([get("/")])
    return client.answer().status == 200


def test_a_full_disk_costs_no_request_anything(
    start_fastlb: Callable[..., FastlbProcess],
    start_raw_target: Callable[..., RawTarget],
    tmp_path: Path,
) -> None:
    log = tmp_path / "access.log"
    fastlb = start_fastlb("--access-log", str(log), targets=[start_raw_target(echo_requests)])
    fastlb.wait_states()
    (worker,) = fastlb.worker_pids()
    limit = 2500  # bytes: inside a line
    asked = 0
    with RawClient(fastlb.port) as client:

        def ask(count: int) -> None:
            nonlocal asked
            for _ in range(count):
                assert _asked(client)
                asked += 1

        resource.prlimit(worker, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        ask(100)
        wait_until(lambda: fastlb.status()["totals"]["log_lines_dropped"] > 50, 30, "it is full")
        assert log.stat().st_size <= limit
        dropped = fastlb.status()["totals"]["log_lines_dropped"]
        resource.prlimit(
            worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        ask(100)
    fastlb.stop()
    read, torn, told = 0, 0, 0
    for line in log.read_bytes().splitlines():
        try:
            one = json.loads(line)
        except ValueError:
            torn += 1
            continue
        told += one.get("dropped_lines", 0)
        read += "status" in one
    assert torn <= 1
    assert told >= dropped
    assert read + told == asked


def test_a_device_without_space_is_counted(tmp_path: Path) -> None:
    writer = LogWriter("/dev/full", lambda count: b"")
    writer.put(b"one\ntwo\n", 2)
    wait_until(lambda: writer.dropped == 2, 30, "both are lost")
    writer.close(2.0)


def test_the_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr("fastlb.data_plane.log_writer.MOST_QUEUED", 1000)
    # A pipe that is full: its reader has stopped.
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    writer = LogWriter(f"/proc/self/fd/{writing}", lambda count: b"")
    for _ in range(100):
        writer.put(b"x" * 99 + b"\n", 1)
    wait_until(lambda: writer.dropped == 100 - 11, 30, "the rest is lost")
    began = time.monotonic()
    writer.close(0.2)
    assert time.monotonic() - began < 10
    os.close(reading)
    os.close(writing)
    writer.close(10)


def test_lines_that_a_crash_left_unfinished_are_closed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"whole\ntor")
    writer = LogWriter(str(log), lambda count: b"")
    writer.put(b"next\n", 1)
    writer.close(10)
    assert log.read_bytes() == b"whole\ntor\nnext\n"
