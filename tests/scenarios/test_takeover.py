"""A supervisor is killed, its workers serve on, and a second start takes over without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from fastlb.control_plane.listen_sockets import ListenSockets
from fastlb.control_plane.orphans import find_orphans
from fastlb.control_plane.run_dir import RunDir
from fastlb.control_plane.takeover import _health, take_over
from fastlb.model.configuration import Configuration
from fastlb.target_table import handover
from fastlb.target_table.handover import HandoverError
from fastlb.target_table.layout import Snapshot, TargetEntry
from fastlb.target_table.pipe import InheritedFd, WorkerStart
from fastlb.target_table.writer import TableWriter
from tests.support.processes import alive, wait_until

from .stand_in import Client, Instance, ask_once
from .test_processes import Load, listener


def pids_of(instance: Instance) -> list[int]:
    return [one["pid"] for one in instance.until_ready()["workers"]]


def gone(pids: list[int]) -> bool:
    return not any(map(alive, pids))


def test_workers_serve_on_and_a_second_start_takes_over_without_a_gap(tmp_path: Path) -> None:
    with Instance(tmp_path, workers=2) as first:
        old = pids_of(first)
        port = first.port
        held = Client(port)
        holder = held.ask()
        load = Load(port, clients=4)
        wait_until(lambda: load.done > 100, 30, "the load runs")

        first.kill_supervisor()
        at = load.done
        wait_until(lambda: load.done > at + 200, 30, "orphans serve on")
        assert held.ask() == holder
        assert set(load.answered) <= set(old)

        go = tmp_path / "go"
        held.send(f"until {go}")  # in flight all through the takeover
        began = time.monotonic()
        with Instance(tmp_path, workers=2, listen=f"127.0.0.1:{port}") as second:
            new = pids_of(second)
            assert not set(new) & set(old)
            go.touch()
            assert held.receive() == holder
            wait_until(lambda: gone(old), 30, "the orphans have ended")
            took = time.monotonic() - began
            wait_until(lambda: all(load.answered[pid] for pid in new), 30, "the new ones serve")
            load.stop()
            print(
                f"{load.done} connections, taken over in {took:.2f} s, longest {load.longest:.3f}"
            )
            assert load.failures == []
            assert "taking over from a supervisor that died: 2 orphaned workers" in second.log
            assert {one.name for one in second.run_dir.glob("worker-*")} == {
                f"worker-{pid}.sock" for pid in new
            }
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(time.monotonic() + 30) == 0
            assert not (tmp_path / "t").exists()
        held.close()


@pytest.mark.parametrize(("before", "after"), [(4, 2), (1, 3)])
def test_the_number_of_workers_may_change(tmp_path: Path, before: int, after: int) -> None:
    with Instance(tmp_path, workers=before) as first:
        old = pids_of(first)
        port = first.port
        first.kill_supervisor()
        load = Load(port, clients=2)
        with Instance(tmp_path, workers=after, listen=f"127.0.0.1:{port}") as second:
            status = second.until_ready()
            wait_until(lambda: gone(old), 30, "the orphans have ended")
            slots = sorted(slot for one in status["workers"] for slot in one["slots"])
            assert slots == list(range(max(before, after)))
            assert all(
                one["index"] == slot % after for one in status["workers"] for slot in one["slots"]
            )
            at = load.done
            wait_until(lambda: load.done > at + 100, 30, "all slots are served")
            load.stop()
            assert load.failures == []


def test_takeovers_follow_one_another(tmp_path: Path) -> None:
    with Instance(tmp_path, workers=1) as first:
        old = pids_of(first)
        port = first.port
        first.kill_supervisor()
        busy = Client(port)
        assert busy.ask() == old[0]
        go = tmp_path / "go"
        busy.send(f"until {go}")
        with Instance(tmp_path, workers=1, listen=f"127.0.0.1:{port}") as second:
            old += pids_of(second)
            wait_until(lambda: "drains" in second.log, 30, "the first orphan drains")
            second.kill_supervisor()
            with Instance(tmp_path, workers=1, listen=f"127.0.0.1:{port}") as third:
                # The first orphan still drains and has no sockets left to give; the second has.
                assert pids_of(third)[0] not in old
                assert "2 orphaned workers" in third.log
                go.touch()
                assert busy.receive() == old[0]
                wait_until(lambda: gone(old), 30, "the orphans have ended")
                assert ask_once(port)
        busy.close()


def test_an_orphan_that_hangs_does_not_hinder(tmp_path: Path) -> None:
    with Instance(tmp_path, workers=2) as first:
        old = pids_of(first)
        port = first.port
        first.kill_supervisor()
        os.kill(old[0], signal.SIGSTOP)
        with Instance(tmp_path, workers=2, listen=f"127.0.0.1:{port}", drain=0.2) as second:
            second.until_ready()
            wait_until(lambda: gone(old[1:]), 30, "the other orphan has ended")
            wait_until(
                lambda: f"pid {old[0]} outstays its drain: SIGTERM" in second.log, 30, "a log"
            )
            assert f"orphaned worker pid {old[0]} does not drain" in second.log
            for _ in range(20):
                assert ask_once(port) not in old
            os.kill(old[0], signal.SIGCONT)
            wait_until(lambda: gone(old), 30, "SIGTERM ends it once it runs")


def test_a_listener_that_is_no_longer_configured_is_given_up(tmp_path: Path) -> None:
    with Instance(tmp_path, workers=2) as first:
        old = pids_of(first)
        port = first.port
        first.kill_supervisor()
        with Instance(tmp_path, workers=2) as second:
            second.until_ready()
            wait_until(lambda: gone(old), 30, "the orphans have ended")
            assert second.port != port
            with pytest.raises(ConnectionRefusedError):
                Client(port)


def test_a_stop_in_the_midst_of_a_takeover_ends_the_orphans_too(tmp_path: Path) -> None:
    with Instance(tmp_path, workers=2) as first:
        old = pids_of(first)
        port = first.port
        first.kill_supervisor()
        with Instance(tmp_path, workers=2, listen=f"127.0.0.1:{port}") as second:
            wait_until(lambda: "taking over" in second.log, 30, "it has begun")
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(time.monotonic() + 30) == 0
            wait_until(lambda: gone(old), 30, "no orphan is left")
            assert not (tmp_path / "t").exists()


# --- the protocol ---------------------------------------------------------------------------


class Worker:
    """The worker's end of the protocol on a loop in a thread of its own."""

    def __init__(self, folder: Path, slots: int) -> None:
        self.orphaned = True
        self.drained: list[float] = []
        self.followed: list[int | None] = []
        self.table = TableWriter()
        found = [socket.socket() for _ in range(slots)]
        self.sockets = {"tcp://a:1": found[:1], "http://b:2": found[1:]}
        pipe = socket.socket()
        self.start = WorkerStart(
            3, self.sockets, InheritedFd(self.table.fd), InheritedFd(-1), pipe, str(folder)
        )
        self.path = handover.handover_path(str(folder), os.getpid())
        self._loop = asyncio.new_event_loop()
        self._server = handover.bind_handover_socket(str(folder))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._task = self._loop.create_task(
            handover.answer_takeover(
                self._server,
                self.start,
                lambda: self.orphaned,
                self.drain,
            )
        )
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    def drain(self, seconds: float, table: int | None) -> None:
        self.followed.append(table)
        self.drained.append(seconds)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()
        self._server.close()
        self.start.pipe.close()
        for sockets in self.sockets.values():
            for one in sockets:
                one.close()
        self.table.close()


def soon(seconds: float = 20.0) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize("slots", [2, 700])
def test_many_descriptors_come_in_order(tmp_path: Path, slots: int) -> None:
    worker = Worker(tmp_path, slots)
    before = len(os.listdir("/proc/self/fd"))
    given = handover.ask_handover(worker.path, soon())
    assert (given.pid, given.index) == (os.getpid(), 3)
    assert list(given.listeners) == list(worker.sockets)
    for key, sockets in given.listeners.items():
        for theirs, ours in zip(worker.sockets[key], sockets, strict=True):
            assert os.fstat(theirs.fileno()).st_ino == os.fstat(ours.fileno()).st_ino
            assert not ours.get_inheritable()
    assert os.fstat(given.table).st_ino == os.fstat(worker.table.fd).st_ino
    given.close()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before, 30, "no descriptor is left")
    worker.close()


def test_the_last_table_comes_with_the_sockets(tmp_path: Path) -> None:
    worker = Worker(tmp_path, 1)
    entry = TargetEntry(0, "web", "127.0.0.1:1", 1, False, "unhealthy", True, 7)
    snapshot = Snapshot(Configuration(), 1, (entry,), (0,))
    worker.table.publish(snapshot)
    given = handover.ask_handover(worker.path, soon())
    assert handover.last_snapshot(given.table) == snapshot
    given.close()
    worker.close()


def test_another_release_s_table_is_neither_read_nor_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(tmp_path, 1)
    given = handover.ask_handover(worker.path, soon())
    assert given.known
    given.close()
    # Both ends are in this process: the asking one says another number than the answering one knows.
    monkeypatch.setattr(handover, "frame", lambda value, frame=handover.frame: frame(other(value)))
    given = handover.ask_handover(worker.path, soon())
    assert not given.known
    with pytest.raises(ValueError, match="means something else"):
        _health(given)
    for sockets in given.listeners.values():
        for one in sockets:
            one.close()
    handover.ask_drain(worker.path, 1.0, soon(), worker.table.fd)
    wait_until(lambda: worker.drained == [1.0], 30, "it drains")
    assert worker.followed == [None]
    worker.close()


def other(value: dict[str, object]) -> dict[str, object]:
    return value | {"handover": 99} if "handover" in value else value


def test_a_worker_of_a_living_supervisor_refuses(tmp_path: Path) -> None:
    worker = Worker(tmp_path, 1)
    worker.orphaned = False
    with pytest.raises(HandoverError, match="supervisor of this worker is alive"):
        handover.ask_handover(worker.path, soon())
    with pytest.raises(HandoverError, match="supervisor of this worker is alive"):
        handover.ask_drain(worker.path, 1.0, soon())
    assert worker.drained == []
    worker.orphaned = True
    handover.ask_drain(worker.path, 1.5, soon())
    wait_until(lambda: worker.drained == [1.5], 30, "it drains")
    worker.close()


@pytest.mark.parametrize(
    "junk", [b"", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"GET / HTTP/1.1"]
)
def test_junk_ends_the_connection_and_not_the_worker(tmp_path: Path, junk: bytes) -> None:
    worker = Worker(tmp_path, 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(30)
        client.connect(worker.path)
        client.sendall(junk)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    handover.ask_handover(worker.path, soon()).close()
    worker.close()


def test_what_an_orphan_gives_is_checked_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTLB_RUN_DIR", str(tmp_path))
    run_dir = RunDir.take("t")
    bound = ListenSockets((listener("127.0.0.1:0"),), slots=2)
    ((key, good),) = bound.sockets.items()
    worker = Worker(run_dir.path, 1)
    (deaf,) = worker.sockets["tcp://a:1"]
    worker.sockets.clear()
    worker.sockets |= {key: [*good, deaf], "tcp://127.0.0.1:1": [deaf]}
    entry = TargetEntry(0, "web", "127.0.0.1:1", 1, False, "unhealthy", True, 7)
    worker.table.publish(Snapshot(Configuration(), 1, (entry,), (0,)))
    before = len(os.listdir("/proc/self/fd"))

    found = take_over(run_dir, bound.listeners)
    assert [one.pid for one in found.orphans] == [os.getpid()]
    assert found.health == {("web", "127.0.0.1:1"): ("unhealthy", 7)}
    assert found.slots == 2
    assert list(found.sockets) == [key]
    assert {one.getsockname() for one in found.sockets[key]} == {good[0].getsockname()}
    taken = ListenSockets(bound.listeners, 3, found.sockets)  # one slot more beside the old ones
    assert len(taken.sockets[key]) == 3
    taken.close()
    found.close()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before, 30, "no descriptor is left")
    worker.close()
    bound.close()
    os.unlink(worker.path)
    run_dir.release()


def test_the_sockets_of_dead_workers_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTLB_RUN_DIR", str(tmp_path))
    run_dir = RunDir.take("t")
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(run_dir.path / "worker-1.sock"))
    dead.listen()
    dead.close()
    (run_dir.path / "worker-2.sock").touch()
    assert find_orphans(run_dir) == []
    assert run_dir.worker_sockets() == []
    run_dir.release()
    assert not run_dir.path.exists()
