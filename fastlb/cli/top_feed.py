"""What comes to `fastlb top` from outside: overviews, outcomes of actions, signals; all in one queue.

Threads wait for the admin server; the loop of the screen waits for one descriptor beside the keyboard.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from fastlb.cli.admin_client import AdminClient, AdminGone
from fastlb.errors import FastlbError

RETRY_SECONDS = 0.5
GONE_SECONDS = 8.0
"""Longer than a takeover leaves the socket alone: then the instance has ended."""
ENDED_SECONDS = 2.0
"""The same where its file is gone: that is an end in order."""


@dataclass(frozen=True, slots=True)
class News:
    """`overview` with its value; `said` and `failed` with what was answered to an action; `lost` with
    why nobody answers; `gone` where nobody has for long."""

    kind: Literal["overview", "said", "failed", "lost", "gone"]
    value: Any


class Feed:
    """Follows the events until it is left. `descriptor` is readable while there is news."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client
        self._news: deque[News] = deque()
        self._ended = threading.Event()
        self.descriptor, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        threading.Thread(target=self._follow, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The thread may be waiting for the server; it ends with the process, and writes nowhere. The
        # pipe stays open for that reason.
        self._ended.set()

    def wake(self) -> None:
        """From a signal handler too."""
        try:
            os.write(self._writing, b"x")
        except BlockingIOError:
            pass  # it is awake

    def take(self) -> list[News]:
        """What has come since the last time."""
        try:
            os.read(self.descriptor, 4096)
        except BlockingIOError:
            pass
        taken = []
        while self._news:
            taken.append(self._news.popleft())
        return taken

    def send(self, path: str, body: dict[str, Any]) -> None:
        """Ask for an action; its outcome is news."""

        def ask() -> None:
            try:
                self._tell(News("said", self._client.post(path, body)))
            except FastlbError as error:
                self._tell(News("failed", str(error)))

        threading.Thread(target=ask, daemon=True).start()

    def _tell(self, news: News) -> None:
        if not self._ended.is_set():
            self._news.append(news)
            self.wake()

    def _follow(self) -> None:
        seen = time.monotonic()
        while not self._ended.is_set():
            try:
                for overview in self._client.overviews():
                    seen = time.monotonic()
                    self._tell(News("overview", overview))
                    if self._ended.is_set():
                        return
            except AdminGone as error:
                self._tell(News("lost", str(error)))
            except FastlbError as error:
                self._tell(News("gone", str(error)))
                return
            silent = time.monotonic() - seen
            if silent > (GONE_SECONDS if self._client.path.exists() else ENDED_SECONDS):
                self._tell(News("gone", f"nobody has answered for {silent:.0f} s: it has ended"))
                return
            self._ended.wait(RETRY_SECONDS)
