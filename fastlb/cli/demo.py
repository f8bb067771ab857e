"""`fastlb demo`: an auto scaling group of demo workers and the balancer in front, to try it out.

Knows the flags of this command and what it prints; all else is an ordinary Configuration.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import os
import re
import shlex
import socket
import sys
import threading
import time
from pathlib import Path

from fastlb.cli.wording import counted
from fastlb.cli.worker_entry import worker_main
from fastlb.config.table import NAME as TABLE_NAME
from fastlb.config.table import NAME_EXPECTED
from fastlb.config.values import got, wrong
from fastlb.control_plane.supervisor import run_supervisor
from fastlb.errors import ConfigError, FastlbError
from fastlb.model.address import Address, parse_address
from fastlb.model.admin import Admin
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.listener import Forward, Listener, WeightedGroup
from fastlb.model.scaling_policy import TargetTracking
from fastlb.model.target_group import TargetGroup

NAME = "demo"
LISTEN = "http://127.0.0.1:8080"
DASHBOARD = Address("127.0.0.1", 9900)
SERVES_SECONDS = 30.0
MOST_AT_REST = 3
"""Demo workers that stay when nobody asks: enough to see them take turns."""

TRY = (
    ("curl {url}/", "{answers}"),
    ("curl -X POST {url}/kill", "kills who answers; another one comes in its place"),
    ("curl -N '{url}/stream?n=5&ms=500'", "server-sent events, each as it comes"),
    ("{python} -m websockets {ws}/ws", "a WebSocket: what you type comes back"),
    ("{fastlb} status --name {name}", "the targets, their states and the reasons"),
    ("{fastlb} top --name {name}", "the same and more, live"),
    ("{fastlb} scale {more} --name {name} --wait", "{more} demo workers, which take turns"),
    ("{fastlb} activity --name {name}", "what came and went, and why"),
)
"""What to type in another terminal, and what it shows."""


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
        metavar="N",
        type=int,
        default=0,
        help="worker processes of the balancer (default 0: one a core)",
    )
    parser.add_argument(
        "--targets",
        metavar="N",
        type=int,
        default=3,
        help="demo workers to begin with (default 3: two go on when one is killed); under load "
        "there come to be more, up to twice as many",
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        default=NAME,
        help=f'name of the instance (default "{NAME}"); a second demo needs another',
    )
    parser.add_argument(
        "--admin",
        metavar="HOST:PORT",
        help=f"address of the dashboard (default {DASHBOARD}, where that is free)",
    )


def demo(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; the exit status."""
    address = listen_address(arguments.listen)
    problems = []
    if not TABLE_NAME.fullmatch(arguments.name):
        problems.append(f"--name: {wrong(NAME_EXPECTED, arguments.name)}")
    if not 0 <= arguments.workers <= 64:
        problems.append(f"--workers: expected 0 to 64, got {arguments.workers}")
    if not 1 <= arguments.targets <= 64:
        problems.append(f"--targets: expected 1 to 64, got {arguments.targets}")
    if problems:
        raise ConfigError(problems)
    admin = dashboard_address(arguments.admin)
    configuration = demo_configuration(
        address, arguments.targets, arguments.workers, arguments.name, admin
    )
    # A thread, because the supervisor has the main one: signals arrive there.
    threading.Thread(
        target=_announce,
        args=(address, arguments.targets, arguments.name, admin),
        name="announcement",
        daemon=True,
    ).start()
    try:
        return run_supervisor(configuration, worker_main)
    except FastlbError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
            other = Address(address.host, address.port + 1)
            named = "" if arguments.name == NAME else f" --name {arguments.name}"
            raise FastlbError(
                f"{error}; choose another address: fastlb demo{named} --listen http://{other}"
            ) from cause
        raise


def listen_address(text: str) -> Address:
    """The address of `--listen`. Raises ConfigError."""
    protocol, separator, rest = text.partition("://")
    try:
        if not separator or protocol != "http":
            raise ValueError(f"expected http://HOST:PORT, got {got(text)}")
        address = parse_address(rest)
        if address.is_unix or not 1 <= address.port <= 65534:
            raise ValueError(f"expected a port from 1 to 65534 to print for you, got {got(text)}")
    except ValueError as error:
        raise ConfigError([f"--listen: {error}"]) from None
    return address


def dashboard_address(text: str | None) -> Address | None:
    """The address of `--admin`; without it the usual one, or None where somebody has that. Raises
    ConfigError."""
    if text is not None:
        try:
            address = parse_address(text)
            if address.is_unix:
                raise ValueError(f"expected HOST:PORT, got {got(text)}")
        except ValueError as error:
            raise ConfigError([f"--admin: {error}"]) from None
        return address
    try:
        socket.create_server((DASHBOARD.host, DASHBOARD.port)).close()
    except OSError:
        return None
    return DASHBOARD


def demo_configuration(
    address: Address, targets: int, workers: int, name: str = NAME, admin: Address | None = None
) -> Configuration:
    """What the balancer is told. Round robin, because then one sees the demo workers take turns."""
    group = TargetGroup(
        name="demo",
        auto_scaling_group="demo",
        health_check=HealthCheck(path="/health"),
        algorithm="round_robin",
    )
    scaling = AutoScalingGroup(
        name="demo",
        launch_template=LaunchTemplate(
            command=(sys.executable, "-m", "fastlb.demo", "--uds", "{socket}")
        ),
        min=min(targets, MOST_AT_REST),
        desired=targets,
        max=most_targets(targets),
        policies=(TargetTracking(metric="cpu", target=60.0),),
        slow_start=0.0,
    )
    listener = Listener(
        protocol="http", address=address, default=Forward((WeightedGroup(group.name),))
    )
    return Configuration(
        listeners=(listener,),
        target_groups=(group,),
        auto_scaling_groups=(scaling,),
        name=name,
        workers=workers,
        admin=Admin(address=admin),
    )


def most_targets(targets: int) -> int:
    """How many demo workers there may come to be."""
    return 2 * targets


def _announce(address: Address, targets: int, name: str, admin: Address | None) -> None:
    """Print what to try as soon as a demo worker of ours answers through the balancer."""
    where = Address(
        {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host), address.port
    )
    deadline = time.monotonic() + SERVES_SECONDS
    while not _answers(where):
        if time.monotonic() > deadline:
            return  # the balancer itself says why
        time.sleep(0.05)
    print(what_to_try(where, targets, name, admin), flush=True)


def _answers(where: Address) -> bool:
    """Whether a child of this process answers there: another demo could have the address."""
    connection = http.client.HTTPConnection(where.host, where.port, timeout=2)
    try:
        connection.request("GET", "/")
        found = re.search(rb"\(pid (\d+)\)", connection.getresponse().read())
        if found is None:
            return False
        status = Path(f"/proc/{int(found[1])}/stat").read_bytes().rpartition(b")")[2].split()
        return int(status[1]) == os.getpid()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def what_to_try(where: Address, count: int, name: str, admin: Address | None = None) -> str:
    """What is printed when all is up."""
    words = {
        "url": f"http://{where}",
        "ws": f"ws://{where}",
        "python": _anywhere(sys.executable),
        "fastlb": _anywhere(sys.argv[0])
        if os.path.basename(sys.argv[0]) == "fastlb"
        else f"{_anywhere(sys.executable)} -m fastlb",
        "name": name,
        "answers": "again and again: the demo workers take turns"
        if count > 1
        else "the demo worker says who it is",
        "more": str(min(count + 2, most_targets(count))),
    }
    commands = [(command.format(**words), says.format(**words)) for command, says in TRY]
    width = max(len(command) for command, _ in commands)
    lines = [f"    {command:{width}}   # {says}" for command, says in commands]
    shown = f"  Its dashboard is http://{admin}/\n" if admin is not None else ""
    begin = (
        f"\n  fastlb answers on http://{where} in front of {counted(count, 'demo worker')}.\n"
        f"{shown}  In another terminal, try:\n"
    )
    return "\n".join([begin, *lines, "\n  Ctrl-C ends it all.\n"])


def _anywhere(program: str) -> str:
    """How a program is typed in any folder of another terminal, whose PATH may differ."""
    return shlex.quote(os.path.abspath(program))
