"""`fastlb top` on a terminal: raw keys in, frames out, and the terminal as it was when it is left.

Whatever ends it (a key, a signal, an exception, the instance's end) goes through the same `with`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from fastlb.cli.admin_client import AdminClient
from fastlb.cli.top_feed import Feed, News
from fastlb.cli.top_header import Sight, Trail
from fastlb.cli.top_keys import Request, begin, keys_of, press
from fastlb.cli.top_view import frame
from fastlb.errors import FastlbError

TRAIL = 60
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@dataclass(slots=True)
class State:
    """All that a frame is made of."""

    overview: dict[str, Any]
    sight: Sight
    waiting: Request | None = None
    trail: dict[str, deque[float]] = field(
        default_factory=lambda: {key: deque(maxlen=TRAIL) for key in ("requests", "errors", "p99")}
    )

    def add(self, overview: dict[str, Any]) -> None:
        self.overview = overview
        totals = overview["totals"]
        self.trail["requests"].append(totals["requests_per_s"] or 0.0)
        self.trail["errors"].append((totals["status"] or {}).get("5xx") or 0.0)
        self.trail["p99"].append(totals["p99_s"] or 0.0)

    @property
    def trails(self) -> Trail:
        return Trail(*(tuple(values) for values in self.trail.values()))


def begin_trail(state: State, series: dict[str, Any]) -> None:
    """What was before we looked."""
    found = series["series"]
    for key, name in (("requests", "requests"), ("errors", "errors_5xx"), ("p99", "p99_s")):
        state.trail[key].extend(value or 0.0 for value in found.get(name, ())[-TRAIL:])


class _Frame:
    """Rendered at whatever size the terminal has by then."""

    def __init__(self, state: State, ascii: bool) -> None:
        self._state = state
        self._ascii = ascii

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        state, (width, height) = self._state, console.size
        yield Text("\n").join(
            frame(state.overview, state.trails, state.sight, width, height, self._ascii)
        )


class Screen:
    """Raises FastlbError where the instance ends; returns the exit status otherwise."""

    def __init__(self, client: AdminClient, console: Console, interval: float, sort: str) -> None:
        self._client = client
        self._console = console
        self._interval = interval
        self._sort = sort
        self._signals: list[int] = []
        self._ascii = console.options.ascii_only

    def run(self, overview: dict[str, Any], series: dict[str, Any]) -> int:
        state = State(overview, begin(sort=self._sort))
        begin_trail(state, series)
        state.add(overview)
        live = Live(
            _Frame(state, self._ascii),
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with Feed(self._client) as feed, self._catching(feed):
            while True:
                with _keys_unbuffered(), live:
                    ended = self._loop(state, live, feed)
                if ended is not None:
                    return ended
                # Ctrl-Z: the shell has the terminal back before we stop, and we have it after that.
                os.kill(os.getpid(), signal.SIGSTOP)

    def _loop(self, state: State, live: Live, feed: Feed) -> int | None:
        """Until it is to end, with which status; None where it is to stop."""
        shown = 0.0
        live.refresh()
        while True:
            ready, _, _ = select.select([sys.stdin, feed.descriptor], [], [], 60)
            dirty = bool(self._signals)
            for news in feed.take():
                dirty = self._hear(news, state, shown) or dirty
            for number in self._taken_signals():
                if number in ENDING:
                    return 0 if number == signal.SIGINT else 128 + number
                if number == signal.SIGTSTP:
                    return None
            if sys.stdin in ready:
                data = os.read(sys.stdin.fileno(), 1024)
                if not data:
                    return 0  # the terminal is gone
                for key in keys_of(data):
                    pressed = press(key, state.sight, state.waiting, state.overview)
                    state.sight, state.waiting = pressed.sight, pressed.waiting
                    if pressed.send is not None:
                        feed.send(pressed.send.path, pressed.send.body)
                    if pressed.quit:
                        return 0
                dirty = True
            if dirty:
                shown = time.monotonic()
                live.refresh()

    def _hear(self, news: News, state: State, shown: float) -> bool:
        """Whether there is something to show at once."""
        if news.kind == "gone":
            raise FastlbError(f"{self._client.path.parent.name}: {news.value}")
        if news.kind == "lost":
            state.sight = replace(state.sight, lost=news.value)
            return True
        if news.kind == "overview":
            was_lost = bool(state.sight.lost)
            state.add(news.value)
            state.sight = replace(state.sight, lost="")
            return was_lost or time.monotonic() - shown >= self._interval - 0.2
        state.sight = replace(state.sight, said=news.value, failed=news.kind == "failed")
        return True

    def _taken_signals(self) -> list[int]:
        taken, self._signals = self._signals, []
        return taken

    @contextmanager
    def _catching(self, feed: Feed) -> Iterator[None]:
        """Signals are news as well: what they end is left in order."""

        def note(number: int, stack: FrameType | None) -> None:
            self._signals.append(number)
            feed.wake()

        numbers = (*ENDING, signal.SIGTSTP, signal.SIGWINCH, signal.SIGCONT)
        before = {number: signal.signal(number, note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _keys_unbuffered() -> Iterator[None]:
    """Each key at once and unseen; what the terminal was set to is set again, whatever happens."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        # Not the default, which throws away what was typed ahead.
        tty.setcbreak(descriptor, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
