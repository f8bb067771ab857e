"""What probing costs the supervisor: CPU share of one process that checks N targets.

    python bench/health_load.py --targets 1000 --interval 5 --seconds 20 --kind tcp|http|unix
    python bench/health_load.py --waiting    the same, while requests wait at every target

The targets live in another process: 20 listening sockets, reached on as many addresses of
127.0.0.0/8 as there are targets, or as many unix sockets. Prints the share of one core over the
seconds after the first round, and what a single check costs.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import uvloop

from fastlb.control_plane.health_monitor import HealthMonitor
from fastlb.control_plane.target_registry import TargetRegistry
from fastlb.model.address import Address
from fastlb.model.health_check import HealthCheck
from fastlb.model.target_group import Target, TargetGroup
from fastlb.target_table.counters import Cell, Counters, Worker, block

PORTS = 20
ROWS = 4
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class App(asyncio.Protocol):
    """Answers any request and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER)
        self.transport.close()


def serve(paths: list[str], pipe: Connection) -> None:
    """The targets' process: tells its ports, and ends with the pipe."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        servers = [
            await loop.create_server(App, "0.0.0.0", 0, backlog=1024)
            for _ in range(0 if paths else PORTS)
        ]
        pipe.send([server.sockets[0].getsockname()[1] for server in servers])
        servers += [await loop.create_unix_server(App, path) for path in paths]
        pipe.send("ready")
        gone = asyncio.Event()
        loop.add_reader(pipe.fileno(), gone.set)
        await gone.wait()

    uvloop.run(main())


def addresses(count: int, ports: list[int], paths: list[str]) -> list[Address]:
    if paths:
        return [Address(path=path) for path in paths]
    hosts = (f"127.0.{1 + i // 250}.{1 + i % 250}" for i in range(count))
    return [Address(host=host, port=ports[i % len(ports)]) for i, host in enumerate(hosts)]


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def time_wait(at: list[Address]) -> int:
    """Connections to the targets that are in TIME_WAIT."""
    ports = {f"{address.port:04X}" for address in at}
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[3] == "06" and row[2].rpartition(":")[2] in ports for row in rows)


async def measure(options: argparse.Namespace, at: list[Address], check: HealthCheck) -> None:
    group = TargetGroup(name="web", targets=tuple(map(Target, at)), health_check=check)
    counters = Counters()
    for row in range(ROWS):
        counters.row(row)[Worker.PID] = os.getpid()
    registry = TargetRegistry([group], {"web"}, lambda: None)
    monitor = HealthMonitor(registry, counters, ROWS, asyncio.get_running_loop())
    begun, before = time.monotonic(), cpu_seconds()
    monitor.start()
    await monitor.first_round(30)
    print(
        f"first round: {registry.eligible('web')} of {len(at)} healthy after "
        f"{time.monotonic() - begun:.2f} s, {cpu_seconds() - before:.2f} s of CPU"
    )
    before, begun = cpu_seconds(), time.monotonic()
    checks = sum(target.health.checks for target in registry)
    turns = int(options.seconds / 0.1)
    for _ in range(turns):
        if options.waiting:
            now = time.monotonic_ns()
            for row in range(ROWS):
                cells = counters.row(row)
                for target in range(len(at)):
                    cells[block(target) + Cell.WAITING] = 1
                    cells[block(target) + Cell.WAITING_SINCE_NS] = now
                    cells[block(target) + Cell.LAST_BYTE_NS] = now
            before += cpu_seconds_since(now)
        await asyncio.sleep(0.1)
    spent, wall = cpu_seconds() - before, time.monotonic() - begun
    done = sum(target.health.checks for target in registry) - checks
    print(
        f"{options.kind}: {done} checks in {wall:.1f} s, {100 * spent / wall:.2f} % of a core, "
        f"{1e6 * spent / max(done, 1):.0f} us a check; healthy: {registry.eligible('web')}; "
        f"TIME_WAIT {time_wait(at)}"
    )
    monitor.stop()


def cpu_seconds_since(started_ns: int) -> float:
    """The bench's own work of storing cells, which is all CPU and not the monitor's."""
    return (time.monotonic_ns() - started_ns) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--interval", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--kind", choices=("tcp", "http", "unix"), default="http")
    parser.add_argument("--waiting", action="store_true", help="requests wait at every target")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    with tempfile.TemporaryDirectory() as folder:
        unix = options.kind == "unix"
        paths = [f"{folder}/{i}.sock" for i in range(options.targets)] if unix else []
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=serve, args=(paths, there))
        process.start()
        there.close()
        at = addresses(options.targets, here.recv(), paths)
        here.recv()
        path = None if options.kind == "tcp" else "/health"
        check = HealthCheck(path=path, interval=options.interval)
        uvloop.run(measure(options, at, check))
        here.close()
        process.join(10)


if __name__ == "__main__":
    main()
