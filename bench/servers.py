"""Targets that nginx cannot be: echo, WebSocket echo, an endless sender, a sink for uploads.

    python -m bench.servers {echo,websocket,bulk,sink} PORT

Few instructions a message, since they share their core with the client. Knows no proxy.
"""

from __future__ import annotations

import base64
import hashlib
import select
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

READ_BYTES = 65536
BULK_BLOCK = bytes(range(256)) * 1024
"""What `bulk` sends again and again once it has got one byte: 256 KiB."""
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Answer = Callable[[bytes], tuple[bytes, bytes]]
"""From the bytes that have come: what to send, and what is left for next time."""


def accept_key(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _MAGIC).digest())


def _echo(got: bytes) -> tuple[bytes, bytes]:
    return got, b""


def handshake_answer(head: bytes) -> bytes:
    """The 101 to a WebSocket request; ValueError where it is none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-key":
            key = accept_key(value.strip())
            return (
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + key + b"\r\n\r\n"
            )
    raise ValueError("no Sec-WebSocket-Key")


def websocket_echo(got: bytes) -> tuple[bytes, bytes]:
    """Binary frames of up to 125 bytes, unmasked; the handshake comes before."""
    out = []
    while len(got) >= 6:
        end = 6 + (got[1] & 0x7F)
        if len(got) < end:
            break
        mask, payload = got[2:6], got[6:end]
        if mask != b"\0\0\0\0":
            payload = bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))
        out.append(bytes((got[0], len(payload))) + payload)
        got = got[end:]
    return b"".join(out), got


def _websocket(got: bytes) -> tuple[bytes, bytes]:
    if got.startswith(b"GET "):
        head, end, rest = got.partition(b"\r\n\r\n")
        return (handshake_answer(head), rest) if end else (b"", got)
    return websocket_echo(got)


def serve_messages(server: socket.socket, answer: Answer) -> None:
    """Answer small messages for ever, on one thread."""
    poll = select.epoll()
    poll.register(server.fileno(), select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    left: dict[int, bytes] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == server.fileno():
                one, _ = server.accept()
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[one.fileno()] = one
                poll.register(one.fileno(), select.EPOLLIN)
                continue
            one = connections[fd]
            try:
                if got := one.recv(READ_BYTES):
                    out, rest = answer(left.pop(fd, b"") + got if left else got)
                    if rest:
                        left[fd] = rest
                    if out:
                        one.sendall(out)
                    continue
            except (OSError, ValueError):
                pass  # reset, or no WebSocket: closed like any other
            del connections[fd]
            left.pop(fd, None)
            one.close()


def _send_bulk(one: socket.socket) -> None:
    if one.recv(1):
        while True:
            one.sendall(BULK_BLOCK)


def _swallow_uploads(one: socket.socket) -> None:
    """Answer each POST with the number of body bytes that came."""
    room = bytearray(1 << 20)
    got = b""
    while True:
        while b"\r\n\r\n" not in got:
            more = one.recv(READ_BYTES)
            if not more:
                return
            got += more
        head, _, body = got.partition(b"\r\n\r\n")
        length = content_length(head)
        count = min(len(body), length)
        got = body[count:]
        while count < length:
            size = one.recv_into(room, min(length - count, len(room)))
            if not size:
                return
            count += size
        text = str(count).encode()
        one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))


def content_length(head: bytes) -> int:
    """Of a request's head; 0 where it has none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def serve_threads(server: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """One thread a connection, for ever: for few connections with much on each."""

    def run(one: socket.socket) -> None:
        with one, suppress(OSError):
            serve(one)

    while True:
        one, _ = server.accept()
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=run, args=(one,), daemon=True).start()


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    with socket.create_server(("127.0.0.1", port), backlog=1024) as server:
        if kind == "echo":
            serve_messages(server, _echo)
        elif kind == "websocket":
            serve_messages(server, _websocket)
        elif kind == "bulk":
            serve_threads(server, _send_bulk)
        elif kind == "sink":
            serve_threads(server, _swallow_uploads)
        raise SystemExit(f"no such target: {kind}")


if __name__ == "__main__":
    main()
