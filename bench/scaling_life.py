"""Cases of auto scaling about processes: their start from nothing, their adoption, their end, and
what watching them costs."""

from __future__ import annotations

import re
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from bench.scaling_group import (
    Family,
    Row,
    ScalingGroup,
    configuration,
    demo,
    kill,
    row,
    scaling_group,
    take_over,
)
from bench.scaling_load import POST, assert_none_failed, loaded, spread
from fastlb.data_plane.hold import WANTED_SECONDS
from tests.support.fastlb import ROOT, FastlbProcess
from tests.support.processes import processes_of, wait_until
from tests.support.targets import free_port

STDLIB_APP = '''
"""http.server on the port of 127.0.0.1 or the unix socket that is its argument."""

import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\\n")

    def log_message(self, *_):
        pass


where = sys.argv[1]
if "/" in where:
    socketserver.ThreadingUnixStreamServer(where, Handler).serve_forever()
else:
    ThreadingHTTPServer(("127.0.0.1", int(where)), Handler).serve_forever()
'''
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
IDLE_INSTANCES = 8
OTHER_PROCESSES = 300
"""What a busy host runs besides: each is a file of /proc to read in every period."""


def answered(family: socket.AddressFamily, where: str | tuple[str, int]) -> bool:
    """Whether one request there gets a whole answer of status 200; False where nobody listens."""
    with socket.socket(family) as one:
        one.settimeout(30)
        try:
            one.connect(where)
            one.sendall(REQUEST)
            answer = b""
            while piece := one.recv(65536):
                answer += piece
        except (ConnectionError, FileNotFoundError):
            return False
    return answer.startswith(b"HTTP/1.1 200 ")


def own_start(command: Sequence[str], folder: Path) -> float:
    """Seconds from the start of the app by hand to its first answer: what nobody can undercut."""
    port = free_port()
    path = str(folder / f"{secrets.token_hex(4)}.sock")
    texts = [one.replace("{socket}", path).replace("{port}", str(port)) for one in command]
    family, where = (
        (socket.AF_UNIX, path) if "{socket}" in command else (socket.AF_INET, ("127.0.0.1", port))
    )
    began = time.monotonic()
    process = subprocess.Popen(texts, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: answered(family, where), 30, f"an answer of {texts}", 0.001)
        return time.monotonic() - began
    finally:
        process.kill()
        process.wait()


def held_request(group: ScalingGroup) -> float:
    """Seconds that the first request takes while nothing runs."""
    group.scale(0)
    # A worker that has just told of such a request tells of the next one only after that time, which
    # a group that is idle for a while never sees.
    time.sleep(WANTED_SECONDS)
    began = time.monotonic()
    assert answered(socket.AF_INET, ("127.0.0.1", group.port)), "the held request failed"
    return time.monotonic() - began


def from_zero(root: Path, quick: bool) -> Iterator[Row]:
    """The app's own start and the held request, in turns, so that both see the same noise."""
    folder = Path(tempfile.mkdtemp(prefix="z", dir=root))
    app = folder / "stdlib_app.py"
    app.write_text(STDLIB_APP)
    rounds = 3 if quick else 10
    for place in ("{socket}", "{port}"):
        for name, command in (
            ("demo app", demo(place=place)),
            ("http.server", [sys.executable, str(app), place]),
        ):
            text = configuration(command, min=0, max=1, desired=1)
            own, held = [], []
            with scaling_group(root, text) as group:
                for _ in range(rounds):
                    own.append(own_start(command, folder))
                    held.append(held_request(group))
            apart = statistics.median(held) - statistics.median(own)
            more = f"own start {spread(own)}, held {spread(held)}: ours {1000 * apart:+.0f} ms"
            yield Row(f"from zero: {name} on {place}", rounds, 0, max(held), more)


def adoption(root: Path, quick: bool) -> Iterator[Row]:
    """kill -9 of the supervisor with four instances, and a start of the same name, in a row."""
    text = configuration(demo(), port=free_port(), min=4, max=4)
    with (
        scaling_group(root, text, instances=4) as group,
        loaded(group) as load,
        loaded(group, **POST, connections=4) as posts,
        ExitStack() as stack,
    ):
        before, times = group.in_service(), []
        for _ in range(2 if quick else 5):
            began = time.monotonic()
            take_over(root, group)
            stack.callback(group.fastlb.kill)
            group.wait_steady(4)
            times.append(time.monotonic() - began)
            assert group.in_service() == before, f"{before} became {group.in_service()}"
        result, posted = load.stop(), posts.stop()
        ready = ", ".join(f"{one:.1f}" for one in times)
        more = f"same pids; steady after {ready} s"
        yield row(f"kill -9 the supervisor x {len(times)}, 4 instances", result, more)
        yield row("  POST through all of it", posted)
        assert_none_failed(result)
        assert_none_failed(posted)
        group.stop()


def nothing_left(root: Path, quick: bool) -> Iterator[Row]:
    """A clean stop, a crash loop and apps that fork: who is left is looked for by process group and
    by environment."""
    with (
        scaling_group(root, configuration(demo(), min=4, max=4), instances=4) as group,
        loaded(group),
    ):
        family, took = _stop(group)
    yield _left("clean stop of 4 under load", group, family, f"in {took:.2f} s")

    text = configuration(demo("--crash-at-start"), min=2, max=2, desired=2)
    with scaling_group(root, text, instances=None) as group:
        wait_until(lambda: group.status()["quarantined"], 60, "the quarantine")
        launched = re.findall(
            r"instance (\S+) of group app launched: pid (\d+)", group.fastlb.log()
        )
        crashed = Family({id: int(pid) for id, pid in launched})
        assert not crashed.left(), f"left of crashed launches: {crashed.left()}"
        _, took = _stop(group)
    more = f"{len(launched)} launches crashed; stop in {took:.2f} s"
    yield _left("crash loop", group, crashed, more)

    yield from _forking(root, "apps with 3 children")
    yield from _forking(root, "apps with 3 children that ignore TERM", "--ignore-term")


def _forking(root: Path, case: str, *flags: str) -> Iterator[Row]:
    """One instance is killed, two are scaled in, two are stopped."""
    command = demo("--fork", "3", *flags)
    template = {"command": command, "stop_timeout": "2s"}
    text = configuration(command, launch_template=template, min=2, max=4, desired=4)
    with scaling_group(root, text, instances=4) as group:
        first = group.family()
        born = len(first.left())
        assert born == 16, f"4 instances with 3 children each are {born} processes"
        kill(next(iter(first.pids.values())))
        wait_until(lambda: len(first.left()) == 12, 10, "the end of a killed one's children")
        group.wait_steady(4)
        group.scale(2)
        family = group.family()
        assert len(family.left()) == 8, f"2 of 4 were ended, {family.left()} live"
        everybody = Family({**first.pids, **family.pids})
        _, took = _stop(group)
    more = f"one killed, two scaled in, two stopped in {took:.2f} s"
    yield _left(case, group, everybody, more)


def _stop(group: ScalingGroup) -> tuple[Family, float]:
    began = time.monotonic()
    family = group.stop()
    return family, time.monotonic() - began


def _left(case: str, group: ScalingGroup, family: Family, more: str) -> Row:
    left = {*family.left(), *processes_of(group.fastlb.run_dir)}
    assert not left, f"{case}: processes {sorted(left)} are left"
    return Row(case, 0, 0, 0, f"nothing left; {more}")


def cost(root: Path, quick: bool) -> Iterator[Row]:
    """The supervisor's CPU with idle instances and a policy to decide by, beside that of one which
    only checks the same instances as targets."""
    span = 5.0 if quick else 20.0
    count = IDLE_INSTANCES
    flags = ("--min", str(count), "--max", str(count + 1), "--", *demo())
    with scaling_group(root, "", *flags, instances=count) as group:
        targets = list(group.fastlb.targets())
        with FastlbProcess(root, targets=targets, name="plain", workers=2) as plain:
            plain.wait_states()
            supervisors = {"auto scaling": group.fastlb.pid, "health checks alone": plain.pid}
            yield _cost(supervisors, span, f"supervisor, {count} idle instances")
            with ExitStack() as stack:
                for _ in range(OTHER_PROCESSES):
                    other = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
                    stack.callback(other.wait)
                    stack.callback(other.kill)
                yield _cost(supervisors, span, f"  the same, {OTHER_PROCESSES} other processes")


def _cost(supervisors: dict[str, int], span: float, case: str) -> Row:
    def seconds() -> dict[str, float]:
        times = {name: psutil.Process(pid).cpu_times() for name, pid in supervisors.items()}
        return {name: one.user + one.system for name, one in times.items()}

    before, began = seconds(), time.monotonic()
    time.sleep(span)
    took, after = time.monotonic() - began, seconds()
    shares = [f"{name} {100 * (after[name] - before[name]) / took:.2f} %" for name in supervisors]
    return Row(case, 0, 0, 0, f"{', '.join(shares)} of one core over {took:.0f} s")
