"""What stays of a supervisor that was upgraded, where whoever started it watches its pid.

A terminal, a container and most process managers know one pid: if it ended, so would the job, the
container, or the new supervisor beside a second one. So the process stays, passes signals on to
whoever has the instance's lock, and ends with it, by its status. It does nothing else.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

from fastlb.control_plane.run_dir import LOCK

PASSED_ON = frozenset(
    {
        *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
        *(signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2),
    }
)
AWAITED = PASSED_ON | {signal.SIGCHLD}
LOOK = 0.5
"""Seconds between two looks, where no signal comes."""
PR_SET_CHILD_SUBREAPER = 36


def prepare_to_stay() -> None:
    """Before anything is handed over: no signal is lost from now on, and descendants whose parent ends
    become our children. A later supervisor is one, and its exit status is ours."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stay(folder: Path, pid: int) -> int:
    """Until the supervisor `pid`, and whoever follows it in the run-time folder, has ended; the exit
    status. After `prepare_to_stay`."""
    status: int | None = None
    while True:
        told = signal.sigtimedwait(AWAITED, LOOK)
        for child, code in _reap():
            if child == pid:
                status = code
        if told is not None and told.si_signo in PASSED_ON:
            _send(pid, told.si_signo)
        if status is None and _lives(pid):
            continue
        heir = _holder(folder)
        if heir is None or heir in (pid, os.getpid()) or not _lives(heir):
            return _exit_status(status, folder)
        pid, status = heir, None


def _reap() -> list[tuple[int, int]]:
    """Whoever has ended: there is nobody else here who waits for one."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, code))


def _exit_status(code: int | None, folder: Path) -> int:
    if code is None:  # it was no child of ours: a clean end removes the lock
        return 1 if (folder / LOCK).exists() else 0
    ended = os.waitstatus_to_exitcode(code)
    return ended if ended >= 0 else 128 - ended


def _holder(folder: Path) -> int | None:
    try:
        text = (folder / LOCK).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _lives(pid: int) -> bool:
    try:
        os.close(os.pidfd_open(pid))
    except ProcessLookupError:
        return False
    return True


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended, as the next look finds
