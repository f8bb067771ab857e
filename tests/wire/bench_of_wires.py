"""One fastlb between raw clients and one raw target, and the canaries that prove nothing was mixed.

Shared by the runners of the wire files and by the fuzzer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.fastlb import FastlbProcess
from tests.support.raw_client import Answer, RawClient
from tests.support.raw_target import RawConnection, RawTarget, Script, echo_answer, request_target

CANARY = "/canary-"


class Bench:
    """fastlb with one worker, and its one target; no probes, so that all bytes are the tests'."""

    def __init__(self, fastlb: FastlbProcess, target: RawTarget) -> None:
        self.fastlb = fastlb
        self.target = target
        self.port = fastlb.port
        self.worker_pids = fastlb.worker_pids()
        self._numbers = itertools.count(1)

    def canary(self, client: RawClient | None = None) -> Answer:
        """A request that must get its own answer, on a new connection or on this client's."""
        if client is None:
            with RawClient(self.port) as new:
                return self.canary(new)
        name = f"{CANARY}{next(self._numbers)}"
        client.send([f"GET {name} HTTP/1.1\r\nHost: canary.test\r\n\r\n".encode()])
        answer = client.answer()
        assert answer.status == 200, f"the canary {name} got {answer}"
        assert answer.body == f"seen {name}\n".encode(), f"{name} got another's answer: {answer}"
        assert answer.fields("X-Seen") == [name]
        return answer

    def requests(self) -> list[bytes]:
        """What the target saw but canaries."""
        with self.target.changed:
            seen = [raw for _, raw in self.target.requests]
        return [raw for raw in seen if not request_target(raw).startswith(CANARY)]

    def canary_connections(self) -> list[int]:
        """Numbers of the target's connections that the canaries came by."""
        with self.target.changed:
            return [
                number
                for number, raw in self.target.requests
                if request_target(raw).startswith(CANARY)
            ]

    def assert_well(self) -> None:
        """No worker died, and the target saw nothing that could be read in two ways."""
        assert self.fastlb.worker_pids() == self.worker_pids, self.fastlb.log()[-2000:]
        assert not self.target.errors(), self.target.errors()[:3]


@contextmanager
def bench(root: Path, *arguments: str, script: Script | None = None) -> Iterator[Bench]:
    """A Bench that ends cleanly: fastlb's own end is checked too."""
    with (
        RawTarget(script) as target,
        FastlbProcess(
            root, "--no-health-check", "--retries", "0", *arguments, targets=[target]
        ) as fastlb,
    ):
        yield Bench(fastlb, target)
        fastlb.stop()


def echo(connection: RawConnection) -> None:
    """Answers each request with its own name."""
    while True:
        connection.send(echo_answer(connection.read_request()))
