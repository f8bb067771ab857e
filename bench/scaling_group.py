"""An auto scaling group for measurements: fastlb as a real process, configured by a file, asked
through its control socket, and looked at from outside for what it leaves behind.

Knows no case; those are in `scaling_load` and `scaling_life`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlb.auto_scaling.process import group_members, marked
from tests.support.fastlb import FastlbProcess
from tests.support.load import LoadResult
from tests.support.processes import wait_until

GROUP = "app"
LOG_TAIL = 40
"""Lines of fastlb's log that a failed case shows."""
ASK_SECONDS = 30.0


@dataclass
class Row:
    """One line of the table, with lines below it."""

    case: str
    requests: int
    failed: int
    slowest: float
    more: str = ""
    below: Sequence[str] = ()

    def __str__(self) -> str:
        slowest = f"{self.slowest:8.3f}" if self.slowest else " " * 8
        line = f"{self.case:46} {self.requests:9,} {self.failed:7} {slowest}  {self.more}"
        return "\n".join([line, *(f"    {one}" for one in self.below)])


def row(case: str, result: LoadResult, more: str = "", below: Sequence[str] = ()) -> Row:
    return Row(case, result.requests, result.failed, result.max_latency, more, below)


def demo(*flags: str, place: str = "{socket}") -> list[str]:
    """The command of the demo app on `{socket}` or `{port}`."""
    where = "--uds" if place == "{socket}" else "--port"
    return [sys.executable, "-m", "fastlb.demo", where, place, *flags]


def configuration(command: Sequence[str], *, port: int = 0, **settings: Any) -> str:
    """A file with one group that no policy scales; `settings` are the group's, a table as a dict.

    A fastlb that is to be taken over needs a `port`: with 0 its successor would get another one.

    An HTTP check, because only that one tells an app that listens from an app that answers.
    """
    given = {"launch_template": {"command": list(command)}, "policies": [], **settings}
    lines = [
        f'[[listeners]]\naddress = "http://127.0.0.1:{port}"',
        f'default = {{ forward = "{GROUP}" }}',
        f'[target_groups.{GROUP}]\nauto_scaling_group = "{GROUP}"',
        'health_check = { path = "/health" }',
        f"[auto_scaling_groups.{GROUP}]",
        *(f"{name} = {_toml(value)}" for name, value in given.items()),
    ]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + " }"
    return json.dumps(value)  # texts, numbers, switches and lists are written alike


@dataclass
class Family:
    """Instances as they were once: what may be left of them is found by group and by mark."""

    pids: dict[str, int]
    """Of the leader, which is the process group's id too, by the Instance's id."""

    def left(self) -> list[int]:
        """Living processes of their process groups, or born of them."""
        found = {pid for group in self.pids.values() for pid in group_members(group)}
        found.update(pid for id in self.pids for pid in marked(id))
        return sorted(found)


class ScalingGroup:
    """A fastlb with one auto scaling group, named `app`."""

    def __init__(self, fastlb: FastlbProcess) -> None:
        self.fastlb = fastlb

    @property
    def port(self) -> int:
        return self.fastlb.port

    def ask(self, command: str, **request: Any) -> dict[str, Any]:
        """The answer of the control socket; AssertionError with what it says where it refuses."""
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(ASK_SECONDS)
            one.connect(str(self.fastlb.run_dir / self.fastlb.name / "control.sock"))
            one.sendall(json.dumps({"command": command, **request}).encode() + b"\n")
            pieces = []
            while piece := one.recv(65536):
                pieces.append(piece)
        answer: dict[str, Any] = json.loads(b"".join(pieces))
        assert "error" not in answer, f"{command} {request}: {answer['error']}"
        return answer

    def status(self) -> dict[str, Any]:
        """Of the group."""
        status: dict[str, Any] = self.fastlb.status()["auto_scaling_groups"][0]
        return status

    def in_service(self) -> dict[str, int]:
        """The pids of those in service by their ids."""
        return {
            one["id"]: one["pid"]
            for one in self.status()["instances"]
            if one["state"] == "in_service"
        }

    def family(self) -> Family:
        """All that live now."""
        return Family({one["id"]: one["pid"] for one in self.status()["instances"] if one["pid"]})

    def activity(self, after: int = 0) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.ask("activity", after=after)["entries"]
        return entries

    def decisions(self) -> list[dict[str, Any]]:
        """Of scaling."""
        return [one for one in self.ask("why")["entries"] if one["kind"] == "scaling"]

    def wait_steady(self, count: int, seconds: float = 30.0) -> None:
        """Until so many are in service, and nobody comes or goes."""

        def steady() -> bool:
            status = self.status()
            return bool(status["steady"] and status["in_service"] == count)

        try:
            wait_until(steady, seconds, f"{count} instances, steady", every=0.02)
        except AssertionError as error:
            raise AssertionError(f"{error}; it does: {self.status()['doing']}") from None

    def scale(self, count: int) -> None:
        """By command, and wait until it is so."""
        self.ask("scale", desired=count)
        self.wait_steady(count)

    def stop(self) -> Family:
        """The clean end, asserted: nothing of fastlb and nothing of its Instances is left."""
        family = self.family()
        self.fastlb.stop()
        left = family.left()
        assert not left, f"left of instances {family.pids}: {left}"
        return family

    def log_tail(self) -> str:
        lines = self.fastlb.log().splitlines()[-LOG_TAIL:]
        return "\n".join(f"    | {line}" for line in lines)


@contextmanager
def scaling_group(
    root: Path, text: str = "", *arguments: str, workers: int = 2, instances: int | None = 1
) -> Iterator[ScalingGroup]:
    """Of a file with `text`, which is `config.toml` in the run-time folder, or else of flags alone.

    Steady with so many `instances`, unless that is None. At the end all of it is killed; where
    something was not as it should be, the end of the log is printed first.
    """
    run_dir = Path(tempfile.mkdtemp(prefix="r", dir=root))
    listen: Iterable[str] = ("http://127.0.0.1:0",)
    if text:
        path = run_dir / "config.toml"
        path.write_text(text)
        arguments, listen = ("--config", str(path), *arguments), ()
    fastlb = FastlbProcess(root, *arguments, listen=listen, workers=workers, run_dir=run_dir)
    group = ScalingGroup(fastlb)
    try:
        if instances is not None:
            group.wait_steady(instances)
        yield group
    except BaseException:
        print(group.log_tail(), flush=True)
        raise
    finally:
        # Not `fastlb`: a case may have put a successor in its place, in the same folder.
        group.fastlb.kill()
        fastlb.kill()


def configure(group: ScalingGroup, text: str) -> str:
    """Write another file in the place of the first, and have it read; what was said."""
    (group.fastlb.run_dir / "config.toml").write_text(text)
    said: str = group.ask("reload")["said"]
    return said


def take_over(root: Path, group: ScalingGroup) -> None:
    """kill -9 the supervisor, and start the same command in the same folder."""
    before = group.fastlb
    before.kill_supervisor()
    arguments = before.command[before.command.index(before.name) + 1 :]
    group.fastlb = FastlbProcess(
        root, *arguments, listen=(), workers=None, name=before.name, run_dir=before.run_dir
    )


def timeline(entries: Iterable[Mapping[str, Any]], since: float) -> list[str]:
    """What happened, when (seconds after `since`, of the wall clock), why, and what came of it."""
    return [
        f"{one['at'] - since:+7.1f} s  {one['what']}: {one['cause']}"
        + (f" -> {one['outcome']}" if one["outcome"] else "")
        for one in entries
    ]


def kill(pid: int) -> None:
    """kill -9, of one that may have gone by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
