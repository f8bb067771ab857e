"""The process of a load client: `python -m tests.support.load_client OPTIONS`, which are JSON.

Light enough for some thousand requests a second beside everything else on a small machine: one uvloop
Protocol a connection, no HTTP library. It prints `started` at its first answer, ends when its standard
input does, and prints its LoadResult as JSON. Imports little: a run starts some hundred of these.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Literal, cast

SAMPLES = 20
"""Failures that are kept with their details."""


@dataclass(slots=True, kw_only=True)
class LoadOptions:
    """What to do. Without `count` and `seconds` it goes on until it is stopped."""

    port: int
    host: str = "127.0.0.1"
    connections: int = 8
    count: int | None = None
    """Requests of all connections together."""
    seconds: float | None = None
    method: str = "GET"
    path: str = "/"
    """`{id}` stands for the request's unique id."""
    body_bytes: int = 0
    headers: list[str] = field(default_factory=list)
    check: Literal["header", "body", "none"] = "header"
    """Where the answer must show the request's id: in X-Request-Id or in the body."""
    pause: float = 0.0
    """Between an answer and the next request of a connection."""
    timeout: float = 30.0
    """For one answer; a later one is a failure."""
    target_header: str = "x-demo-worker"


@dataclass(slots=True)
class LoadResult:
    """What happened. A request with an answer of status 200 to 399 that is its own has succeeded."""

    requests: int = 0
    succeeded: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """By kind: connect, reset, closed, cut, timeout, mixed, garbage, or status-NNN."""
    samples: list[str] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    by_target: dict[str, int] = field(default_factory=dict)
    reconnects: int = 0
    max_latency: float = 0.0
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def __str__(self) -> str:
        return (
            f"{self.requests} requests in {self.seconds:.1f} s, {self.succeeded} succeeded, "
            f"failures {self.failures}, by target {self.by_target}, "
            f"slowest {self.max_latency:.3f} s, samples {self.samples}"
        )


class _Run:
    """All connections of one process and what they saw."""

    def __init__(self, options: LoadOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.options = options
        self.loop = loop
        self.result = LoadResult()
        self.failures: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.by_target: Counter[str] = Counter()
        self.stopping = False
        self.living = options.connections
        self.waiting: set[_Connection] = set()
        self.over = loop.create_future()
        fields = "".join(f"{line}\r\n" for line in options.headers)
        if options.body_bytes:
            fields += f"Content-Length: {options.body_bytes}\r\n"
        self.tail = f" HTTP/1.1\r\nHost: load\r\n{fields}X-Request-Id: "
        self.body = "\r\n\r\n" + "b" * options.body_bytes
        mark = re.escape(options.target_header.encode())
        self.target = re.compile(rb"\r\n" + mark + rb":[ \t]*([^\r]*)", re.IGNORECASE)

    def next_id(self) -> str | None:
        """Of the next request; None where there is none to send."""
        if self.stopping or self.result.requests == self.options.count:
            return None
        self.result.requests += 1
        return f"r{self.result.requests}q"

    def request(self, name: str) -> bytes:
        path = self.options.path.replace("{id}", name)
        return f"{self.options.method} {path}{self.tail}{name}{self.body}".encode("latin-1")

    def fail(self, kind: str, detail: str) -> None:
        self.failures[kind] += 1
        if len(self.result.samples) < SAMPLES:
            at = self.loop.time() - self.begun
            self.result.samples.append(f"{at:.3f} s: {kind}: {detail}")

    def succeed(self) -> None:
        self.result.succeeded += 1
        if self.result.succeeded == 1:
            print("started", flush=True)

    def ended(self) -> None:
        self.living -= 1
        if not self.living and not self.over.done():
            self.over.set_result(None)

    async def run(self) -> LoadResult:
        self.begun = self.loop.time()
        self.loop.add_reader(0, self.stop)
        if self.options.seconds is not None:
            self.loop.call_later(self.options.seconds, self.stop)
        for _ in range(self.options.connections):
            _Connection(self).connect()
        watch = self.loop.create_task(self._watch())
        await self.over
        watch.cancel()
        result = self.result
        result.failures = dict(self.failures)
        result.statuses = {str(status): count for status, count in self.statuses.items()}
        result.by_target = dict(self.by_target)
        result.seconds = self.loop.time() - self.begun
        return result

    def stop(self) -> None:
        """Standard input is at its end, or the time over."""
        self.loop.remove_reader(0)
        self.stopping = True

    async def _watch(self) -> None:
        """One look a while at all connections instead of a timer for each request."""
        while True:
            await asyncio.sleep(min(0.25, self.options.timeout / 4))
            late = self.loop.time() - self.options.timeout
            for one in list(self.waiting):
                if one.sent_at < late:
                    one.give_up("timeout", f"no whole answer in {self.options.timeout:g} s")


class _Connection(asyncio.Protocol):
    """One keep-alive connection: one request after the other until there are none."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.transport: asyncio.Transport | None = None
        self.name: str | None = None
        self.sent_at = 0.0
        self.buffer = b""
        self.rest: asyncio.TimerHandle | None = None

    def connect(self) -> None:
        task = self.run.loop.create_task(self._connect())
        task.add_done_callback(lambda done: done.result())

    async def _connect(self) -> None:
        while self.name is None:
            self.name = self.run.next_id()
            if self.name is None:
                self.run.ended()
                return
            self.sent_at = self.run.loop.time()
            options = self.run.options
            try:
                async with asyncio.timeout(options.timeout):
                    await self.run.loop.create_connection(lambda: self, options.host, options.port)
                # Not by the loop's condition: the answer may be here already, and the next try begun.
                return
            except (OSError, TimeoutError) as error:
                self.run.fail("connect", repr(error))
                self.name = None
                await asyncio.sleep(0.02)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.send()

    def send(self) -> None:
        assert self.transport is not None
        assert self.name is not None
        self.buffer = b""
        self.run.waiting.add(self)
        self.transport.write(self.run.request(self.name))

    def data_received(self, data: bytes) -> None:
        if self.name is None:
            self.run.fail("garbage", f"unasked bytes {data[:80]!r}")
            self.close()
            return
        self.buffer = self.buffer + data if self.buffer else data
        self.parse(at_end=False)

    def parse(self, at_end: bool) -> None:
        buffer = self.buffer
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = buffer[:end]
        if head[9:10] == b"1" and head[9:12] != b"101":
            self.buffer = buffer[end + 4 :]
            self.parse(at_end)
            return
        lower = head.lower()
        body, size = whole_body(lower, buffer, end + 4, self.run.options.method, at_end)
        if body is None:
            return
        if size < len(buffer):
            self.give_up("garbage", f"bytes after the answer: {buffer[size : size + 80]!r}")
            return
        self.answered(head, lower, body)

    def answered(self, head: bytes, lower: bytes, body: bytes) -> None:
        run = self.run
        name = self.name
        assert name is not None
        self.run.waiting.discard(self)
        self.name = None
        latency = run.loop.time() - self.sent_at
        if latency > run.result.max_latency:
            run.result.max_latency = latency
        status = int(head[9:12])
        run.statuses[status] += 1
        found = run.target.search(head)
        if found:
            run.by_target[found[1].decode("latin-1")] += 1
        check = run.options.check
        if not 200 <= status < 400:
            run.fail(f"status-{status}", f"{name}: {head[:300]!r}")
        elif (check == "header" and b"\r\nx-request-id: " + name.encode() not in lower) or (
            check == "body" and name.encode() not in body
        ):
            run.fail("mixed", f"{name} got {head[:300]!r} {body[:100]!r}")
        else:
            run.succeed()
        if b"\r\nconnection: close" in lower or head.startswith(b"HTTP/1.0"):
            self.close()
        elif run.options.pause:
            self.rest = run.loop.call_later(run.options.pause, self.next_request)
        else:
            self.next_request()

    def next_request(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        self.name = self.run.next_id()
        if self.name is None:
            self.close()
            return
        self.sent_at = self.run.loop.time()
        self.send()

    def give_up(self, kind: str, detail: str) -> None:
        self.run.fail(kind, f"{self.name}: {detail}")
        self.name = None
        self.close()

    def close(self) -> None:
        self.run.waiting.discard(self)
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self.name is not None and self.buffer:
            self.parse(at_end=True)
        if self.name is not None:
            kind = "cut" if self.buffer else "reset" if error else "closed"
            self.run.fail(kind, f"{self.name} after {len(self.buffer)} bytes: {error!r}")
        self.run.waiting.discard(self)
        self.name = None
        self.transport = None
        if self.rest is not None:
            self.rest.cancel()  # or it would send a second request on the next connection
        self.run.result.reconnects += 1
        self.connect()


def whole_body(
    lower: bytes, buffer: bytes, begin: int, method: str, at_end: bool
) -> tuple[bytes | None, int]:
    """The body and where the answer ends; (None, 0) while it is incomplete."""
    if method == "HEAD" or lower[9:12] in (b"204", b"304"):
        return b"", begin
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        end = lower.find(b"\r\n", at + 17)
        length = int(lower[at + 17 : end if end >= 0 else None])
        if len(buffer) < begin + length:
            return None, 0
        return buffer[begin : begin + length], begin + length
    if b"\r\ntransfer-encoding: chunked" in lower:
        body = []
        while (line := buffer.find(b"\r\n", begin)) >= 0:
            size = int(buffer[begin:line], 16)
            if not size:
                end = buffer.find(b"\r\n\r\n", line)
                return (b"".join(body), end + 4) if end >= 0 else (None, 0)
            body.append(buffer[line + 2 : line + 2 + size])
            begin = line + 4 + size
            if begin > len(buffer):
                break
        return None, 0
    return (buffer[begin:], len(buffer)) if at_end else (None, 0)


def main() -> None:
    import uvloop

    options = LoadOptions(**json.loads(sys.argv[1]))

    async def run() -> LoadResult:
        return await _Run(options, asyncio.get_running_loop()).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        begun = time.monotonic()
        result = runner.run(run())
        result.seconds = time.monotonic() - begun
    print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
