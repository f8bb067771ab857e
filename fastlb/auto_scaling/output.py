"""What an Instance prints: from a spool file, line by line, into the log or a file of its own.

A spool file and no pipe: the Instance must live on when the supervisor is killed, and a pipe that
nobody reads ends or blocks it. Space that was read is given back by punching holes, which neither
moves an offset nor races with whoever appends. Knows no process and no AutoScalingGroup.
"""

from __future__ import annotations

import ctypes
import logging
import logging.handlers
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from fastlb.auto_scaling.output_lines import MOST_LINE, cut_lines, groups_of, shown
from fastlb.errors import FastlbError

log = logging.getLogger("fastlb.auto_scaling")
instance_log = logging.getLogger("fastlb.instance")

KIB = 1024
MIB = 1024 * 1024

MOST_READ = 256 * KIB
"""Bytes passed on by one `read`; a sink bounds the lines."""
MOST_LAG = 4 * MIB
"""Bytes that may wait to be read; more, and all but the last KEPT_OF_LAG are skipped."""
KEPT_OF_LAG = 1 * MIB
HOLE = 256 * KIB
"""Bytes that are given back at a time."""
BLOCK = 4096
KEPT_LINES = 20
KEPT_LINE = 500
"""Characters of each of the kept lines."""
SECONDS_BETWEEN_TRIES = 10.0
"""Time until a log file that could not be written is tried again."""


class Sink(Protocol):
    """Takes whole lines as they were printed, without their ends. Raises nothing."""

    most_lines: int
    """That one `Output.read` passes on: so that a flood does not hold up the supervisor."""
    most_at_end: int
    """Bytes that `Output.finish` passes on, for the same reason."""

    def write(self, lines: Sequence[bytes]) -> None: ...

    def close(self) -> None: ...


class LogSink:
    """Into the log of fastlb, each line after the Instance's id."""

    # A line costs 10 µs: 3 ms a read, and 32 ms for an end with lines of 80 bytes.
    most_lines = 300
    most_at_end = 256 * KIB

    def __init__(self, id: str, group: str) -> None:
        self._id = id
        self._about = {"instance": id, "group": group}

    def write(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            instance_log.info("%s: %s", self._id, shown(line), extra=self._about)

    def close(self) -> None:
        pass


class FileSink:
    """Into `folder`/`name`.log, byte for byte, of `max_bytes` or one longer line at most.

    A full file becomes name.log.1 and so on, of which `keep` are kept; with `keep` 0 it begins anew.
    Where it cannot be written this is logged once, the lines are dropped and counted, and it is tried
    again after SECONDS_BETWEEN_TRIES.
    """

    # Lines go in groups: 2 ms a read, and 60 ms for an end with lines of 80 bytes.
    most_lines = 5000
    most_at_end = 8 * MIB

    def __init__(
        self,
        folder: Path,
        name: str,
        max_bytes: int,
        keep: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = folder / f"{name}.log"
        self._max_bytes = max_bytes
        self._keep = keep
        self._clock = clock
        self._file: _RotatingFile | None = None
        self._try_at = 0.0
        self._dropped = 0
        self._failing = False

    def write(self, lines: Sequence[bytes]) -> None:
        if self._failing and self._clock() < self._try_at:
            self._dropped += len(lines)
            return
        written = 0
        try:
            if self._file is None:
                self._file = self._open()
            # In small groups: a file is full between two of them, and each costs some 20 µs.
            for group in groups_of(lines, self._max_bytes // 8):
                text = b"\n".join(group).decode("utf-8", "surrogateescape")
                self._file.emit(logging.makeLogRecord({"msg": text}))
                written += len(group)
        except OSError as error:
            self._failed(error, len(lines) - written)
        else:
            if self._failing:
                log.info(
                    "%s is written again; %d lines are missing in it", self.path, self._dropped
                )
                self._failing, self._dropped = False, 0

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                pass  # what could not be written was told when it was tried

    def _open(self) -> _RotatingFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return _RotatingFile(
            self.path,
            maxBytes=self._max_bytes,
            backupCount=self._keep,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def _failed(self, error: OSError, dropped: int) -> None:
        if not self._failing:
            log.warning(
                "the output of an instance cannot be written to %s: %s; its lines are dropped until "
                "it can, which is tried every %g s",
                self.path,
                error.strerror,
                SECONDS_BETWEEN_TRIES,
            )
        self._failing = True
        self._dropped += dropped
        self._try_at = self._clock() + SECONDS_BETWEEN_TRIES
        self.close()


class _RotatingFile(logging.handlers.RotatingFileHandler):
    """Raises what a handler otherwise prints, and can begin anew without keeping anything."""

    def doRollover(self) -> None:
        if self.backupCount:
            super().doRollover()
        elif self.stream is not None:
            self.stream.truncate(0)

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # what is being handled where this is called


class Output:
    """Stdout and stderr of one Instance.

    `path` is the spool; in a file of that name with .read after it stands how far it was read, so that a
    supervisor that takes over neither loses lines nor repeats more than those of one `read`. What is
    there is gone on with. Raises FastlbError where the files cannot be opened.
    """

    _holes: ClassVar[bool] = True
    """Whether the file system takes holes, as far as is known."""

    def __init__(self, path: Path, sink: Sink) -> None:
        self._path = path
        self._position_path = path.with_name(path.name + ".read")
        self._sink = sink
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._seen_size = -1
        self._more = False
        self._failing = False
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        opened: list[int] = []
        try:
            for one in (path, self._position_path):
                opened.append(os.open(one, flags, 0o600))
            self._fd, self._position_fd = opened
            self._position = int.from_bytes(os.pread(self._position_fd, 8, 0), "little")
            # Takes its space now: on a full disk nothing could be given back without it.
            self._save_position()
        except OSError as error:
            for fd in opened:
                os.close(fd)
            raise _cannot_open(error, path) from error
        self._given_back = 0

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The newest KEPT_LINES, harmless to show, for the report of a failed launch."""
        return tuple(self._last)

    def open_for_child(self) -> int:
        """A new descriptor to print to; the caller closes it after the spawn."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self._path, flags, 0o600)
        except OSError as error:
            raise _cannot_open(error, self._path) from error

    def read(self) -> bool:
        """Pass on the whole lines that came since; call it every 0.1 to 0.25 s.

        MOST_READ bytes and the sink's `most_lines` at most; whether there may be more.
        """
        try:
            size = self._size()
            if size == self._seen_size and not self._more:
                return False
            self._seen_size = size
            self._skip(size, MOST_LAG, KEPT_OF_LAG)
            self._more = self._pass_on()
        except OSError as error:
            self._failed(error)
            self._more = False
        return self._more

    def finish(self) -> None:
        """Pass on the rest once the Instance has ended, an unfinished last line too.

        The sink's `most_at_end` bytes at most; if there are more, the oldest are skipped. Whoever
        still prints is not waited for.
        """
        try:
            size = self._size()
            self._skip(size, self._sink.most_at_end, self._sink.most_at_end)
            while self._position < size and self._pass_on():
                pass
            rest = os.pread(self._fd, min(max(size - self._position, 0), MOST_LINE), self._position)
            if rest:
                self._take([rest], self._position + len(rest))
        except OSError as error:
            self._failed(error)

    def close(self, remove: bool) -> None:
        """Close the files and the sink; with `remove` take the spool away too."""
        os.close(self._fd)
        os.close(self._position_fd)
        self._sink.close()
        if remove:
            for path in (self._path, self._position_path):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.warning("cannot remove %s: %s", path, error.strerror)

    def _size(self) -> int:
        size = os.fstat(self._fd).st_size
        if size < self._position:
            # A shell's `echo ... > /dev/stdout` cuts the file off and begins anew.
            self._position = self._given_back = 0
        return size

    def _skip(self, size: int, most: int, kept: int) -> None:
        """Where more than `most` bytes wait, go to the first line start within the last `kept`."""
        if size - self._position <= most:
            return
        to = size - kept
        # One byte sooner, as a line may start right there; a line that is too long is cut anyway.
        at = os.pread(self._fd, MOST_LINE, to - 1).find(b"\n")
        to += max(at, 0)
        skipped = (to - self._position) / MIB
        self._take([f"... {skipped:.1f} MiB of output were skipped".encode()], to)

    def _pass_on(self) -> bool:
        """One bounded step; whether there may be more."""
        data = os.pread(self._fd, MOST_READ, self._position)
        lines, used = cut_lines(data, self._sink.most_lines)
        if not lines:
            return False
        self._take(lines, self._position + used)
        return len(lines) >= self._sink.most_lines or len(data) >= MOST_READ

    def _take(self, lines: Sequence[bytes], position: int) -> None:
        self._sink.write(lines)
        self._last.extend(shown(line[: KEPT_LINE * 4])[:KEPT_LINE] for line in lines[-KEPT_LINES:])
        # After the sink: killed in between, a line is repeated, not lost.
        self._position = position
        self._save_position()
        if position - self._given_back >= HOLE and Output._holes:
            self._give_back(position - position % BLOCK)

    def _save_position(self) -> None:
        os.pwrite(self._position_fd, self._position.to_bytes(8, "little"), 0)

    def _give_back(self, to: int) -> None:
        try:
            punch_hole(self._fd, self._given_back, to - self._given_back)
        except OSError as error:
            Output._holes = False
            log.warning(
                "the file system of %s cannot give back what was read of a file (%s): the files there "
                "grow by all that instances print, until these end",
                self._path.parent,
                error.strerror,
            )
        self._given_back = to

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            log.warning(
                "the output of an instance cannot be read from %s: %s; it is tried again all the time",
                self._path,
                error.strerror,
            )
        self._failing = True


_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the bytes back to the file system; they read as zeros. Raises OSError."""
    if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _cannot_open(error: OSError, path: Path) -> FastlbError:
    return FastlbError(
        f"cannot open {path} for the output of an instance: {error.strerror}; the folder must be there "
        "and writable, with space left"
    )
