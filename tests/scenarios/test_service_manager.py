"""fastlb under a service manager: the test is the manager, with a real socket and real descriptors."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlb.control_plane.service_manager import in_short, notify_address, watchdog_seconds
from tests.support.fastlb import FastlbProcess
from tests.support.load import HALF_BUSY, LoadClient, run_load
from tests.support.processes import processes_of, wait_until
from tests.support.targets import LightTarget
from tests.support.upgrading import upgrade

from .test_upgrade import start_takeover
from .test_worker_death import PROBE_PAUSE, Probes


class Manager:
    """Takes the messages of sd_notify at an address, `@` for an abstract one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def read(self) -> list[dict[str, str]]:
        """All messages so far."""
        while True:
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                return self.messages
            pairs = (line.partition("=") for line in data.decode().splitlines())
            self.messages.append({name: value for name, _, value in pairs})

    def wait(self, name: str, value: str | None = None, after: int = 0) -> int:
        """The place after the first message with this assignment."""

        def found() -> int:
            for place, one in enumerate(self.read()[after:], after + 1):
                if name in one and value in (None, one[name]):
                    return place
            return 0

        return wait_until(found, 30, f"{name}={value}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    made = Manager(path if request.param == "path" else f"@fastlb-test-{os.getpid()}")
    monkeypatch.setenv("NOTIFY_SOCKET", made.address)
    yield made
    made.close()


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_it_is_told_of_readiness_reload_upgrade_and_stop(run_root: Path, manager: Manager) -> None:
    with LightTarget("demo") as target, FastlbProcess(run_root, targets=[target]) as fastlb:
        at = manager.wait("READY", "1")
        assert not any("MAINPID" in one for one in manager.messages)
        at = manager.wait("STATUS", "1 of 1 worker running; 1 of 1 target healthy", at)
        fastlb.process.send_signal(signal.SIGHUP)
        at = manager.wait("RELOADING", "1", at)
        assert int(manager.messages[at - 1]["MONOTONIC_USEC"]) > 0
        at = manager.wait("READY", "1", at)
        # One that is no child of the main process would not be the manager's.
        refused = start_takeover(fastlb)
        assert refused.wait(30) == 1
        assert "use `fastlb upgrade`" in fastlb.log()
        new = upgrade(fastlb)
        at = manager.wait("RELOADING", "1", at)
        at = manager.wait("MAINPID", str(new), at)
        assert manager.messages[at - 1]["READY"] == "1"
        # The manager follows the new one, so that nobody stays.
        assert fastlb.process.wait(30) == 0
        os.kill(new, signal.SIGTERM)
        manager.wait("STOPPING", "1", at)
        wait_until(lambda: not processes_of(fastlb.run_dir), 30, "the end")


@pytest.mark.parametrize("manager", ["abstract"], indirect=True)
def test_the_watchdog_is_told_only_while_a_worker_lives(
    run_root: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    with LightTarget("demo") as target, FastlbProcess(run_root, targets=[target]) as fastlb:
        at = manager.wait("WATCHDOG", "1")
        at = manager.wait("WATCHDOG", "1", at)
        (pid,) = fastlb.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: fastlb.status()["workers"][0]["state"] == "hung", 30, "it hangs")
        at = len(manager.read())
        time.sleep(0.4)  # longer than the watchdog's time
        assert not any("WATCHDOG" in one for one in manager.read()[at:])
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: fastlb.status()["workers"][0]["state"] == "running", 30, "it is back")
        manager.wait("WATCHDOG", "1", at)
        fastlb.stop()


def test_the_instance_in_one_line() -> None:
    assert in_short(1, 2, ["healthy", "initial"], False) == (
        "1 of 2 workers running; 1 of 2 targets healthy"
    )
    assert in_short(0, 1, [], True) == "draining; 0 of 1 worker running"


def test_who_is_told_and_whose_watchdog_it_is() -> None:
    assert notify_address("/run/x") == "/run/x"
    assert notify_address("@x") == "\0x"
    assert notify_address("") is None
    assert notify_address("vsock:2:1") is None
    env = {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "7"}
    assert watchdog_seconds(env, 7, replaces=False) == 2.0
    assert watchdog_seconds(env, 8, replaces=False) is None
    assert watchdog_seconds(env, 8, replaces=True) == 2.0
    assert watchdog_seconds({"WATCHDOG_USEC": "2000000"}, 8, replaces=False) == 2.0
    assert watchdog_seconds({"WATCHDOG_USEC": "soon"}, 8, replaces=False) is None
    assert watchdog_seconds({}, 8, replaces=False) is None


# --- socket activation ------------------------------------------------------------------------------


class Activated(FastlbProcess):
    """fastlb with sockets that the test holds, as descriptors from 3 on."""

    def __init__(self, root: Path, sockets: list[socket.socket], *arguments: str, **more: object):
        # The pid must be known before the program begins: so this small one becomes it.
        self._fds = [one.fileno() for one in sockets]
        super().__init__(root, *arguments, **more)  # type: ignore[arg-type]

    def popen(self, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        fds = ", ".join(map(str, self._fds))
        code = (
            "import fcntl, os, sys\n"
            f"high = [fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in [{fds}]]\n"
            "for at, one in enumerate(high):\n    os.dup2(one, 3 + at)\n"
            "os.environ['LISTEN_PID'] = str(os.getpid())\n"
            f"os.environ['LISTEN_FDS'] = '{len(self._fds)}'\n"
            "os.environ['LISTEN_FDNAMES'] = ':'.join(['web', 'more'][:len(high)])\n"
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, *command],
            pass_fds=self._fds,
            **options,  # type: ignore[call-overload]
        )


def bound(reuse_port: bool) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", 0))
    one.listen(128)
    return one


@pytest.mark.parametrize("reuse_port", [False, True])
def test_passed_sockets_are_used_and_connections_wait_in_them_through_a_restart(
    run_root: Path, reuse_port: bool
) -> None:
    with bound(reuse_port) as web, bound(False) as other, LightTarget("demo") as target:
        port = web.getsockname()[1]
        listen = [f"http://127.0.0.1:{port}"]
        options = {"targets": [target], "listen": listen, "workers": 2}
        with Activated(run_root, [web, other], **options) as first:
            first.wait_states()
            # Before there are connections: a slot does not return to a worker that has too many of them.
            wait_until(
                lambda: [one["slots"] for one in first.status()["workers"]] == [[0], [1]],
                30,
                "each worker has its slot",
            )
            with (
                LoadClient(port, connections=8, **HALF_BUSY) as load,
                Probes(port, PROBE_PAUSE).running(2) as probes,
            ):
                load.started()
                wait_until(lambda: len(probes.taken) > 50, 30, "new connections")
                upgrade(first)
                wait_until(lambda: len(probes.taken) > 100, 30, "new connections")
                result = load.stop()
            assert result.failed == 0, result
            assert probes.failures == []
            log = first.log()
            assert f"descriptor 3 (web) of LISTEN_FDS is used for {listen[0]}" in log
            assert "descriptor 4 (more) of LISTEN_FDS listens on 127.0.0.1:" in log
            assert "no configured listener" in log
            first.stop()
        # Nobody serves: a client that comes now waits in the queue that the manager holds.
        with socket.create_connection(("127.0.0.1", port), 10) as early:
            early.sendall(b"GET / HTTP/1.1\r\nHost: early\r\nConnection: close\r\n\r\n")
            with Activated(run_root, [web], **options) as second:
                early.settimeout(30)
                assert early.recv(100).startswith(b"HTTP/1.1 200 ")
                assert run_load(port, connections=4, count=100).failed == 0
                second.stop()
