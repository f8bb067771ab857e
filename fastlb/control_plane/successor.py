"""The supervisor that takes over from this one, as the old one sees it.

Serves `takeover.sock` of the run-time folder; `predecessor` says what is said there. The old one is in
charge until the new one is ready: one that fails, or is not ready in time, is killed, and everything
goes on as before. Decides when; what is given away and taken back is handed in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgpack

import fastlb
from fastlb.child_process import wait_for_pidfd
from fastlb.control_plane.predecessor import hear
from fastlb.target_table import handover
from fastlb.target_table.handover import HANDOVER, HandoverError

log = logging.getLogger("fastlb.takeover")

SAID_WITHIN = 5.0
"""For what the other one has ready, or does at once."""
READY_WITHIN = 30.0
"""Time that a new supervisor has for its workers; its process and configuration are there before."""
ENDS_WITHIN = 3.0
"""For a new one that has said why it fails."""
LET_GO_WITHIN = 5.0
SHORTAGE_PAUSE = 0.1


class Owner(Protocol):
    """Whose instance it is that passes on."""

    def why_not(self, pid: int) -> str:
        """Why it cannot be passed on to `pid` just now; "" where it can."""

    async def freeze(self) -> tuple[dict[str, Any], list[int]]:
        """Lead the instances no longer; the words and descriptors for the new one."""

    async def take_back(self, why: str) -> None:
        """The new one has ended and left no trace but files: go on."""

    def hand_over(self, pid: int) -> dict[str, Any]:
        """The new one, `pid`, is ready: let the workers go; the last words."""


class Succession:
    """`over` is set when the instance is another supervisor's, and that one has all it needs."""

    def __init__(self, path: Path, owner: Owner) -> None:
        self._path = path
        self._owner = owner
        self._server: socket.socket | None = None
        self._bound: os.stat_result | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._talks: set[asyncio.Task[None]] = set()
        self._under_way: asyncio.Task[None] | None = None
        self._pidfd = -1
        self._handed_over = False
        self.heir_lives = True
        """Whether who took over was still there when it had all it needs."""
        self.over = asyncio.Event()
        self.remains: Callable[[], bool] = lambda: False
        """Whether somebody stays who was started in our place, so that the new one need not."""
        self.failures: dict[int, str] = {}
        """Why supervisors did not take over, by their pids."""

    @property
    def under_way(self) -> bool:
        """Whether the instances are another supervisor's to lead, though the instance is not yet."""
        return self._pidfd >= 0

    @property
    def started(self) -> bool:
        return self._bound is not None

    @property
    def present(self) -> bool:
        """Whether the file is there and ours."""
        try:
            return self._bound is not None and os.path.samestat(self._bound, os.stat(self._path))
        except OSError:
            return False

    def start(self) -> None:
        """Bind in the place of whatever is there. Raises OSError."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        new = self._path.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            server.bind(str(new))
            os.chmod(new, 0o600)
            server.listen(8)
            server.setblocking(False)
            self._bound = os.stat(new)
            os.replace(new, self._path)
        except OSError:
            server.close()
            raise
        self._server = server
        self._accepting = asyncio.create_task(self._accept(server))

    async def close(self) -> None:
        """Break off what is under way, and listen no more."""
        await self.break_off("it is ending")
        talks = [task for task in (*self._talks, self._accepting) if task is not None]
        for task in talks:
            task.cancel()
        if talks:
            await asyncio.wait(talks)
        if self._server is not None:
            if self.present:
                self._path.unlink(missing_ok=True)
            self._server.close()
            self._server = None

    async def break_off(self, why: str) -> None:
        """End a new supervisor that is not in charge yet, and take back what it had. One that is in
        charge just now is only waited for: `over` is set then."""
        task = self._under_way
        if task is None:
            return
        if not self._handed_over:
            log.warning("the takeover is broken off: %s", why)
            self._kill()
        await asyncio.wait({task})

    def _kill(self) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended

    async def _accept(self, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(server)
            except OSError:
                await asyncio.sleep(SHORTAGE_PAUSE)
                continue
            task = asyncio.create_task(self._talk(connection))
            self._talks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._talks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a takeover ended by a mistake", exc_info=task.exception())

    async def _talk(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            try:
                async with asyncio.timeout(SAID_WITHIN):
                    greeting = {
                        "handover": HANDOVER,
                        "version": fastlb.__version__,
                        "pid": os.getpid(),
                    }
                    await self._say(connection, greeting)
                    request = await hear(connection)
                if "take" not in request:
                    raise HandoverError("expected take")
                pid = handover.peer_pid(connection)
                why = self._why_not(pid)
                if why:
                    await self._say(connection, {"error": why})
                    return
                self._pidfd = os.pidfd_open(pid)
            except (OSError, HandoverError, msgpack.UnpackException):
                return  # whoever it was, nothing was begun
            self._under_way = asyncio.current_task()
            try:
                await self._pass_on(connection, pid, str(request.get("version", "unknown")))
            finally:
                self._under_way = None
                os.close(self._pidfd)
                self._pidfd = -1

    def _why_not(self, pid: int) -> str:
        if self.under_way or self.over.is_set():
            return "another supervisor is taking over just now"
        return self._owner.why_not(pid)

    async def _pass_on(self, connection: socket.socket, pid: int, version: str) -> None:
        began = time.monotonic()
        log.warning("handing over to fastlb %s, pid %d", version, pid)
        try:
            words, fds = await self._owner.freeze()
        except OSError as error:
            await self._fail(pid, f"what is to be passed on cannot be: {error}", ends=False)
            return
        try:
            why, ends = await self._until_ready(connection, words, fds)
        finally:
            for fd in fds:
                os.close(fd)
        if why:
            await self._fail(pid, why, ends)
            return
        self._handed_over = True
        last = self._owner.hand_over(pid)
        last["remains"] = self.remains()
        try:
            async with asyncio.timeout(LET_GO_WITHIN):
                await self._say(connection, last)
                # It closes when it is found in our place, by the service manager too.
                while await asyncio.get_running_loop().sock_recv(connection, 1):
                    pass
        except (TimeoutError, OSError):
            pass  # it is in charge whatever became of the connection
        self.heir_lives = not await wait_for_pidfd(self._pidfd, time.monotonic())
        log.info("pid %d is in charge, after %.2f s", pid, time.monotonic() - began)
        self.over.set()

    async def _fail(self, pid: int, why: str, ends: bool) -> None:
        """Two must not lead the same instances: first it is gone, then we go on. `ends` says that it
        does so by itself."""
        if not (ends and await wait_for_pidfd(self._pidfd, time.monotonic() + ENDS_WITHIN)):
            self._kill()
        await wait_for_pidfd(self._pidfd)
        self.failures[pid] = why
        log.error("the takeover by pid %d failed, this supervisor goes on: %s", pid, why)
        await self._owner.take_back(why)

    async def _until_ready(
        self, connection: socket.socket, words: dict[str, Any], fds: list[int]
    ) -> tuple[str, bool]:
        """Give what the new one needs, and wait for it; why it failed, or "", and whether it ends by
        itself."""
        try:
            async with asyncio.timeout(READY_WITHIN):
                await asyncio.to_thread(_give, connection, words, fds)
                connection.setblocking(False)
                said = await hear(connection)
        except TimeoutError:
            return f"its workers were not ready within {READY_WITHIN:g} s", False
        except (OSError, HandoverError, msgpack.UnpackException) as error:
            why = f"it ended before its workers were ready ({error or type(error).__name__})"
            return why, False
        if said.get("ready") is True:
            return "", False
        return str(said.get("failed", "it said nothing that is understood")), "failed" in said

    @staticmethod
    async def _say(connection: socket.socket, words: dict[str, Any]) -> None:
        await asyncio.get_running_loop().sock_sendall(connection, handover.frame(words))


def _give(connection: socket.socket, words: dict[str, Any], fds: list[int]) -> None:
    """In a thread: more may come together than a socket's buffer holds."""
    connection.settimeout(SAID_WITHIN)
    handover.send_with_fds(connection, handover.frame(words), fds)
