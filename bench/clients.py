"""Clients for what wrk cannot do: ping-pong over TCP and WebSocket, TCP bulk, holding idle connections.

    python -m bench.clients '{"kind": "ping-pong", "port": 8080, ...}'

Prints a line when its connections are open and checked, begins when it gets one, and then prints what
it found as one line of JSON. The same for all proxies. Knows none of them.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from bench.servers import BULK_BLOCK, accept_key

TIMEOUT = 10.0
MESSAGE = b"0123456789abcdef" * 4
"""64 bytes."""
_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + _KEY + b"\r\n\r\n"
)
WEBSOCKET_OUT = bytes((0x82, 0x80 | len(MESSAGE))) + b"\0\0\0\0" + MESSAGE
WEBSOCKET_BACK = bytes((0x82, len(MESSAGE))) + MESSAGE


def percentile(ordered: Sequence[int], percent: float) -> int:
    """Of values in order, by the nearest rank; 0 where there are none."""
    if not ordered:
        return 0
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]


def connect(port: int) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def read_head(one: socket.socket) -> bytes:
    """Up to and with the empty line; not a byte more is expected. Raises OSError."""
    got = b""
    while not got.endswith(b"\r\n\r\n"):
        more = one.recv(4096)
        if not more:
            raise OSError(f"closed inside the head of an answer: {got[:200]!r}")
        got += more
    return got


def read_exactly(one: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = one.recv(size - len(got))
        if not more:
            raise OSError(f"closed after {len(got)} of {size} bytes")
        got += more
    return got


def upgrade(one: socket.socket) -> None:
    """The WebSocket handshake; OSError where the answer is not the right one."""
    one.sendall(_UPGRADE)
    head = read_head(one)
    if not head.startswith(b"HTTP/1.1 101 ") or accept_key(_KEY) not in head:
        raise OSError(f"no 101 with the right accept key: {head[:200]!r}")


def wait_for_go() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def ping_pong(port: int, connections: int, seconds: float, websocket: bool) -> dict[str, float]:
    """Round trips of one message at a time on each connection; every answer is compared."""
    out, back = (WEBSOCKET_OUT, WEBSOCKET_BACK) if websocket else (MESSAGE, MESSAGE)
    size = len(back)
    opened = [connect(port) for _ in range(connections)]
    poll = select.epoll()
    ends = {}
    for one in opened:
        if websocket:
            upgrade(one)
        one.sendall(out)
        if read_exactly(one, size) != back:
            raise OSError("an answer that is not what was sent")
        ends[one.fileno()] = one
        poll.register(one.fileno(), select.EPOLLIN)
    sent = dict.fromkeys(ends, 0)
    took = array("q")
    clock = time.perf_counter_ns
    wait_for_go()
    begun = clock()
    until = begun + int(seconds * 1e9)
    for fd, one in ends.items():
        sent[fd] = clock()
        one.sendall(out)
    now = begun
    while now < until:
        events = poll.poll(TIMEOUT)
        if not events:
            raise OSError(f"no answer within {TIMEOUT:g} s")
        for fd, _ in events:
            one = ends[fd]
            got = one.recv(size)
            if got != back:
                got += read_exactly(one, size - len(got)) if got else b""
                if got != back:
                    raise OSError(f"an answer that is not what was sent: {got[:100]!r}")
            now = clock()
            took.append(now - sent[fd])
            sent[fd] = now
            one.sendall(out)
    for one in opened:
        one.close()
    ordered = sorted(took)
    return {
        "count": len(took),
        "seconds": (now - begun) / 1e9,
        "p50": percentile(ordered, 50) / 1e3,
        "p99": percentile(ordered, 99) / 1e3,
        "p999": percentile(ordered, 99.9) / 1e3,
    }


def bulk(port: int, seconds: float) -> dict[str, float]:
    """MB (10^6 bytes) that come on one connection; the first MiB is compared."""
    with connect(port) as one:
        one.sendall(b"x")
        if read_exactly(one, 4 * len(BULK_BLOCK)) != 4 * BULK_BLOCK:
            raise OSError("bytes that are not what was sent")
        room = bytearray(1 << 20)
        wait_for_go()
        begun = now = time.perf_counter()
        got = 0
        while now < begun + seconds:
            # Dropped in the kernel: the client shall not be what is measured.
            size = one.recv_into(room, len(room), socket.MSG_TRUNC)
            if not size:
                raise OSError(f"closed after {got} bytes")
            got += size
            now = time.perf_counter()
    return {"count": got / 1e6, "seconds": now - begun}


def hold(port: int, connections: int) -> dict[str, float]:
    """Keep-alive connections that had one answer each, held until standard input ends."""
    opened = []
    for _ in range(connections):
        one = connect(port)
        opened.append(one)
        one.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
        got = b""
        while not got.endswith(b"\r\n\r\nhello"):
            more = one.recv(4096)
            if not more:
                raise OSError(f"closed before its answer: {got[:200]!r}")
            got += more
        if not got.startswith(b"HTTP/1.1 200 "):
            raise OSError(f"no 200: {got[:200]!r}")
    wait_for_go()
    return {"count": len(opened), "seconds": 0.0}


def main() -> None:
    what: dict[str, Any] = json.loads(sys.argv[1])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kinds: dict[str, Callable[..., dict[str, float]]] = {
        "ping-pong": ping_pong,
        "bulk": bulk,
        "hold": hold,
    }
    try:
        print(json.dumps(kinds[what.pop("kind")](**what)), flush=True)
    except OSError as error:
        raise SystemExit(f"{error}") from None


if __name__ == "__main__":
    main()
