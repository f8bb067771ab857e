"""The admin server's place in the supervisor: its sockets, bound before anything serves, its token, and
its life beside the others.

What is served is `fastlb.admin`'s, which is imported when all else runs: it brings an HTTP server and a
framework, and a start waits for neither.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastlb.admin.places import is_loopback, listen_at_path, listen_at_port, remove
from fastlb.control_plane.control_socket import Command
from fastlb.control_plane.instance import Instance
from fastlb.control_plane.sight import Sight
from fastlb.errors import FastlbError
from fastlb.model.admin import Admin

if TYPE_CHECKING:
    from fastlb.admin.server import AdminServer

log = logging.getLogger("fastlb.admin")

TOKEN_VARIABLE = "FASTLB_ADMIN_TOKEN"
FREE_WITHIN = 10.0
FREE_LOOK = 0.05
"""Seconds that the address of a supervisor which has handed over may be in use, and between two looks."""
LEAST_TOKEN = 16
"""Characters: whoever guesses gets ten tries a second from an address (`admin.attempts`)."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Settings that can be put in force: checked, and `bound` where they name another address.
    `exposed` is whether others may read the token's file."""

    settings: Admin
    token: str | None
    exposed: bool
    bound: socket.socket | None

    def close(self) -> None:
        """Nothing comes of it."""
        if self.bound is not None:
            _leave(self.bound)


class Administration:
    """`path` is that of the socket in the run-time folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._settings = Admin(socket=False)
        self._token: str | None = None
        self._exposed: str | None = None
        """The token's file that others may read, once that was said."""
        self._own: socket.socket | None = None
        self._file: os.stat_result | None = None
        self._other: socket.socket | None = None
        self._server: AdminServer | None = None
        self._instance: tuple[Instance, Mapping[str, Command]] | None = None
        self._starting: asyncio.Task[None] | None = None

    def prepare(self, settings: Admin) -> Prepared:
        """Take the address that they name, if it is another. Raises FastlbError where it cannot be, or
        where a token is missing: then nothing has changed."""
        token, exposed = read_token(settings.token_file, os.environ.get(TOKEN_VARIABLE))
        address = settings.address
        bound = None
        if address is not None and address != self._settings.address:
            bound = (
                listen_at_path(Path(address.path)) if address.is_unix else listen_at_port(address)
            )
        prepared = Prepared(settings, token, exposed, bound)
        other = bound or (self._other if address is not None else None)
        if token is None and other is not None and not is_loopback(other):
            prepared.close()
            raise FastlbError(
                f"admin.address: {address} can be reached from other hosts, so that a token is "
                f"needed: name a file by --admin-token-file, or set {TOKEN_VARIABLE}; or listen on "
                "127.0.0.1"
            )
        return prepared

    def apply(self, prepared: Prepared) -> list[str]:
        """What changed."""
        before, settings = self._settings, prepared.settings
        token, self._token = self._token, prepared.token
        self._settings = settings
        self._tell_exposed(settings.token_file if prepared.exposed else None)
        if prepared.bound is not None or settings.address is None:
            self._leave_other()
        if prepared.bound is not None:
            self._other = prepared.bound
            if self._server is not None:
                self._server.serve(self._other, self._token)
        elif self._server is not None and token != self._token:
            self._server.change_token(self._token)
        if settings.socket and self._own is None:
            self._bind_own()
            if self._server is not None:
                self._serve_own(self._server)
        elif not settings.socket and self._own is not None:
            self._leave_own()
        self._begin()
        names = [
            name
            for name in ("address", "socket")
            if getattr(before, name) != getattr(settings, name)
        ]
        if (before.token_file, token) != (settings.token_file, self._token):
            names.append("token_file")
        return [f"admin.{name}" for name in names]

    def _tell_exposed(self, file: str | None) -> None:
        """Once, and again only where that was mended meanwhile, or is another file."""
        if file is not None and file != self._exposed:
            log.warning("admin.token_file: others may read %s: chmod 600 %s", file, file)
        self._exposed = file

    async def take_over(self, settings: Admin) -> None:
        """As another supervisor's heir, whose address may be its own for a moment longer."""
        deadline = time.monotonic() + FREE_WITHIN
        while True:
            try:
                self.apply(self.prepare(settings))
            except FastlbError as error:
                if time.monotonic() > deadline:
                    log.error("no admin server: %s", error)
                    return
            else:
                return
            await asyncio.sleep(FREE_LOOK)

    def start(self, instance: Instance, commands: Mapping[str, Command]) -> None:
        """Serve, as soon as what that takes is imported."""
        self._instance = instance, commands
        self._begin()

    def _begin(self) -> None:
        wanted = self._own is not None or self._other is not None
        if wanted and self._instance is not None and self._starting is None:
            self._starting = asyncio.create_task(self._serve(*self._instance))
            self._starting.add_done_callback(_tell_trouble)

    async def _serve(self, instance: Instance, commands: Mapping[str, Command]) -> None:
        module = await asyncio.to_thread(importlib.import_module, "fastlb.admin.server")
        server: AdminServer = module.AdminServer(Sight(instance), commands)
        self._server = server
        if self._own is not None:
            self._serve_own(server)
        if self._other is not None:
            server.serve(self._other, self._token)

    # -- the socket in the run-time folder

    def _bind_own(self) -> None:
        remove(self._path)  # of a dead supervisor: the folder is ours
        self._own = listen_at_path(self._path)
        self._file = os.stat(self._path)

    def _serve_own(self, server: AdminServer) -> None:
        assert self._own is not None
        server.serve_own(self._own)

    def _leave_own(self) -> None:
        if self._own is None:
            return
        if self._present():
            remove(self._path)
        self._own.close()
        self._own = self._file = None
        if self._server is not None:
            self._server.leave_own()

    def keep(self) -> bool:
        """Somebody may have removed the socket's file: whether it was made anew."""
        if self._own is None or self._server is None or self._present():
            return False
        self._leave_own()
        self._bind_own()
        self._serve_own(self._server)
        return True

    def _present(self) -> bool:
        try:
            return self._file is not None and os.path.samestat(self._file, os.stat(self._path))
        except OSError:
            return False

    # -- the end

    def _leave_other(self) -> None:
        if self._other is None:
            return
        _leave(self._other)
        self._other = None
        if self._server is not None:
            self._server.leave()

    async def end(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        server, self._server = self._server, None
        if server is not None:
            await server.end()
        self._leave_own()
        self._leave_other()


def _leave(one: socket.socket) -> None:
    """Close it, and remove its file if it has one."""
    if one.family == socket.AF_UNIX and one.fileno() != -1:
        remove(one.getsockname())
    one.close()


def _tell_trouble(done: asyncio.Task[None]) -> None:
    if not done.cancelled() and done.exception() is not None:
        log.error("the admin server could not start", exc_info=done.exception())


def read_token(file: str | None, variable: str | None) -> tuple[str | None, bool]:
    """The token that is demanded, of the file, else of the environment; and whether others may read the
    file. Raises FastlbError."""
    if file is None:
        if variable is None:
            return None, False
        return _checked(variable.strip(), TOKEN_VARIABLE), False
    try:
        with open(file, encoding="utf-8") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            lines = stream.read(4096).splitlines()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise FastlbError(f"admin.token_file: cannot read {file}: {why}") from error
    token = _checked(lines[0].strip() if lines else "", f"admin.token_file: {file}")
    return token, bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def _checked(token: str, where: str) -> str:
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise FastlbError(
            f"{where}: expected a token of at least {LEAST_TOKEN} ASCII characters, such as "
            "`openssl rand -hex 32` makes"
        )
    return token
