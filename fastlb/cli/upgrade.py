"""`fastlb upgrade`: this release takes over from a running instance of whatever release.

The running supervisor starts the new one; here it is asked to, and seen through to the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from fastlb import __version__
from fastlb.cli.asking import Supervisor, add_name
from fastlb.cli.wording import clean
from fastlb.errors import FastlbError

START_SECONDS = 25.0
"""For the new release to check the configuration."""
DONE_WITHIN = 60.0
LOOK = 0.1
ABOUT = """\
Run it with the newly installed release: .venv-new/bin/fastlb upgrade, or
fastlb upgrade after pip install. The running supervisor has the new release
check the configuration, and starts it with its own command line, environment
and folder. The new one takes over the listening sockets, the
health states, the instances of auto scaling groups, the histories and the
counters, and starts workers of its own; the old workers finish what they
have, WebSockets too, until --drain-timeout. No request is lost. If the new
one fails before its workers are ready, the old one goes on, and this says
why (exit status 1).

  systemd    the new supervisor is the unit's main process from then on; the
             unit needs NotifyAccess=all (deploy/fastlb.service has it)
  docker     the container's first process stays, and passes signals on; an
             image is upgraded by a new container
  terminal   the process that you started stays in the foreground: Ctrl-C
             and its exit status are those of the new one
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "fastlb upgrade [--name NAME]"
    parser.epilog = ABOUT
    add_name(parser)


def upgrade(arguments: argparse.Namespace) -> int:
    supervisor = Supervisor(arguments.name)
    began = time.monotonic()
    started = supervisor.ask({"command": "upgrade", "program": program()}, START_SECONDS)
    pid = int(started["pid"])
    outcome = _outcome(supervisor, pid, began + DONE_WITHIN)
    old = f"fastlb {started.get('old_version', 'of an unknown version')}, pid {started['old_pid']}"
    print(
        clean(
            f"{old}, has handed over to fastlb {outcome['version']}, pid {pid}, after "
            f"{time.monotonic() - began:.1f} s; the old workers finish what they have"
        )
    )
    if outcome["version"] != __version__:
        print(
            f"fastlb: this is release {__version__}, but {program()[0]} started there is "
            f"{clean(str(outcome['version']))}",
            file=sys.stderr,
        )
        return 1
    return 0


def program() -> list[str]:
    """How this very release is started, in whatever folder."""
    script = Path(sys.argv[0])
    if script.name == "fastlb" and os.access(script, os.X_OK):
        return [str(script.absolute())]
    return [sys.executable, "-m", "fastlb"]


def _outcome(supervisor: Supervisor, pid: int, deadline: float) -> dict[str, Any]:
    """The answer of the supervisor that serves. Raises FastlbError where the old one goes on."""
    while True:
        try:
            answer = supervisor.ask({"command": "upgrade_outcome", "pid": pid})
        except FastlbError:
            # Between the two, for some milliseconds, nobody answers.
            if time.monotonic() > deadline or not _lives(pid):
                raise
            answer = {"state": "under way"}
        if answer["state"] == "serves":
            return answer
        if answer["state"] == "failed":
            raise FastlbError(
                f"the new supervisor, pid {pid}, did not take over, and the old one goes on: "
                f"{clean(str(answer['why']))}; its log may say more"
            )
        if time.monotonic() > deadline:
            raise FastlbError(
                f"pid {pid} has not taken over within {DONE_WITHIN:g} s: see `fastlb status` and the log"
            )
        time.sleep(LOOK)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
