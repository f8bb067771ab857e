"""The socket in the run-time folder at which `fastlb status` and the other commands ask.

One JSON line in, one JSON line out, then the connection ends. Knows the commands by their names
only; what they answer is handed in.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("fastlb.control")

LINE_BYTES = 64 * 1024
REQUEST_SECONDS = 5.0
"""Time to say what is wanted, and to take the answer."""
ANSWER_SECONDS = 30.0
"""Time that a command may take which waits for something."""

Answer = Mapping[str, Any]
Command = Callable[[Mapping[str, Any]], Answer | Awaitable[Answer]]
"""From the request to the answer, at once or later; a ValueError's text is the answer's `error`."""


class ControlSocket:
    """Serves `path` (mode 0600, in a folder that is open to its owner alone)."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path = path
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._bound: os.stat_result | None = None

    async def start(self) -> None:
        """In the place of whatever is there: another supervisor's, when we take over from it."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        new = self._path.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            listening.bind(str(new))
            os.chmod(new, 0o600)
            self._bound = os.stat(new)
            listening.setblocking(False)
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listening, limit=LINE_BYTES
            )
            os.replace(new, self._path)
        except BaseException:
            listening.close()
            raise

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            if self.present:
                self._path.unlink(missing_ok=True)

    @property
    def present(self) -> bool:
        """Whether the file is there and ours."""
        try:
            return self._bound is not None and os.path.samestat(self._bound, os.stat(self._path))
        except OSError:
            return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                line = await reader.readline()
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._answer(line)
            async with asyncio.timeout(REQUEST_SECONDS):
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except asyncio.CancelledError:
            # The loop ends while somebody waits. Not raised on: the streams of Python 3.11 would log
            # that as a mistake, with a traceback.
            return
        except ValueError:
            log.warning("a request of over %d bytes at the control socket", LINE_BYTES)
        except ConnectionError:
            log.debug("somebody at the control socket left before the answer")
        except (TimeoutError, OSError) as error:
            log.warning("a connection to the control socket was given up: %r", error)
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> Answer:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": "expected one line of JSON"}
        name = request.get("command") if isinstance(request, dict) else None
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            known = ", ".join(sorted(self._commands))
            return {"error": f"expected a command (one of {known}), got {name!r}"}
        try:
            answer = command(request)
            return await answer if inspect.isawaitable(answer) else answer
        except ValueError as error:
            return {"error": str(error)}
