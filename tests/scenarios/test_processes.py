"""The life of the processes: a worker's death, a crash loop, the start, the stop."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from fastlb.child_process import ChildProcess
from fastlb.control_plane.listen_sockets import ListenSockets, holders_of, place_of
from fastlb.control_plane.run_dir import RunDir, run_dir_path
from fastlb.control_plane.stop_signals import AGAIN_AFTER
from fastlb.errors import FastlbError
from fastlb.model.address import parse_address
from fastlb.model.listener import FixedResponse, Listener
from tests.support.processes import alive, open_files, wait_until

from .stand_in import Client, Instance, ask_once


def listener(where: str) -> Listener:
    return Listener(protocol="tcp", address=parse_address(where), default=FixedResponse())


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- a worker's death -----------------------------------------------------------------------


def test_what_waits_for_a_killed_worker_is_served_by_the_others(tmp_path: Path) -> None:
    with Instance(tmp_path, workers=2) as instance:
        victim, other = (one["pid"] for one in instance.until_ready()["workers"])
        port = instance.port
        held = [Client(port) for _ in range(20)]
        holders = [one.ask() for one in held]
        assert set(holders) == {victim, other}

        os.kill(victim, signal.SIGSTOP)
        waiting = [Client(port).send() for _ in range(40)]
        stuck = [one for one in waiting if not _answers(one, other)]
        assert len(stuck) > 5
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        served_by = Counter(one.receive() for one in stuck)
        served = time.monotonic() - killed
        assert 0 not in served_by  # no connection of the queue was cut
        wait_until(lambda: instance.workers()[0]["state"] == "running", 30, "a replacement")
        replaced = time.monotonic() - killed
        print(
            f"{len(stuck)} queued connections served {served * 1e3:.1f} ms after the kill", end=""
        )
        print(f" by {len(served_by)} process, replacement ready after {replaced * 1e3:.0f} ms")
        assert served < 3.0
        assert replaced < 10.0  # one second on a machine with nothing else to do

        # Of those that had been accepted, only the victim's own are cut.
        assert [one.ask() for one, who in zip(held, holders, strict=True) if who == other] == [
            other
        ] * holders.count(other)
        gone = [one for one, who in zip(held, holders, strict=True) if who == victim]
        assert [_ask_or_cut(one) for one in gone] == [0] * len(gone)
        new = instance.until_ready()["workers"][0]
        assert new["pid"] not in (victim, other)
        assert new["restarts"] == 1
        wait_until(
            lambda: ask_once(port) == new["pid"], 30, "the replacement serves its slot again"
        )
        for one in held + waiting:
            one.close()


def _answers(one: Client, other: int) -> bool:
    """Whether the living worker answers; what it does not answer waits for the stopped one."""
    one.socket.settimeout(0.1)
    try:
        return one.receive() == other
    except TimeoutError:
        return False
    finally:
        one.socket.settimeout(30)


def _ask_or_cut(one: Client) -> int:
    try:
        return one.ask()
    except ConnectionError:
        return 0


def test_what_waits_for_a_hung_worker_is_served_by_the_others(tmp_path: Path) -> None:
    with Instance(tmp_path, workers=2) as instance:
        hung, other = (one["pid"] for one in instance.until_ready()["workers"])
        os.kill(hung, signal.SIGSTOP)
        waiting = [Client(instance.port).send() for _ in range(30)]
        assert {one.receive() for one in waiting} == {other}
        assert instance.workers()[1]["slots"] == [0, 1]
        os.kill(hung, signal.SIGCONT)
        wait_until(lambda: instance.workers()[0]["slots"] == [0], 30, "it has its slot again")
        assert "worker 0" in instance.log.partition("is back")[0]
        for one in waiting:
            one.close()


def test_kill_9_under_a_load_of_connections(tmp_path: Path) -> None:
    with Instance(tmp_path, workers=2) as instance:
        victim = instance.until_ready()["workers"][0]["pid"]
        with Load(instance.port, clients=8) as load:
            wait_until(lambda: load.done > 200, 30, "the load runs")
            os.kill(victim, signal.SIGKILL)
            at = load.done
            wait_until(lambda: instance.workers()[0]["state"] == "running", 30, "a replacement")
            wait_until(lambda: load.done > at + 500, 30, "the load goes on")
        print(f"{load.done} connections, {len(load.failures)} cut, longest {load.longest:.3f} s")
        assert len(load.failures) <= 8  # at most what its clients had in flight there
        assert not [one for one in load.failures if "refused" in one]
        assert load.longest < 5


class Load:
    """Clients that connect, ask and close without a pause."""

    def __init__(self, port: int, clients: int) -> None:
        self.done = 0
        self.failures: list[str] = []
        self.longest = 0.0
        self.answered: Counter[int] = Counter()
        self._port = port
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                who = ask_once(self._port)
            except OSError as error:
                self.failures.append(repr(error))
                continue
            if who:
                self.answered[who] += 1
            else:
                self.failures.append("cut")
            self.longest = max(self.longest, time.monotonic() - began)
            self.done += 1

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def test_a_thousand_long_lived_connections_over_four_workers_are_even(tmp_path: Path) -> None:
    with Instance(tmp_path, workers=4) as instance:
        instance.until_ready()
        port = instance.port
        clients = []
        for _ in range(1000):
            clients.append(Client(port))
            clients[-1].ask()
        counts = [one["connections"] for one in instance.workers()]
        print(f"connections of the workers: {counts}")
        assert sum(counts) == 1000
        assert max(counts) <= 1.1 * 250
        for one in clients:
            one.close()


def test_deaths_leak_no_descriptors_and_totals_outlive_them(tmp_path: Path) -> None:
    with Instance(tmp_path, workers=2) as instance:
        instance.until_ready()
        port = instance.port
        asked = 0
        before = open_files(instance.process.pid)
        for number in range(6):
            for _ in range(4):
                ask_once(port)
                asked += 1
            victim = instance.until_ready()["workers"][number % 2]
            assert instance.status()["totals"]["requests"] == asked
            os.kill(victim["pid"], signal.SIGKILL)
            wait_until(
                lambda pid=victim["pid"], at=number % 2: instance.workers()[at]["pid"] != pid,  # type: ignore[misc]
                30,
                "its death is noticed",
            )
            assert instance.status()["totals"]["requests"] == asked
        instance.until_ready()
        # The connection of a status may still have been open at the count before.
        wait_until(lambda: open_files(instance.process.pid) <= before, 30, "no descriptor more")


def test_a_crash_looping_worker_is_tried_ever_later_and_loudly(tmp_path: Path) -> None:
    crash = tmp_path / "crash"
    crash.write_text("1")
    with Instance(tmp_path, workers=2, crash=crash) as instance:
        wait_until(lambda: "worker 1 died 4 times" in instance.log, 30, "four deaths")
        port = instance.port
        one, other = instance.workers()
        assert one["state"] == "running"
        assert one["slots"] == [0, 1]
        assert other["restarts"] >= 4
        assert {ask_once(port) for _ in range(20)} == {one["pid"]}
        found = re.findall(
            r"ERROR   worker 1 died (\d) times in [\d.]+ s, next try in (.*) s", instance.log
        )
        assert found[:3] == [("2", "0.1"), ("3", "0.2"), ("4", "0.4")]
        assert "worker 1 (pid" in instance.log
        assert "ended with status 3" in instance.log
        crash.unlink()
        instance.until_ready()


# --- the start ------------------------------------------------------------------------------


def test_a_live_instance_of_the_same_name_is_an_error(tmp_path: Path) -> None:
    with Instance(tmp_path) as first:
        first.until_ready()
        with Instance(tmp_path) as second:
            assert second.process.wait(time.monotonic() + 30) == 1
            assert f"an instance named 't' is running (pid {first.process.pid})" in second.log
        assert ask_once(first.port)


def test_a_stale_folder_never_blocks_a_start(tmp_path: Path) -> None:
    with Instance(tmp_path) as first:
        workers = [one["pid"] for one in first.until_ready()["workers"]]
        first.kill_supervisor()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, workers)), 30, "all of it is dead")
    left = {one.name for one in (tmp_path / "t").iterdir()}
    assert left >= {
        *("lock", "control.sock", "admin.sock", "takeover.sock"),
        *(f"worker-{pid}.sock" for pid in workers),
    }
    with Instance(tmp_path) as second:
        second.until_ready()
        assert not set(workers) & {int(p.stem[7:]) for p in second.run_dir.glob("worker-*")}


def test_an_address_in_use_names_its_holder(tmp_path: Path) -> None:
    with socket.socket() as holder:
        # Shared on purpose: SO_REUSEPORT alone would bind beside it and say nothing.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        where = f"127.0.0.1:{holder.getsockname()[1]}"
        with Instance(tmp_path, listen=where) as instance:
            assert instance.process.wait(time.monotonic() + 30) == 1
            assert (
                f"cannot listen on tcp://{where}: the address is in use by pid {os.getpid()} ("
                in (instance.log)
            )
        assert not (tmp_path / "t").exists()
        assert holders_of(place_of(parse_address(f"0.0.0.0:{where.split(':')[1]}")))


def test_the_same_address_twice_is_an_error() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = (listener(f"127.0.0.1:{port}"), listener(f"0.0.0.0:{port}"))
    with pytest.raises(FastlbError, match="in use by another listener of this configuration"):
        ListenSockets(both, slots=2)


def test_port_0_is_one_port_for_all_slots_and_is_published() -> None:
    sockets = ListenSockets((listener("127.0.0.1:0"), listener("[::1]:0")), slots=3)
    for one in sockets.listeners:
        assert one.address.port
        found = sockets.sockets[f"tcp://{one.address}"]
        assert {each.getsockname()[1] for each in found} == {one.address.port}
        assert len(found) == 3
        for each in found:
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            assert each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not each.get_inheritable()
    v6 = sockets.sockets[f"tcp://{sockets.listeners[1].address}"][0]
    assert v6.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    sockets.close()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("192.0.2.1:0", "no network interface of this host has 192.0.2.1"),
        ("unix:/tmp/x.sock", "needs HOST:PORT"),
        ("no-such-host.invalid:80", "no-such-host.invalid"),
    ],
)
def test_what_cannot_be_bound_says_why(where: str, says: str) -> None:
    with pytest.raises(FastlbError, match=says):
        ListenSockets((listener(where),), slots=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind every port")
def test_a_low_port_without_permission_says_so() -> None:
    with pytest.raises(FastlbError, match="no permission for port 1"):
        ListenSockets((listener("127.0.0.1:1"),), slots=1)


def test_a_folder_that_is_open_to_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTLB_RUN_DIR", str(tmp_path))
    folder = tmp_path / "open"
    folder.mkdir(mode=0o700)
    folder.chmod(0o770)
    with pytest.raises(FastlbError, match="open to others"):
        RunDir.take("open")
    folder.rmdir()
    folder.symlink_to("/tmp")
    with pytest.raises(FastlbError, match="is no folder"):
        RunDir.take("open")
    with pytest.raises(FastlbError, match="too long"):
        run_dir_path("x" * 100)
    with pytest.raises(FastlbError, match="cannot be"):
        run_dir_path("../x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTLB_RUN_DIR", str(tmp_path))
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(FastlbError, match="belongs to user 12345"):
        RunDir.take("theirs")


# --- the control socket ---------------------------------------------------------------------


def test_the_control_socket_is_its_owners_and_answers_nonsense(tmp_path: Path) -> None:
    with Instance(tmp_path) as instance:
        instance.until_ready()
        assert stat.S_IMODE(instance.run_dir.stat().st_mode) == 0o700
        for one in instance.run_dir.glob("*"):
            assert stat.S_IMODE(one.stat().st_mode) == 0o600, one
        for line in (b"nonsense\n", b"[]\n", b'{"command": "no"}\n', b'{"command": 3}\n'):
            assert "error" in json.loads(_ask(instance, line))
        assert _ask(instance, b"x" * 100_000) == b""
        assert instance.status()["name"] == "t"


def _ask(instance: Instance, line: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(30)
        client.connect(str(instance.run_dir / "control.sock"))
        try:
            client.sendall(line)
            return client.recv(100_000)
        except (BrokenPipeError, ConnectionResetError):
            return b""


# --- the stop -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    shm = set(os.listdir("/dev/shm"))
    with Instance(tmp_path) as instance:
        instance.until_ready()
        port = instance.port
        pids = children_of(instance.process.pid)
        assert len(pids) == 3  # two workers and multiprocessing's resource tracker
        busy = Client(port).send("slow 0.3")
        wait_until(
            lambda: sum(one["connections"] for one in instance.workers()), 30, "it is accepted"
        )
        instance.process.send_signal(number)
        assert busy.receive() in pids
        assert instance.process.wait(time.monotonic() + 30) == 0
        wait_until(lambda: not any(map(alive, pids)), 30, "no process is left")
        assert not (tmp_path / "t").exists()
        assert set(os.listdir("/dev/shm")) <= shm
        for word in ("Warning", "Traceback", "leaked", "ERROR", "WARNING"):
            assert word not in instance.log
        with pytest.raises(ConnectionRefusedError):
            Client(port)
        busy.close()


def test_a_stop_ends_at_the_drain_timeout(tmp_path: Path) -> None:
    with Instance(tmp_path, drain=0.5) as instance:
        pids = [one["pid"] for one in instance.until_ready()["workers"]]
        busy = Client(instance.port).send("slow 60")
        os.kill(pids[0], signal.SIGSTOP)  # and one that cannot even hear of it
        began = time.monotonic()
        instance.process.send_signal(signal.SIGTERM)
        assert instance.process.wait(time.monotonic() + 30) == 0
        took = time.monotonic() - began
        assert 0.5 <= took < 10
        assert "killed the workers that had not finished" in instance.log
        assert not any(map(alive, pids))
        assert not (tmp_path / "t").exists()
        busy.close()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with Instance(tmp_path, drain=30) as instance:
        instance.until_ready()
        busy = Client(instance.port).send("slow 60")
        wait_until(
            lambda: sum(one["connections"] for one in instance.workers()), 30, "it is accepted"
        )
        began = time.monotonic()
        instance.process.send_signal(signal.SIGTERM)
        instance.process.send_signal(signal.SIGINT)  # the echo of a wrapper: counts as the same
        wait_until(lambda: "SIGINT once more" in instance.log, 30, "it heard the echo")
        heard = time.monotonic()
        assert instance.status()["draining"]
        assert instance.process.alive
        wait_until(
            lambda: time.monotonic() - heard > AGAIN_AFTER, 30, "a second one counts as such"
        )
        instance.process.send_signal(signal.SIGINT)
        assert instance.process.wait(time.monotonic() + 30) == 0
        assert time.monotonic() - began < 15
        assert busy.receive() == 0
        assert "the end was asked for at once: cut 0 requests on 1 connection" in instance.log
        busy.close()


def test_a_stop_in_the_midst_of_the_start_and_of_a_crash_loop(tmp_path: Path) -> None:
    crash = tmp_path / "crash"
    crash.write_text("0 1")
    with Instance(tmp_path, crash=crash) as instance:
        wait_until(lambda: "died 3 times" in instance.log, 30, "both crash")
        instance.process.send_signal(signal.SIGTERM)
        assert instance.process.wait(time.monotonic() + 30) == 0
        assert not (tmp_path / "t").exists()
    with Instance(tmp_path) as instance:
        wait_until(lambda: "listening on" in instance.log, 30, "it starts")
        instance.process.send_signal(signal.SIGINT)
        assert instance.process.wait(time.monotonic() + 30) == 0
        assert "Traceback" not in instance.log
        assert not (tmp_path / "t").exists()


def test_sighup_is_no_end(tmp_path: Path) -> None:
    with Instance(tmp_path) as instance:
        instance.until_ready()
        instance.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "stays as it is" in instance.log, 30, "it says so")
        assert ask_once(instance.port)


# --- child processes ------------------------------------------------------------------------

STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n"
)


def test_a_child_that_ignores_term_is_killed_with_its_group_at_the_deadline() -> None:
    read, write = os.pipe()
    child = ChildProcess([sys.executable, "-c", STUBBORN], stdout=write, own_group=True)
    os.close(write)
    with os.fdopen(read) as lines:
        grandchild = int(lines.readline())
    assert child.alive
    assert child.wait(time.monotonic()) is None
    began = time.monotonic()
    assert child.stop(began + 0.3) == -signal.SIGKILL
    assert 0.3 <= time.monotonic() - began < 10
    assert not child.alive
    wait_until(lambda: not alive(grandchild), 30, "its group ended with it")
    child.send_signal(signal.SIGTERM)  # to nobody
    assert child.wait() == -signal.SIGKILL


async def _run_async() -> tuple[int | None, int | None, int]:
    quick = ChildProcess(["sh", "-c", "exit 7"], stderr=subprocess.DEVNULL)
    slow = ChildProcess(["sleep", "60"])
    early = await slow.wait_async(time.monotonic() + 0.05)
    return await quick.wait_async(), early, await slow.stop_async(time.monotonic() + 5)


def test_children_are_waited_for_without_holding_up_the_loop() -> None:
    import asyncio

    assert asyncio.run(_run_async()) == (7, None, -signal.SIGTERM)
