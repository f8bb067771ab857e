"""The admin server of an instance: its sockets, its sampler and its routes, from start to end.

Composes; `guard` decides who may ask, `http_api` what is answered.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Mapping

from fastlb.admin.events import Events
from fastlb.admin.guard import Guard
from fastlb.admin.http_api import Api, Command
from fastlb.admin.places import url_of
from fastlb.admin.reading import Source
from fastlb.admin.sampler import Sampler
from fastlb.admin.serving import AdminHttp

log = logging.getLogger("fastlb.admin")


class AdminServer:
    """What is made of `source` and answered by `commands`, served at whatever sockets it is given."""

    def __init__(self, source: Source, commands: Mapping[str, Command]) -> None:
        # While a thread makes the text of a scrape, the loop waits this long for its turn, not 5 ms.
        sys.setswitchinterval(0.0005)
        self._sampler = Sampler(source)
        self._events = Events(self._sampler, source)
        self._sampler.sampled = self._events.publish
        self._api = Api(source, self._sampler, self._events, commands)
        self._own: AdminHttp | None = None
        self._other: AdminHttp | None = None
        self._guard: Guard | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._sampler.start()

    def serve_own(self, one: socket.socket) -> None:
        """At the socket in the run-time folder: whoever gets there is its owner."""
        self._own = AdminHttp(self._api.app)
        self._own.begin(one)

    def serve(self, one: socket.socket, token: str | None) -> None:
        """At the admin address, behind a Guard."""
        self._guard = Guard(self._api.app, token, one.getsockname())
        self._other = AdminHttp(self._guard)
        self._other.begin(one)
        log.info("admin on %s%s", url_of(one), ", with a token" if token else "")

    def change_token(self, token: str | None) -> None:
        """Whoever signed in with the one before is signed out."""
        if self._guard is not None:
            self._guard.change_token(token)

    def leave_own(self) -> None:
        """Serve no more what `serve_own` was given last."""
        own, self._own = self._own, None
        self._leave(own)

    def leave(self) -> None:
        """The same of `serve`."""
        other, self._other = self._other, None
        self._leave(other)

    def _leave(self, one: AdminHttp | None) -> None:
        if one is not None:
            leaving = asyncio.create_task(one.leave())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def end(self) -> None:
        """At once, whatever the clients do."""
        self._sampler.stop()
        self._events.close()
        await asyncio.gather(*(one.end() for one in (self._own, self._other) if one is not None))
        if self._leaving:
            await asyncio.wait(self._leaving)
