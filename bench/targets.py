"""Targets of a run: one nginx for all that is HTTP, uvicorn for the app, `bench.servers` for the rest.

Started on the load's cores when a workload needs them, ended with it. Knows no proxy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.processes import free_port, running
from bench.proxies import Setup
from bench.workloads import FILES

MAX_TARGETS = 100


def nginx_config(folder: Path, port: int, count: int) -> str:
    """It listens on `port` of 127.0.0.1 and 127.0.1.1 up to 127.0.1.`count`, and on target.sock."""
    listens = "".join(f"    listen 127.0.1.{number}:{port};\n" for number in range(1, count + 1))
    user = "user root;\n" if os.geteuid() == 0 else ""  # its files lie in a folder of ours
    return f"""{user}worker_processes 1; daemon off;
pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; default_type text/plain; sendfile on; tcp_nopush on; open_file_cache max=100;
  keepalive_requests 100000000; keepalive_timeout 1800s;
  client_header_buffer_size 16k; client_max_body_size 0; client_body_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    listen unix:{folder}/target.sock backlog=4096;
{listens}
    location / {{ return 200 "hello"; }}
    location /differs/ {{ add_header X-Request-Id $request_id; return 200 "hello"; }}
    location /bytes/ {{ root {folder}; }}
  }}
}}
"""


@contextmanager
def serving(setup: Setup, cores: Sequence[int], folder: Path) -> Iterator[tuple[str, ...]]:
    """Addresses of the targets that a setup asks for, while they live. Raises BenchError."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    if setup.target in ("nginx", "nginx-unix"):
        (folder / "bytes").mkdir()
        for size in FILES:
            (folder / "bytes" / str(size)).write_bytes(b"x" * size)
        config = folder / "target.conf"
        config.write_text(nginx_config(folder, port, MAX_TARGETS))
        with running(["nginx", "-c", str(config)], cores, folder, address):
            if setup.target == "nginx-unix":
                yield (f"unix:{folder}/target.sock",)
            elif setup.target_count > 1:
                yield tuple(f"127.0.1.{one + 1}:{port}" for one in range(setup.target_count))
            else:
                yield (address,)
        return
    if setup.target == "app":
        command = [sys.executable, "-m", "uvicorn", "bench.app:app", "--port", str(port)]
        command += ["--no-access-log", "--log-level", "warning", "--lifespan", "off"]
    else:
        command = [sys.executable, "-m", "bench.servers", setup.target, str(port)]
    with running(command, cores, folder, address):
        yield (address,)
