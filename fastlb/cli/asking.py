"""The client of an instance's control socket: how to ask, and what to say when nobody answers.

Knows no command and nothing of what is answered.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

from fastlb.auto_scaling.records import Records
from fastlb.child_process import start_time
from fastlb.config.table import NAME, NAME_EXPECTED
from fastlb.config.values import got, wrong
from fastlb.control_plane.run_dir import CONTROL, WORKER_SOCKETS, run_dir_path
from fastlb.errors import ConfigError, FastlbError

ANSWER_SECONDS = 5.0
DEFAULT_NAME = "default"
NAME_VARIABLE = "FASTLB_NAME"
"""The default of `--name`, for whoever has to do with one instance all day."""


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name",
        metavar="NAME",
        help=f"name of the instance (default ${NAME_VARIABLE}; without that variable "
        f'"{DEFAULT_NAME}", that of `fastlb run` without --name; where that is not running and one '
        "other is, that one)",
    )


class Supervisor:
    """The supervisor of one instance, as a command sees it.

    Without a name that of FASTLB_NAME in the environment; without that one too `default`, or the only
    instance that runs where nothing is left of `default`; this is found out at the first question.
    Raises ConfigError for a name that cannot be.
    """

    def __init__(self, wanted: str | None) -> None:
        said_by = "--name"
        if wanted is None:
            wanted, said_by = os.environ.get(NAME_VARIABLE) or None, NAME_VARIABLE
        if wanted is not None and not NAME.fullmatch(wanted):
            raise ConfigError([f"{said_by}: {wrong(NAME_EXPECTED, wanted)}"])
        self._said_by = said_by
        self._named = wanted is not None
        self._name = wanted or DEFAULT_NAME

    @property
    def folder(self) -> Path:
        """Its run-time folder; that of the instance that answered, once one has."""
        return run_dir_path(self._name)

    def ask(self, request: dict[str, Any], wait: float = 0.0) -> dict[str, Any]:
        """Its answer; `wait` is how long, in seconds, the request lets it wait for something. Raises
        FastlbError, with its own words where it says that it cannot be."""
        document = parse(self.line(request, wait))
        if "error" in document:
            raise FastlbError(str(document["error"]))
        return document

    def line(self, request: dict[str, Any], wait: float = 0.0) -> str:
        """The same as the line of JSON that it is. Raises FastlbError."""
        text = json.dumps({**request, "wait": wait} if wait else request)
        folder = run_dir_path(self._name)
        try:
            return _exchange(folder / CONTROL, text, ANSWER_SECONDS + wait)
        except (FileNotFoundError, ConnectionRefusedError):
            running = others(folder) if not self._named and not orphans(folder) else []
            if len(running) == 1:
                only = f'this is "{running[0]}", the only one'
                print(
                    f'fastlb: no instance named "{self._name}" is running; {only}', file=sys.stderr
                )
                self._name, self._named = running[0], True
                return self.line(request, wait)
            by_variable = self._named and self._said_by == NAME_VARIABLE
            source = f"; the name is that of {NAME_VARIABLE}" if by_variable else ""
            raise FastlbError(nobody_answers(self._name, folder) + source) from None
        except PermissionError:
            raise FastlbError(
                f"{folder / CONTROL}: permission denied: ask as the user who started the instance"
            ) from None
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:
            raise FastlbError(
                f'the supervisor of instance "{self._name}" has gone: '
                f"{error or 'the connection was reset'}"
            ) from None
        except OSError as error:
            raise FastlbError(
                f'the supervisor of instance "{self._name}" gave no answer at {folder / CONTROL} '
                f"within {ANSWER_SECONDS + wait:g} s: {error}"
            ) from None


def parse(line: str) -> dict[str, Any]:
    """The answer. Raises FastlbError where it is none."""
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise FastlbError(f"expected an answer of the supervisor, got {got(line[:80])}")
    return document


def _exchange(path: Path, request: str, seconds: float) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        connection.connect(str(path))
        connection.sendall(request.encode() + b"\n")
        with connection.makefile("rb") as answer:
            line = answer.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the connection was closed before the answer was whole")
    return line.decode().rstrip("\n")


def nobody_answers(name: str, folder: Path) -> str:
    """What is there instead of a supervisor: orphans that serve, other instances, nothing."""
    pids, apps = orphans(folder), app_instances(folder)
    running_on = f"; the app's instances run on (pid {', '.join(apps)})" if apps else ""
    if pids:
        return (
            f'the supervisor of instance "{name}" is gone, but its workers still serve with the '
            f"last table (pid {', '.join(pids)}){running_on}: start it again with the same --name, "
            "and it takes over without a refused request; or end them, which finishes what is in "
            f"flight: kill -TERM {' '.join([*pids, *apps])}"
        )
    if apps:
        return (
            f'the supervisor of instance "{name}" is gone, and so are its workers{running_on}: start '
            "it again with the same --name, and it adopts them; or end them: kill -TERM "
            f"{' '.join(apps)}"
        )
    said = f'no instance named "{name}" is running ({folder / CONTROL} does not answer)'
    if running := others(folder):
        said += f"; running: {', '.join(running)}; ask: fastlb status --name {running[0]}"
    if left := sorted(one.name for one in folder.parent.glob("*/") if orphans(one)):
        seen = [name for name in left if name not in running]
        said += f"; workers without a supervisor: {', '.join(seen)}" if seen else ""
    return said


def orphans(folder: Path) -> list[str]:
    """The pids of workers that serve there, sought where no supervisor answers."""
    serving = [path for path in sorted(folder.glob(WORKER_SOCKETS)) if _accepts(path)]
    return [re.sub(r"\D", "", path.name) for path in serving]


def app_instances(folder: Path) -> list[str]:
    """The pids of an auto scaling group's instances that live without a supervisor."""
    found = Records(folder).instances()
    return [str(one.pid) for one in found if one.pid and start_time(one.pid) == one.started]


def others(folder: Path) -> list[str]:
    """The names of the instances that answer, of all whose folder is beside this one."""
    controls = sorted(folder.parent.glob(f"*/{CONTROL}"))
    return [path.parent.name for path in controls if _serves(path)]


def _serves(path: Path) -> bool:
    try:
        _exchange(path, json.dumps({"command": "status"}), ANSWER_SECONDS)
    except (OSError, EOFError):
        return False
    return True


def _accepts(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(path))
    except OSError:
        return False
    return True
