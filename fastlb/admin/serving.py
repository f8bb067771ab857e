"""uvicorn inside the supervisor's own loop: it serves sockets that are handed to it, takes no signal,
logs nothing of single requests, and ends within a second whatever its clients do.

A client that is slow in sending, or in reading, is left; where all places are taken, the one that has
waited longest without a request makes room, so that an operator always gets in. Knows no route.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 15.0
"""For a whole request to come."""
STUCK_SECONDS = 20.0
"""Longest time that a client may take to read what fills its buffer."""
KEEP_ALIVE = 10
HEAD_BYTES = 16 * 1024
MOST_AT_ONCE = 128
"""Connections that are served, while nobody among them waits; more are answered 503."""
MOST_CONNECTIONS = 256
END_SECONDS = 1.0
HEARD_SECONDS = 0.1


class Connection(H11Protocol):
    """One client's, with the deadlines that uvicorn leaves out."""

    begun: float
    """When the wait for its request began."""
    asked: bool
    """Whether it has been answered anything."""
    full_since: float | None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.begun = self.loop.time()
        self.asked = False
        self.full_since = None
        if len(self.connections) >= MOST_AT_ONCE:
            self._make_room()
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    @property
    def waits(self) -> bool:
        """Whether there is no whole request, so that nothing is answered."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _make_room(self) -> None:
        """End whoever has waited longest; who never asked anything goes before whoever did."""
        waiting = [
            one
            for one in self.connections
            if isinstance(one, Connection) and one is not self and one.waits
        ]
        if waiting:
            longest = min(waiting, key=lambda one: (one.asked, one.begun))
            longest.transport.abort()
            self.connections.discard(longest)  # its end is told later, and the place is needed now

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.asked = True
        self.begun = self.loop.time()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.full_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.full_since = None

    def look(self, now: float) -> None:
        """End it where it takes too long."""
        if (self.waits and now - self.begun > REQUEST_SECONDS) or (
            self.full_since is not None and now - self.full_since > STUCK_SECONDS
        ):
            self.transport.abort()


class AdminHttp(uvicorn.Server):
    """Serves `app` on a socket that listens."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                access_log=False,
                server_header=False,
                # Whoever asks is whoever connects: nobody may say otherwise by a header.
                proxy_headers=False,
                limit_concurrency=MOST_AT_ONCE,
                timeout_keep_alive=KEEP_ALIVE,
                h11_max_incomplete_event_size=HEAD_BYTES,
            )
        )
        self._task: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the supervisor's."""
        yield

    def begin(self, one: socket.socket) -> None:
        """Serve a duplicate of this one: uvicorn closes what it is given."""
        # What clients do wrong is no news, and might be told a thousand times a second.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._socket = one.dup()
        self._task = asyncio.create_task(self.serve([self._socket]))

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for one in list(self.server_state.connections):
                if isinstance(one, Connection):
                    one.look(now)
        return await super().on_tick(counter)

    async def leave(self) -> None:
        """Serve no more; what is being answered has END_SECONDS."""
        if self._task is None:
            return
        self.should_exit = True
        await asyncio.wait({self._task}, timeout=END_SECONDS)
        await self.end()

    async def end(self) -> None:
        """Close everything now. Waits for no client."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        for server in getattr(self, "servers", ()):  # none before uvicorn has made them
            server.close()
        if self._socket is not None:
            self._socket.close()
        for one in list(self.server_state.connections):
            transport: Any = one.transport
            transport.abort()
        answering = set(self.server_state.tasks)
        if answering:
            # They hear that their clients are gone; a few wait for something else.
            _, left = await asyncio.wait(answering, timeout=HEARD_SECONDS)
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would log each
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=END_SECONDS)
            logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
