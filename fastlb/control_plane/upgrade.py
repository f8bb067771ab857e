"""`fastlb upgrade`: the living supervisor starts the one that is to take over from it.

It does so itself, so that the new one has its environment, folder, standard files, user, limits and
control group. What passes between the two then is `successor`'s affair.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

import fastlb
from fastlb.child_process import ChildProcess
from fastlb.control_plane.successor import Succession

log = logging.getLogger("fastlb.takeover")

CHECKED_WITHIN = 20.0
ENDS_WITHIN = 5.0
TAKEOVER_FLAG = "--takeover"
NOT_FOR_CHECK = ("--watch",)
"""Flags of `fastlb run` that say nothing of the configuration, and that `fastlb check` has not."""


class Upgrade:
    """`arguments` are those of `fastlb run` that this supervisor was started with; None where it was
    not started by that."""

    def __init__(self, succession: Succession, arguments: Sequence[str] | None) -> None:
        self._succession = succession
        self._arguments = None if arguments is None else without(arguments, TAKEOVER_FLAG)
        self._child: ChildProcess | None = None
        self._starting = False
        self._waiting: asyncio.Task[None] | None = None
        self._ended: dict[int, int | None] = {}
        self._off = ""

    @property
    def pid(self) -> int:
        """Of the supervisor that was started last; 0 where none was."""
        return self._child.pid if self._child is not None else 0

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """To the command `upgrade`: what was started. Raises ValueError where nothing was."""
        program = request.get("program")
        if not isinstance(program, list) or not program or not all(map(_is_text, program)):
            raise ValueError("upgrade: expected the program of the new release")
        if self._arguments is None:
            raise ValueError(
                "this instance was not started by `fastlb run`, so that its command line is not known"
            )
        if self._starting or (self._child is not None and self._child.alive):
            raise ValueError("an upgrade is under way already")
        self._starting = True
        try:
            await asyncio.to_thread(_check, program, self._arguments)
            if self._off:
                raise ValueError(f"nothing was started: {self._off}")
            self._child = _start(program, self._arguments)
        except OSError as error:
            raise ValueError(f"{program[0]} cannot be started: {error.strerror or error}") from None
        finally:
            self._starting = False
        self._waiting = asyncio.create_task(self._see_end(self._child))
        log.warning("started %s as pid %d, to take over", program[0], self._child.pid)
        return {"pid": self._child.pid, "old_pid": os.getpid(), "old_version": fastlb.__version__}

    def outcome(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """To the command `upgrade_outcome`, about a pid."""
        pid = request.get("pid")
        if pid == os.getpid():
            return {"state": "serves", "version": fastlb.__version__}
        why = self._succession.failures.get(pid) if isinstance(pid, int) else None
        if why is not None:
            return {"state": "failed", "why": why}
        if pid in self._ended and self._off:
            return {"state": "failed", "why": self._off}
        if pid in self._ended:
            return {"state": "failed", "why": f"it ended with status {self._ended[pid]}"}
        return {"state": "under way" if pid == self.pid else "unknown"}

    async def _see_end(self, child: ChildProcess) -> None:
        self._ended[child.pid] = await child.wait_async()

    async def call_off(self, why: str) -> None:
        """End whoever was started and has not taken over: it would find nobody to take over from, and
        begin anew what is to end."""
        self._off = why
        if self._waiting is not None:  # only one may wait for a process
            self._waiting.cancel()
            await asyncio.wait({self._waiting})
        if self._child is not None and self._child.alive:
            log.warning("pid %d, which was to take over, is ended: %s", self._child.pid, why)
            self._ended[self._child.pid] = await self._child.stop_async(
                time.monotonic() + ENDS_WITHIN
            )

    async def close(self) -> None:
        """The new supervisor lives on by itself."""
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.wait({self._waiting})
        if self._child is not None:
            self._child.let_go()


def _is_text(one: object) -> bool:
    return isinstance(one, str) and "\0" not in one


def without(arguments: Sequence[str], *flags: str) -> list[str]:
    """The same without these flags, which stand before the app's own command."""
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    return [one for one in arguments[:at] if one not in flags] + list(arguments[at:])


def _check(program: Sequence[str], arguments: Sequence[str]) -> None:
    """Have the new release look at the configuration. Raises OSError, and ValueError where it is wrong
    or the release does not run."""
    try:
        done = subprocess.run(
            [*program, "check", *without(arguments, *NOT_FOR_CHECK)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECKED_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{program[0]} did not check the configuration within {CHECKED_WITHIN:g} s: "
            "nothing was changed"
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or "it printed nothing"
        raise ValueError(
            f"the new release does not take the configuration (status {done.returncode}); "
            f"nothing was changed:\n{said}"
        )


def _start(program: Sequence[str], arguments: Sequence[str]) -> ChildProcess:
    return ChildProcess([*program, "run", TAKEOVER_FLAG, *arguments], stdin=None)
