"""SIGUSR1 and `fastlb logs reopen`: every worker opens the access log by its name anew.

Knows the workers by their pipes and rows of counters only; what they write is theirs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastlb.control_plane.wording import count_of
from fastlb.control_plane.worker_pool import Worker
from fastlb.target_table.counters import Counters
from fastlb.target_table.counters import Worker as Head
from fastlb.target_table.pipe import Message, Reopen

log = logging.getLogger("fastlb")

LOOK_SECONDS = 0.02
WITHIN_SECONDS = 5.0
"""A worker stores its counts ten times a second; one that takes so long has a file that blocks it."""


class LogReopening:
    """`path` is where the access log is, `off` for none; `workers` are those that run now."""

    def __init__(
        self,
        counters: Counters,
        workers: Callable[[], Sequence[Worker]],
        broadcast: Callable[[Message], None],
        path: Callable[[], str],
    ) -> None:
        self._counters = counters
        self._workers = workers
        self._broadcast = broadcast
        self._path = path
        self._number = 0

    def ask(self) -> None:
        """Ask all workers, and wait for none."""
        self._number += 1
        self._broadcast(Reopen(self._number))

    async def answer(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """To the command `reopen_logs`: once all workers write to the file with the log's name, so that
        what was moved away may be packed. Raises ValueError where one does not, or there is no log."""
        path = self._path()
        if path == "off":
            raise ValueError("this instance has no access log (--access-log)")
        self.ask()
        number = self._number
        deadline = asyncio.get_running_loop().time() + WITHIN_SECONDS
        # One that comes up from now on opens the file by its name anyway.
        asked = {one.pid for one in self._workers()}
        while left := [
            one
            for one in self._workers()
            if one.pid in asked and not self._has_followed(one, number)
        ]:
            if asyncio.get_running_loop().time() > deadline:
                named = ", ".join(f"worker {one.index} (pid {one.pid})" for one in left)
                raise ValueError(
                    f"{named} did not open {path} anew within {WITHIN_SECONDS:g} s: its file blocks, "
                    "or the worker hangs"
                )
            await asyncio.sleep(LOOK_SECONDS)
        count = count_of(len(asked), "worker")
        return {"said": f"{count} opened {path} anew"}

    def _has_followed(self, worker: Worker, number: int) -> bool:
        return bool(self._counters.row(worker.index)[Head.LOG_REOPENED] >= number)
