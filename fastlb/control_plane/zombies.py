"""The duty of the first process of a container: whoever is orphaned becomes its child, and when it ends,
somebody must take its exit status, or it stays in the process table for ever.

Takes no status that somebody here waits for. Knows no target and no worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

FIRST_PROCESS = 1


class Reaper:
    """`look` is to be called about once a second; `awaited` are the pids of children that somebody waits
    for. One that nobody has taken by the second look is nobody's."""

    def __init__(self, awaited: Callable[[], Collection[int]]) -> None:
        self._awaited = awaited
        self._seen: set[int] = set()

    def look(self) -> list[int]:
        """The pids that were reaped."""
        found = set(dead_children()) - set(self._awaited())
        reaped = sorted(found & self._seen)
        for pid in reaped:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # somebody waited for it after all
        self._seen = found - set(reaped)
        return reaped


def dead_children() -> list[int]:
    """This process's children that have ended and were not waited for."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except FileNotFoundError:
            continue
        found += [int(pid) for pid in pids if _is_dead(pid)]
    return found


def _is_dead(pid: str) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(b")")[2].split()[0] == b"Z"
