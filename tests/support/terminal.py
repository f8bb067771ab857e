"""A terminal of a given size with a program in it: what it shows, what is typed, how it is left.

The emulator is pyte's, so that what is compared is what a person sees.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte

from tests.support.fastlb import ROOT

SECONDS = 20.0


class Terminal:
    """Runs `command` in a terminal; whatever it writes is on `screen`."""

    def __init__(
        self,
        command: Sequence[str],
        columns: int = 80,
        lines: int = 24,
        environment: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        self._ours, self._its = pty.openpty()
        self._size(columns, lines)
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self.modes_before = self.modes()
        base = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**base, "TERM": "xterm-256color", "LANG": "C.UTF-8", **(environment or {})},
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            start_new_session=True,
            preexec_fn=self._control,
        )

    def _control(self) -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(self.text())
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._its)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self.screen.erase_in_display(2)
        self._size(columns, lines)
        self.process.send_signal(signal.SIGWINCH)

    def modes(self) -> list[Any]:
        """As `stty` shows them: echo, line by line, and so on."""
        return termios.tcgetattr(self._its)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def _read(self, seconds: float) -> None:
        ready, _, _ = select.select([self._ours], [], [], seconds)
        if ready:
            data = os.read(self._ours, 65536)
            self.written += data
            self._stream.feed(data)

    def wait_for(self, pattern: str, seconds: float = SECONDS) -> re.Match[str]:
        """Until the pattern is on the screen."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text(), re.MULTILINE)
            if found:
                return found
            assert time.monotonic() < deadline, f"no {pattern!r} on the screen:\n{self.text()}"
            self._read(0.1)

    def wait_end(self, seconds: float = SECONDS) -> int:
        """The exit status, negative for a signal; with all that was written read."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it has not ended:\n{self.text()}"
            self._read(0.05)
        while select.select([self._ours], [], [], 0)[0]:
            self._read(0)
        assert self.process.returncode is not None
        return self.process.returncode
