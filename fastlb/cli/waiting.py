"""Commands that change something: asked, answered at once, and with --wait seen through to the end.

Knows how to ask and when to stop waiting; what a command asks for is its own affair.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from fastlb.cli.asking import Supervisor, add_name
from fastlb.cli.usage import Word
from fastlb.cli.wording import clean
from fastlb.config.values import from_flag
from fastlb.config.write_values import format_duration
from fastlb.errors import ConfigError, FastlbError
from fastlb.model.settings import Setting

DEFAULT_TIMEOUT = 300.0
LOOK_SECONDS = 1.0
"""How long the supervisor waits for one answer, so that what it does meanwhile can be shown."""
REPLACING = ("instance refresh ", "rollback ")
GROUP = Word(
    "group",
    "GROUP",
    "name of the auto scaling group; may be left out where there is only one",
    optional=True,
)
INSTANCE = Word("instance", "INSTANCE", "id of the instance, as `fastlb status` shows it")

Entry = Mapping[str, Any]


def of_group(arguments: argparse.Namespace, command: str, **more: Any) -> dict[str, Any]:
    """A request about a group; which one is the supervisor's to know where none was named."""
    named = {} if arguments.group is None else {"group": arguments.group}
    return {"command": command, **named, **more}


def add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        action="store_true",
        help="until it is done; exit status 1 where it failed or was rolled back",
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=duration_of,
        help=f"with --wait, how long at most (default {format_duration(DEFAULT_TIMEOUT)}); the "
        "group goes on after that",
    )
    add_name(parser)


def duration_of(text: str) -> float:
    try:
        seconds: float = from_flag(Setting("duration", "", "", least=0), text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return seconds


def request_and_wait(arguments: argparse.Namespace, request: dict[str, Any]) -> int:
    """Ask, say what was answered, and wait where that is wanted. Raises FastlbError."""
    refuse_lone_timeout(arguments, request["command"])
    supervisor = Supervisor(arguments.name)
    since = newest_activity(supervisor) if arguments.wait else 0
    answer = supervisor.ask(request)
    print(clean(answer["said"]), flush=True)
    if arguments.wait:
        wait_for(supervisor, [answer["group"]], since, arguments.timeout)
    return 0


def refuse_lone_timeout(arguments: argparse.Namespace, command: str) -> None:
    """Raises ConfigError for a time to wait where nobody waits."""
    if arguments.timeout is not None and not arguments.wait:
        raise ConfigError([f"{command}: --timeout is how long to --wait: add --wait"])


def newest_activity(supervisor: Supervisor) -> int:
    """The number after which is what a command has caused."""
    number: int = supervisor.ask({"command": "activity", "last": 0})["newest"]
    return number


def wait_for(
    supervisor: Supervisor, groups: Iterable[str], since: int, timeout: float | None
) -> None:
    """Until the groups are what they should be. Raises FastlbError with what is missing."""
    seconds = DEFAULT_TIMEOUT if timeout is None else timeout
    began = time.monotonic()
    deadline = began + seconds
    with Progress(sys.stdout, began) as progress:
        for group in groups:
            _wait_for_one(supervisor, group, since, deadline, seconds, progress)
    print(f"done after {time.monotonic() - began:.1f} s")


def _wait_for_one(
    supervisor: Supervisor,
    group: str,
    since: int,
    deadline: float,
    seconds: float,
    progress: Progress,
) -> None:
    while True:
        left = deadline - time.monotonic()
        look = supervisor.ask(
            {"command": "settled", "group": group}, min(max(left, 0.0), LOOK_SECONDS)
        )
        entries = supervisor.ask({"command": "activity", "group": group, "after": since})["entries"]
        found = judge(look["settled"], entries)
        if found is not None and found.failed:
            raise FastlbError(_cleaned(f"group {group}: {found.failed}"))
        if found is not None:
            return
        doing = look["doing"] or _under_way(entries)
        if left <= 0:
            raise FastlbError(
                _cleaned(
                    f"group {group} is not done after {format_duration(seconds)}: "
                    f"{doing or 'it is not what it should be yet'}; it goes on"
                )
            )
        progress.show(doing)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of what was waited for; `failed` says why it did, or nothing."""

    failed: str = ""


def judge(settled: bool, entries: Sequence[Entry]) -> Outcome | None:
    """What has become of it, None where that is still open. Pure.

    `settled` is whether the group is what it should be; `entries` are its activities since then,
    the oldest first. A failed launch counts where nothing came after it: the group tries once more
    at once, and only then less and less often. A refresh that fails is waited for until the group
    is back, since only then it is known what is left.
    """
    replacing = [one for one in entries if one["what"].startswith(REPLACING)]
    if any(not one["outcome"] for one in replacing):
        return None
    if settled and not _under_way(entries):
        undone = [one for one in replacing if not one["outcome"].startswith("done")]
        failed = [one for one in entries if one["outcome"].startswith("failed")]
        # Of what came up badly the last one says why, in the app's own words.
        return Outcome("\n".join(map(_said, [*undone[:1], *failed[-1:]])) if undone else "")
    if not settled and entries and entries[-1]["outcome"].startswith("failed"):
        return Outcome(f"{_said(entries[-1])}\nit is tried again less and less often")
    return None


def _under_way(entries: Sequence[Entry]) -> str:
    """The activities that have not ended."""
    return ", ".join(one["what"] for one in entries if not one["outcome"])


def _said(entry: Entry) -> str:
    return f"{entry['what']}: {entry['outcome']}"


def _cleaned(text: str) -> str:
    """Lines stay lines, and nothing in them steers the terminal."""
    return "\n".join(clean(line) for line in text.split("\n"))


class Progress:
    """What is going on: on a terminal one line that is written over, in a pipe one line a change."""

    def __init__(self, out: TextIO, began: float) -> None:
        self._out = out
        self._began = began
        self._terminal = out.isatty()
        self._last = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def show(self, doing: str) -> None:
        doing = clean(doing)
        if self._terminal:
            from shutil import get_terminal_size

            line = f"{time.monotonic() - self._began:.0f} s: {doing}"
            self._out.write(f"\r\x1b[K{line[: get_terminal_size().columns - 1]}")
        else:
            # That the next try comes nearer is no news.
            news = doing.partition(", next try in")[0]
            if news == self._last:
                return
            self._last = news
            self._out.write(f"{doing}\n")
        self._out.flush()
