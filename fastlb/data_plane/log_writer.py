"""Appends batches of lines to a file in a thread, and opens the file anew when it was moved away.

Whoever puts lines never waits: what does not fit into the bounded queue, or what the file does not take,
is dropped and counted. Knows nothing of what the lines say.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import select
import stat
import sys
import threading
import time
from collections.abc import Callable

log = logging.getLogger("fastlb.access_log")

MOST_QUEUED = 8 * 1024 * 1024
"""Bytes: half a second of a worker that does nothing but log."""
LOOK_SECONDS = 0.5
"""Between two looks whether the file still has its name: a rotation is noticed within a second."""
ATOMIC_BYTES = 4096
"""PIPE_BUF: what a pipe takes whole or not at all, so that lines of several workers do not mix."""
TOLD_SECONDS = 10.0
"""Least time between two messages that lines were dropped."""

Batch = tuple[bytes, int]
"""Whole lines, and how many they are."""


class LogWriter:
    """Writes to `path`, `-` for standard output. `dropped_line` makes the line that says how many are
    missing, empty where there is none. Raises OSError for a standard output that is closed; a file that
    cannot be opened is told in fastlb's own log, and tried again."""

    def __init__(self, path: str, dropped_line: Callable[[int], bytes]) -> None:
        self._path = path
        self._dropped_line = dropped_line
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        # Each number has one writer, the loop or the thread, so that no lock is needed.
        self._put_bytes = self._dropped_by_loop = 0
        self._taken_bytes = self._dropped_by_thread = self._told = self._marked = 0
        self._told_at = -TOLD_SECONDS
        self._wanted = 0
        self.reopened = 0
        self.number = int.from_bytes(os.urandom(4))
        """Of this writer, random."""
        self._fd = -1
        self._regular = False
        self._trouble = ""
        self._doubtful = False
        """Whether the file may end inside a line, since a write failed."""
        self._ending = threading.Event()
        if path == "-":
            if sys.stdout is None:
                raise OSError(errno.EBADF, "standard output is closed")
            self._use(os.dup(sys.stdout.fileno()))
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._dropped_by_loop + self._dropped_by_thread

    def put(self, data: bytes, count: int) -> None:
        """Write these lines soon, or drop them."""
        if self._put_bytes - self._taken_bytes > MOST_QUEUED:
            self._dropped_by_loop += count
            return
        self._put_bytes += len(data)
        self._batches.put((data, count))

    def reopen(self, number: int) -> None:
        self._wanted = number
        self._batches.put((b"", 0))

    def close(self, seconds: float) -> None:
        """Write what was put, within `seconds`; what is left then is lost with the process."""
        self._ending.set()
        self._batches.put(None)
        self._thread.join(seconds)

    # -- the thread

    def _run(self) -> None:
        self._open()
        looked = time.monotonic()
        while True:
            try:
                batch = self._batches.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                batch = (b"", 0)
            if batch is None:
                break
            now = time.monotonic()
            if now - looked >= LOOK_SECONDS or self._wanted != self.reopened:
                looked = now
                self._look(self._wanted)
            self._take(*batch)
        self._tell_dropped(at_end=True)
        if self._fd >= 0:
            os.close(self._fd)

    def _take(self, data: bytes, count: int) -> None:
        if data:
            dropped = self._append(data, count)
            self._dropped_by_thread += dropped
            self._taken_bytes += len(data)
            if dropped:
                return
        if self.dropped != self._marked or self.dropped != self._told:
            self._tell_dropped()

    def _tell_dropped(self, *, at_end: bool = False) -> None:
        """In the file, once it takes lines again, and in fastlb's own log."""
        dropped = self.dropped
        missing = dropped - self._marked
        if missing and self._fd >= 0:
            line = self._dropped_line(missing)
            if not line or not self._append(line, 1):
                self._marked = dropped
        now = time.monotonic()
        if dropped != self._told and (at_end or now - self._told_at >= TOLD_SECONDS):
            log.warning(
                "%d lines of the access log %s were dropped: it did not take them in time",
                dropped - self._told,
                self._path,
            )
            self._told, self._told_at = dropped, now

    # -- the file

    def _open(self) -> None:
        """Have a descriptor of the file with our name, or keep the one that there is."""
        if self._path == "-":
            return
        # Non-blocking for the sake of pipes; a regular file knows no such thing.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = os.open(self._path, flags, 0o640)
        except OSError as error:
            if error.errno != errno.ENXIO and str(error) != self._trouble:
                self._trouble = str(error)
                log.error(
                    "no access log: cannot open %s: %s; tried again each %g s",
                    self._path,
                    error.strerror,
                    LOOK_SECONDS,
                )
            return  # ENXIO: a pipe that nobody reads yet
        if self._trouble:
            log.info("the access log %s is written again", self._path)
        self._trouble = ""
        old = self._fd
        self._use(fd)
        if old >= 0:
            os.close(old)

    def _use(self, fd: int) -> None:
        self._fd = fd
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._doubtful = self._regular

    def _look(self, wanted: int) -> None:
        """Whether the file is still the one with our name; if not, or if it is asked for, open that."""
        if self._path != "-":
            try:
                same = self._fd >= 0 and os.path.samestat(os.stat(self._path), os.fstat(self._fd))
            except OSError:
                same = False
            if not same:
                self._open()
        self.reopened = wanted

    def _append(self, data: bytes, count: int) -> int:
        """Write whole lines; how many of them were not."""
        if self._fd < 0:
            return count
        if not self._regular:
            return self._append_to_pipe(data)
        torn = self._doubtful and self._ends_inside_a_line()
        if torn:
            data = b"\n" + data
        view = memoryview(data)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, view[written:])
        except OSError:
            # A full disk, most likely: lines are tried again with the next batch.
            self._doubtful = True
            return count - max(data.count(b"\n", 0, written) - torn, 0)
        self._doubtful = False
        return 0

    def _ends_inside_a_line(self) -> bool:
        try:
            with open(self._path, "rb") as file:
                if not os.path.samestat(os.fstat(file.fileno()), os.fstat(self._fd)):
                    return False
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 1, 0))
                return file.read(1) not in (b"\n", b"")
        except OSError:
            return False

    def _append_to_pipe(self, data: bytes) -> int:
        """As above, in pieces that a pipe takes whole; waits for a reader, but not past the end."""
        start = 0
        while start < len(data):
            end = data.rfind(b"\n", start, start + ATOMIC_BYTES) + 1
            if not end:  # a line that is longer
                end = data.find(b"\n", start) + 1
            while start < end:
                try:
                    start += os.write(self._fd, data[start:end])
                except BlockingIOError:
                    if self._ending.is_set():
                        return data.count(b"\n", start)
                    select.select([], [self._fd], [], LOOK_SECONDS)
                except OSError:
                    # Nobody reads any more.
                    if self._path != "-":
                        os.close(self._fd)
                        self._fd = -1
                    return data.count(b"\n", start)
        return 0
