"""Mutates the requests of the wire files and sends them in pipelines over many connections.

    python -m tests.wire.fuzz --requests 100000 --seed 7

The same seed sends the same bytes. Every connection marks all its requests with a tag of its own;
the target, which reads in one strict way, says in each answer which tags it found. So these are
seen as violations: a request that the target can read in two ways or that holds two clients' bytes,
an answer with another's tag, an answer stream that does not parse, a connection that never ends, a
canary without its own answer, a worker that died.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.support.processes import kill_all, new_run_root, processes_of
from tests.support.raw_target import RawConnection, answer, request_target
from tests.wire.bench_of_wires import Bench, bench
from tests.wire.corpus import request_cases

TAG = re.compile(rb"tag-[g-p]{12}-")
"""Twelve digits written as letters: a mutation all but never makes one tag of another."""
DIGITS = bytes.maketrans(b"0123456789", b"ghijklmnop")
LONGEST = 4000
"""Longer files make it slow and add nothing to mutate."""
CONNECTIONS = 12
WAIT_SECONDS = 15.0
CANARY_SHARE = 0.1
MOST_VIOLATIONS = 5
TOKENS = [
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b"),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: 99\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"chunked", b"gzip"),
    *(b"Connection: close\r\n", b"Connection: content-length\r\n", b"Expect: 100-continue\r\n"),
    *(b"Host: b.test\r\n", b"Upgrade: websocket\r\n", b"HTTP/1.1", b"HTTP/1.0", b"GET / "),
    *(b"0\r\n\r\n", b"5\r\nhello\r\n", b"-1", b"+", b"0x", b"ffffffffffffffff", b"\x80", b"\xff"),
]


class Mutator:
    """Bytes of a connection from the files and a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        cases = [case for case in request_cases() if 0 < len(case.data) <= LONGEST]
        good = [case.data for case in cases if set(case.answers) == {200}]
        bad = [case.data for case in cases if set(case.answers) != {200}]
        self.kinds = (good, good, bad)
        self.tags: set[bytes] = set()

    def new_tag(self) -> bytes:
        tag = b"tag-%s-" % (b"%012d" % self.chance.randrange(10**12)).translate(DIGITS)
        self.tags.add(tag)
        return tag

    def connection(self, tag: bytes) -> tuple[bytes, int]:
        """A pipeline of requests, all with the tag of the connection, and how many they are."""
        count = self.chance.randint(1, 4)
        return b"".join(self.request(tag) for _ in range(count)), count

    def request(self, tag: bytes) -> bytes:
        data = self.chance.choice(self.chance.choice(self.kinds))
        line, end, rest = data.partition(b"\r\n")
        data = line + end + b"X-Tag: " + tag + b"\r\n" + rest
        for _ in range(self.chance.choice((0, 0, 1, 1, 1, 2, 2, 4))):
            data = self.mutate(data)
        return data

    def mutate(self, data: bytes) -> bytes:
        chance = self.chance
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 64)))
        kind = chance.randrange(7)
        if kind == 0:
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        if kind == 1:
            return data[:at] + chance.choice(TOKENS) + data[at:]
        if kind == 2:
            return data[:at] + chance.choice(TOKENS) + data[to:]
        if kind == 3:
            return data[:at] + data[to:]
        if kind == 4:
            return data[:to] + data[at:]
        if kind == 5:
            # Field lines change places: what comes first must not matter for what is refused.
            lines = data.split(b"\r\n")
            one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
            lines[one], lines[other] = lines[other], lines[one]
            return b"\r\n".join(lines)
        digits = [found.start() for found in re.finditer(rb"[0-9]", data)]
        if not digits:
            return data
        place = chance.choice(digits)
        return data[:place] + b"%d" % chance.randrange(10) + data[place + 1 :]


def tagged(connection: RawConnection) -> None:
    """The target's script: says which request it saw, and with which tags."""
    while True:
        raw = connection.read_request()
        name, tags = request_target(raw), b" ".join(sorted(set(TAG.findall(raw)))).decode()
        fields = [f"X-Seen: {name}", f"X-Tags: {tags}"]
        head_only = raw.startswith(b"HEAD ")
        if head_only:
            fields.append("X-Head: 1")
        connection.send(answer(f"seen {name}\n".encode(), *fields, head_only=head_only))


@dataclass
class FuzzResult:
    requests: int = 0
    connections: int = 0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.requests} requests on {self.connections} connections in {self.seconds:.0f} s, "
            f"answers {dict(sorted(self.statuses.items()))}, {len(self.violations)} violations"
        )


class Fuzzer:
    """Sends mutated pipelines through one Bench until enough requests are sent."""

    def __init__(self, wires: Bench, seed: int, result: FuzzResult) -> None:
        self.wires = wires
        self.seed = seed
        self.mutator = Mutator(seed)
        self.result = result
        self._numbers = itertools.count(1)

    def run(self, requests: int) -> None:
        begun = time.monotonic()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._all(requests))
        self.result.seconds = time.monotonic() - begun
        self._look()

    def _enough(self, requests: int) -> bool:
        result = self.result
        return result.requests >= requests or len(result.violations) >= MOST_VIOLATIONS

    async def _all(self, requests: int) -> None:
        async def one() -> None:
            while not self._enough(requests):
                await self._connection(next(self._numbers))

        async def look() -> None:
            while True:
                await asyncio.sleep(2)
                self._look()

        looking = asyncio.create_task(look())
        await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
        looking.cancel()

    def _look(self) -> None:
        """At the worker and at what the target found; what was looked at is forgotten."""
        try:
            self.wires.assert_well()
        except AssertionError as error:
            self.result.violations.append(f"seed {self.seed}: {error}")
        for one in self.wires.target.connections:
            for raw in one.requests:
                if len(self.tags_in(raw)) > 1:
                    self.violation(0, raw, "two clients' bytes in one request")
            one.requests.clear()
        self.wires.target.forget()

    def tags_in(self, data: bytes) -> set[bytes]:
        return self.mutator.tags.intersection(TAG.findall(data))

    def violation(self, number: int, sent: bytes, what: str) -> None:
        self.result.violations.append(f"seed {self.seed}, connection {number}: {what}: {sent!r}")

    async def _connection(self, number: int) -> None:
        """One client connection from its opening to its end."""
        chance = self.mutator.chance
        canary = chance.random() < CANARY_SHARE
        tag = self.mutator.new_tag()
        if canary:
            name = f"/canary-{number}"
            sent, count = b"GET %s HTTP/1.1\r\nHost: c.test\r\n\r\n" % name.encode(), 1
        else:
            sent, count = self.mutator.connection(tag)
        half = chance.randrange(len(sent)) if chance.random() < 0.3 else len(sent)
        self.result.requests += count
        self.result.connections += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                got = await self._exchange(sent, half)
        except TimeoutError:
            self.violation(number, sent, f"no end within {WAIT_SECONDS:g} s of the client's FIN")
            return
        except OSError as error:
            self.violation(number, sent, f"no connection: {error}")
            return
        try:
            answers = list(parse_answers(got))
        except ValueError as error:
            self.violation(number, sent, f"{error} in the answers {got[:2000]!r}")
            return
        for status, head, body in answers:
            self.result.statuses[status] += 1
            if self.tags_in(head) - {tag}:
                self.violation(number, sent, f"another's answer: {head!r}")
            elif canary and (status, body) != (200, b"seen %s\n" % name.encode()):
                self.violation(number, sent, f"the canary got {head!r} {body!r}")
        if canary and len(answers) != 1:
            self.violation(number, sent, f"the canary got {len(answers)} answers")

    async def _exchange(self, sent: bytes, half: int) -> bytes:
        """Send in one piece or two, half-close, and read to the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.wires.port)
        got = b""
        try:
            writer.write(sent[:half])
            if half < len(sent):
                await asyncio.sleep(0.001)
                writer.write(sent[half:])
            if writer.can_write_eof():
                writer.write_eof()
            while data := await reader.read(65536):
                got += data
        except OSError:  # a ConnectionError, or ENOTCONN of the half-close
            pass  # refused in the middle of our bytes: what was answered before counts
        finally:
            writer.transport.abort()
        return got


def parse_answers(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Status, head and body of each final answer. Raises ValueError where they do not parse."""
    at = 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            raise ValueError(f"half a head {data[at : at + 200]!r}")
        head = data[at : end + 2]
        found = re.match(rb"HTTP/1\.1 ([2-5][0-9][0-9]|10[0-9]) ?[^\r\n]*\r\n", head)
        if not found or re.search(rb"[^\r]\n|\r[^\n]|\0", head):
            raise ValueError(f"no answer's head: {head[:200]!r}")
        status = int(found[1])
        at = end + 4
        if status < 200:
            continue
        lengths = re.findall(rb"(?i)\r\ncontent-length: (\d+)\r\n", head)
        size = int(lengths[0]) if len(lengths) == 1 else 0
        if b"\r\nX-Head: 1\r\n" in head or (status >= 400 and at == len(data)):
            size = 0  # the answer to a HEAD; a refused one is the last
        if len(data) < at + size:
            raise ValueError(f"a cut body after {head!r}")
        yield status, head, data[at : at + size]
        at += size


def fuzz(root: Path, requests: int, seed: int) -> FuzzResult:
    """Start a fastlb, fuzz it, end it cleanly."""
    result = FuzzResult()
    try:
        with bench(root, script=tagged) as wires:
            Fuzzer(wires, seed, result).run(requests)
            wires.canary()
    except AssertionError as error:
        result.violations.append(f"seed {seed}: {error}")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.wire.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="default: the time")
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    root = new_run_root()
    try:
        result = fuzz(root, arguments.requests, seed)
    finally:
        kill_all(processes_of(root))
        shutil.rmtree(root)
    print(f"seed {seed}: {result}")
    for one in result.violations:
        print(f"  {one}")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
