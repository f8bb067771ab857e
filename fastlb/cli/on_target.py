"""What the commands about one target share: how it is named, why, asking, and waiting until it is idle.

Knows how to ask and when to stop waiting; what a command asks for is its own affair.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from fastlb.cli.asking import Supervisor, add_name
from fastlb.cli.usage import Word
from fastlb.cli.waiting import (
    DEFAULT_TIMEOUT,
    LOOK_SECONDS,
    Progress,
    duration_of,
    newest_activity,
    refuse_lone_timeout,
    wait_for,
)
from fastlb.cli.wording import clean, counted
from fastlb.config.write_values import format_duration
from fastlb.errors import FastlbError

TARGET = Word(
    "target",
    "TARGET",
    "its address as `fastlb status` shows it, or a part that no other has: the port, the last name of "
    "a socket's path; or the id of an instance",
)


def add_target(parser: argparse.ArgumentParser, *, group: bool = True, force: bool = False) -> None:
    """The flags that all of them have."""
    if group:
        parser.add_argument(
            "--group", metavar="GROUP", help="its target group, where it is in several"
        )
    parser.add_argument(
        "--reason", metavar="TEXT", default="", help="why; `fastlb status` and `fastlb why` show it"
    )
    if force:
        parser.add_argument(
            "--force",
            action="store_true",
            help="also where no healthy target is left in its group then",
        )
    add_name(parser)


def add_idle_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait",
        action="store_true",
        help="until nothing is in flight there; exit status 1 where something still is at the timeout",
    )
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=duration_of,
        help=f"with --wait, how long at most (default {format_duration(DEFAULT_TIMEOUT)}); what is in "
        "flight goes on after that",
    )


def ask_on_target(arguments: argparse.Namespace, command: str, **more: Any) -> int:
    """Ask, say what was answered, and wait where that is wanted. Raises FastlbError."""
    wait = getattr(arguments, "wait", False)
    if hasattr(arguments, "timeout"):
        refuse_lone_timeout(arguments, command.replace("_", " "))
    given = {
        name: value
        for name in ("group", "reason", "force")
        if (value := getattr(arguments, name, None))
    }
    supervisor = Supervisor(arguments.name)
    since = newest_activity(supervisor) if wait else 0
    request = {"command": command, "target": arguments.target, **given, **more}
    answer = supervisor.ask(request)
    print(clean(answer["said"]), flush=True)
    if answer.get("warning"):
        print(f"fastlb: {clean(answer['warning'])}", file=sys.stderr, flush=True)
    if wait and "instance" in answer:
        wait_for(supervisor, [answer["group"]], since, arguments.timeout)
    elif wait:
        _wait_until_idle(supervisor, answer["group"], answer["target"], arguments.timeout)
    return 0


def _wait_until_idle(
    supervisor: Supervisor, group: str, target: str, timeout: float | None
) -> None:
    """Until nothing is in flight at the target. Raises FastlbError with what still is."""
    seconds = DEFAULT_TIMEOUT if timeout is None else timeout
    began = time.monotonic()
    deadline = began + seconds
    name = f"target {target} of group {group}"
    with Progress(sys.stdout, began) as progress:
        while True:
            left = deadline - time.monotonic()
            request = {"command": "target_idle", "group": group, "target": target}
            look = supervisor.ask(request, min(max(left, 0.0), LOOK_SECONDS))
            if look["back"]:
                raise FastlbError(clean(f"{name} was brought back meanwhile: it gets requests"))
            if look["idle"]:
                break
            doing = _doing(look)
            if left <= 0:
                raise FastlbError(
                    clean(
                        f"{name} is not idle after {format_duration(seconds)}: {doing}; it gets "
                        "nothing new, and what it has goes on"
                    )
                )
            progress.show(doing)
    print(f"done after {time.monotonic() - began:.1f} s: nothing is in flight there")


def _doing(look: dict[str, Any]) -> str:
    if look["strangers"]:
        return "workers of the former supervisor are still finishing what they have"
    if look["in_flight"]:
        return f"{counted(look['in_flight'], 'request')} in flight"
    return "not every worker has seen it yet"
