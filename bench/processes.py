"""Processes of a run: started on given cores, awaited until they accept, ended with all they started.

Knows nothing of proxies and loads.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The project's folder, from which `python -m fastlb` and `python -m bench...` find their packages."""
START_SECONDS = 15.0
STOP_SECONDS = 10.0
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class BenchError(Exception):
    """What went wrong, where, and what to do, for the person who runs it."""


def find_program(name: str) -> str | None:
    """Path of an installed program; also from the folders that only root has in its PATH."""
    return shutil.which(name, path=_PATH)


def free_port() -> int:
    """A port that nobody listens on now. Below the ephemeral ones, which clients take by thousands."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as text:
        low = int(text.read().split()[0])
    for port in range(max(low - 12000, 1024) + os.getpid() % 5000, low):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
    raise BenchError(f"no free port below {low} on 127.0.0.1")


_given = set[int]()


def pinned(cores: Sequence[int], command: Sequence[str]) -> list[str]:
    """The command, bound to the cores; as it is where there are none."""
    if not cores:
        return list(command)
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


@contextmanager
def running(
    command: Sequence[str],
    cores: Sequence[int],
    folder: Path,
    accepts_on: str,
    env: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Pid of a server, from when it accepts on `accepts_on` (`HOST:PORT` or `unix:/path`).

    Its output goes to output.log in `folder`. It and all of its process group are gone afterwards.
    Raises BenchError with the end of its output where it does not come up.
    """
    output = folder / "output.log"
    with open(output, "ab") as log:
        process = subprocess.Popen(
            pinned(cores, command),
            cwd=ROOT,
            env={**os.environ, "PATH": _PATH, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_it_accepts(process, accepts_on, output)
        yield process.pid
    finally:
        _end(process)


def _wait_until_it_accepts(process: subprocess.Popen[bytes], address: str, output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            connect(address, 1.0).close()
        except OSError:
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
        else:
            if process.poll() is None:
                return
        said = output.read_text(errors="replace")[-2000:]
        command = " ".join(map(str, process.args if isinstance(process.args, list) else []))
        raise BenchError(f"{command}\ndoes not accept connections on {address}; it said:\n{said}")


def connect(address: str, timeout: float) -> socket.socket:
    """A connection to `HOST:PORT` or `unix:/path`. Raises OSError."""
    if address.startswith("unix:"):
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(timeout)
        try:
            one.connect(address.removeprefix("unix:"))
        except OSError:
            one.close()
            raise
        return one
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Whoever of its group is left has lost the process that would have ended it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
