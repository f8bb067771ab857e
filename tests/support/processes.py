"""Processes of the tests: who lives, who belongs to a run-time folder, and waiting for conditions.

Knows /proc and nothing of fastlb but the name of its environment variable.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

RUN_DIR_VARIABLE = "FASTLB_RUN_DIR"


def wait_until(
    predicate: Callable[[], T], seconds: float = 30.0, what: str = "", every: float | None = None
) -> T:
    """The first true value of `predicate`; AssertionError after `seconds`.

    Looks `every` so many seconds, or else ever less often: most looks ask a fastlb, which has to answer.
    """
    begun = time.monotonic()
    while True:
        value = predicate()
        if value:
            return value
        waited = time.monotonic() - begun
        if waited >= seconds:
            name = what or getattr(predicate, "__name__", "the condition")
            raise AssertionError(f"{name} was not true within {seconds:g} s; last: {value!r}")
        time.sleep(min(0.03, max(0.005, waited / 10)) if every is None else every)


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def children(pid: int) -> list[int]:
    """Direct children, zombies left out."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(one) for task in tasks for one in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [one for one in found if alive(one)]


def processes_of(run_dir: Path) -> list[int]:
    """Living processes whose environment names `run_dir` or a folder in it as theirs."""
    wanted = f"{RUN_DIR_VARIABLE}={run_dir}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone meanwhile, or not ours
        if any(one == wanted or one.startswith(wanted + b"/") for one in environment) and alive(
            int(entry.name)
        ):
            found.append(int(entry.name))
    return found


def kill_all(pids: list[int]) -> None:
    """SIGKILL to each, and wait until all are gone."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_until(lambda: not any(alive(pid) for pid in pids), 30, f"the end of {pids}")


def shared_memory_names() -> set[str]:
    """What of fastlb's is in /dev/shm; nothing ever should be."""
    try:
        return {name for name in os.listdir("/dev/shm") if "fastlb" in name}
    except FileNotFoundError:
        return set()


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def new_run_root() -> Path:
    """A short folder for the run-time folders of one session.

    Not in pytest's tmp_path: a unix socket's path holds 107 bytes, and that one is long.
    """
    return Path(tempfile.mkdtemp(prefix="flt-"))
