"""Where the line between recv/send and os.splice lies, and what the adaptive Pump makes of it.

    python bench/splice_line.py [--quick]

The Pump runs in this process on one core; its clients and targets run in child processes on
another. Two tables, for TCP on loopback and for unix sockets: CPU µs per round trip of 32 ping-pong
connections at once, by message size; and GB per CPU second of one connection's bulk one way, by
size of the buffer or pipe. `copy` never splices, `splice` always does, `pump` is the Pump as it is.
Only the Pump's own CPU is counted. On loopback no network card sets the size of what arrives.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import uvloop

from fastlb.data_plane import pipe_pool, splice
from fastlb.data_plane.pipe_pool import PipePool

KIB = 1024
CONNECTIONS = 32
NEVER = 1 << 60
MESSAGES = (64, KIB, 4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB)
BUFFERS = (16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB)
PIPES = (64 * KIB, 256 * KIB, 1024 * KIB)

Pair = tuple[socket.socket, socket.socket]


def connected(kind: str) -> Pair:
    if kind == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    for side in (near, far):
        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


@contextmanager
def mode(name: str, size: int) -> Iterator[None]:
    """The Pump with its rule replaced; `size` is of the buffer for `copy`, of the pipes else."""
    pool = PipePool(splice.PIPES, size) if name == "splice" else PipePool(splice.PIPES)
    changed: dict[str, Any] = {"pipes": pool}
    if name == "copy":
        buffer = bytearray(size)
        changed |= {"BULK_AFTER": NEVER, "BUFFER_BYTES": size}
        changed |= {"_BUFFER": buffer, "_VIEW": memoryview(buffer)}
    elif name == "splice":
        changed |= {"COPY_AFTER": NEVER}
    with patch.multiple(splice, **changed):
        yield
    pool.close()


def on_core(number: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def pump_cpu(name: str, kind: str, connections: int, load: Callable[[list[Pair]], None]) -> float:
    """CPU seconds for pumping what `load` sends, in a child, over the outer ends of the Pumps."""
    outer: list[Pair] = []
    pumped: list[Pair] = []
    for _ in range(connections):
        client, a = connected(kind)
        b, target = connected(kind)
        outer.append((client, target))
        pumped.append((a, b))
    cores = os.sched_getaffinity(0)
    pid = os.fork()
    for pair in outer if pid else pumped:
        for side in pair:
            side.close()
    if pid == 0:
        try:
            on_core(1)
            load(outer)
        finally:
            os._exit(0)
    on_core(0)
    loop = uvloop.new_event_loop()
    running = set[splice.Pump]()

    def done(pump: splice.Pump, reason: str) -> None:
        running.discard(pump)
        if not running:
            loop.stop()

    for a, b in pumped:
        a.setblocking(False)
        b.setblocking(False)
        pump = splice.Pump(loop, a, b, done)
        pump._a_to_b.bulk = pump._b_to_a.bulk = name == "splice"
        running.add(pump)
        pump.start()
    began = time.process_time()
    loop.run_forever()
    took = time.process_time() - began
    loop.close()
    os.waitpid(pid, 0)
    os.sched_setaffinity(0, cores)
    return took


def round_trip(kind: str, name: str, size: int, message: int, rounds: int) -> float:
    """CPU µs per round trip of `message` bytes each way."""

    def load(pairs: list[Pair]) -> None:
        ping_pong(pairs, message, rounds * CONNECTIONS)

    with mode(name, size):
        return pump_cpu(name, kind, CONNECTIONS, load) / (rounds * CONNECTIONS) * 1e6


def ping_pong(pairs: list[Pair], message: int, total: int) -> None:
    poll = select.epoll()
    ends: dict[int, tuple[socket.socket, bool]] = {}
    got: dict[int, int] = {}
    for pair in pairs:
        for side in pair:
            ends[side.fileno()] = (side, side is pair[0])
            got[side.fileno()] = 0
            poll.register(side.fileno(), select.EPOLLIN)
    buffer = bytearray(max(message, 64 * KIB))
    text = bytes(message)
    for client, _ in pairs:
        client.sendall(text)
    done = 0
    while done < total:
        for fd, _ in poll.poll():
            side, is_client = ends[fd]
            got[fd] += side.recv_into(buffer)
            if got[fd] == message:
                got[fd] = 0
                done += is_client
                side.sendall(text)


def bulk(kind: str, name: str, size: int, total: int) -> float:
    """GB per CPU second, one way."""

    def load(pairs: list[Pair]) -> None:
        client, target = pairs[0]
        if os.fork() == 0:
            client.close()
            room = bytearray(1024 * KIB)
            # Dropped in the kernel where it can be: the sink shall not be what is measured.
            flags = socket.MSG_TRUNC if kind == "tcp" else 0
            while target.recv_into(room, len(room), flags):
                pass
            os._exit(0)
        target.close()
        text = bytes(256 * KIB)
        for _ in range(total // len(text)):
            client.sendall(text)
        client.close()
        os.wait()

    with mode(name, size):
        return total / pump_cpu(name, kind, 1, load) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the line between recv/send and splice.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, rough figures")
    share = 10 if parser.parse_args().quick else 1
    repeats = 1 if share > 1 else 3
    print(
        f"BUFFER {splice.BUFFER_BYTES} PIPE {pipe_pool.PIPE_BYTES} BULK_AFTER {splice.BULK_AFTER}"
    )
    for kind in ("tcp", "unix"):
        print(f"\n{kind}: CPU µs per round trip, {CONNECTIONS} connections")
        print(f"{'message':>9} {'copy':>8} {'splice':>8} {'pump':>8}")
        for message in MESSAGES:
            rounds = (2000 if message < 64 * KIB else 500) // share
            row = [
                statistics.median(
                    round_trip(kind, name, size, message, rounds) for _ in range(repeats)
                )
                for name, size in (("copy", 64 * KIB), ("splice", 256 * KIB), ("pump", 0))
            ]
            print(f"{message:>9} " + " ".join(f"{value:8.2f}" for value in row), flush=True)
        print(f"\n{kind}: bulk one way, GB per CPU second")
        kinds = [("copy", size) for size in BUFFERS] + [("splice", size) for size in PIPES]
        for name, size in [*kinds, ("pump", 0)]:
            rate = statistics.median(bulk(kind, name, size, 2**30 // share) for _ in range(repeats))
            label = f"{name} {size // KIB} KiB" if size else name
            print(f"{label:>18} {rate:8.2f}", flush=True)


if __name__ == "__main__":
    main()
