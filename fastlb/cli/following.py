"""Following files that grow, are moved away or cut short, without looking at them all the time.

The kernel says when something happened in a file's folder (inotify), and when a process has ended
(pidfd). Knows nothing of what stands in the files.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

WITHOUT_INOTIFY = 0.25
"""Seconds between two looks where the kernel gives no more watches."""
LOOK_SECONDS = 2.0
"""A folder that was made anew is found so soon."""
MOST_READ = 4 * 1024 * 1024
_EVENTS = 0x002 | 0x080 | 0x100 | 0x200  # modified, moved in, created, deleted
_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK


class GrowingFile:
    """The whole lines that are appended to `path` from now on, or from its beginning where it comes up
    later. A file that was moved away is read to its end first."""

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self.path = path
        self._rest = b""
        self._file = self._open()
        if self._file is not None and not from_start:
            self._file.seek(0, os.SEEK_END)

    def _open(self) -> BinaryIO | None:
        try:
            return open(self.path, "rb")
        except OSError:
            return None  # it may come

    def read(self) -> list[bytes]:
        """What has come since; whole lines without their ends."""
        lines: list[bytes] = []
        if self._file is None:
            self._file = self._open()
        while self._file is not None:
            if os.fstat(self._file.fileno()).st_size < self._file.tell():
                self._file.seek(0)  # cut short, as by copytruncate
                self._rest = b""
            while data := self._file.read(MOST_READ):
                *whole, self._rest = (self._rest + data).split(b"\n")
                lines += whole
            if self._is_current():
                break
            self._file.close()
            self._rest = b""
            self._file = self._open()
        return lines

    def _is_current(self) -> bool:
        assert self._file is not None
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except OSError:
            return True  # moved away, and no new one yet

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Watch:
    """Waits until something happens in the folders of some files, or the process `pid` ends."""

    def __init__(self, pid: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify: int = self._libc.inotify_init1(_CLOEXEC_NONBLOCK)
        self._watched: set[Path] = set()
        try:
            self._pid = os.pidfd_open(pid)
        except OSError:
            self._pid = -1
        self.ended = self._pid < 0
        """Whether the process has ended."""

    def add(self, paths: Iterable[Path]) -> None:
        for folder in {path.parent for path in paths} - self._watched:
            name = os.fsencode(folder)
            if (
                self._inotify >= 0
                and self._libc.inotify_add_watch(self._inotify, name, _EVENTS) >= 0
            ):
                self._watched.add(folder)

    def wait(self) -> None:
        if self.ended:
            return
        has_all = self._inotify >= 0 and self._watched
        seconds = LOOK_SECONDS if has_all else WITHOUT_INOTIFY
        waited = [fd for fd in (self._inotify, self._pid) if fd >= 0]
        ready, _, _ = select.select(waited, [], [], seconds)
        self.ended = self._pid in ready
        if self._inotify in ready:
            os.read(self._inotify, 65536)

    def close(self) -> None:
        for fd in (self._inotify, self._pid):
            if fd >= 0:
                os.close(fd)


def last_lines(path: Path, count: int) -> list[bytes]:
    """The last lines of a file, however long it is; none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            data = b""
            while end > 0 and data.count(b"\n") <= count:
                start = max(end - 65536, 0)
                file.seek(start)
                data = file.read(end - start) + data
                end = start
    except OSError:
        return []
    return data.splitlines()[-count:] if count else []
