"""A worker that only says its pid, and an instance of it in a process of its own, for these tests.

The worker honours all that the supervisor asks of one: the table's slots, the pipe, the drain and
the takeover socket. On a connection each line is answered by the worker's pid; `slow 0.5` is
answered that many seconds later, and `until /path` as soon as there is such a file. With
FASTLB_TEST_CRASH naming a file, the workers whose indexes are in it end at their start.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from fastlb.child_process import ChildProcess
from fastlb.model.address import parse_address
from fastlb.model.configuration import Configuration
from fastlb.model.listener import FixedResponse, Listener
from fastlb.target_table import handover, pipe
from fastlb.target_table.counters import Counters, Worker
from fastlb.target_table.pipe import Drain, Ready, Relieve, Stop, TableChanged, WorkerStart
from fastlb.target_table.reader import TableReader
from tests.support.processes import alive, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]


def worker_main(start: WorkerStart) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    crash = os.environ.get("FASTLB_TEST_CRASH")
    if crash and os.path.exists(crash) and str(start.index) in Path(crash).read_text().split():
        os._exit(3)
    asyncio.run(StandIn(start).run())


class StandIn:
    def __init__(self, start: WorkerStart) -> None:
        self.start = start
        self.table = TableReader(start.table.fd)
        self.counters = Counters(start.counters.fd)
        self.row = self.counters.row(start.index)
        self.open: dict[Connection, None] = {}
        self.reading: set[socket.socket] = set()
        self.slots: tuple[int, ...] = ()
        self.workers = 1
        self.asked: tuple[int, ...] = ()
        self.orphaned = False
        self.draining = False
        self.ready = False
        self.end = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.row[Worker.PID] = os.getpid()
        loop.add_reader(self.start.pipe.fileno(), self.on_pipe)
        server = handover.bind_handover_socket(self.start.run_dir)
        answering = asyncio.create_task(
            handover.answer_takeover(server, self.start, lambda: self.orphaned, self.drain)
        )
        loop.add_signal_handler(signal.SIGTERM, self.on_sigterm)
        self.beat()
        self.read_table()
        await self.end.wait()
        answering.cancel()
        await asyncio.wait({answering})
        server.close()
        os.unlink(handover.handover_path(self.start.run_dir, os.getpid()))
        for connection in list(self.open):
            connection.close()
        for sockets in self.start.listen.values():
            for one in sockets:
                one.close()
        self.start.pipe.close()

    def beat(self) -> None:
        self.row[Worker.BEAT_NS] = time.monotonic_ns()
        asyncio.get_running_loop().call_later(0.1, self.beat)

    def on_sigterm(self) -> None:
        """Only an orphan obeys: the supervisor would go on to give this worker its slots."""
        self.on_pipe()  # its end may not have been noticed yet
        if self.orphaned:
            self.end.set()

    def on_pipe(self) -> None:
        while not self.orphaned:
            try:
                message = pipe.receive(self.start.pipe)
            except BlockingIOError:
                return
            if message is None:
                asyncio.get_running_loop().remove_reader(self.start.pipe.fileno())
                self.orphaned = True
            elif isinstance(message, TableChanged):
                self.read_table()
            elif isinstance(message, Drain):
                self.drain(message.seconds)
            elif isinstance(message, Stop):
                self.end.set()

    def read_table(self) -> None:
        found = self.table.read()
        if found is None or self.draining:
            return
        loop = asyncio.get_running_loop()
        _, snapshot = found
        self.workers = snapshot.config.workers
        self.slots = tuple(i for i, who in enumerate(snapshot.slots) if who == self.start.index)
        self.asked = ()
        wanted = {all[slot] for all in self.start.listen.values() for slot in self.slots}
        for one in self.reading - wanted:
            loop.remove_reader(one.fileno())
        for one in wanted - self.reading:
            one.setblocking(False)
            loop.add_reader(one.fileno(), self.accept, one)
        self.reading = wanted
        if not self.ready:
            self.ready = True
            pipe.send(self.start.pipe, Ready())

    def accept(self, one: socket.socket) -> None:
        try:
            accepted, _ = one.accept()
        except BlockingIOError:
            return
        Connection(self, accepted)
        self.weigh()

    def weigh(self) -> None:
        """Ask for relief when clearly over the mean of all workers."""
        counts = [self.counters.row(index)[Worker.CONNECTIONS] for index in range(self.workers)]
        mean = sum(counts) / len(counts)
        if mean > 50 and self.row[Worker.CONNECTIONS] > mean * 1.04 + 1:
            for slot in self.slots:
                if slot not in self.asked:
                    pipe.send(self.start.pipe, Relieve(slot))
            self.asked = self.slots

    def drain(self, seconds: float, table: int | None = None) -> None:
        """`table` is that of the supervisor that takes over; who asks no target has no use for it."""
        if table is not None:
            os.close(table)
        if self.draining:
            return
        for one in list(self.reading):
            self.accept_all(one)
        self.draining = True
        loop = asyncio.get_running_loop()
        for one in self.reading:
            loop.remove_reader(one.fileno())
        self.reading = set()
        for sockets in self.start.listen.values():
            for one in sockets:
                one.close()
        for connection in list(self.open):
            connection.close_if_idle()
        loop.call_later(seconds, self.end.set)
        self.note_end()

    def accept_all(self, one: socket.socket) -> None:
        while True:
            try:
                accepted, _ = one.accept()
            except BlockingIOError:
                return
            Connection(self, accepted)

    def note_end(self) -> None:
        if self.draining and not self.open:
            self.end.set()


class Connection:
    """One client; while draining it is closed after the answer that it waits for."""

    def __init__(self, worker: StandIn, client: socket.socket) -> None:
        self.worker, self.client = worker, client
        self.busy = 0
        self.asked = False
        worker.open[self] = None
        worker.row[Worker.CONNECTIONS] = len(worker.open)
        client.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(client.fileno(), self.read)

    def read(self) -> None:
        try:
            line = self.client.recv(1000).decode()
        except ConnectionError:
            line = ""
        if not line:
            self.close()
            return
        self.asked = True
        self.busy += 1
        delay = float(line.split()[1]) if line.startswith("slow") else 0
        if delay:
            self.loop.call_later(delay, self.answer)
        elif line.startswith("until"):
            self.answer_once_there(line.split()[1])
        else:
            self.answer()

    def answer_once_there(self, path: str) -> None:
        if os.path.exists(path):
            self.answer()
        else:
            self.loop.call_later(0.02, self.answer_once_there, path)

    def answer(self) -> None:
        self.busy -= 1
        self.worker.row[Worker.REQUESTS] += 1
        try:
            self.client.send(f"{os.getpid()}\n".encode())
        except OSError:
            self.close()
        if self.worker.draining:
            self.close_if_idle()

    def close_if_idle(self) -> None:
        # A client that was accepted in this moment has its first line on the way.
        if self.asked and not self.busy:
            self.close()

    def close(self) -> None:
        if self not in self.worker.open:
            return
        del self.worker.open[self]
        self.loop.remove_reader(self.client.fileno())
        self.client.close()
        self.worker.row[Worker.CONNECTIONS] = len(self.worker.open)
        self.worker.note_end()


# --- the test's end -------------------------------------------------------------------------


class Instance:
    """`run_supervisor` with the stand-in, in a process of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        listen: str = "127.0.0.1:0",
        workers: int = 2,
        drain: float = 5.0,
        crash: Path | None = None,
    ) -> None:
        self.folder = folder
        self.run_dir = folder / "t"
        self.log_path = folder / f"log-{time.monotonic_ns()}"
        environment = {
            **os.environ,
            "FASTLB_RUN_DIR": str(folder),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONWARNINGS": "error",
            **({"FASTLB_TEST_CRASH": str(crash)} if crash else {}),
        }
        with self.log_path.open("wb") as log:
            self.process = ChildProcess(
                [sys.executable, __file__, listen, str(workers), str(drain)],
                env=environment,
                stderr=log,
                own_group=False,
            )
        self.pids: set[int] = {self.process.pid}

    def __enter__(self) -> Instance:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all of it, however the test went."""
        if self.process.returncode is None:
            self.process.stop(time.monotonic() + 5)
        if error is not None:
            sys.stderr.write(self.log)
        for pid in self.pids - {self.process.pid}:
            if alive(pid) and b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def status(self) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(30)
            client.connect(str(self.run_dir / "control.sock"))
            client.sendall(b'{"command": "status"}\n')
            with client.makefile("rb") as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        self.pids |= {worker["pid"] for worker in answer["workers"]} - {0}
        return answer

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.status()["workers"]
        return found

    def until_ready(self) -> dict[str, Any]:
        """The status once all workers run, each with its own slots."""

        def ready() -> dict[str, Any] | None:
            assert self.process.alive, self.log
            try:
                status = self.status()
            except (FileNotFoundError, ConnectionError):
                return None
            if status["pid"] != self.process.pid:
                return None
            settled = all(w["state"] == "running" and w["slots"] for w in status["workers"])
            return status if settled else None

        return wait_until(ready, 30, "all workers run")

    @property
    def port(self) -> int:
        address: str = self.status()["listeners"][0]["address"]
        return int(address.rpartition(":")[2])

    def kill_supervisor(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(time.monotonic() + 30) == -signal.SIGKILL


class Client:
    """One connection to the instance."""

    def __init__(self, port: int, seconds: float = 30.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), seconds)

    def send(self, line: str = "who") -> Client:
        self.socket.sendall(f"{line}\n".encode())
        return self

    def receive(self) -> int:
        """The worker's pid; 0 where the connection was cut."""
        try:
            data = self.socket.recv(100)
        except ConnectionError:
            return 0
        return int(data) if data else 0

    def ask(self, line: str = "who") -> int:
        return self.send(line).receive()

    def close(self) -> None:
        self.socket.close()


def ask_once(port: int) -> int:
    client = Client(port)
    try:
        return client.ask()
    finally:
        client.close()


if __name__ == "__main__":
    from fastlb.control_plane.supervisor import run_supervisor
    from fastlb.errors import FastlbError

    where, count, drain_seconds = sys.argv[1:]
    instance = Configuration(
        listeners=(
            Listener(protocol="tcp", address=parse_address(where), default=FixedResponse()),
        ),
        name="t",
        workers=int(count),
        drain_timeout=float(drain_seconds),
        log_level="debug",
    )
    try:
        sys.exit(run_supervisor(instance, worker_main))
    except FastlbError as error:
        sys.exit(f"error: {error}")
