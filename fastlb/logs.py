"""Log lines of every process of an instance: one form, and nobody waits for whoever reads them.

Standard error is written by a thread of its own, so that a pipe that nobody empties, or a stopped
terminal, holds up neither a Worker nor the Supervisor. Knows nothing of what is logged.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable

MOST_QUEUED = 10_000
"""Lines; the ones after them are dropped and counted until the reader is back."""
FLUSH_SECONDS = 1.0
"""Time that the end of a process gives to a reader that is slow."""


def start_logging(level: str, name: str) -> Callable[[], None]:
    """Write what is logged from `level` ("info" and the like) on to standard error, after `name` where
    that is not empty; returns what writes the rest and stops, within FLUSH_SECONDS."""
    logging.raiseExceptions = False  # standard error may be gone with the terminal
    prefix = f"{name}: " if name else ""
    handler = _QueuedLines(_standard_error())
    handler.setFormatter(
        logging.Formatter(
            "%(asctime)s.%(msecs)03d %(levelname)-7s " + prefix.replace("%", "%%") + "%(message)s",
            datefmt="%Y-%m-%d %H:%M:%S",
        )
    )
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())

    def stop() -> None:
        root.removeHandler(handler)
        handler.stop(FLUSH_SECONDS)

    return stop


class _QueuedLines(logging.Handler):
    """Formats where it is called, writes in a thread. The thread never holds the handler's lock, which
    the end of the interpreter takes, nor that of a stream."""

    def __init__(self, fd: int | None) -> None:
        super().__init__()
        self._fd = fd
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_QUEUED)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        if fd is not None:
            self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._fd is None:
            return
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1
        except Exception:  # noqa: BLE001  as every handler: a bad log call must not end its caller
            self.handleError(record)

    def stop(self, seconds: float) -> None:
        if self._fd is None:
            return
        until = time.monotonic() + seconds
        try:
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            return  # the thread is stuck and ends with the process
        self._thread.join(max(until - time.monotonic(), 0.0))

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._dropped and self._lines.empty():
                self._tell_dropped()
        if self._dropped:
            self._tell_dropped()

    def _tell_dropped(self) -> None:
        dropped = self._dropped
        message = f"{dropped} log lines were dropped: standard error did not take them in time"
        told = logging.LogRecord("fastlb", logging.WARNING, __file__, 0, message, None, None)
        self._write(self.format(told))
        self._dropped -= dropped

    def _write(self, line: str) -> None:
        assert self._fd is not None
        data = (line + "\n").encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # whoever shares it made it non-blocking
                select.select([], [self._fd], [])
            except OSError:
                return  # closed at its other end: nobody is left to be told


def _standard_error() -> int | None:
    """Its descriptor; None where the process was started without one: 2 is another file then."""
    try:
        return sys.stderr.fileno() if sys.stderr is not None else None
    except (OSError, ValueError):
        return None
