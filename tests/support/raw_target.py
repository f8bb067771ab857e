"""A target made of a raw socket, which does exactly what a script says, right or wrong.

A script is a function of one RawConnection, run in a thread of its own for each connection. All that
a connection received is recorded. Knows just enough HTTP to find the end of a request, and reads it
in one strict way, on purpose independent of fastlb's own parser.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

RESET = struct.pack("ii", 1, 0)
WAIT_SECONDS = 30.0


class Closed(Exception):
    """The other side ended the connection."""


class Malformed(Exception):
    """What came is no HTTP request that can be read in one way only."""


class RawConnection:
    """One accepted connection, for its script."""

    def __init__(self, target: RawTarget, one: socket.socket, number: int) -> None:
        self.target = target
        self.socket = one
        self.number = number
        self.received = bytearray()
        self.requests: list[bytes] = []
        """Whole requests that `read_request` found."""
        self.error: Exception | None = None
        self.ended = threading.Event()
        """Set when the script is over and the socket closed."""
        self._read = 0
        self._whole = 0

    @property
    def unread(self) -> int:
        """Bytes that came and belong to no whole request."""
        return len(self.received) - self._whole

    def read_some(self, size: int = 65536) -> bytes:
        """What comes next. Raises Closed at the end."""
        try:
            data = self.socket.recv(size)
        except ConnectionError:
            data = b""
        if not data:
            raise Closed
        self.received += data
        return data

    def read_to_end(self) -> None:
        """Until the other side closes."""
        try:
            while True:
                self.read_some()
        except Closed:
            return

    def read_until(self, mark: bytes) -> bytes:
        """What comes up to and with `mark`."""
        while (at := self.received.find(mark, self._read)) < 0:
            self.read_some()
        return self._take(at + len(mark) - self._read)

    def read_exactly(self, size: int) -> bytes:
        while len(self.received) - self._read < size:
            self.read_some()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        data = bytes(self.received[self._read : self._read + size])
        self._read += size
        return data

    def read_head(self) -> bytes:
        """One request's head with its empty line."""
        return self.read_until(b"\r\n\r\n")

    def read_request(self) -> bytes:
        """One whole request. Raises Malformed where two readers could disagree about it."""
        head = self.read_head()
        raw = head + b"".join(self._body(head))
        self.requests.append(raw)
        self._whole = self._read
        with self.target.changed:
            self.target.requests.append((self.number, raw))
            self.target.changed.notify_all()
        return raw

    def _body(self, head: bytes) -> list[bytes]:
        check_head(head)
        lengths = re.findall(rb"(?im)^content-length: *([^\r]*)\r$", head)
        codings = re.findall(rb"(?im)^transfer-encoding: *([^\r]*)\r$", head)
        if codings:
            if lengths or codings != [b"chunked"]:
                raise Malformed(f"framed by {lengths} and {codings}")
            pieces = []
            while True:
                line = self.read_until(b"\r\n")
                if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}\r\n", line):
                    raise Malformed(f"chunk size line {line[:40]!r}")
                pieces.append(line)
                size = int(line, 16)
                if not size:
                    break
                pieces.append(self.read_exactly(size + 2))
                if not pieces[-1].endswith(b"\r\n"):
                    raise Malformed(f"chunk of {size} ends with {pieces[-1][-4:]!r}")
            while (line := self.read_until(b"\r\n")) != b"\r\n":
                pieces.append(line)
            return [*pieces, line]
        if len(lengths) > 1 or (lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0])):
            raise Malformed(f"framed by {lengths}")
        return [self.read_exactly(int(lengths[0]))] if lengths else []

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError:  # reset, or closed by the script while a test sends by the same connection
            raise Closed from None

    def send_pieces(self, pieces: Sequence[bytes], pause: float = 0.0) -> None:
        """One send a piece; without Nagle's delay each is a segment of its own."""
        for piece in pieces:
            self.send(piece)
            if pause:
                time.sleep(pause)

    def half_close(self) -> None:
        """FIN, reading goes on."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            raise Closed from None

    def reset(self) -> None:
        """RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.socket.close()
        raise Closed

    def close(self) -> None:
        self.socket.close()
        raise Closed

    def never_answer(self) -> None:
        """Read on and say nothing until the other side gives up."""
        self.read_to_end()

    def never_read(self) -> None:
        """Leave everything in the kernel's buffer until the target ends."""
        self.target.ending.wait()


Script = Callable[[RawConnection], None]


class RawTarget:
    """Listens on a port of 127.0.0.1; `script` says what each connection does.

    `script` may be replaced at any time: it holds for connections accepted from then on.
    """

    def __init__(self, script: Script | None = None, receive_buffer: int | None = None) -> None:
        self.script: Script = script or echo_requests
        self.connections: list[RawConnection] = []
        self.requests: list[tuple[int, bytes]] = []
        """(number of the connection, whole request) in the order of arrival."""
        self.changed = threading.Condition()
        self.ending = threading.Event()
        self._listening = socket.socket()
        if receive_buffer is not None:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(1024)
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="raw target", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __str__(self) -> str:
        return self.address

    def __enter__(self) -> RawTarget:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def wait_requests(self, count: int, seconds: float = WAIT_SECONDS) -> list[bytes]:
        """All requests as soon as there are `count`."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) >= count, seconds), (
                f"{len(self.requests)} of {count} requests after {seconds:g} s"
            )
            return [raw for _, raw in self.requests]

    def errors(self) -> list[Exception]:
        """What scripts raised besides Closed."""
        return [one.error for one in self.connections if one.error is not None]

    def forget(self) -> None:
        """Start the record anew: ended connections and all requests are forgotten."""
        with self.changed:
            self.requests.clear()
            self.connections = [one for one in self.connections if not one.ended.is_set()]

    def end(self) -> None:
        """Stop listening and close every connection."""
        self.ending.set()
        try:
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes accept()
        finally:
            self._listening.close()
        self._thread.join(WAIT_SECONDS)
        for one in self.connections:
            try:
                one.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already
        for one in self.connections:
            assert one.ended.wait(WAIT_SECONDS), "a script does not end"

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listening.accept()
            except OSError:
                return
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.changed:
                number = self.connections[-1].number + 1 if self.connections else 0
                connection = RawConnection(self, one, number)
                self.connections.append(connection)
                self.changed.notify_all()
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: RawConnection) -> None:
        with connection.socket:
            try:
                self.script(connection)
            except Closed:
                pass  # how most connections end
            except (Malformed, OSError) as error:
                connection.error = error
        connection.ended.set()


def check_head(head: bytes) -> None:
    """Raise Malformed where a request's head is not what a careful proxy writes."""
    lines = head[:-4].split(b"\r\n")
    if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", b"".join(lines)):
        raise Malformed(f"a control character in {head[:200]!r}")
    if not re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [\x21-\x7e]+ HTTP/1\.1", lines[0]):
        raise Malformed(f"request line {lines[0][:200]!r}")
    names = []
    for line in lines[1:]:
        found = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)", line, re.DOTALL)
        if not found:
            raise Malformed(f"field line {line[:200]!r}")
        names.append(found[1].lower())
    if names.count(b"host") != 1:
        raise Malformed(f"not one Host in {head[:200]!r}")


def request_target(raw: bytes) -> str:
    """Of a request's first line."""
    return raw.split(b" ", 2)[1].decode("latin-1")


def answer(body: bytes, *fields: str, status: str = "200 OK", head_only: bool = False) -> bytes:
    """A whole HTTP/1.1 answer with Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + (b"" if head_only else body)


def echo_answer(raw: bytes) -> bytes:
    """The answer that names its request, by which nothing can be mixed up unnoticed."""
    name = request_target(raw)
    return answer(f"seen {name}\n".encode(), f"X-Seen: {name}", head_only=raw.startswith(b"HEAD "))


def echo_requests(connection: RawConnection) -> None:
    """The well-behaved script: reads whole requests and answers each with its own target."""
    while True:
        connection.send(echo_answer(connection.read_request()))


def replies(data: bytes, pieces: int = 1) -> Script:
    """A script that answers every request with these bytes, in so many pieces."""

    def script(connection: RawConnection) -> None:
        size = max(1, -(-len(data) // pieces))
        while True:
            connection.read_request()
            connection.send_pieces([data[at : at + size] for at in range(0, len(data), size)])

    return script


def resets_after(data: bytes = b"") -> Script:
    """A script that reads a request's head, sends these bytes and resets."""

    def script(connection: RawConnection) -> None:
        connection.read_head()
        connection.send(data)
        connection.reset()

    return script


def closes_after(data: bytes = b"") -> Script:
    """A script that reads a request's head, sends these bytes and closes."""

    def script(connection: RawConnection) -> None:
        connection.read_head()
        connection.send(data)
        connection.close()

    return script


def floods(data: bytes) -> Script:
    """A script that answers a request with the same bytes until nobody reads them."""

    def script(connection: RawConnection) -> None:
        connection.read_head()
        while not connection.target.ending.is_set():
            connection.send(data)

    return script
