"""The workers of a supervisor that died: found by their sockets, told to drain, ended at last.

They are no children of ours: each is named by a pidfd. One that was just being born as its
supervisor died comes up late, so that the folder is looked at again and again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from fastlb.child_process import wait_for_pidfd
from fastlb.control_plane.run_dir import RunDir, pid_of_socket
from fastlb.target_table import handover
from fastlb.target_table.handover import HandoverError

log = logging.getLogger("fastlb.takeover")

ANSWER_WITHIN = 1.0
ENDS_WITHIN = 0.5
"""For one that cannot be asked, before that is an error."""
GRACE = 1.0
"""Over the drain time-out, before an orphan that is still there gets SIGTERM."""
KILL_AFTER = 1.0
"""After SIGTERM, which one that hangs does not heed."""
GONE_WITHIN = 5.0
"""The kernel ends what was killed within milliseconds, unless a disk holds it."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A living worker of the dead supervisor. No child of ours: the pidfd is how it is named."""

    path: Path
    pid: int
    pidfd: int


def find_orphans(run_dir: RunDir, known: Collection[int] = ()) -> list[Orphan]:
    """The workers that still answer at their sockets, but for those whose pid is `known`; the
    sockets of dead ones are removed."""
    orphans = []
    for path in run_dir.worker_sockets():
        if pid_of_socket(path) in known:
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(ANSWER_WITHIN)
            try:
                probe.connect(str(path))
                pid = handover.peer_pid(probe)
                orphans.append(Orphan(path, pid, os.pidfd_open(pid)))
            except (ConnectionRefusedError, ProcessLookupError):
                path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue  # it has ended in this moment
            except OSError as error:
                log.error("%s does not answer: %s", path, error)
    return orphans


class Orphans:
    """Those that are known; each is ended once. `ours` tells the pids of our own workers."""

    def __init__(
        self, run_dir: RunDir, found: Collection[Orphan], ours: Callable[[], set[int]]
    ) -> None:
        self._run_dir = run_dir
        self._ours = ours
        self._living = {orphan.pid: orphan for orphan in found}
        self._ending: dict[int, asyncio.Task[None]] = {}

    @property
    def living(self) -> bool:
        """Whether any of them still serves, as far as is known."""
        return bool(self._living)

    async def look_round(self) -> None:
        """Take up those that have come up since the last look."""
        known = self._ours() | self._living.keys()
        if all(pid_of_socket(path) in known for path in self._run_dir.worker_sockets()):
            return
        try:
            found = await asyncio.to_thread(find_orphans, self._run_dir, known)
        except OSError as error:
            log.error("cannot look for orphaned workers: %s", error)
            return
        # Ours may have been born meanwhile.
        known = self._ours() | self._living.keys()
        for orphan in found:
            if orphan.pid in known:
                os.close(orphan.pidfd)
                continue
            log.warning("orphaned worker pid %d came up after its supervisor's death", orphan.pid)
            self._living[orphan.pid] = orphan

    def end(self, seconds: float, table: int | None = None) -> None:
        """Have all that were not told yet drain; whoever outstays it gets SIGTERM, then SIGKILL. With
        our `table` they go on choosing by it, for those who are still with them."""
        for orphan in self._living.values():
            if orphan.pid not in self._ending:
                self._ending[orphan.pid] = asyncio.create_task(self._end(orphan, seconds, table))

    async def wait_gone(self, seconds: float) -> None:
        """Until those that were told have ended, or for `seconds`."""
        if self._ending:
            await asyncio.wait(set(self._ending.values()), timeout=seconds)

    async def kill(self) -> None:
        """SIGKILL to all that are left."""
        await self._stop_ending()
        for orphan in list(self._living.values()):
            log.warning("killed orphaned worker pid %d, which had not finished", orphan.pid)
            _send(orphan, signal.SIGKILL)
            if await wait_for_pidfd(orphan.pidfd, time.monotonic() + GONE_WITHIN):
                self._forget(orphan)

    async def close(self) -> None:
        """Leave those that live to the next supervisor."""
        await self._stop_ending()
        for orphan in self._living.values():
            os.close(orphan.pidfd)
        self._living.clear()

    async def _stop_ending(self) -> None:
        for task in self._ending.values():
            task.cancel()
        if self._ending:
            await asyncio.wait(set(self._ending.values()))
        self._ending.clear()

    async def _end(self, orphan: Orphan, seconds: float, table: int | None) -> None:
        deadline = time.monotonic() + seconds + GRACE
        await _ask_drain(orphan, seconds, table)
        if not await wait_for_pidfd(orphan.pidfd, deadline):
            log.error("orphaned worker pid %d outstays its drain: SIGTERM", orphan.pid)
            _send(orphan, signal.SIGTERM)
            if not await wait_for_pidfd(orphan.pidfd, time.monotonic() + KILL_AFTER):
                log.error("orphaned worker pid %d does not heed SIGTERM: SIGKILL", orphan.pid)
                _send(orphan, signal.SIGKILL)
                await wait_for_pidfd(orphan.pidfd)
        log.info("orphaned worker pid %d has ended", orphan.pid)
        self._forget(orphan)
        self._ending.pop(orphan.pid, None)

    def _forget(self, orphan: Orphan) -> None:
        del self._living[orphan.pid]
        os.close(orphan.pidfd)
        orphan.path.unlink(missing_ok=True)


def _send(orphan: Orphan, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(orphan.pidfd, number)
    except ProcessLookupError:
        pass  # it has ended


async def _ask_drain(orphan: Orphan, seconds: float, table: int | None) -> None:
    answer_by = time.monotonic() + ANSWER_WITHIN
    try:
        path = str(orphan.path)
        await asyncio.to_thread(handover.ask_drain, path, seconds, answer_by, table)
        log.info("orphaned worker pid %d drains", orphan.pid)
    except (OSError, HandoverError) as error:
        # One that has finished takes its socket away, and ends a moment later.
        if not await wait_for_pidfd(orphan.pidfd, time.monotonic() + ENDS_WITHIN):
            log.error("orphaned worker pid %d does not drain: %s", orphan.pid, error)
