"""CPU per request of fastlb beside nginx and HAProxy: one worker on one core, the same work, one run.

    python -m bench.compare [--seconds 4] [--rounds 3]

The proxy is pinned to one core; the target (nginx answering `return 200`) and wrk to another. Rounds are
interleaved, medians are shown, and the ratio to the better of the two is the figure that counts: on a
busy or virtual machine absolute times mean little. What is not installed (Debian: nginx-light haproxy
wrk) is skipped with a line.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

PROXY_CORE, OTHER_CORE = "0", "1"

BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br",
    "Referer: https://example.com/some/page",
    "Cookie: session=0123456789abcdef0123456789abcdef0123456789abcdef; theme=dark",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-User: ?1",
    "Cache-Control: max-age=0",
    "DNT: 1",
    "X-Requested-With: bench",
)
WORKLOADS = {
    "minimal GET": ("/", []),
    "browser-like GET": (
        "/shop/items/4711?page=2&sort=price",
        [part for field in BROWSER for part in ("-H", field)],
    ),
    "64 KiB response": ("/64k", []),
    "new connection each": ("/", ["-H", "Connection: close"]),
}

TARGET = """
worker_processes 1; pid {dir}/target.pid; error_log {dir}/target.log; daemon off;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s; default_type text/plain;
  server {{
    listen 127.0.0.1:{target};
    location / {{ return 200 "hello"; }}
    location /64k {{ alias {dir}/64k; }}
  }}
}}
"""
NGINX = """
worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log; daemon off;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 600s;
  upstream targets {{ server 127.0.0.1:{target}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://targets; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Port $server_port;
    }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
frontend f
  bind 127.0.0.1:{port}
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Port {port}
  default_backend b
backend b
  http-reuse always
  server s 127.0.0.1:{target}
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def process(command: list[str], port: int, core: str, folder: Path) -> Iterator[psutil.Process]:
    """A server on `core`, from when it accepts on `port`."""
    env = os.environ | {"FASTLB_RUN_DIR": str(folder)}
    with open(folder / "out.log", "ab") as log:
        started = subprocess.Popen(
            ["taskset", "-c", core, *command], stdout=log, stderr=log, env=env
        )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or started.poll() is not None:
                    raise SystemExit(f"{command[0]} did not start; see its output above") from None
                time.sleep(0.02)
        yield psutil.Process(started.pid)
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def cpu_seconds(root: psutil.Process) -> float:
    """User and system time of a process and all below it."""
    tree = [root, *root.children(recursive=True)]
    return sum(one.cpu_times().user + one.cpu_times().system for one in tree)


def measure(port: int, path: str, extra: list[str], seconds: int, proxy: psutil.Process) -> float:
    """CPU µs of `proxy` for each answered request. Raises SystemExit where a request failed."""
    before = cpu_seconds(proxy)
    out = subprocess.run(
        [
            "taskset",
            "-c",
            OTHER_CORE,
            "wrk",
            "-t1",
            "-c64",
            f"-d{seconds}s",
            *extra,
            f"http://127.0.0.1:{port}{path}",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    spent = cpu_seconds(proxy) - before
    if found := re.search(r"Non-2xx.*|Socket errors.*[1-9].*", out):
        raise SystemExit(f"requests failed: {found[0]}")
    requests = re.search(r"(\d+) requests in", out)
    assert requests is not None
    return spent / int(requests[1]) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for needed in ("wrk", "nginx", "taskset"):
        if not shutil.which(needed, path=os.environ["PATH"] + ":/usr/sbin"):
            print(f"skipped: {needed} is not installed (the target is an nginx, the client wrk)")
            return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastlb-bench-")))
        (folder / "64k").write_bytes(b"x" * 65536)
        folder.chmod(0o755)
        target = free_port()
        (folder / "target.conf").write_text(TARGET.format(dir=folder, target=target))
        stack.enter_context(
            process(["nginx", "-c", f"{folder}/target.conf"], target, OTHER_CORE, folder)
        )
        ports = {name: free_port() for name in ("nginx", "haproxy", "fastlb")}
        (folder / "nginx.conf").write_text(
            NGINX.format(dir=folder, target=target, port=ports["nginx"])
        )
        (folder / "haproxy.cfg").write_text(HAPROXY.format(target=target, port=ports["haproxy"]))
        fastlb = f"--name bench --workers 1 --listen http://127.0.0.1:{ports['fastlb']}".split()
        fastlb += ["--target", f"127.0.0.1:{target}"]
        commands = {
            "nginx": ["nginx", "-c", f"{folder}/nginx.conf"],
            "haproxy": ["haproxy", "-f", f"{folder}/haproxy.cfg"],
            "fastlb": [sys.executable, "-m", "fastlb", "run", *fastlb],
        }
        if not shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin"):
            print("skipped: haproxy is not installed")
            del commands["haproxy"]
        proxies = {
            name: stack.enter_context(process(command, ports[name], PROXY_CORE, folder))
            for name, command in commands.items()
        }
        print(
            f"CPU µs a request, medians of {options.rounds} rounds of {options.seconds} s, 64 connections"
        )
        print(f"{'':22}" + "".join(f"{name:>10}" for name in proxies) + "  fastlb / best")
        for workload, (path, extra) in WORKLOADS.items():
            found: dict[str, list[float]] = {name: [] for name in proxies}
            for _ in range(options.rounds):
                for name, proxy in proxies.items():
                    found[name].append(measure(ports[name], path, extra, options.seconds, proxy))
            medians = {name: statistics.median(values) for name, values in found.items()}
            best = min(value for name, value in medians.items() if name != "fastlb")
            row = "".join(f"{medians[name]:10.1f}" for name in proxies)
            print(f"{workload:22}{row}{medians['fastlb'] / best:15.2f}", flush=True)


if __name__ == "__main__":
    main()
