"""Keeps demo workers alive on unix sockets, from a thread of the process that wants them.

Each worker is a process in its own process group: a Ctrl-C in the terminal ends the balancer, which
drains, and the workers after it. All of them have the reading end of one pipe as standard input, so
that they end with this process even if it is killed. Knows no balancer.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

from fastlb.errors import FastlbError

log = logging.getLogger("fastlb.demo")

RESTART_SECONDS = 2.0
"""A dead worker stays away this long, so that one sees the others take over."""
LOOK_SECONDS = 0.1
START_SECONDS = 30.0
END_SECONDS = 3.0


class DemoFleet:
    """`with DemoFleet(3) as fleet:` workers listen at `fleet.sockets`; nothing is left after."""

    def __init__(self, count: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fastlb-demo-"))  # of mode 0700
        self.sockets = [self.folder / f"demo-{number}.sock" for number in range(1, count + 1)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._read_end, self._write_end = os.pipe()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="demo fleet", daemon=True)

    def __enter__(self) -> DemoFleet:
        try:
            self._processes = [self._start(path) for path in self.sockets]
            deadline = time.monotonic() + START_SECONDS
            for path, process in zip(self.sockets, self._processes, strict=True):
                _wait_for(path, process, deadline)
            self._thread.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._end()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def _start(self, path: Path) -> subprocess.Popen[bytes]:
        path.unlink(missing_ok=True)
        command = [sys.executable, "-m", "fastlb.demo"]
        command += ["--uds", str(path), "--name", path.stem, "--end-with-stdin"]
        return subprocess.Popen(command, stdin=self._read_end, process_group=0)

    def _keep(self) -> None:
        """Start again who died, a while after."""
        died: dict[int, float] = {}
        while not self._ending.wait(LOOK_SECONDS):
            now = time.monotonic()
            for number, process in enumerate(self._processes):
                if process.poll() is None:
                    continue
                if number not in died:
                    died[number] = now
                    log.warning(
                        "demo worker %s (pid %d) is dead; it starts again in %g s",
                        self.sockets[number].stem,
                        process.pid,
                        RESTART_SECONDS,
                    )
                elif now - died[number] >= RESTART_SECONDS:
                    del died[number]
                    self._processes[number] = self._start(self.sockets[number])

    def _end(self) -> None:
        """End every worker and take the folder away."""
        os.close(self._write_end)
        os.close(self._read_end)
        deadline = time.monotonic() + END_SECONDS
        for process in self._processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                # A stopped process cannot notice the end of its input.
                process.kill()
                process.wait()
        shutil.rmtree(self.folder)


def _wait_for(path: Path, process: subprocess.Popen[bytes], deadline: float) -> None:
    """Until the worker takes connections."""
    while True:
        with socket.socket(socket.AF_UNIX) as one:
            try:
                one.connect(str(path))
                return
            except OSError as error:
                if process.poll() is not None:
                    raise FastlbError(
                        f"demo worker {path.stem} ended with status {process.returncode} before "
                        f"it listened; its own message is above"
                    ) from None
                if time.monotonic() > deadline:
                    raise FastlbError(
                        f"demo worker {path.stem} does not listen on {path} after "
                        f"{START_SECONDS:g} s: {error.strerror}"
                    ) from error
        time.sleep(0.02)
