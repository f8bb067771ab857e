"""How soon a drained target gets nothing new, and what that costs its clients.

    python -m bench.drain_tests                     from the project's folder, about a minute
    python -m bench.drain_tests --rounds 20         drains of each case (default 10)

Targets in one process note when each request comes to them; a load client in another checks that each
answer is its own. The time is from the moment before the command is sent to the last request that
begins at the target. The command is said as `fastlb drain` says it, over the control socket, without
the start of a Python process. The status is 1 where a request failed or came after the drain's end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import socket
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from tests.support.fastlb import FastlbProcess
from tests.support.load import LoadClient, LoadResult
from tests.support.processes import kill_all, new_run_root, processes_of, wait_until

TARGETS = 4
CASES = (("64 connections, 2 workers", 64, 2), ("8 connections, 1 worker", 8, 1))
PAUSE = 0.3
"""Seconds that are watched after a drain for a request that should not come."""


class Target(asyncio.Protocol):
    """One connection of a target: answers each request with its own id, and notes when it came."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._seen.last = time.monotonic()
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
            self._seen.count += 1
            at = head.lower().find(b"\r\nx-request-id:")
            name = head[at + 15 :].partition(b"\r\n")[0].strip() if at >= 0 else b"-"
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Request-Id: " + name + b"\r\n\r\nok"
            )


@dataclass
class Seen:
    """By one target."""

    address: str = ""
    last: float = 0.0
    count: int = 0


@dataclass
class Targets:
    """All of them, in a thread with a loop of its own."""

    seen: list[Seen] = field(default_factory=lambda: [Seen() for _ in range(TARGETS)])

    def __enter__(self) -> Targets:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        servers = []
        for one in self.seen:
            server = await self._loop.create_server(lambda one=one: Target(one), "127.0.0.1", 0)  # type: ignore[misc]
            one.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            servers.append(server)
        self._ready.set()
        await self._over.wait()
        for server in servers:
            server.close()


def ask(fastlb: FastlbProcess, **request: Any) -> Any:
    """What the control socket answers."""
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(fastlb.run_dir / fastlb.name / "control.sock"))
        one.sendall(json.dumps(request).encode() + b"\n")
        with one.makefile("rb") as answer:
            return json.loads(answer.readline())


@dataclass
class Drains:
    """Of one case: milliseconds from the command to its answer, and to the last new request."""

    answered: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)


def drain_each(fastlb: FastlbProcess, targets: Targets, rounds: int) -> Drains:
    """Drain one after the other, and have each back."""
    found = Drains()
    for number in range(rounds):
        one = targets.seen[number % TARGETS]
        before = one.count
        wait_until(lambda one=one, before=before: one.count > before + 20, 30, "it gets requests")  # type: ignore[misc]
        begun = time.monotonic()
        answer = ask(fastlb, command="drain", target=one.address)
        found.answered.append(1000 * (time.monotonic() - begun))
        assert "error" not in answer, answer
        look = ask(fastlb, command="target_idle", group="default", target=one.address, wait=10)
        found.idle.append(1000 * (time.monotonic() - begun))
        assert look["idle"], look
        count = one.count
        time.sleep(PAUSE)
        assert one.count == count, f"{one.count - count} requests came when it was said to be idle"
        found.last.append(max(1000 * (one.last - begun), 0.0))
        assert "error" not in ask(fastlb, command="undrain", target=one.address)
    return found


def measure(root: Path, connections: int, workers: int, rounds: int) -> tuple[Drains, LoadResult]:
    with (
        Targets() as targets,
        FastlbProcess(
            root, targets=[one.address for one in targets.seen], workers=workers
        ) as fastlb,
        LoadClient(fastlb.port, connections=connections) as load,
    ):
        fastlb.wait_states()
        load.started()
        drains = drain_each(fastlb, targets, rounds)
        return drains, load.stop()


def said(values: list[float]) -> str:
    return f"median {statistics.median(values):6.1f}, most {max(values):6.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drain_tests", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    root = new_run_root()
    wrong = 0
    try:
        for name, connections, workers in CASES:
            try:
                drains, result = measure(root, connections, workers, arguments.rounds)
            except AssertionError as error:
                print(f"{name}: NOT AS IT SHOULD BE: {error}", flush=True)
                wrong += 1
                continue
            wrong += bool(result.failures)
            print(
                f"{name}: {arguments.rounds} drains, {result.requests:,} requests at "
                f"{result.requests / result.seconds:,.0f}/s, {result.failed} failed\n"
                f"  ms to the last new request {said(drains.last)}\n"
                f"  ms to the command's answer {said(drains.answered)}\n"
                f"  ms until --wait is through {said(drains.idle)}",
                flush=True,
            )
    finally:
        kill_all(processes_of(root))
        shutil.rmtree(root)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
