"""The contestants: how fastlb, nginx, HAProxy and Caddy are set up for the same work, as text.

Each does what fastlb does with its features on: keep-alive to the targets, X-Forwarded-For, -Proto and
-Port, a trace id for each request, bodies streamed and not spooled. One configuration a proxy, for all
workloads. Knows no load and starts nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from bench.processes import BenchError

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The work that a proxy is set up for.

    With `rules`, requests for /api/99/... are forwarded by the last of that many rules and everything
    else is answered 404; without, everything is forwarded. `workers` is 0 for one a core.
    """

    mode: Literal["http", "tcp"] = "http"
    target: Literal["nginx", "nginx-unix", "app", "sink", "echo", "websocket", "bulk"] = "nginx"
    target_count: int = 1
    rules: int = 0
    access_log: bool = False
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where one proxy runs: its port on 127.0.0.1, its targets' addresses, a folder of its own, worker
    processes or threads, client connections that it must be able to hold."""

    port: int
    targets: tuple[str, ...]
    folder: Path
    workers: int
    max_connections: int


@dataclass(frozen=True, slots=True)
class Proxy:
    """`config` makes the text of its configuration file; `command` gets the file's path."""

    name: str
    program: str
    package: str
    config: Callable[[Setup, Place], str]
    command: Callable[[str, Place], list[str]]
    env: Callable[[Place], Mapping[str, str]] = field(default=lambda place: {})
    modes: tuple[str, ...] = ("http", "tcp")


def rule_numbers(setup: Setup) -> range:
    """Of the rules' paths /api/N/...; the last is always the 99 that the load asks for."""
    return range(100 - setup.rules, 100)


def _fastlb_config(setup: Setup, place: Place) -> str:
    targets = ", ".join(f'"{address}"' for address in place.targets)
    default = "{ fixed_response = { status = 404 } }" if setup.rules else '{ forward = "web" }'
    log = f"{place.folder}/access.log" if setup.access_log else "off"
    rules = "".join(
        f"""
[[listeners.rules]]
priority = {number + 1}
path = ["/api/{number}/*"]
forward = "web"
"""
        for number in rule_numbers(setup)
    )
    return f"""name = "bench"
workers = {place.workers}
max_connections = {place.max_connections}
drain_timeout = "1s"
access_log = "{log}"
log_level = "warning"

[[listeners]]
address = "{setup.mode}://127.0.0.1:{place.port}"
idle_timeout = "30m"
default = {default}
{rules}
[target_groups.web]
targets = [{targets}]
"""


_NGINX_HTTP = """
http {{
  log_format json escape=json '{{"time":"$time_iso8601","client":"$remote_addr","method":"$request_method",'
    '"path":"$request_uri","status":$status,"target":"$upstream_addr","seconds":$request_time,'
    '"bytes":$body_bytes_sent,"agent":"$http_user_agent","trace":"$request_id"}}';
  access_log {log};
  keepalive_requests 100000000; keepalive_timeout 1800s;
  client_max_body_size 0; client_body_buffer_size 64k; proxy_request_buffering off;
  proxy_max_temp_file_size 0;
  proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream targets {{ {servers} keepalive 512; keepalive_requests 100000000; }}
  map $http_upgrade $connection_field {{ default upgrade; '' ''; }}
  server {{
    listen 127.0.0.1:{port}{reuseport};
    proxy_http_version 1.1; proxy_read_timeout 1800s;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_field;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Port $server_port;
    proxy_set_header X-Amzn-Trace-Id "Root=$request_id";
    {locations}
  }}
}}
"""
_NGINX_STREAM = """
stream {{
  upstream targets {{ {servers} }}
  server {{ listen 127.0.0.1:{port}{reuseport}; proxy_pass targets; proxy_timeout 1800s;
    proxy_buffer_size 64k; }}
}}
"""


def _nginx_config(setup: Setup, place: Place) -> str:
    if setup.rules:
        locations = [
            f"location /api/{number}/ {{ proxy_pass http://targets; }}"
            for number in rule_numbers(setup)
        ] + ["location / { return 404; }"]
    else:
        locations = ["location / { proxy_pass http://targets; }"]
    body = (_NGINX_HTTP if setup.mode == "http" else _NGINX_STREAM).format(
        folder=place.folder,
        port=place.port,
        servers=" ".join(f"server {address};" for address in place.targets),
        locations="\n    ".join(locations),
        # Lines are gathered before they are written, as fastlb's are.
        log=f"{place.folder}/access.log json buffer=64k flush=1s" if setup.access_log else "off",
        reuseport=" reuseport" if place.workers > 1 else "",
    )
    module = f"load_module {STREAM_MODULE};\n" if STREAM_MODULE.exists() else ""
    return (
        f"{module if setup.mode == 'tcp' else ''}"
        f"worker_processes {place.workers}; daemon off;\n"
        f"pid {place.folder}/nginx.pid; error_log {place.folder}/error.log;\n"
        f"events {{ worker_connections {2 * place.max_connections}; }}\n{body}"
    )


_HAPROXY_HTTP = """  mode http
  option forwardfor
  unique-id-format Root=%[uuid()]
  unique-id-header X-Amzn-Trace-Id
"""
_HAPROXY_LOG = (
    '  log-format "{\\"time\\":\\"%t\\",\\"client\\":\\"%ci\\",\\"method\\":\\"%HM\\",\\"path\\":\\"%HP\\",'
    '\\"status\\":%ST,\\"target\\":\\"%s\\",\\"ms\\":%Ta,\\"bytes\\":%B,\\"trace\\":\\"%ID\\"}"\n'
)


def _haproxy_config(setup: Setup, place: Place) -> str:
    http = setup.mode == "http"
    uses = "".join(
        f"  use_backend targets if {{ path_beg /api/{number}/ }}\n"
        for number in rule_numbers(setup)
    )
    servers = "".join(
        f"  server s{number} {address.replace('unix:', 'unix@')} check inter 2s\n"
        for number, address in enumerate(place.targets)
    )
    return "".join(
        (
            f"global\n  nbthread {place.workers}\n  maxconn {place.max_connections}\n",
            "  log stdout format raw local0 info\n" if setup.access_log else "",
            "defaults\n  timeout connect 5s\n  timeout client 30m\n  timeout server 30m\n",
            "  timeout tunnel 30m\n",
            _HAPROXY_HTTP if http else "  mode tcp\n",
            f"frontend clients\n  bind 127.0.0.1:{place.port}\n",
            "  http-request set-header X-Forwarded-Proto http\n" if http else "",
            f"  http-request set-header X-Forwarded-Port {place.port}\n" if http else "",
            f"  log global\n{_HAPROXY_LOG}" if setup.access_log else "",
            uses,
            f"  default_backend {'none' if setup.rules else 'targets'}\n",
            "backend targets\n  balance leastconn\n",
            "  http-reuse always\n" if http else "",
            servers,
            "backend none\n  http-request return status 404\n" if http else "",
        )
    )


def _caddy_config(setup: Setup, place: Place) -> str:
    to = " ".join(address.replace("unix:", "unix/") for address in place.targets)
    forward = f"""reverse_proxy {to} {{
    lb_policy least_conn
    header_up X-Forwarded-Port {place.port}
    header_up X-Amzn-Trace-Id "Root={{http.request.uuid}}"
    transport http {{
      keepalive 1800s
      keepalive_idle_conns_per_host 512
    }}
  }}"""
    log = f"log {{\n    output file {place.folder}/access.log\n    format json\n  }}"
    if setup.rules:
        rules = [f"handle /api/{number}/* {{\n  {forward}\n  }}" for number in rule_numbers(setup)]
        forward = "\n  ".join([*rules, "handle {\n    respond 404\n  }"])
    return f"""{{
  admin off
  auto_https off
  log {{
    level ERROR
  }}
}}
http://:{place.port} {{
  bind 127.0.0.1
  {log if setup.access_log else ""}
  {forward}
}}
"""


FASTLB = Proxy(
    "fastlb",
    sys.executable,
    "",
    _fastlb_config,
    lambda path, place: [sys.executable, "-m", "fastlb", "run", "--config", path],
    lambda place: {"FASTLB_RUN_DIR": str(place.folder)},
)
NGINX = Proxy(
    "nginx",
    "nginx",
    "nginx libnginx-mod-stream",
    _nginx_config,
    lambda path, place: ["nginx", "-c", path],
)
HAPROXY = Proxy(
    "haproxy",
    "haproxy",
    "haproxy",
    _haproxy_config,
    lambda path, place: ["haproxy", "-db", "-f", path],
)
CADDY = Proxy(
    "caddy",
    "caddy",
    "caddy",
    _caddy_config,
    lambda path, place: ["caddy", "run", "--config", path, "--adapter", "caddyfile"],
    # One thread a worker, and nothing left in the home folder.
    lambda place: {
        "GOMAXPROCS": str(place.workers),
        "HOME": str(place.folder),
        "XDG_CONFIG_HOME": str(place.folder),
        "XDG_DATA_HOME": str(place.folder),
    },
    modes=("http",),
)
PROXIES = (FASTLB, NGINX, HAPROXY, CADDY)
NO_PROXY = "no proxy"
BEFORE = "before"


def before(checkout: Path) -> Proxy:
    """fastlb as it is in another checkout, by this interpreter and its packages: before a change, say.
    Raises BenchError where there is none."""
    folder = checkout.resolve()
    if not (folder / "fastlb" / "__main__.py").exists():
        raise BenchError(f"{checkout} is no checkout of fastlb: it has no fastlb/__main__.py")
    return replace(
        FASTLB,
        name=BEFORE,
        # Ahead of the installed one's place in sys.path.
        env=lambda place: {**FASTLB.env(place), "PYTHONPATH": str(folder)},
    )
