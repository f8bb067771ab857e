"""Where the log lines of every process of an instance go, and that nobody waits for whoever reads them.

Each place is written by a thread of its own, so that a pipe that nobody empties, a stopped terminal or a
slow disk holds up neither a Worker nor the Supervisor. Knows nothing of what is logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fastlb.log_lines import JsonFormatter, human_formatter, journal_formatter

MOST_QUEUED = 10_000
"""Lines; the ones after them are dropped and counted until the reader is back."""
FLUSH_SECONDS = 1.0
"""Time that the end of a process gives to a reader that is slow."""
KEPT_BYTES = 4 * 1024 * 1024
"""Of the lines that are kept in the run-time folder; as many older ones stand in a second file."""
JOURNAL_VARIABLE = "JOURNAL_STREAM"

Stop = Callable[[], None]


def start_logging(level: str, name: str, form: str = "human", worker: int | None = None) -> Stop:
    """Write what is logged from `level` ("info" and the like) on to standard error, after `name` where
    that is not empty; returns what writes the rest and stops, within FLUSH_SECONDS.

    `form` is human, json or auto; `worker` is the index of the one that logs, None the supervisor.
    """
    logging.raiseExceptions = False  # standard error may be gone with the terminal
    root = logging.getLogger()
    root.setLevel(level.upper())
    fd = _standard_error()
    if fd is None:
        return lambda: None
    journal = _is_journal(fd)
    formatter: logging.Formatter = human_formatter(name)
    if form == "json" or (form == "auto" and not journal and not os.isatty(fd)):
        formatter = JsonFormatter(os.getpid(), worker)
    elif journal:
        formatter = journal_formatter(name)
    return _start(_StandardError(fd), formatter)


def keep_log(path: Path, worker: int | None = None) -> Stop:
    """Keep what is logged in `path` too, as JSON lines, for `fastlb logs`; returns what stops that.

    All processes of an instance append to the same file; the supervisor (`worker` None) makes it, and
    begins a new one where it is full.
    """
    return _start(_KeptFile(path, owner=worker is None), JsonFormatter(os.getpid(), worker))


def _start(place: _Place, formatter: logging.Formatter) -> Stop:
    handler = _QueuedLines(place)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)

    def stop() -> None:
        root.removeHandler(handler)
        handler.stop(FLUSH_SECONDS)

    return stop


class _Place(Protocol):
    """Takes whole lines without their ends. Raises nothing."""

    name: str

    def write(self, line: str) -> None: ...


class _QueuedLines(logging.Handler):
    """Formats where it is called, writes in a thread. The thread never holds the handler's lock, which
    the end of the interpreter takes, nor that of a stream."""

    def __init__(self, place: _Place) -> None:
        super().__init__()
        self._place = place
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_QUEUED)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1
        except Exception:  # noqa: BLE001  as every handler: a bad log call must not end its caller
            self.handleError(record)

    def stop(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        try:
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            return  # the thread is stuck and ends with the process
        self._thread.join(max(until - time.monotonic(), 0.0))

    def _run(self) -> None:
        # Signals are the main thread's, which blocks them at the end: here they would end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (line := self._lines.get()) is not None:
            self._place.write(line)
            if self._dropped and self._lines.empty():
                self._tell_dropped()
        if self._dropped:
            self._tell_dropped()

    def _tell_dropped(self) -> None:
        dropped = self._dropped
        message = f"{dropped} log lines were dropped: {self._place.name} did not take them in time"
        told = logging.LogRecord("fastlb", logging.WARNING, __file__, 0, message, None, None)
        self._place.write(self.format(told))
        self._dropped -= dropped


class _StandardError:
    name = "standard error"

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, line: str) -> None:
        data = (line + "\n").encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # whoever shares it made it non-blocking
                select.select([], [self._fd], [])
            except OSError:
                return  # closed at its other end: nobody is left to be told


class _KeptFile:
    """Opened for each line: log lines are few, and the file may be another one each time."""

    def __init__(self, path: Path, *, owner: bool) -> None:
        self.name = str(path)
        self._path = path
        self._owner = owner
        if owner:
            self.write("")

    def write(self, line: str) -> None:
        create = os.O_CREAT if self._owner else 0
        with contextlib.suppress(OSError):  # standard error has the line as well
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | create, 0o600)
            try:
                size = os.fstat(fd).st_size
                # A worker without a supervisor fills the second half, and no more.
                if line and (self._owner or size < 2 * KEPT_BYTES):
                    os.write(fd, (line + "\n").encode())
                if self._owner and size > KEPT_BYTES:
                    os.replace(self._path, older(self._path))
            finally:
                os.close(fd)


def older(path: Path) -> Path:
    """Where the lines before those of `path` are kept."""
    return path.with_name(path.name + ".1")


def _standard_error() -> int | None:
    """Its descriptor; None where the process was started without one: 2 is another file then."""
    try:
        return sys.stderr.fileno() if sys.stderr is not None else None
    except (OSError, ValueError):
        return None


def _is_journal(fd: int) -> bool:
    """Whether systemd's journal reads it, as JOURNAL_STREAM says by device and inode."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get(JOURNAL_VARIABLE) == f"{status.st_dev}:{status.st_ino}"
