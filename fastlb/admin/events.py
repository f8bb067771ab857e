"""The live stream (text/event-stream): one encoded event a second, shared by all who look.

A viewer that reads too slowly misses seconds, and is left after a while; it never costs the others or
the supervisor more than one event of memory.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from fastlb.admin.reading import Entries, Source
from fastlb.admin.sampler import Sampler

MOST_VIEWERS = 64
MOST_ENTRIES = 200
"""Waiting for one viewer; the oldest are left out."""
HEARTBEAT = 15.0
RETRY = b"retry: 2000\n\n"


class Viewer:
    """What one connection is to be sent next."""

    def __init__(self) -> None:
        self.overview = b""
        self.entries: deque[bytes] = deque(maxlen=MOST_ENTRIES)
        self.something = asyncio.Event()

    def take(self) -> bytes:
        self.something.clear()
        pieces = [*self.entries, self.overview]
        self.entries.clear()
        self.overview = b""
        return b"".join(pieces)


class _Follower:
    """What a history has grown by since the last look: new entries, and those that have ended."""

    def __init__(self, kind: str, entries: Entries) -> None:
        self._kind = kind
        self._entries = entries
        known = entries.after(0)
        self._number = max((one.number for one in known), default=0)
        self._open = {one.number for one in known if one.ended is None}

    def look(self) -> list[bytes]:
        first = min((*self._open, self._number + 1))
        found = []
        still_open = set()
        for one in self._entries.after(first - 1):
            new = one.number > self._number
            if new or (one.number in self._open and one.ended is not None):
                found.append(event(self._kind, one.plain()))
            if one.ended is None and (new or one.number in self._open):
                still_open.add(one.number)
            self._number = max(self._number, one.number)
        self._open = still_open
        return found


class Events:
    """Everybody who follows the stream. `publish` is called after each sample."""

    def __init__(self, sampler: Sampler, source: Source) -> None:
        self._sampler = sampler
        self._viewers: set[Viewer] = set()
        self._closed = False
        self._activities = _Follower("activity", source.activities)
        self._decisions = _Follower("decision", source.decisions)

    @property
    def full(self) -> bool:
        return len(self._viewers) >= MOST_VIEWERS

    def publish(self) -> None:
        news = [*self._activities.look(), *self._decisions.look()]
        if not self._viewers:
            return
        overview = event("overview", self._sampler.overview())
        for viewer in self._viewers:
            viewer.entries.extend(news)
            viewer.overview = overview
            viewer.something.set()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        for viewer in self._viewers:
            viewer.something.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        viewer = Viewer()
        viewer.overview = event("overview", self._sampler.overview())
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.create_task(_until_gone(receive, viewer.something.set))
        self._viewers.add(viewer)
        try:
            data = RETRY + viewer.take()
            while not self._closed and not gone.done():
                await send({"type": "http.response.body", "body": data, "more_body": True})
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        await viewer.something.wait()
                    data = viewer.take()
                except TimeoutError:
                    data = b": still here\n\n"
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._viewers.discard(viewer)
            gone.cancel()


async def _until_gone(receive: Receive, tell: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    tell()


def event(kind: str, value: dict[str, Any]) -> bytes:
    """One event. JSON has no line end outside of its texts, where it is escaped."""
    return f"event: {kind}\ndata: {encoded(value)}\n\n".encode()


def encoded(value: object) -> str:
    """JSON that can be sent: half a surrogate pair, as a client's JSON may have one, is no UTF-8 and stays
    escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
