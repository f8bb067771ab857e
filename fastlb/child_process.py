"""A child process: start it, wait for it by name, end it with TERM and then KILL at a deadline.

Every wait is for one named pid through its pidfd, with an absolute deadline on the monotonic clock;
nothing here waits for "any child", which would take the exit status from whoever else waits.
Knows nothing of what the child does.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

Stream = int | IO[bytes] | None


@dataclass(frozen=True, slots=True)
class UserIds:
    """As whom a child runs: its user, its group and all of its groups. Changing them needs root."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class ChildProcess:
    """One started process. Call `wait`/`stop` (or their async twins) until it has ended.

    With `own_group` the child leads a process group of its own: a Ctrl-C at the terminal does not
    reach it, and `stop` ends its descendants with it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: Stream = subprocess.DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        own_group: bool = False,
        pass_fds: Sequence[int] = (),
        user: UserIds | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        """`before_exec` runs in the forked child, and must do nothing but system calls: the child has
        this process's memory and one of its threads."""
        reap_left()
        self._process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            process_group=0 if own_group else None,
            pass_fds=pass_fds,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else user.groups,
            preexec_fn=before_exec,
        )
        UNREAPED.add(self._process.pid)
        self._own_group = own_group
        self.command = tuple(command)
        self.pid = self._process.pid
        # The child is not reaped yet, so that the pid cannot mean anybody else.
        self._pidfd = os.pidfd_open(self.pid)

    @property
    def returncode(self) -> int | None:
        """The exit status once the end was noticed: negative for a signal; None before."""
        return self._process.returncode

    @property
    def alive(self) -> bool:
        return self._pidfd >= 0 and not _readable(self._pidfd, 0)

    def send_signal(self, number: signal.Signals) -> None:
        """To the child, or to its group where it has one; nothing once the end was noticed."""
        if self._pidfd < 0:
            return
        try:
            if self._own_group:
                os.killpg(self.pid, number)
            else:
                signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass  # it has ended and nobody of its group is left

    def wait(self, deadline: float | None = None) -> int | None:
        """The exit status; None where `deadline` (`time.monotonic()`) passed first."""
        if self._pidfd >= 0:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if _readable(self._pidfd, left):
                self._reap()
        return self.returncode

    async def wait_async(self, deadline: float | None = None) -> int | None:
        """As `wait`, without holding up the loop."""
        if self._pidfd >= 0 and await wait_for_pidfd(self._pidfd, deadline):
            self._reap()
        return self.returncode

    def stop(self, kill_at: float) -> int:
        """TERM now, KILL at `kill_at` (`time.monotonic()`); the exit status."""
        self.send_signal(signal.SIGTERM)
        if self.wait(kill_at) is None:
            self.send_signal(signal.SIGKILL)
            self.wait()
        return self._ended()

    async def stop_async(self, kill_at: float) -> int:
        """As `stop`, without holding up the loop."""
        self.send_signal(signal.SIGTERM)
        if await self.wait_async(kill_at) is None:
            self.send_signal(signal.SIGKILL)
            await self.wait_async()
        return self._ended()

    def let_go(self) -> None:
        """Leave the child to another process: nothing here waits for it any more."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        UNREAPED.discard(self.pid)
        _LEFT.append(self._process)

    def _ended(self) -> int:
        assert self.returncode is not None
        return self.returncode

    def _reap(self) -> None:
        # The group's id is safe to use only as long as its leader is not reaped.
        if self._own_group:
            self.send_signal(signal.SIGKILL)
        self._process.wait()
        UNREAPED.discard(self.pid)
        os.close(self._pidfd)
        self._pidfd = -1


UNREAPED: set[int] = set()
"""The pids of children whose exit status somebody here is to take."""
_LEFT: list[subprocess.Popen[bytes]] = []
"""Children that were let go, and are this process's to reap as long as it lives."""


def reap_left() -> None:
    """Reap those of the children that were let go which have ended."""
    _LEFT[:] = [one for one in _LEFT if one.poll() is None]


def start_time(pid: int) -> int | None:
    """When a process began, in the kernel's ticks since boot; None where it is gone, or dead and not
    reaped. With the pid it names one process for good, while a pid alone comes round again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


async def wait_for_pidfd(pidfd: int, deadline: float | None = None) -> bool:
    """Whether the process ended before `deadline` (`time.monotonic()`). Reaps nothing."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


def _readable(fd: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
