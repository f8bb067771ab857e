"""`--watch`: when a changed file is to be read anew. Looks at it twice a second; reads nothing of it.

Editors write a file in pieces, or put another in its place; so a change counts once the file has been
the same for a moment.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

log = logging.getLogger("fastlb")

POLL = 0.5
QUIET = 1.0
"""Seconds that a changed file must stay as it is."""

Signature = tuple[int, int, int] | None
"""What tells one content from another: time of change, inode, size; None where no file is."""


def signature_of(path: Path) -> Signature:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


class Settling:
    """Pure: what is seen of the file, and when, becomes "read it now", once for each change."""

    def __init__(self, known: Signature) -> None:
        self._known = known
        self._seen = known
        self._since = 0.0

    def look(self, seen: Signature, now: float) -> bool:
        """Whether the file is another than the one that was read last, and has settled."""
        if seen != self._seen:
            self._seen, self._since = seen, now
        if seen == self._known or now - self._since < QUIET:
            return False
        self._known = seen
        return True


class Watch:
    """Calls `changed`, one after the other, while it is on. Without a `path` it cannot be."""

    def __init__(self, path: Path | None, changed: Callable[[], Awaitable[None]]) -> None:
        self._path = path
        self._changed = changed
        self._known = signature_of(path) if path is not None else None
        """Of what was read at the start, as near as can be told."""
        self._task: asyncio.Task[None] | None = None

    def set(self, on: bool) -> None:
        """Begin or end to look."""
        if on and self._task is None:
            if self._path is None:
                log.warning("watch: there is no configuration file to watch: add --config FILE")
                return
            self._task = asyncio.create_task(self._run(self._path))
        elif not on and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, path: Path) -> None:
        settling = Settling(self._known)
        loop = asyncio.get_running_loop()
        while True:
            if settling.look(signature_of(path), loop.time()):
                log.info("%s has changed", path)
                await asyncio.shield(asyncio.ensure_future(self._changed()))
            await asyncio.sleep(POLL)
