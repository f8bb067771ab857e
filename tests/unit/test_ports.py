"""Ports to give away, whether somebody listens, and whether it is the one who should."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastlb.auto_scaling import ports
from fastlb.auto_scaling.ports import (
    HIGH,
    LOW,
    choose_port,
    listens,
    stranger_at,
    until_it_listens,
)
from fastlb.child_process import start_time
from fastlb.errors import FastlbError
from fastlb.model.address import Address
from tests.support.processes import wait_until

LISTEN = """
import socket, sys, time
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
one.bind(("127.0.0.1", int(sys.argv[1])))
one.listen()
time.sleep(60)
"""


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    """Starts Python code with arguments; the process ends with the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(code: str, *arguments: object) -> int:
        command = [sys.executable, "-S", "-E", "-c", code, *map(str, arguments)]
        processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        return processes[-1].pid

    yield begin
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture
def port() -> int:
    return choose_port(())


def at(port: int) -> Address:
    return Address(host="127.0.0.1", port=port)


def began(pid: int) -> int:
    ticks = start_time(pid)
    assert ticks is not None
    return ticks


def choose_from(*choices: int) -> Callable[[int, int], int]:
    left = list(choices)
    return lambda low, high: left.pop(0) if left else choices[-1]


# -- choosing


def test_what_is_taken_ephemeral_or_bound_is_passed_over(port: int) -> None:
    ephemeral = ports._ephemeral_ports()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        bound = one.getsockname()[1]
        choices = (20000, ephemeral.start, ephemeral.stop - 1, bound, port)
        assert choose_port({20000}, choose_from(*choices)) == port


def test_a_hundred_ports_are_in_range_and_out_of_the_ephemeral_one() -> None:
    ephemeral = ports._ephemeral_ports()
    for _ in range(100):
        port = choose_port(())
        assert LOW <= port <= HIGH
        assert port not in ephemeral


def test_where_none_is_free_that_is_said_with_what_to_do() -> None:
    with pytest.raises(FastlbError, match=r"no free port was found from 10240 to 65535 .*socket"):
        choose_port({LOW}, choose_from(LOW))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32768\t60999\n", range(32768, 61000)),
        ("15000\t25000\n", range(15000, 25001)),
        ("1024\t65535\n", range(32768, 61000)),  # nearly all: then no choice is better than any
        (None, range(32768, 61000)),
    ],
)
def test_the_ephemeral_ports_are_the_kernels(
    monkeypatch: pytest.MonkeyPatch, text: str | None, expected: range
) -> None:
    def read(path: Path) -> str:
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(Path, "read_text", read)
    assert ports._ephemeral_ports() == expected


# -- listening


def test_whether_somebody_listens_on_a_port(port: int) -> None:
    assert not listens(at(port))
    with socket.socket() as one:
        one.bind(("127.0.0.1", port))
        assert not listens(at(port)), "bound is not listening"
        one.listen()
        assert listens(at(port))
    assert not listens(at(port))


def test_whether_somebody_listens_on_a_socket_its_queue_full_or_not(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    where = Address(path=str(path))
    assert not listens(where)
    clients = []
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
        assert not listens(where), "bound is not listening"
        one.listen(1)
        assert listens(where)
        try:
            for _ in range(8):
                client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                clients.append(client)
                if client.connect_ex(str(path)):
                    break
            else:
                pytest.fail("the queue was never full")
            assert listens(where)
        finally:
            for client in clients:
                client.close()
    assert not listens(where), "the file is there, and nobody behind it"


def test_a_path_that_is_too_long_is_nobody() -> None:
    assert not listens(Address(path="/tmp/" + "x" * 200))


# -- whose it is


def test_one_that_was_there_before_is_a_stranger_and_one_after_a_helper(
    start: Callable[..., int], port: int
) -> None:
    stranger = start(LISTEN, port)
    wait_until(lambda: listens(at(port)))
    assert stranger_at(port, began(stranger) + 1, lambda pid: False) == stranger
    assert stranger_at(port, began(stranger), lambda pid: False) is None
    assert stranger_at(port, began(stranger) + 1, lambda pid: pid == stranger) is None


def test_nobody_there_is_no_stranger(port: int) -> None:
    assert stranger_at(port, 1 << 60, lambda pid: False) is None


def test_where_one_of_ours_has_the_same_socket_all_is_well(port: int) -> None:
    # A leader and its children share one: whoever began before the leader may hold it as well.
    with socket.socket() as one:
        one.bind(("127.0.0.1", port))
        one.listen()
        child = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", "import time; time.sleep(60)"],
            pass_fds=[one.fileno()],
        )
        try:
            assert stranger_at(port, 1 << 60, lambda pid: pid == child.pid) is None
            assert stranger_at(port, 1 << 60, lambda pid: False) in (child.pid, os.getpid())
        finally:
            child.kill()
            child.wait()


def test_one_on_ipv6_is_seen_as_well(port: int) -> None:
    try:
        one = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError:
        pytest.skip("no IPv6 here")
    with one:
        assert stranger_at(port, 1 << 60, lambda pid: False) == os.getpid()


class FakeProcess:
    def __init__(self, started: int, own: int) -> None:
        self.pid = 0
        self.started = started
        self._own = own

    def owns(self, pid: int) -> bool:
        return pid == self._own


def test_waiting_ends_as_soon_as_it_listens(start: Callable[..., int], port: int) -> None:
    pid = start(f"import time; time.sleep(0.05)\n{LISTEN}", port)

    async def wait(process: FakeProcess | None) -> None:
        async with asyncio.timeout(10):
            await until_it_listens(at(port), process)  # type: ignore[arg-type]

    asyncio.run(wait(FakeProcess(began(pid), pid)))
    asyncio.run(wait(None))  # adopted with its leader gone: nobody is asked
    named = rf"another process \(pid {pid}\) listens on port {port}"
    with pytest.raises(FastlbError, match=named):
        asyncio.run(wait(FakeProcess(began(pid) + 1, 0)))


def test_on_a_socket_nobody_is_asked_whose_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)
        timer = threading.Timer(0.02, one.listen)
        timer.start()
        try:
            asyncio.run(
                asyncio.wait_for(
                    until_it_listens(Address(path=path), FakeProcess(1 << 60, 0)),  # type: ignore[arg-type]
                    10,
                )
            )
        finally:
            timer.join()
