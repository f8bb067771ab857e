"""What a start needs of the process and of its files, before anything listens."""

from __future__ import annotations

import errno
import os
import resource
import stat

from fastlb.errors import FastlbError

MOST_OPEN_FILES = 1 << 20


def fill_standard_files() -> None:
    """Open /dev/null where 0, 1 or 2 is closed: a socket would get the number, and log lines."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def raise_open_files() -> None:
    """A connection through the balancer takes two descriptors, and the usual limit is 1,024.

    The workers inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def check_access_log(path: str) -> None:
    """Raise FastlbError where the workers could not append to the access log."""
    if path in ("off", "-"):
        return
    # Non-blocking for a named pipe that nobody reads yet (ENXIO): its reader may come.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        os.close(os.open(path, flags, 0o640))
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENXIO and is_pipe(path):
            return
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise FastlbError(f"access_log: cannot open {path!r}: {why}") from error
