"""Loads: what is asked of a contestant, checked on a sample first, and what comes of asking it.

wrk where it can do it, the clients of `bench.clients` where not. Knows ports, no proxies.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import ROOT, BenchError, pinned

LUA = Path(__file__).parent / "lua"
MAX_WRK_THREADS = 4
CHECKS = 3
CHECK_SECONDS = 15.0
GRACE_SECONDS = 30.0
"""How much longer than asked for a client may take before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrk:
    """GET of `path`, or POST of `body_bytes`, on keep-alive connections, each with one request at a time.

    `answer` is the whole body of the answer where it is short, `answer_bytes` its length. `browser` is a
    browser's request, with another path each time, and with `pages` another Referer, too. `idle` more
    connections are held meanwhile.
    """

    path: str = "/"
    connections: int = 64
    fields: tuple[tuple[str, str], ...] = ()
    body_bytes: int = 0
    browser: bool = False
    pages: bool = False
    answer: bytes = b"hello"
    answer_bytes: int = 0
    idle: int = 0


@dataclass(frozen=True, slots=True)
class PingPong:
    """One message of 64 bytes at a time on each connection, and the same back."""

    connections: int
    websocket: bool = False


@dataclass(frozen=True, slots=True)
class Bulk:
    """What one connection brings from target to client; counted in MB."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Idle keep-alive connections, for their memory."""

    connections: int


Load = Wrk | PingPong | Bulk | Hold


@dataclass(frozen=True, slots=True)
class Outcome:
    """`count` requests, round trips or MB in `seconds`; latencies in µs, None where there are none."""

    count: float
    seconds: float
    p50: float | None = None
    p99: float | None = None
    p999: float | None = None


def check(load: Load, port: int) -> None:
    """Ask a few times what the load will ask for; BenchError where an answer is not right.

    A contestant that has just started gets some time to be ready. Loads other than wrk's check
    all of their answers themselves.
    """
    if not isinstance(load, Wrk):
        return
    deadline = time.monotonic() + CHECK_SECONDS
    while True:
        try:
            problem = _ask(load, port)
        except (OSError, http.client.HTTPException) as error:
            problem = f"no answer: {error!r}"
        if not problem:
            return
        if time.monotonic() > deadline:
            raise BenchError(f"{load.path} on port {port}: {problem}")
        time.sleep(0.1)


def _ask(load: Wrk, port: int) -> str:
    """What is wrong with an answer, or nothing."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    method, body = ("POST", b"x" * load.body_bytes) if load.body_bytes else ("GET", None)
    try:
        for _ in range(CHECKS):
            client.request(method, load.path, body, dict(load.fields))
            with client.getresponse() as answer:
                got = answer.read()
                if answer.status != 200:
                    return f"status {answer.status} instead of 200"
            if load.answer_bytes and len(got) != load.answer_bytes:
                return f"{len(got)} bytes instead of {load.answer_bytes}"
            if not load.answer_bytes and got != load.answer:
                return f"{got[:60]!r} instead of {load.answer!r}"
        return ""
    finally:
        client.close()


def lua_of(load: Wrk) -> str:
    """The script that wrk gets for this load."""
    names = ["done"] + ["browser"] * load.browser + ["pages"] * load.pages
    names += ["body"] * bool(load.body_bytes)
    return "".join((LUA / f"{name}.lua").read_text() for name in names)


def wrk_command(load: Wrk, port: int, cores: Sequence[int], seconds: int, script: str) -> list[str]:
    threads = min(len(cores or os.sched_getaffinity(0)), MAX_WRK_THREADS, load.connections)
    command = ["wrk", f"-t{threads}", f"-c{load.connections}", f"-d{seconds}s", "-s", script]
    command += ["--timeout", "10s"]
    for name, value in load.fields:
        command += ["-H", f"{name}: {value}"]
    return [*command, f"http://127.0.0.1:{port}{load.path}", "--", str(load.body_bytes)]


def wrk_outcome(output: str) -> Outcome:
    """From what wrk and lua/done.lua print. Raises BenchError where a request failed."""
    lines = [line for line in output.splitlines() if line.startswith('{"requests"')]
    if not lines:
        raise BenchError(f"wrk did not print what it found:\n{output[-1000:]}")
    found: dict[str, int] = json.loads(lines[-1])
    kinds = {
        "status": "answers with an error status",
        "connect": "refused connections",
        "read": "failed reads",
        "write": "failed writes",
        "timeout": "timeouts",
    }
    failed = [f"{found[kind]} {text}" for kind, text in kinds.items() if found[kind]]
    if failed or not found["requests"]:
        raise BenchError(f"{', '.join(failed) or 'no answer'} beside {found['requests']} answers")
    return Outcome(
        found["requests"], found["microseconds"] / 1e6, found["p50"], found["p99"], found["p999"]
    )


@contextmanager
def prepared(
    load: Load, port: int, cores: Sequence[int], seconds: int, folder: Path
) -> Iterator[RunningLoad]:
    """A load whose connections are open, where its client can do that beforehand; `run` begins it."""
    if isinstance(load, Wrk):
        script = folder / "load.lua"
        script.write_text(lua_of(load))
        command = wrk_command(load, port, cores, seconds, str(script))
        if load.idle:
            with _client(cores, kind="hold", port=port, connections=load.idle):
                yield _WrkLoad(pinned(cores, command), seconds)
        else:
            yield _WrkLoad(pinned(cores, command), seconds)
        return
    what: dict[str, Any] = {"port": port}
    match load:
        case PingPong():
            what |= {"kind": "ping-pong", "connections": load.connections, "seconds": seconds}
            what |= {"websocket": load.websocket}
        case Bulk():
            what |= {"kind": "bulk", "seconds": seconds}
        case Hold():
            what |= {"kind": "hold", "connections": load.connections}
    with _client(cores, **what) as client:
        yield client


class RunningLoad:
    """What `prepared` gives."""

    def run(self) -> Outcome:
        """Raises BenchError where anything went wrong."""
        raise NotImplementedError


class _WrkLoad(RunningLoad):
    def __init__(self, command: list[str], seconds: int) -> None:
        self._command = command
        self._seconds = seconds

    def run(self) -> Outcome:
        try:
            done = subprocess.run(
                self._command,
                capture_output=True,
                text=True,
                timeout=self._seconds + GRACE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"wrk did not end within {GRACE_SECONDS:g} s") from None
        return wrk_outcome(done.stdout + done.stderr)


class _OwnClient(RunningLoad):
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise BenchError(f"the client could not begin: {self._last_words()}")

    def run(self) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"the client ended: {self._last_words()}") from None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the client failed: {self._last_words()}")
        return Outcome(**json.loads(line))

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        self._process.kill()
        return self._process.stderr.read().strip()[-500:]


@contextmanager
def _client(cores: Sequence[int], **what: Any) -> Iterator[_OwnClient]:
    command = pinned(cores, [sys.executable, "-m", "bench.clients", json.dumps(what)])
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            client = _OwnClient(process)
            client.wait_ready()
            yield client
        finally:
            process.kill()
            with suppress(BrokenPipeError):
                process.communicate()
