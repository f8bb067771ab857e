"""What the service manager is told (sd_notify), and the watchdog that it keeps on this process.

One datagram a message, to the socket that NOTIFY_SOCKET names; without that variable nothing is
sent. Knows nothing of what it reports: whether all is well is asked of a function.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from fastlb.control_plane.wording import count_of

log = logging.getLogger("fastlb")

PETS = 3
"""Messages within the watchdog's time: two may be late."""


class ServiceManager:
    """`replaces` says that this process takes over from another one, to which the variables of the
    environment were said."""

    def __init__(self, environ: Mapping[str, str], *, replaces: bool = False) -> None:
        self._address = notify_address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = watchdog_seconds(environ, os.getpid(), replaces=replaces)
        self._timer: asyncio.TimerHandle | None = None
        self._status = ""
        self._trouble = ""

    @property
    def there(self) -> bool:
        """Whether there is one that is told which process is the main one."""
        return self._address is not None

    def ready(self, *, replaces: bool = False) -> None:
        """Everything serves; with `replaces`, this process is the main one from now on."""
        self._tell(*([f"MAINPID={os.getpid()}"] if replaces else []), "READY=1")

    def reloading(self) -> None:
        """The configuration is read, or the instance handed over; `ready` follows in any case."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    @contextmanager
    def while_reloading(self) -> Iterator[None]:
        """Tell it of both ends."""
        self.reloading()
        try:
            yield
        finally:
            self.ready()

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent where it is another one than before."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def watch(self, well: Callable[[], bool]) -> None:
        """Tell the watchdog that all is well, as long as it is."""
        if self._watchdog is None or not self.there:
            return
        if well():
            self._tell("WATCHDOG=1")
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._watchdog / PETS, self.watch, well)

    def end_watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
                one.setblocking(False)
                one.sendto("\n".join(lines).encode(), self._address)
            self._trouble = ""
        except OSError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("the service manager cannot be told %s: %s", lines[0], error)


def in_short(running: int, workers: int, states: Sequence[str], draining: bool) -> str:
    """The instance in one line: its running workers of all, and its targets by their states."""
    text = f"{running} of {count_of(workers, 'worker')} running"
    if draining:
        return f"draining; {text}"
    return f"{text}; {states.count('healthy')} of {count_of(len(states), 'target')} healthy"


def notify_address(text: str) -> str | None:
    """Where messages go; an abstract socket is written with @. None where nobody listens to them."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def watchdog_seconds(environ: Mapping[str, str], pid: int, *, replaces: bool) -> float | None:
    """Within which the service manager wants to hear of `pid`; None where it does not."""
    text = environ.get("WATCHDOG_USEC", "")
    whose = environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or not int(text):
        return None
    if whose and whose != str(pid) and not replaces:
        return None
    return int(text) / 1e6
