"""`fastlb logs`: what fastlb and the instances of its groups have logged, and what they log; and the
access log.

Reads the files of the run-time folder, which outlive a supervisor; the supervisor is asked who its
instances are. What is shown, and how, is `log_view`'s.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlb.cli.asking import Supervisor, add_name
from fastlb.cli.reading import add_following, as_json
from fastlb.cli.usage import CommandParser, Word
from fastlb.cli.waiting import duration_of
from fastlb.control_plane.run_dir import LOG
from fastlb.errors import ConfigError, FastlbError
from fastlb.logs import older

if TYPE_CHECKING:
    from fastlb.cli.log_view import Record, Wanted

DEFAULT_LAST = 50


def _reopen(text: str) -> str:
    if text != "reopen":
        raise ValueError(f'expected "reopen" or nothing, got "{text}"')
    return text


def add_arguments(parser: CommandParser) -> None:
    parser.usage = (
        "fastlb logs [-n N] [--follow] [--since TIME] [--level LEVEL] [--instance ID | --group NAME]\n"
        "                   [--json] [--name NAME]\n"
        "       fastlb logs --access [-n N] [--follow] [--name NAME]\n"
        "       fastlb logs reopen [--name NAME]"
    )
    what = "have every worker open the access log by its name anew, and wait until it has"
    parser.take(Word("action", "reopen", what, optional=True, read=_reopen))
    add_following(parser, DEFAULT_LAST, f"how many of the last lines (default {DEFAULT_LAST})")
    parser.add_argument(
        "--since", metavar="TIME", type=duration_of, help="not older than this, as 10m"
    )
    parser.add_argument(
        "--level",
        choices=("debug", "info", "warning", "error"),
        default="debug",
        help="not less important than this; what was logged at all is --log-level's to say",
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--instance", metavar="ID", help="what this instance printed, and what is said of it"
    )
    who.add_argument("--group", metavar="NAME", help="the same for each instance of a group")
    who.add_argument("--access", action="store_true", help="the access log, where it is a file")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    add_name(parser)


def logs(arguments: argparse.Namespace) -> int:
    supervisor = Supervisor(arguments.name)
    if arguments.action == "reopen":
        print(supervisor.ask({"command": "reopen_logs"}, REOPEN_SECONDS)["said"])
        return 0
    status, trouble = _status(supervisor)
    if arguments.access:
        given = [
            f"--{name}"
            for name in ("since", "level", "json")
            if getattr(arguments, name) not in (None, False, "debug")
        ]
        if given:
            raise ConfigError(
                [f"{', '.join(given)}: not with --access, whose lines are shown as they are"]
            )
        return _access(arguments, status, trouble)
    kept = supervisor.folder / LOG
    if status is None and not kept.exists():
        if trouble is None or kept.parent.exists():
            raise trouble or FastlbError(f"{kept} is not there")
        raise FastlbError(
            f"{trouble}; a clean stop removes what is shown here: what its standard error went to has "
            "it still"
        )
    if trouble is not None:
        print(f"fastlb: {trouble}", file=sys.stderr)
        if arguments.follow:
            return 1
    return _show(arguments, kept, status)


REOPEN_SECONDS = 6.0


def _status(supervisor: Supervisor) -> tuple[dict[str, Any] | None, FastlbError | None]:
    try:
        return supervisor.ask({"command": "status"}), None
    except ConfigError:
        raise
    except FastlbError as error:
        return None, error


def _access(
    arguments: argparse.Namespace, status: dict[str, Any] | None, trouble: FastlbError | None
) -> int:
    if status is None:
        assert trouble is not None
        raise trouble
    path = Path(status["access_log"])
    if status["access_log"] in ("-", "off") or not path.is_file():
        why = {"-": "it goes to standard output", "off": "it is off (--access-log)"}
        said = why.get(status["access_log"], f"{path} is no file")
        raise FastlbError(f"the access log cannot be shown: {said}")
    from fastlb.cli.following import GrowingFile, Watch, last_lines

    file = GrowingFile(path)
    _print(last_lines(path, arguments.last))
    if not arguments.follow:
        return 0
    watch = Watch(status["pid"])
    watch.add([path])
    while not watch.ended:
        watch.wait()
        _print(file.read())
    raise _has_ended(status)


def _print(lines: Iterable[bytes]) -> None:
    for line in lines:
        print(line.decode("utf-8", "backslashreplace"))
    sys.stdout.flush()


def _has_ended(status: dict[str, Any]) -> FastlbError:
    return FastlbError(f'the supervisor of instance "{status["name"]}" has ended')


@dataclass(frozen=True, slots=True)
class OwnFile:
    """Where an instance's output goes that is not in fastlb's own log."""

    instance: str
    group: str
    path: Path


def _instances(status: dict[str, Any] | None) -> list[tuple[str, str, str | None]]:
    """Id, group and own file of each instance."""
    groups = status["auto_scaling_groups"] if status is not None else []
    return [
        (one["id"], group["name"], one["log"]) for group in groups for one in group["instances"]
    ]


def _wanted(arguments: argparse.Namespace, status: dict[str, Any] | None) -> Wanted:
    from fastlb.cli.log_view import Wanted

    since = time.time() - arguments.since if arguments.since is not None else 0.0
    instances = None
    if arguments.instance is not None:
        instances = {arguments.instance}
    elif arguments.group is not None:
        if status is not None:
            known = {one["name"] for one in status["auto_scaling_groups"]}
            known |= {one["name"] for one in status["target_groups"]}
            if arguments.group not in known:
                listed = f"there are {', '.join(sorted(known))}" if known else "there is none"
                raise FastlbError(f'there is no group "{arguments.group}"; {listed}')
        instances = {id for id, group, _ in _instances(status) if group == arguments.group}
    return Wanted(arguments.level, since, arguments.group, instances)


def _own_files(arguments: argparse.Namespace, status: dict[str, Any] | None) -> list[OwnFile]:
    return [
        OwnFile(id, group, Path(log))
        for id, group, log in _instances(status)
        if log is not None and arguments.instance in (None, id) and arguments.group in (None, group)
    ]


def _show(arguments: argparse.Namespace, kept: Path, status: dict[str, Any] | None) -> int:
    from fastlb.cli.following import GrowingFile, Watch, last_lines
    from fastlb.cli.log_view import in_order, parse, printed

    wanted = _wanted(arguments, status)
    show = as_json if arguments.json else _on_screen()
    growing = GrowingFile(kept)
    lines = [line for path in (older(kept), kept) for line in _all_lines(path)]
    found = [one for one in in_order(parse(lines)) if wanted.takes(one)]
    show(found[-arguments.last :] if arguments.last else [])
    own = _own_files(arguments, status)
    files = {one: GrowingFile(one.path) for one in own}
    if arguments.instance is not None or arguments.group is not None:
        # Those lines have no time: they stand behind what has one.
        for one in own:
            show(
                [
                    printed(one.instance, one.group, line)
                    for line in last_lines(one.path, arguments.last)
                ]
            )
    elif own and not arguments.follow:
        folders = ", ".join(sorted({str(one.path.parent) for one in own}))
        print(
            f"fastlb: instances print into {folders}: --instance or --group shows it",
            file=sys.stderr,
        )
    if not arguments.follow or status is None:
        return 0
    watch = Watch(status["pid"])
    supervisor = Supervisor(status["name"])
    known = {id for id, _, _ in _instances(status)}
    while True:
        watch.add([kept, *(one.path for one in files)])
        ended = watch.ended
        records = parse(growing.read())
        if {str(one["instance"]) for one in records if "instance" in one} - known and not ended:
            # A new instance may have a file of its own, from its first line on.
            status = _status(supervisor)[0] or status
            known |= {id for id, _, _ in _instances(status)}
            known |= {str(one["instance"]) for one in records if "instance" in one}
            wanted = _wanted(arguments, status)
            for one in _own_files(arguments, status):
                if one not in files:
                    files[one] = GrowingFile(one.path, from_start=True)
        show([one for one in records if wanted.takes(one)])
        for one, file in files.items():
            show([printed(one.instance, one.group, line) for line in file.read()])
        if ended:
            raise _has_ended(status)
        watch.wait()


def _all_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError:
        return []


def _on_screen() -> Any:
    from fastlb.cli.layout import Screen
    from fastlb.cli.log_view import render

    screen = Screen(sys.stdout)

    def show(records: Iterable[Record]) -> None:
        today = date.today()
        screen.show(line for one in records for line in render(one, today))

    return show
