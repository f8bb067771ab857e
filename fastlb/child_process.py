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
from collections.abc import Mapping, Sequence
from typing import IO

Stream = int | IO[bytes] | None


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
    ) -> None:
        self._process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            process_group=0 if own_group else None,
            pass_fds=pass_fds,
        )
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

    def _ended(self) -> int:
        assert self.returncode is not None
        return self.returncode

    def _reap(self) -> None:
        # The group's id is safe to use only as long as its leader is not reaped.
        if self._own_group:
            self.send_signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._pidfd)
        self._pidfd = -1


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
