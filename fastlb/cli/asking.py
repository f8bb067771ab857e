"""The client of an instance's control socket: how to ask, and what to say when nobody answers.

Knows no command and nothing of what is answered.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

from fastlb.config.table import NAME, NAME_EXPECTED
from fastlb.config.values import got, wrong
from fastlb.control_plane.run_dir import CONTROL, WORKER_SOCKETS, run_dir_path
from fastlb.errors import ConfigError, FastlbError

ANSWER_SECONDS = 5.0
DEFAULT_NAME = "default"


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name",
        metavar="NAME",
        help='name of the instance (default "default": that of `fastlb run` without --name; '
        "where that is not running and one other is, that one)",
    )


class Supervisor:
    """The supervisor of one instance, as a command sees it.

    Without a name that of `default`, or of the only instance that runs where nothing is left of that
    one; this is found out at the first question. Raises ConfigError for a name that cannot be.
    """

    def __init__(self, wanted: str | None) -> None:
        if wanted is not None and not NAME.fullmatch(wanted):
            raise ConfigError([f"--name: {wrong(NAME_EXPECTED, wanted)}"])
        self._named = wanted is not None
        self._name = wanted or DEFAULT_NAME

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
            raise FastlbError(nobody_answers(self._name, folder)) from None
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
    if pids := orphans(folder):
        return (
            f'the supervisor of instance "{name}" is gone, but its workers still serve with the '
            f"last table (pid {', '.join(pids)}): start it again with the same --name, and it "
            "takes over without a refused request; or end them, which finishes what is in "
            f"flight: kill -TERM {' '.join(pids)}"
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
