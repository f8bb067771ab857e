"""fastlb itself as a real process, asked through its control socket, ended without remains."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.processes import (
    RUN_DIR_VARIABLE,
    alive,
    children,
    kill_all,
    processes_of,
    wait_until,
)

ROOT = Path(__file__).parents[2]
START_SECONDS = 20.0
STOP_SECONDS = 20.0


class FastlbProcess:
    """`python -m fastlb run ...` with a run-time folder of its own under `root`.

        with FastlbProcess(root, targets=["127.0.0.1:9001"]) as fastlb:
            httpx.get(fastlb.url)

    A second process with the same `run_dir` and `name` takes over from the first. Leaving the
    `with` kills what lives and asserts nothing; `stop()` is the clean way that asserts.
    """

    def __init__(
        self,
        root: Path,
        *arguments: str,
        targets: Iterable[object] = (),
        listen: Iterable[str] = ("http://127.0.0.1:0",),
        workers: int | None = 1,
        name: str = "t",
        run_dir: Path | None = None,
        wait: bool = True,
    ) -> None:
        self.name = name
        self.run_dir = run_dir or Path(tempfile.mkdtemp(prefix="r", dir=root))
        self.command = [sys.executable, "-m", "fastlb", "run", "--name", name]
        for address in listen:
            self.command += ["--listen", address]
        for target in targets:
            self.command += ["--target", str(target)]
        if workers is not None:
            self.command += ["--workers", str(workers)]
        self.command += arguments
        self._log = tempfile.NamedTemporaryFile(  # noqa: SIM115  closed with the process
            prefix="log-", dir=self.run_dir, delete=False
        )
        self.process = self.popen(
            self.command,
            cwd=ROOT,
            env=os.environ | {RUN_DIR_VARIABLE: str(self.run_dir)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # A group of its own: what is left of it can be killed whatever became of its leader.
            start_new_session=True,
        )
        self.addresses: list[str] = []
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise

    def popen(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """How it is started."""
        return subprocess.Popen(command, **options)

    def __enter__(self) -> FastlbProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(f"--- log of {' '.join(self.command)}\n{self.log()}")
        self.kill()

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self.process.pid

    @property
    def port(self) -> int:
        """Of the first listener, the real one where port 0 was asked for."""
        return self.ports[0]

    @property
    def ports(self) -> list[int]:
        return [int(address.rpartition(":")[2]) for address in self.addresses]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """What it wrote to standard output and standard error so far."""
        return Path(self._log.name).read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """The answer of the control socket; OSError while nobody listens there."""
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(30)
            one.connect(str(self.run_dir / self.name / "control.sock"))
            one.sendall(b'{"command":"status"}\n')
            pieces = []
            while piece := one.recv(65536):
                pieces.append(piece)
        answer: dict[str, Any] = json.loads(b"".join(pieces))
        return answer

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Until this very process answers and every worker of it is ready."""

        def ready() -> bool:
            assert self.process.poll() is None, (
                f"fastlb ended with status {self.process.returncode}:\n{self.log()}"
            )
            try:
                status = self.status()
            except (OSError, ValueError):
                return False
            if status.get("pid") != self.pid or not status["workers"]:
                return False
            self.addresses = [one["address"] for one in status["listeners"]]
            return all(one["state"] == "running" for one in status["workers"])

        try:
            wait_until(ready, seconds, "fastlb's readiness")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def targets(self, group: str | None = None) -> dict[str, dict[str, Any]]:
        """Status of each target by its address, of one group or of all."""
        return {
            target["address"]: target
            for one in self.status()["target_groups"]
            if group in (None, one["name"])
            for target in one["targets"]
        }

    def wait_states(self, state: str = "healthy", seconds: float = 30.0) -> None:
        """Until every target is in one state."""
        wait_until(
            lambda: all(one["state"] == state for one in self.targets().values()),
            seconds,
            f"every target is {state}",
        )

    def wait_state(self, address: object, state: str, seconds: float = 30.0) -> None:
        """Until one target is in a state."""
        wait_until(
            lambda: self.targets()[str(address)]["state"] == state, seconds, f"{address} {state}"
        )

    def worker_pids(self) -> list[int]:
        return [one["pid"] for one in self.status()["workers"]]

    def kill_worker(self, which: int = 0) -> int:
        """kill -9; the pid that it had."""
        pid = self.worker_pids()[which]
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_supervisor(self) -> None:
        """kill -9 the supervisor alone; its workers live on as orphans."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = STOP_SECONDS, signal_number: int = signal.SIGTERM) -> None:
        """The clean end: status 0, no traceback in the log, no process and no socket left."""
        family = children(self.pid)
        self.process.send_signal(signal_number)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there {seconds:g} s after TERM:\n{self.log()}") from None
        log = self.log()
        assert status == 0, f"ended with status {status}:\n{log}"
        assert "Traceback" not in log, log
        wait_until(lambda: not any(alive(pid) for pid in family), 30, f"the end of {family}")
        # What multiprocessing starts ends by itself, once it finds that its parent has ended.
        wait_until(lambda: not processes_of(self.run_dir), 5, f"the end of all processes:\n{log}")
        folder = self.run_dir / self.name
        sockets = list(folder.glob("*.sock")) if folder.exists() else []
        assert not sockets, f"left in {folder}: {sockets}"

    def kill(self) -> None:
        """End everything that belongs to the run-time folder, however."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        kill_all(processes_of(self.run_dir))
        self._log.close()
