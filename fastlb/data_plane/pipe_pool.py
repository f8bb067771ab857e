"""Pipes for os.splice: made late, bounded, used again only when empty. Knows no socket."""

from __future__ import annotations

import fcntl
import os

PIPE_BYTES = 256 * 1024
LEAST_PIPE_BYTES = 64 * 1024
"""The kernel gives pipes of one or two pages to a user who has many: those are no use."""


class Pipe:
    """A pipe and the count of bytes in it."""

    __slots__ = ("held", "read_end", "write_end")

    def __init__(self, read_end: int, write_end: int) -> None:
        self.read_end = read_end
        self.write_end = write_end
        self.held = 0

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


class PipePool:
    """Up to `limit` pipes of `size` bytes, made when first needed and kept while empty."""

    def __init__(self, limit: int, size: int = PIPE_BYTES) -> None:
        self.limit = limit
        self.size = size
        self.made = 0
        self._empty: list[Pipe] = []

    def take(self) -> Pipe | None:
        """An empty pipe; None where there are enough, or the kernel gives no more."""
        if self._empty:
            return self._empty.pop()
        if self.made >= self.limit:
            return None
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
        try:
            fcntl.fcntl(pipe.write_end, fcntl.F_SETPIPE_SZ, self.size)
        except OSError:
            if fcntl.fcntl(pipe.write_end, fcntl.F_GETPIPE_SZ) < LEAST_PIPE_BYTES:
                pipe.close()
                return None
        self.made += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take `pipe` back; one with bytes in it is closed, so that nobody else ever gets them."""
        if pipe.held or self.made > self.limit:
            pipe.close()
            self.made -= 1
        else:
            self._empty.append(pipe)

    def close(self) -> None:
        """Close the pipes that nobody holds."""
        for pipe in self._empty:
            pipe.close()
        self.made -= len(self._empty)
        self._empty.clear()
