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
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastlb.admin.places import is_loopback, listen_at_path, listen_at_port, remove
from fastlb.control_plane.control_socket import Command
from fastlb.control_plane.sight import Instance, Sight
from fastlb.errors import FastlbError
from fastlb.model.admin import Admin

if TYPE_CHECKING:
    from fastlb.admin.server import AdminServer

log = logging.getLogger("fastlb.admin")

TOKEN_VARIABLE = "FASTLB_ADMIN_TOKEN"
LEAST_TOKEN = 16
"""Characters: whoever guesses gets five tries a minute."""


class Administration:
    """`path` is that of the socket in the run-time folder."""

    def __init__(self, settings: Admin, path: Path) -> None:
        self._path = path
        self._settings = settings
        self._token: str | None = None
        self._own: socket.socket | None = None
        self._bound: os.stat_result | None = None
        self._other: socket.socket | None = None
        self._server: AdminServer | None = None
        self._starting: asyncio.Task[None] | None = None

    def bind(self) -> None:
        """Take the addresses. Raises FastlbError, also where a token is missing."""
        address = self._settings.address
        self._token = read_token(self._settings.token_file, os.environ.get(TOKEN_VARIABLE))
        if address is not None:
            if address.is_unix:
                self._other = listen_at_path(Path(address.path))
            else:
                self._other = listen_at_port(address)
                if self._token is None and not is_loopback(self._other):
                    raise FastlbError(
                        f"admin.address: {address} can be reached from other hosts, so that a token is "
                        "needed: name a file by --admin-token-file, or set "
                        f"{TOKEN_VARIABLE}; or listen on 127.0.0.1"
                    )
        if self._settings.socket:
            self._bind_own()

    def _bind_own(self) -> None:
        self._path.unlink(missing_ok=True)  # of a dead supervisor: the folder is ours
        self._own = listen_at_path(self._path)
        self._bound = os.stat(self._path)

    def start(self, instance: Instance, commands: Mapping[str, Command]) -> None:
        """Serve, as soon as what that takes is imported."""
        if self._own is not None or self._other is not None:
            self._starting = asyncio.create_task(self._serve(instance, commands))
            self._starting.add_done_callback(_tell_trouble)

    async def _serve(self, instance: Instance, commands: Mapping[str, Command]) -> None:
        module = await asyncio.to_thread(importlib.import_module, "fastlb.admin.server")
        server: AdminServer = module.AdminServer(Sight(instance), commands)
        self._server = server
        if self._own is not None:
            server.serve_own(self._own)
        if self._other is not None:
            server.serve(self._other, self._token)

    async def keep(self) -> bool:
        """Somebody may have removed the socket's file: whether it was made anew."""
        if self._bound is None or self._server is None or self._present():
            return False
        await self._server.end_own()
        self._bind_own()
        assert self._own is not None
        self._server.serve_own(self._own)
        return True

    def _present(self) -> bool:
        try:
            return self._bound is not None and os.path.samestat(self._bound, os.stat(self._path))
        except OSError:
            return False

    async def end(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        if self._server is not None:
            await self._server.end()
        for one in (self._own, self._other):
            if one is not None:
                one.close()
        if self._present():
            self._path.unlink(missing_ok=True)
        address = self._settings.address
        if address is not None and address.is_unix and self._other is not None:
            remove(address.path)


def _tell_trouble(done: asyncio.Task[None]) -> None:
    if not done.cancelled() and done.exception() is not None:
        log.error("the admin server could not start", exc_info=done.exception())


def read_token(file: str | None, variable: str | None) -> str | None:
    """The token that is demanded: of the file, else of the environment. Raises FastlbError."""
    if file is None:
        if variable is None:
            return None
        return _checked(variable.strip(), TOKEN_VARIABLE)
    try:
        with open(file, encoding="utf-8") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            lines = stream.read(4096).splitlines()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise FastlbError(f"admin.token_file: cannot read {file}: {why}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("admin.token_file: others may read %s: chmod 600 %s", file, file)
    return _checked(lines[0].strip() if lines else "", f"admin.token_file: {file}")


def _checked(token: str, where: str) -> str:
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise FastlbError(
            f"{where}: expected a token of at least {LEAST_TOKEN} ASCII characters, such as "
            "`openssl rand -hex 32` makes"
        )
    return token
