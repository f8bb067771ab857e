"""What looking costs: the supervisor's CPU share with viewers, the time of a scrape, and how long the
supervisor answers nobody meanwhile.

    python -m bench.admin_load --targets 1000 --seconds 10 --rate 2000

Starts a real fastlb whose requests go round all targets, so that every one of them does something each
second, which is the dearest case. The targets are one process that is reached on as many addresses of
127.0.0.0/8. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from bench.processes import free_port

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
CLIENTS = 20
SCRAPES = 30
TICKS = os.sysconf("SC_CLK_TCK")


def serve(pipe: Connection) -> None:
    """The targets' process: tells its port, and ends with the pipe."""
    import asyncio

    import uvloop

    class App(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(ANSWER)  # type: ignore[attr-defined]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(App, "0.0.0.0", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        gone = asyncio.Event()
        loop.add_reader(pipe.fileno(), gone.set)
        await gone.wait()

    raise_open_files()
    uvloop.run(main())


def load(port: int, rate: float, pipe: Connection) -> None:
    """The clients' process: `rate` requests a second on a few connections, until the pipe ends."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS)]
    done = 0
    begun = time.monotonic()
    while not pipe.poll():
        for one in connections:
            one.sendall(REQUEST)
        for one in connections:
            assert one.recv(4096).startswith(b"HTTP/1.1 200")
        done += CLIENTS
        time.sleep(max(begun + done / rate - time.monotonic(), 0))
    for one in connections:
        one.close()


def raise_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_seconds(pid: int) -> float:
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / TICKS


def rss(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def process(target: object, *arguments: object) -> Iterator[Connection]:
    ours, theirs = multiprocessing.Pipe()
    one = multiprocessing.get_context("spawn").Process(
        target=target,  # type: ignore[arg-type]
        args=(*arguments, theirs),
    )
    one.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        one.join(5)
        if one.is_alive():
            one.kill()


@contextmanager
def fastlb(folder: Path, targets: list[str], *arguments: str) -> Iterator[tuple[int, int]]:
    """A running instance; its supervisor's pid and its port."""
    port = free_port()
    config = folder / "fastlb.toml"
    listed = ",".join(f'"{one}"' for one in targets)
    config.write_text(
        f'[[listeners]]\naddress = "http://127.0.0.1:{port}"\ndefault = {{ forward = "web" }}\n'
        f'[target_groups.web]\nalgorithm = "round_robin"\ntargets = [{listed}]\n'
        'health_check = { interval = "30s" }\n'
    )
    shutil.rmtree(folder / "run", ignore_errors=True)
    run = [sys.executable, "-m", "fastlb", "run", "--config", str(config), "--workers", "1"]
    one = subprocess.Popen(
        [*run, *arguments],
        env=os.environ | {"FASTLB_RUN_DIR": str(folder / "run")},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit("fastlb did not come up")
            time.sleep(0.1)
        yield one.pid, port
    finally:
        one.terminate()
        try:
            one.wait(40)
        except subprocess.TimeoutExpired:
            one.kill()


def over_unix(folder: Path) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(folder / "run/default/admin.sock"))
    return httpx.Client(base_url="http://localhost", transport=transport, timeout=60)


class Viewer(threading.Thread):
    """Reads the stream of events, until closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.read = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.start()

    def run(self) -> None:
        while piece := self._socket.recv(1 << 20):
            self.read += len(piece)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self._socket.close()


def share(pid: int, seconds: float) -> float:
    """Percent of one core."""
    before, begun = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_seconds(pid) - before) / (time.monotonic() - begun)


class Pinger(threading.Thread):
    """Asks the control socket all the time: the longest answer is how long the supervisor stood."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._ended = threading.Event()
        self.times: list[float] = []
        self.start()

    def run(self) -> None:
        while not self._ended.wait(0.003):
            begun = time.monotonic()
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(str(self._path))
                one.sendall(b"{}\n")
                one.recv(4096)
            self.times.append(time.monotonic() - begun)

    def end(self) -> list[float]:
        self._ended.set()
        self.join()
        return sorted(self.times)


def measure(folder: Path, targets: list[str], rate: float, seconds: float) -> None:
    rows = []
    with fastlb(folder, targets, "--no-admin-socket") as (pid, port), process(load, port, rate):
        time.sleep(2)
        rows.append(("admin off", share(pid, seconds), rss(pid)))
    with fastlb(folder, targets) as (pid, port), process(load, port, rate):
        sock = folder / "run/default/admin.sock"
        time.sleep(3)
        rows.append(("nobody looks", share(pid, seconds), rss(pid)))
        for count in (1, 10):
            viewers = [Viewer(sock) for _ in range(count)]
            rows.append((f"{count} follow the events", share(pid, seconds), rss(pid)))
            size = viewers[0].read / seconds
            for viewer in viewers:
                viewer.close()
        print("| supervisor | CPU, percent of a core | memory, MiB |\n|---|---|---|")
        for name, cpu, memory in rows:
            print(f"| {name} | {cpu:.2f} | {memory:.0f} |")
        print(f"\none viewer gets {size / 1024:.0f} KiB a second\n")

        pinger = Pinger(folder / "run/default/control.sock")
        time.sleep(3)
        quiet = pinger.end()
        pinger = Pinger(folder / "run/default/control.sock")
        times, lines = [], 0
        before = cpu_seconds(pid)
        with over_unix(folder) as admin:
            for _ in range(SCRAPES):
                begun = time.monotonic()
                text = admin.get("/metrics").text
                times.append(1000 * (time.monotonic() - begun))
                lines = text.count("\n")
                time.sleep(0.05)
        cost = 1000 * (cpu_seconds(pid) - before) / SCRAPES
        busy = pinger.end()
    print(
        f"/metrics: {lines} lines, {len(text) / 1024:.0f} KiB; median {statistics.median(times):.0f} ms, "
        f"slowest {max(times):.0f} ms, {cost:.0f} ms of CPU each (all that it did meanwhile)\n\n"
        f"an answer of the control socket, nobody scraping: median {1000 * statistics.median(quiet):.1f}, "
        f"slowest {1000 * quiet[-1]:.1f} ms; during scrapes: median "
        f"{1000 * statistics.median(busy):.1f}, slowest {1000 * busy[-1]:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=2000.0, help="requests a second")
    options = parser.parse_args()
    raise_open_files()
    with tempfile.TemporaryDirectory() as name, process(serve) as pipe:
        port = pipe.recv()
        targets = [f"127.0.{1 + n // 250}.{1 + n % 250}:{port}" for n in range(options.targets)]
        print(json.dumps({"targets": len(targets), "rate": options.rate}), end="\n\n")
        measure(Path(name), targets, options.rate, options.seconds)


if __name__ == "__main__":
    main()
