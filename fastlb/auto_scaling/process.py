"""The processes of one Instance: its leader, its process group, and whoever else it left behind.

Started by us, or adopted by pid and start time from a supervisor that died. Each is waited for by
its own pidfd; a group is signalled only while its leader has not been reaped, since a group's id
comes round again after that. Knows nothing of targets and groups.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fastlb.child_process import ChildProcess, UserIds, start_time
from fastlb.errors import FastlbError
from fastlb.model.launch_template import LaunchTemplate

MARK = "FASTLB_INSTANCE_ID"
"""The variable by which a descendant is known that has left the process group."""
LOOK = 0.05
"""Between two looks whether the rest of a group has ended."""
SWEEPS = 5
"""Looks for descendants that are born while the others are killed."""


class InstanceProcess:
    """The leader of an Instance's process group, and through it the whole group."""

    def __init__(self, pid: int, started: int, pidfd: int, mark: str) -> None:
        self.pid = pid
        self.started = started
        """In the kernel's ticks since boot: with the pid it names the process for good."""
        self.mark = mark
        self._pidfd = pidfd
        self._child: ChildProcess | None = None
        self._ended = asyncio.Event()
        # One reader for all who wait: a loop keeps one for each descriptor.
        asyncio.get_running_loop().add_reader(pidfd, self._see_end)

    @classmethod
    def start(
        cls,
        template: LaunchTemplate,
        command: Sequence[str],
        env: Mapping[str, str],
        output: int,
        mark: str,
    ) -> InstanceProcess:
        """Raises OSError where the program cannot be run, FastlbError for a wrong user or for limits
        that cannot be set."""
        try:
            child = ChildProcess(
                command,
                env=env,
                cwd=template.cwd,
                stdout=output,
                stderr=output,
                own_group=True,
                user=ids_of(template.user) if template.user is not None else None,
                before_exec=_before_exec(template),
            )
        except subprocess.SubprocessError:
            # All that is told of an error in the child before its program.
            raise FastlbError(
                f"{' or '.join(_limits_of(template))} cannot be set: there is no such core, or it is "
                "more than the user of fastlb may ask for"
            ) from None
        # Not reaped yet, so that its start time is to be had even if it is dead already.
        started = start_time(child.pid) or 0
        process = cls(child.pid, started, os.pidfd_open(child.pid), mark)
        process._child = child
        return process

    @classmethod
    def adopt(cls, pid: int, started: int, mark: str) -> InstanceProcess | None:
        """The living process of this pid and start time; None where it is gone. Raises OSError where
        that cannot be found out, for want of descriptors."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        # The pidfd first: what it names cannot change between the question and its use.
        if start_time(pid) != started:
            os.close(pidfd)
            return None
        return cls(pid, started, pidfd, mark)

    @classmethod
    def find(cls, pid: int, started: int, mark: str) -> InstanceProcess | None:
        """As `adopt`; with a pid of 0 the leader is looked for by the mark: the supervisor died between
        the decision to start it and the record of its pid."""
        if pid:
            return cls.adopt(pid, started, mark)
        for one in marked(mark):
            began = start_time(one)
            if began is not None and one in group_members(one):
                return cls.adopt(one, began, mark)
        return None

    @property
    def alive(self) -> bool:
        return self._pidfd >= 0 and not _readable(self._pidfd)

    @property
    def ending(self) -> str:
        """How it ended, for a person; of an adopted one that is not known."""
        code = self._child.returncode if self._child is not None else None
        if code is None:
            return "ended"
        if code >= 0:
            return f"ended with status {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    @property
    def returncode(self) -> int | None:
        return self._child.returncode if self._child is not None else None

    async def wait(self, deadline: float | None = None) -> bool:
        """Whether the leader ended before `deadline` (`time.monotonic()`). Reaps nothing."""
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def _see_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._ended.set()

    def send_signal(self, number: signal.Signals) -> None:
        """To the whole process group, as long as its leader lives or is not reaped."""
        child = self._child
        if self._pidfd < 0 or (child.returncode is not None if child else not self.alive):
            return
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # nobody of the group is left

    async def end(self, stop_signal: signal.Signals, kill_at: float) -> bool:
        """Ask the group to end, kill what is left of it at `kill_at`; whether nobody had to be killed."""
        if self._pidfd < 0:
            return True
        self.send_signal(stop_signal)
        in_time = await self.wait(kill_at)
        while in_time and self._others():
            if time.monotonic() >= kill_at:
                in_time = False
                break
            await asyncio.sleep(LOOK)
        self.send_signal(signal.SIGKILL)
        await self.wait()
        self.clear()
        return in_time

    def kill(self) -> None:
        """The whole group, at once; `clear` follows when the leader has ended."""
        self.send_signal(signal.SIGKILL)

    def reap(self) -> None:
        """The leader has ended: how is known from now on. Its group is killed before, while the group's
        id is still its own."""
        self.send_signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait()

    def clear(self) -> None:
        """The leader has ended: kill who is left of the group or carries the mark, and reap."""
        self.send_signal(signal.SIGKILL)
        kill_marked(self.mark, but=self.pid if self._child is not None else 0)
        if self._child is not None:
            self._child.wait()
        if self._pidfd >= 0:
            if not self._ended.is_set():
                self._see_end()
            os.close(self._pidfd)
            self._pidfd = -1

    def let_go(self) -> None:
        """Leave it to another supervisor, which finds it by pid and start time."""
        if self._child is not None:
            self._child.let_go()
        if self._pidfd >= 0:
            if not self._ended.is_set():
                asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def owns(self, pid: int) -> bool:
        """Whether a process belongs to this Instance."""
        try:
            if os.getpgid(pid) == self.pid:
                return True
        except ProcessLookupError:
            return False
        return _has_mark(pid, self.mark)

    def _others(self) -> bool:
        """Whether anybody of the group lives beside the leader."""
        return any(pid != self.pid for pid in group_members(self.pid))


def ids_of(user: str) -> UserIds:
    """A user's ids by name. Raises FastlbError where there is no such user, or we may not become it."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise FastlbError(f'user: there is no user "{user}" on this host') from None
    if os.geteuid() != 0 and entry.pw_uid != os.geteuid():
        raise FastlbError(
            f'user: only root can start processes as "{user}"; run fastlb as root, or leave it out'
        )
    groups = os.getgrouplist(user, entry.pw_gid) if os.geteuid() == 0 else os.getgroups()
    return UserIds(entry.pw_uid, entry.pw_gid, tuple(groups))


def home_of(user: str) -> dict[str, str]:
    """What a login would set for the user."""
    entry = pwd.getpwnam(user)
    return {"HOME": entry.pw_dir, "USER": user, "LOGNAME": user, "SHELL": entry.pw_shell}


def _before_exec(template: LaunchTemplate) -> Callable[[], None] | None:
    """What the child does to itself, system calls alone; None where nothing was asked for.

    After the start it would be too late: what the app has done by then keeps the old limits.
    """
    limits = [
        (what, value)
        for what, value in (
            (resource.RLIMIT_NOFILE, template.limit_nofile),
            (resource.RLIMIT_NPROC, template.limit_nproc),
            (resource.RLIMIT_AS, template.limit_as),
            (resource.RLIMIT_CORE, template.limit_core),
        )
        if value is not None
    ]
    cpus = [cpu for low, high in template.cpus or () for cpu in range(low, high + 1)]
    nice = template.nice
    if not limits and not cpus and not nice:
        return None

    def prepare() -> None:
        for what, value in limits:
            resource.setrlimit(what, (value, value))
        if cpus:
            os.sched_setaffinity(0, cpus)
        if nice:
            os.setpriority(os.PRIO_PROCESS, 0, nice)

    return prepare


def _limits_of(template: LaunchTemplate) -> list[str]:
    """The settings that `_before_exec` sets."""
    names = ("nice", "cpus", "limit_nofile", "limit_nproc", "limit_as", "limit_core")
    unset = LaunchTemplate()
    return [name for name in names if getattr(template, name) != getattr(unset, name)]


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def group_members(group: int) -> list[int]:
    """The living processes of a process group, zombies left out."""
    found = []
    for pid in _pids():
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
            found.append(pid)
    return found


def marked(mark: str) -> list[int]:
    """The living processes that were born of the Instance of this id."""
    return [pid for pid in _pids() if pid != os.getpid() and _has_mark(pid, mark)]


def _has_mark(pid: int, mark: str) -> bool:
    return mark_of(pid) == mark


def mark_of(pid: int) -> str:
    """The id of the Instance that a process was born of; "" where it is nobody's, or not ours to see."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
    prefix = f"{MARK}=".encode()
    found = next((one for one in environ.split(b"\0") if one.startswith(prefix)), prefix)
    return found[len(prefix) :].decode(errors="replace")


def kill_marked(mark: str, but: int = 0) -> list[int]:
    """Kill whoever carries the mark, each through a pidfd that was looked at; their pids."""
    killed: list[int] = []
    for _ in range(SWEEPS):
        found = [pid for pid in marked(mark) if pid != but]
        for pid in found:
            try:
                pidfd = os.pidfd_open(pid)
            except (ProcessLookupError, OSError):
                continue
            try:
                if _has_mark(pid, mark):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    killed.append(pid)
            except ProcessLookupError:
                continue
            finally:
                os.close(pidfd)
        if not found:
            break
    return killed
