"""A worker in want: of its supervisor, its run-time folder, descriptors, a log, or of time to run."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fastlb.data_plane import log_writer
from fastlb.data_plane.worker import worker_main
from fastlb.model.configuration import Configuration
from fastlb.target_table.counters import Counters
from fastlb.target_table.handover import ask_drain, handover_path
from fastlb.target_table.layout import Snapshot
from fastlb.target_table.pipe import InheritedFd, WorkerStart
from fastlb.target_table.writer import TableWriter
from tests.support.fastlb import FastlbProcess
from tests.support.processes import alive, open_files, wait_until
from tests.support.raw_client import RawClient
from tests.support.raw_target import RawConnection, RawTarget

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def target() -> Iterator[RawTarget]:
    with RawTarget() as one:
        yield one


def status_of(client: RawClient) -> int:
    client.send([GET])
    return client.answer().status


def get(port: int) -> int:
    with RawClient(port) as client:
        return status_of(client)


@contextmanager
def files_limited(pid: int, limit: int) -> Iterator[None]:
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_worker_whose_supervisor_died_before_it_served_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        table, counters = TableWriter(), Counters()
        table.publish(Snapshot(Configuration(), 1, (), (0,)))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        start = WorkerStart(
            0,
            {"http://127.0.0.1:0": [listening]},
            InheritedFd(table.fd),
            InheritedFd(counters.fd),
            theirs,
            str(tmp_path),
        )
        ours.close()
        process = multiprocessing.get_context("spawn").Process(target=worker_main, args=(start,))
        process.start()
        process.join(15)
        assert process.exitcode == 0
        assert list(tmp_path.iterdir()) == []
        theirs.close()
        table.close()


def test_a_worker_serves_though_the_run_time_folder_is_gone(
    target: RawTarget, run_root: Path
) -> None:
    with FastlbProcess(run_root, targets=[target]) as fastlb:
        fastlb.wait_states()
        folder = fastlb.run_dir / fastlb.name
        folder.rename(fastlb.run_dir / "away")
        log = fastlb.log()
        worker = next(iter((fastlb.run_dir / "away").glob("worker-*.sock")))
        os.kill(int(worker.stem.partition("-")[2]), signal.SIGKILL)
        wait_until(lambda: "is ready" in fastlb.log()[len(log) :], 30, "the next worker")
        assert get(fastlb.port) == 200


def test_the_takeover_socket_survives_a_shortage_and_nonsense(
    target: RawTarget, run_root: Path
) -> None:
    with FastlbProcess(run_root, targets=[target]) as fastlb:
        (pid,) = fastlb.worker_pids()
        path = handover_path(str(fastlb.run_dir / fastlb.name), pid)
        fastlb.kill_supervisor()
        with files_limited(pid, 5), socket.socket(socket.AF_UNIX) as early:
            early.settimeout(0.3)
            early.connect(path)
            with pytest.raises(TimeoutError):
                early.recv(1)
        for nonsense in (b"\x81\xa7command\xa5drain", b"\x81\x90\x01", b"\xc1", b"\x91\x01"):
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(30)
                one.connect(path)
                one.sendall(len(nonsense).to_bytes(4, "big") + nonsense)
                assert one.recv(100) == b""
        ask_drain(path, 1.0, time.monotonic() + 5)
        wait_until(lambda: not alive(pid), 30, "the worker's end")


def test_signals_to_the_group_are_the_supervisors(target: RawTarget, run_root: Path) -> None:
    with FastlbProcess(run_root, targets=[target]) as fastlb:
        fastlb.wait_states()
        (pid,) = fastlb.worker_pids()
        for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, number)
        assert get(fastlb.port) == 200
        assert fastlb.worker_pids() == [pid]
        fastlb.stop()


def test_what_was_asked_while_the_worker_stood_still_is_answered(
    target: RawTarget, run_root: Path
) -> None:
    with (
        FastlbProcess(
            run_root,
            *("--header-timeout", "1s", "--idle-timeout", "1s", "--drain-timeout", "1s"),
            targets=[target],
        ) as fastlb,
        ExitStack() as open_clients,
    ):
        fastlb.wait_states()
        (pid,) = fastlb.worker_pids()
        clients = [open_clients.enter_context(RawClient(fastlb.port)) for _ in range(10)]
        for client in clients[:5]:
            assert status_of(client) == 200
        os.kill(pid, signal.SIGSTOP)
        for client in clients:
            client.send([GET])
        time.sleep(1.7)  # longer than every timeout
        os.kill(pid, signal.SIGCONT)
        assert [client.answer().status for client in clients] == [200] * 10


def test_a_101_needs_no_descriptors(run_root: Path) -> None:
    asked, go = threading.Event(), threading.Event()

    def upgrade(connection: RawConnection) -> None:
        connection.read_head()
        asked.set()
        go.wait(10)
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        connection.read_to_end()

    with (
        RawTarget(upgrade) as target,
        FastlbProcess(run_root, "--no-health-check", targets=[target]) as fastlb,
        RawClient(fastlb.port) as client,
    ):
        (pid,) = fastlb.worker_pids()
        client.send(
            [b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"]
        )
        assert asked.wait(30)
        held = open_files(pid)
        with files_limited(pid, 5):
            go.set()
            assert client.answer().status == 101
            assert open_files(pid) <= held


def test_a_dead_workers_connections_count_no_more_without_a_supervisor(
    target: RawTarget, run_root: Path
) -> None:
    limit = 20
    with (
        FastlbProcess(
            run_root, "--max-connections", str(limit), targets=[target], workers=2
        ) as fastlb,
        ExitStack() as open_clients,
    ):
        fastlb.wait_states()
        held = [open_clients.enter_context(RawClient(fastlb.port)) for _ in range(limit)]
        assert [status_of(client) for client in held] == [200] * limit
        wait_until(
            lambda: all(one["connections"] for one in fastlb.status()["workers"]), 30, "both hold"
        )
        first = fastlb.status()["workers"][0]
        fastlb.kill_supervisor()
        os.kill(first["pid"], signal.SIGKILL)
        wait_until(lambda: not alive(first["pid"]), 30, "the worker's end")

        def room_for_all() -> bool:
            with ExitStack() as more:
                new = [
                    more.enter_context(RawClient(fastlb.port)) for _ in range(first["connections"])
                ]
                return {status_of(client) for client in new} == {200}

        wait_until(room_for_all, 30, "the dead worker's connections are forgotten", every=0.3)


def test_a_worker_without_its_access_log_serves_and_says_so(
    target: RawTarget, run_root: Path
) -> None:
    folder = run_root / "logs"
    folder.mkdir()
    with FastlbProcess(
        run_root, "--access-log", str(folder / "access.log"), targets=[target]
    ) as fastlb:
        fastlb.wait_states()
        folder.rename(run_root / "logs-away")
        log = fastlb.log()
        pid = fastlb.kill_worker()
        wait_until(lambda: "is ready" in fastlb.log()[len(log) :], 30, f"one after {pid}")
        assert get(fastlb.port) == 200
        assert "no access log: cannot open" in fastlb.log()


def test_lines_that_a_full_disk_lost_are_counted_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = threading.Event()
    refused = threading.Event()
    write = os.write

    def limited(fd: int, data: bytes) -> int:
        if not full.is_set():
            return write(fd, data)
        refused.set()
        raise OSError(28, "no space left on device")

    log = log_writer.LogWriter(str(tmp_path / "log"), lambda count: b"%d lost\n" % count)
    monkeypatch.setattr(log_writer.os, "write", limited)
    full.set()
    log.put(b"line\n" * 1000, 1000)
    for _ in range(3):  # the count must outlive attempts to write it
        refused.clear()
        assert refused.wait(30)
    full.clear()
    log.close(2.0)
    assert log.dropped == 1000
    assert (tmp_path / "log").read_text() == "1000 lost\n"
