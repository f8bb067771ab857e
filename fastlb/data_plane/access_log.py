"""One JSON line a request, written by a thread, so that a slow disk never holds up a request.

Lines that do not fit the bounded queue are dropped and counted, and the count is written when the disk
is back. Knows nothing of connections.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections import deque

from fastlb.data_plane.request_head import RequestHead

MAX_QUEUED = 20000
"""Lines, some 5 MB; half a second of a busy worker."""
FLUSH_SECONDS = 0.2


class AccessLog:
    """Appends to `path`; `-` is standard output. Several workers may write to the same file: each write
    is whole lines, and O_APPEND keeps them apart. Raises OSError where it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._fd = _open(path)
        self._queue: deque[tuple[object, ...]] = deque()
        self._dropped = 0
        self._torn = False
        """Whether the file ends inside a line, since a disk was full there."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(
        self,
        client: str,
        head: RequestHead | None,
        status: int,
        target: str,
        seconds: float,
        size: int,
        cause: str,
        detail: str = "",
    ) -> None:
        """Queue one line; formatting and writing are the thread's. `cause` and `detail` are a
        RequestError's, where the answer is our own."""
        if len(self._queue) >= MAX_QUEUED:
            self._dropped += 1
            return
        self._queue.append(
            (time.time(), client, head, status, target, seconds, size, cause, detail)
        )

    def close(self) -> None:
        """Write what is queued, waiting no longer than two seconds for a slow disk."""
        self._stop.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._drain()
        self._drain()
        os.close(self._fd)

    def _drain(self) -> None:
        lines = []
        while self._queue:
            lines.append(_line(*self._queue.popleft()))  # type: ignore[arg-type]
            if len(lines) == 200:
                self._append(lines)
                lines = []
        self._append(lines)
        dropped = self._dropped
        if dropped and self._append([json.dumps({"dropped_lines": dropped}) + "\n"], counts=False):
            self._dropped -= dropped

    def _append(self, lines: list[str], *, counts: bool = True) -> bool:
        """Whether all were written; those that were not are counted as dropped."""
        data = ("\n" * self._torn + "".join(lines)).encode()
        whole = data
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError:
                written = whole[: len(whole) - len(data)]
                if written:
                    self._torn = not written.endswith(b"\n")
                if counts:
                    self._dropped += data.count(b"\n")
                return False
        if whole:
            self._torn = False
        return True


def _open(path: str) -> int:
    if path != "-":
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    return os.dup(sys.stdout.fileno())


def _line(
    when: float,
    client: str,
    head: RequestHead | None,
    status: int,
    target: str,
    seconds: float,
    size: int,
    cause: str,
    detail: str,
) -> str:
    record: dict[str, object] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when))
        + f".{int(when * 1000) % 1000:03}Z",
        "client": client,
        "method": head.method.decode("latin-1") if head else "-",
        "target_uri": head.target.decode("latin-1") if head else "-",
        "host": head.block.host.decode("latin-1") if head else "-",
        "status": status,
        "target": target,
        "duration_ms": round(seconds * 1000, 3),
        "bytes": size,
    }
    if cause:
        record["error"] = cause
        record["detail"] = detail
    return json.dumps(record, separators=(",", ":")) + "\n"
