"""A load client in a process of its own: keep-alive connections, each answer checked to be its own.

    with LoadClient(port, connections=16) as load:
        ...kill things...
        result = load.stop()
    assert not result.failures

What happens in that process is in load_client.py.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from tests.support.fastlb import ROOT
from tests.support.load_client import LoadOptions, LoadResult

HALF_BUSY: dict[str, Any] = {"path": "/slow?ms=10", "pause": 0.01}
"""Options of a load on apps that leaves the processors free: for half of the time each connection
has a request on its way, for the other half none, and a fault hits some of both."""


class LoadClient:
    """The process. It begins at once; `started` waits for the first answer."""

    def __init__(self, port: int, **options: Any) -> None:
        self.options = LoadOptions(port=port, **options)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.load_client", json.dumps(asdict(self.options))],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._result: LoadResult | None = None

    def __enter__(self) -> LoadClient:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def started(self, seconds: float = 30.0) -> LoadClient:
        """Wait until the first request has its answer."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, f"no first answer within {seconds:g} s"
        assert self.process.stdout.readline() == b"started\n"
        return self

    def stop(self, seconds: float = 40.0) -> LoadResult:
        """Let each connection finish its request, and say what happened."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        return self.wait(seconds)

    def wait(self, seconds: float = 120.0) -> LoadResult:
        """Until the count or the time is over."""
        if self._result is None:
            self.process.wait(seconds)
            assert self.process.stdout is not None
            last = self.process.stdout.read().splitlines()[-1]
            self._result = LoadResult(**json.loads(last))
        return self._result


def run_load(port: int, **options: Any) -> LoadResult:
    """A load of `count` requests or `seconds`, from its begin to its end."""
    with LoadClient(port, **options) as load:
        return load.wait()
