"""Targets that are processes: the demo app, a light one, and the standard library's file server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.fastlb import ROOT
from tests.support.processes import wait_until

START_SECONDS = 20.0
LIGHT_APP = (sys.executable, "-S", "-E", str(Path(__file__).with_name("light_app.py")))
"""Its command; without the search for packages, which it does not need."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has just now, for a target that must come back on it."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class TargetProcess:
    """A process that listens at `address`, and can be killed, stopped and started again there."""

    def __init__(self, command: list[str], where: str | int, folder: Path | None = None) -> None:
        self.command = command
        self.where = where
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        """As `--target` takes it."""
        return f"unix:{self.where}" if isinstance(self.where, str) else f"127.0.0.1:{self.where}"

    def __str__(self) -> str:
        return self.address

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        assert self.process is None, "it runs already"
        self.process = subprocess.Popen(
            self.command,
            cwd=self.folder or ROOT,
            # Given to the demo app too, so that it is found from any folder.
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_until(self.listens, START_SECONDS, f"{self.address} listens")
        except BaseException:
            self.kill()
            raise

    def listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.command} ended: {self.process.returncode}"
        family = socket.AF_UNIX if isinstance(self.where, str) else socket.AF_INET
        with socket.socket(family) as one:
            try:
                one.connect(
                    self.where if isinstance(self.where, str) else ("127.0.0.1", self.where)
                )
            except OSError:
                return False
        return True

    def kill(self) -> None:
        """kill -9; nothing to do where it is dead."""
        if self.process is None:
            return
        self.process.kill()  # ends a stopped process too
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self.process = None

    def terminate(self, seconds: float = 30.0) -> None:
        """TERM, and wait for the end."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(seconds)
        self.kill()

    def stop(self) -> None:
        """SIGSTOP: it hangs; the kernel goes on accepting for it."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """kill -9 and start again at the same address."""
        self.kill()
        self.start()


class AppTarget(TargetProcess):
    """An app on a port, or on the unix socket `path`; it says its name with each answer."""

    app: tuple[str, ...]
    """Its command, without its name and where it listens."""

    def __init__(self, name: str, path: Path | None = None) -> None:
        self.name = name
        where = str(path) if path else free_port()
        command = [*self.app, "--name", name]
        command += ["--uds", where] if isinstance(where, str) else ["--port", str(where)]
        super().__init__(command, where)


class DemoTarget(AppTarget):
    """The demo app."""

    app = (sys.executable, "-m", "fastlb.demo", "--end-with-stdin")


class LightTarget(AppTarget):
    """For tests in which only its process and its name matter; light_app.py says what it can do."""

    app = (*LIGHT_APP, "--end-with", "stdin")


class StdlibHttpTarget(TargetProcess):
    """`python -m http.server` over a folder."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
        super().__init__(command, port, folder)
