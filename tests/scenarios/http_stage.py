"""One fastlb for the tests of a module: many target groups, each with a RawTarget of its own.

A test takes a group that nobody has used, says what its target does, and reaches it by the path's
first segment; so no test sees another's pooled connections. Knows no single test.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tests.support.fastlb import FastlbProcess
from tests.support.processes import wait_until
from tests.support.raw_client import Answer, RawClient, split
from tests.support.raw_target import RawTarget, Script, echo_requests
from tests.support.targets import DemoTarget


class Way:
    """A group of the stage with its only target, and the way there."""

    def __init__(self, stage: HttpStage, name: str, target: RawTarget) -> None:
        self.stage = stage
        self.name = name
        self.target = target

    def path(self, rest: str = "/") -> str:
        return f"/{self.name}{rest}"

    def request(self, rest: str = "/", *fields: str, **options: Any) -> bytes:
        """A request's bytes, as of `request_bytes`."""
        return request_bytes(self.path(rest), *fields, **options)

    def ask(self, rest: str = "/", *fields: str, **options: Any) -> Answer:
        """The answer on a new connection."""
        with RawClient(self.stage.port) as client:
            client.send([self.request(rest, *fields, **options)])
            return client.answer(options.get("method", "GET"))

    @property
    def in_flight(self) -> int:
        """What fastlb counts as given to the target and not over."""
        count: int = self.stage.fastlb.targets(self.name)[self.target.address]["in_flight"]
        return count


class HttpStage:
    """`groups` ways, one worker, and the demo app at `/echo`, `/bytes/N` and its other paths.

    `settings` is TOML for each group, `listeners` holds TOML of the settings of each listener.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        *,
        groups: int,
        settings: str = "",
        listeners: tuple[str, ...] = ("",),
        top: str = "",
        demo: bool = True,
    ) -> None:
        with contextlib.ExitStack() as stack:
            targets = {f"g{n}": stack.enter_context(RawTarget()) for n in range(groups)}
            self._demo = stack.enter_context(DemoTarget("demo")) if demo else None
            text = top
            for options in listeners:
                text += '\n[[listeners]]\naddress = "http://127.0.0.1:0"\n'
                text += f'default = {{ forward = "demo" }}\n{options}\n'
                for n in range(groups):
                    text += f'[[listeners.rules]]\npriority = {n + 1}\nforward = "g{n}"\n'
                    text += f'path = ["/g{n}/*"]\n'
            text += "[target_groups.demo]\nhealth_check = false\n"
            text += f'targets = ["{self._demo}"]\n' if demo else ""
            for name, target in targets.items():
                # Not checked: a target counts its connections, and a check would be one more.
                text += f"[target_groups.{name}]\nhealth_check = false\n"
                text += f'targets = ["{target}"]\n{settings}\n'
            config = folder / "stage.toml"
            config.write_text(text)
            self.fastlb = stack.enter_context(
                FastlbProcess(root, "--config", str(config), listen=(), workers=1)
            )
            self._free = [Way(self, name, target) for name, target in targets.items()]
            self._stack = stack.pop_all()

    def __enter__(self) -> HttpStage:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self, script: Script = echo_requests) -> Way:
        """A way that was not used before."""
        way = self._free.pop()
        way.target.script = script
        return way

    @property
    def port(self) -> int:
        return self.fastlb.port

    @property
    def url(self) -> str:
        return self.fastlb.url

    def worker(self) -> int:
        return self.fastlb.worker_pids()[0]


def request_bytes(
    path: str,
    *fields: str,
    method: str = "GET",
    body: bytes = b"",
    version: str = "1.1",
    host: str | None = "test",
) -> bytes:
    """A whole request; Content-Length is added where there is a body."""
    lines = [f"{method} {path} HTTP/{version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, *fields, "", ""]).encode("latin-1") + body


def send_split(client: RawClient, data: bytes, how: str) -> None:
    """Send `data` whole, bytewise, or in pieces cut at random."""
    client.send(split(data, how))


def field_values(raw: bytes, name: str) -> list[str]:
    """The values of a field in a request or response that was read as bytes."""
    return Answer(0, raw.partition(b"\r\n\r\n")[0] + b"\r\n").fields(name)


def no_more_in_flight(way: Way, seconds: float = 30.0) -> None:
    """Until fastlb counts nothing as in flight on the way's target."""
    wait_until(lambda: way.in_flight == 0, seconds, f"nothing in flight on {way.name}")
