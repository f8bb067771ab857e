"""fastlb with auto scaling groups: written as TOML, asked by commands, waited for until it is steady.

Times are short: a policy decides within a second, and nobody is warmed up for long.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.fastlb import FastlbProcess
from tests.support.processes import alive, wait_until
from tests.support.targets import LIGHT_APP

DEMO = (sys.executable, "-m", "fastlb.demo", "--uds", "{socket}")
"""The command of a demo app; flags may follow."""
LIGHT = (*LIGHT_APP, "--uds", "{socket}")
"""That of what groups launch unless a test needs more of an app."""

GROUP = {
    "warmup": "0.2s",
    "slow_start": "0s",
    "period": "0.3s",
    "datapoints_out": 2,
    "datapoints_in": 4,
    "cooldown": "0.5s",
    "policies": [],
    "host_cpu_limit": 100,
}
"""What groups are unless a test says otherwise."""
HEALTH_CHECK = {"path": "/health", "interval": "0.2s", "unhealthy_threshold": 2}
REFRESH = {"bake_time": "0.3s"}


def toml(value: Any) -> str:
    """As a value of a TOML document."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def group_of(
    name: str = "web",
    command: Iterable[str] = LIGHT,
    *,
    template: dict[str, Any] | None = None,
    refresh: dict[str, Any] | None = None,
    target_group: dict[str, Any] | None = None,
    **settings: Any,
) -> str:
    """A target group and the auto scaling group of its name as TOML; `settings` are the latter's."""
    target = {"health_check": HEALTH_CHECK} | (target_group or {})
    launch = {"command": list(command)} | (template or {})
    group = GROUP | settings | {"launch_template": launch, "refresh": REFRESH | (refresh or {})}
    lines = [f"[target_groups.{name}]", f'auto_scaling_group = "{name}"']
    lines += [f"{key} = {toml(value)}" for key, value in target.items()]
    lines += [f"[auto_scaling_groups.{name}]"]
    lines += [f"{key} = {toml(value)}" for key, value in group.items()]
    return "\n".join(lines) + "\n"


class Refused(Exception):
    """What a command answered that it did not do."""


class ScaledFastlb(FastlbProcess):
    """`fastlb run --config FILE` with auto scaling groups in the file; commands are about `web`
    unless they say another group."""

    def __init__(
        self,
        root: Path,
        *groups: str,
        config: Path | None = None,
        flags: Iterable[str] = (),
        **options: Any,
    ) -> None:
        self._forgotten = 0
        self.config = config or root / f"scaling-{os.urandom(4).hex()}.toml"
        if groups:
            self.config.write_text("".join(groups))
        super().__init__(root, "--config", str(self.config), *flags, **options)

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """The answer of the control socket. Raises Refused."""
        answer = ask(self.run_dir / self.name, command, **fields)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def group(self, name: str = "web") -> dict[str, Any]:
        groups: list[dict[str, Any]] = self.status()["auto_scaling_groups"]
        return next(one for one in groups if one["name"] == name)

    def instances(self, name: str = "web", state: str | None = "in_service") -> dict[str, Any]:
        """Status by id, the oldest first."""
        return {
            one["id"]: one
            for one in self.group(name)["instances"]
            if state is None or one["state"] == state
        }

    def pids(self, name: str = "web") -> list[int]:
        """Of those in service."""
        return [one["pid"] for one in self.instances(name).values()]

    def wait_steady(
        self, count: int | None = None, name: str = "web", seconds: float = 30.0
    ) -> dict[str, Any]:
        """Until nobody comes or goes, and `count` are in service; these by id."""

        def steady() -> bool:
            group = self.group(name)
            return group["steady"] and count in (None, group["in_service"])

        wait_until(steady, seconds, f"{count} steady instances of {name}", every=0.02)
        return self.instances(name)

    def activity(self, name: str = "web") -> list[dict[str, Any]]:
        entries = self.ask("activity", group=name, after=self._forgotten)["entries"]
        return list(entries)

    def forget_activity(self) -> None:
        """Of other tests."""
        entries = self.ask("activity")["entries"]
        self._forgotten = entries[-1]["number"] if entries else 0

    def wait_activity(
        self, what: str, outcome: str = "", name: str = "web", seconds: float = 30.0
    ) -> dict[str, Any]:
        """The last activity that begins with `what`, and has `outcome` in what became of it."""

        def found() -> dict[str, Any] | None:
            for entry in reversed(self.activity(name)):
                if entry["what"].startswith(what) and outcome in entry["outcome"]:
                    return entry
            return None

        one = wait_until(found, seconds, f"activity {what!r} with {outcome!r}", every=0.03)
        assert one is not None
        return one

    def forgive(self, name: str = "web") -> None:
        """Have failed launches forgotten: the next one is at once."""
        self.ask("suspend", group=name, process="launch")
        self.ask("resume", group=name, process="launch")

    def reload(self, *groups: str) -> dict[str, Any]:
        """Write the file anew and have it read."""
        self.config.write_text("".join(groups))
        return self.ask("reload")


def ask(folder: Path, command: str, **fields: Any) -> dict[str, Any]:
    """What the control socket in a run-time folder answers; OSError where nobody listens."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(30)
        one.connect(str(folder / "control.sock"))
        one.sendall(json.dumps({"command": command, **fields}).encode() + b"\n")
        pieces = []
        while piece := one.recv(65536):
            pieces.append(piece)
    answer: dict[str, Any] = json.loads(b"".join(pieces))
    return answer


def group_members(group: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or not alive(int(name)):
            continue
        try:
            if os.getpgid(int(name)) == group:
                found.append(int(name))
        except ProcessLookupError:
            continue
    return found


def gone(pids: Iterable[int], seconds: float = 30.0) -> None:
    """Wait until all of them have ended."""
    wanted = list(pids)
    wait_until(lambda: not any(alive(pid) for pid in wanted), seconds, f"the end of {wanted}")


def environment_of(pid: int) -> dict[str, str]:
    """What a process was started with; empty where it has ended."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(pair.split("=", 1) for pair in pairs if pair)
