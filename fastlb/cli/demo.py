"""`fastlb demo`: three demo workers and the balancer in front of them, to try it out.

Knows the flags of this command and what it prints. The workers are kept by `fastlb.demo.fleet`, the
balancer is an ordinary Configuration.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import threading
import time
from pathlib import Path

from fastlb.control_plane.supervisor import run_supervisor
from fastlb.data_plane.worker import worker_main
from fastlb.demo.fleet import RESTART_SECONDS, DemoFleet
from fastlb.errors import ConfigError, FastlbError
from fastlb.model.address import Address, parse_address
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.listener import Forward, Listener, WeightedGroup
from fastlb.model.target_group import Target, TargetGroup

NAME = "demo"
LISTEN = "http://127.0.0.1:8080"
SERVES_SECONDS = 30.0

TRY = """
  fastlb answers on {url} in front of {count} demo workers. Try in another terminal:

    curl {url}/                     # again and again: the workers alternate
    curl -X POST {url}/kill         # kills the worker that answers; the others take over,
                                    # and it is back after about {restart:g} s
    curl -N '{url}/stream?n=5&ms=500'    # server-sent events, each as it comes
    python -m websockets {ws}/ws    # what you type comes back
    fastlb status --name {name}         # targets with their states and the reasons, workers

  Ctrl-C ends it all.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `fastlb demo`."""
    parser.add_argument(
        "--listen",
        "-l",
        metavar="http://HOST:PORT",
        default=LISTEN,
        help=f"address to listen on (default {LISTEN})",
    )
    parser.add_argument(
        "--workers",
        "-w",
        type=int,
        default=0,
        help="worker processes of the balancer (default 0: one a core)",
    )
    parser.add_argument(
        "--targets",
        type=int,
        default=3,
        help="demo workers to balance over (default 3: two go on when one is killed)",
    )


def demo(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; the exit status."""
    address = listen_address(arguments.listen)
    problems = []
    if not 0 <= arguments.workers <= 64:
        problems.append(f"--workers: expected 0 to 64, got {arguments.workers}")
    if not 1 <= arguments.targets <= 64:
        problems.append(f"--targets: expected 1 to 64, got {arguments.targets}")
    if problems:
        raise ConfigError(problems)
    with DemoFleet(arguments.targets) as fleet:
        configuration = demo_configuration(address, fleet.sockets, arguments.workers)
        # A thread, because the supervisor has the main one: signals arrive there.
        threading.Thread(
            target=_announce, args=(address, len(fleet.sockets)), name="announcement", daemon=True
        ).start()
        try:
            return run_supervisor(configuration, worker_main)
        except FastlbError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
                raise FastlbError(
                    f"{error}; choose another address: "
                    f"fastlb demo --listen http://{_with_port(address, address.port + 1)}"
                ) from cause
            raise


def listen_address(text: str) -> Address:
    """The address of `--listen`. Raises ConfigError."""
    protocol, separator, rest = text.partition("://")
    try:
        if not separator or protocol != "http":
            raise ValueError(f"expected http://HOST:PORT, got {text!r}")
        address = parse_address(rest)
        if address.is_unix or not 1 <= address.port <= 65534:
            raise ValueError(f"expected a port from 1 to 65534 to print for you, got {text!r}")
    except ValueError as error:
        raise ConfigError([f"--listen: {error}"]) from None
    return address


def demo_configuration(address: Address, sockets: list[Path], workers: int) -> Configuration:
    """What the balancer is told. Round robin, because then one sees the workers alternate."""
    group = TargetGroup(
        name="demo",
        targets=tuple(Target(Address(path=str(path))) for path in sockets),
        health_check=HealthCheck(path="/health"),
        algorithm="round_robin",
    )
    listener = Listener(
        protocol="http", address=address, default=Forward((WeightedGroup(group.name),))
    )
    return Configuration(listeners=(listener,), target_groups=(group,), name=NAME, workers=workers)


def _announce(address: Address, count: int) -> None:
    """Print what to try as soon as a demo worker answers through the balancer."""
    where = Address(_reachable(address.host), address.port)
    deadline = time.monotonic() + SERVES_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(where.host, where.port, timeout=2)
        try:
            connection.request("GET", "/")
            if connection.getresponse().getheader("X-Demo-Worker"):
                break
        except (OSError, http.client.HTTPException):
            pass  # not yet; or never, which the balancer itself says
        finally:
            connection.close()
        time.sleep(0.05)
    else:
        return
    print(
        TRY.format(
            url=f"http://{where}",
            ws=f"ws://{where}",
            count=count,
            name=NAME,
            restart=RESTART_SECONDS,
        ),
        flush=True,
    )


def _reachable(host: str) -> str:
    """An address of this host to connect to, where `host` may stand for all of them."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _with_port(address: Address, port: int) -> str:
    return str(Address(address.host, port))
