"""A client made of a raw socket: sends bytes in pieces, reads answers in one strict way."""

from __future__ import annotations

import random
import re
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

WAIT_SECONDS = 30.0


@dataclass(slots=True)
class Answer:
    """One answer: `complete` is False where the connection ended before its body did."""

    status: int
    head: bytes
    body: bytes = b""
    trailers: bytes = b""
    complete: bool = True
    interim: list[int] = field(default_factory=list)

    def fields(self, name: str) -> list[str]:
        pattern = rb"(?im)^" + re.escape(name.encode()) + rb":[ \t]*([^\r]*?)[ \t]*\r$"
        return [value.decode("latin-1") for value in re.findall(pattern, self.head)]


class Ended(Exception):
    """The connection is at its end: `reset` says how."""

    def __init__(self, reset: bool) -> None:
        super().__init__("reset" if reset else "end of stream")
        self.reset = reset


class RawClient:
    """One connection."""

    def __init__(self, port: int, seconds: float = WAIT_SECONDS) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.seconds = seconds
        self.buffer = bytearray()
        self.end: Ended | None = None

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, pieces: Iterable[bytes], pause: float = 0.0) -> None:
        """One send a piece; reads along, so that neither side waits for the other."""
        for piece in pieces:
            if pause:
                time.sleep(pause)
            while select.select([self.socket], [], [], 0)[0] and self.end is None:
                self._fill()
            if self.end is not None:
                return
            try:
                self.socket.sendall(piece)
            except ConnectionError:
                self._drain()
                return

    def finish(self) -> None:
        """FIN, reading goes on."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drain()

    def _drain(self) -> None:
        while self.end is None:
            self._fill()

    def _fill(self) -> None:
        """Read once. TimeoutError where nothing comes."""
        try:
            data = self.socket.recv(262144)
        except ConnectionError:
            self.end = Ended(reset=True)
            return
        if not data:
            self.end = Ended(reset=False)
        self.buffer += data

    def _until(self, mark: bytes) -> bytes:
        while (at := self.buffer.find(mark)) < 0:
            if self.end is not None:
                raise self.end
            self._fill()
        return self._take(at + len(mark))

    def _take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def answer(self, method: str = "GET") -> Answer:
        """The next final answer. Raises Ended where the connection ends instead."""
        interim = []
        while True:
            head = self._until(b"\r\n\r\n")
            found = re.match(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r\n", head)
            assert found, f"no status line: {head[:200]!r}"
            assert not re.search(rb"[^\r]\n|\r[^\n]|\0", head), f"bare CR, LF or NUL: {head!r}"
            status = int(found[1])
            if status >= 200 or status == 101:
                break
            interim.append(status)
        one = Answer(status, head, interim=interim)
        try:
            self._body(one, method)
        except Ended:
            one.complete = False
        return one

    def _body(self, one: Answer, method: str) -> None:
        if method == "HEAD" or one.status in (101, 204, 304):
            return
        lengths, codings = one.fields("content-length"), one.fields("transfer-encoding")
        assert not (lengths and codings), f"framed twice: {one.head!r}"
        if codings:
            assert codings == ["chunked"], f"framed by {codings}"
            while True:
                line = self._until(b"\r\n")
                assert re.fullmatch(rb"[0-9A-Fa-f]+\r\n", line), f"chunk size line {line!r}"
                size = int(line, 16)
                if not size:
                    break
                one.body += self._body_bytes(one, size)
                assert self._until(b"\r\n") == b"\r\n", "a chunk does not end where it says"
            while (line := self._until(b"\r\n")) != b"\r\n":
                one.trailers += line
        elif lengths:
            assert len(lengths) == 1, f"framed by {lengths}"
            one.body += self._body_bytes(one, int(lengths[0]))
        else:
            while self.end is None:
                self._fill()
            one.body += self._take(len(self.buffer))
            one.complete = not self.end.reset

    def _body_bytes(self, one: Answer, size: int) -> bytes:
        while len(self.buffer) < size:
            if self.end is not None:
                one.body += self._take(len(self.buffer))
                raise self.end
            self._fill()
        return self._take(size)

    def rest(self) -> bytes:
        """What still comes until the other side ends the connection. TimeoutError if it does not."""
        deadline = time.monotonic() + self.seconds
        while self.end is None:
            if time.monotonic() > deadline:
                raise TimeoutError("the connection stays open and talks")
            self._fill()
        return self._take(len(self.buffer))


def split(data: bytes, how: str, seed: int = 0) -> list[bytes]:
    """`whole`, `bytewise` (long data: in pieces of 61), or at `random` places."""
    if how == "whole" or len(data) < 2:
        return [data] if data else []
    if how == "bytewise":
        size = 1 if len(data) <= 2000 else 61
        return [data[at : at + size] for at in range(0, len(data), size)]
    chance = random.Random(seed)
    places = sorted(chance.sample(range(1, len(data)), min(chance.randint(1, 6), len(data) - 1)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def pause_between(pieces: list[bytes]) -> float:
    """Seconds that make it likely that each piece is read by itself, and cost 30 ms at most."""
    return min(0.0003, 0.03 / len(pieces)) if len(pieces) > 1 else 0.0


def exchange(port: int, data: bytes, how: str = "whole", method: str = "GET") -> Answer:
    """Send on a new connection, and read the first answer."""
    with RawClient(port) as client:
        pieces = split(data, how)
        client.send(pieces, pause_between(pieces))
        return client.answer(method)
