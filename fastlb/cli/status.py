"""`fastlb status`: asks the supervisor of an instance over its control socket, shows the answer.

Knows how to ask and what to say when nobody answers; how it looks is in `status_view`.
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name",
        metavar="NAME",
        help='name of the instance (default "default": that of `fastlb run` without --name; '
        "where that is not running and one other is, that one)",
    )
    parser.add_argument(
        "--json", action="store_true", help="the supervisor's answer as it is, for programs"
    )


def status(arguments: argparse.Namespace) -> int:
    name: str | None = arguments.name
    if name is not None and not NAME.fullmatch(name):
        raise ConfigError([f"--name: {wrong(NAME_EXPECTED, name)}"])
    line = ask(name, {"command": "status"})
    if arguments.json:
        print(line)
        return 0
    from fastlb.cli.status_view import show

    show(parse(line), sys.stdout)
    return 0


def ask(wanted: str | None, request: dict[str, Any]) -> str:
    """The instance's answer to one request, one line of JSON. Raises FastlbError.

    None asks `default`, and the only instance that runs where nothing is left of that one.
    """
    name = wanted or DEFAULT_NAME
    folder = run_dir_path(name)
    try:
        return _exchange(folder / CONTROL, json.dumps(request))
    except (FileNotFoundError, ConnectionRefusedError):
        running = others(folder) if wanted is None and not orphans(folder) else []
        if len(running) == 1:
            only = f'this is "{running[0]}", the only one'
            print(f'fastlb: no instance named "{name}" is running; {only}', file=sys.stderr)
            return ask(running[0], request)
        raise FastlbError(nobody_answers(name, folder)) from None
    except PermissionError:
        raise FastlbError(
            f"{folder / CONTROL}: permission denied: ask as the user who started the instance"
        ) from None
    except (OSError, EOFError) as error:
        raise FastlbError(
            f'the supervisor of instance "{name}" gave no answer at {folder / CONTROL} '
            f"within {ANSWER_SECONDS:g} s: {error}"
        ) from None


def _exchange(path: Path, request: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(str(path))
        connection.sendall(request.encode() + b"\n")
        with connection.makefile("rb") as answer:
            line = answer.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the connection was closed before the answer was whole")
    return line.decode().rstrip("\n")


def parse(line: str) -> dict[str, Any]:
    """The status document. Raises FastlbError for an error that the supervisor answered."""
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise FastlbError(f"expected a status of the supervisor, got {got(line[:80])}")
    if "error" in document:
        raise FastlbError(f"the supervisor answered: {document['error']}")
    return document


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
        _exchange(path, json.dumps({"command": "status"}))
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
