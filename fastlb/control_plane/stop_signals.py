"""What a signal to the supervisor means. Decides, and sets two events; ends nothing itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

log = logging.getLogger("fastlb")

AGAIN_AFTER = 0.5
"""Wrappers signal the process and then its group: a second signal so soon is the first one's echo."""
FOR_THE_SUPERVISOR = frozenset(
    {signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
)
"""What a terminal or a wrapper sends to the whole group: workers are born with these blocked."""

Meaning = Literal["stop", "end", "echo", "reload", "reopen", "nothing"]


def meaning(number: signal.Signals, terminal: bool, since_first: float | None) -> Meaning:
    """What to do at a signal, `since_first` seconds after the one that began the stop.

    `terminal` says whether the instance was started at one: its SIGHUP means that it is gone.
    """
    if number == signal.SIGQUIT:
        return "end"
    if number == signal.SIGUSR1:
        return "reopen"
    stops = number in (signal.SIGTERM, signal.SIGINT) or (number == signal.SIGHUP and terminal)
    if not stops:
        return "reload" if number == signal.SIGHUP else "nothing"
    if since_first is None:
        return "stop"
    # A terminal that closes says so to each of its processes, and often more than once.
    return "echo" if since_first < AGAIN_AFTER or number == signal.SIGHUP else "end"


def leave_signals() -> None:
    """Let this thread take none of them. A thread that is over for Python still lives for a moment, and
    would end the process with what comes then."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, *FOR_THE_SUPERVISOR})


class StopSignals:
    """`stop` is set by the first signal to stop; `end` by the second, or by SIGQUIT: at once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reload: Callable[[], None],
        reopen: Callable[[], None],
    ) -> None:
        self._reload = reload
        self._reopen = reopen
        self.stop = asyncio.Event()
        self.end = asyncio.Event()
        loop.set_default_executor(ThreadPoolExecutor(initializer=leave_signals))
        self._terminal = os.isatty(0) or os.isatty(2)
        self._first: float | None = None
        for number in (signal.SIGTERM, *FOR_THE_SUPERVISOR):
            # `nohup` and the like have a signal ignored, and mean it; a shell's `&` does so to
            # SIGINT, where somebody who sends one by hand means it more.
            by_hand = number in (signal.SIGTERM, signal.SIGINT)
            if by_hand or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number)

    def close(self) -> None:
        """It is over: a signal that comes after this must not change how the process ends, as one would
        once the loop has put back what signals do by default."""
        leave_signals()

    def _on_signal(self, given: int) -> None:
        number, now = signal.Signals(given), time.monotonic()
        since_first = None if self._first is None else now - self._first
        match meaning(number, self._terminal, since_first):
            case "stop":
                log.info("%s: stopping", number.name)
                self._first = now
                self.stop.set()
            case "end":
                again = " again" if self.stop.is_set() and number != signal.SIGQUIT else ""
                log.warning("%s%s: ending at once", number.name, again)
                self.stop.set()
                self.end.set()
            case "echo":
                log.debug("%s once more", number.name)
            case "reload":
                log.info("SIGHUP: reading the configuration anew")
                self._reload()
            case "reopen":
                log.info("SIGUSR1: opening the access log anew")
                self._reopen()
            case "nothing":
                log.warning("%s is ignored: it means nothing to fastlb", number.name)
