"""Targets die, hang, flap, restart and close idle connections under a checked load: no request fails.

Each case is a function that returns what it measured, so that bench/kill_tests.py can run the same
for longer. A load client checks that every answer is its request's own.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.fastlb import FastlbProcess
from tests.support.load import HALF_BUSY, LoadClient, LoadResult, run_load
from tests.support.processes import wait_until
from tests.support.raw_target import (
    Closed,
    RawConnection,
    RawTarget,
    answer,
    echo_requests,
    request_target,
)
from tests.support.targets import AppTarget, DemoTarget, LightTarget, StdlibHttpTarget

HTTP_CHECK = ("--health-path", "/health")
TCP_CHECK: tuple[str, ...] = ()
NO_CHECK = ("--no-health-check",)
ALGORITHMS = (
    "least_outstanding_requests",
    "round_robin",
    "weighted_random",
    "source_ip_hash",
)
EJECTED_EVERYWHERE = 0.5
"""No worker sends a new request so long after the first evidence. A fifth of it is the promise, for a
machine with nothing else to do."""
LONGEST_REQUEST = 3.0
HUNG_REQUESTS_A_SECOND = 150
"""Many times what is left where all clients wait for the hung one again and again."""


@dataclass
class Balanced:
    """fastlb with two workers in front of targets, in a `with`."""

    fastlb: FastlbProcess
    targets: list[AppTarget]
    pace: Mapping[str, Any] = field(default_factory=dict)
    """Options of its loads. Without any, clients never rest, as bench/ has it."""

    def load(self, **options: Any) -> LoadClient:
        return LoadClient(self.fastlb.port, **{**self.pace, **options})


@contextmanager
def balanced(
    root: Path,
    *arguments: str,
    count: int = 3,
    sockets: Path | None = None,
    backups: int = 0,
    workers: int = 2,
    pace: Mapping[str, Any] | None = None,
    app: type[AppTarget] = DemoTarget,
) -> Iterator[Balanced]:
    """`count` apps on ports, or on unix sockets in the folder `sockets`; the last are backups."""
    with ExitStack() as stack:
        targets = [
            stack.enter_context(app(f"demo-{i}", sockets and sockets / f"{i}.sock"))
            for i in range(count)
        ]
        addresses = [
            f"{one},backup" if i >= count - backups else str(one) for i, one in enumerate(targets)
        ]
        fastlb = stack.enter_context(
            FastlbProcess(root, *arguments, targets=addresses, workers=workers)
        )
        fastlb.wait_states()
        yield Balanced(fastlb, targets, pace or {})


light = partial(balanced, app=LightTarget)
"""Where no test asks its targets for more than their names."""


def requests_of(fastlb: FastlbProcess, target: object) -> int:
    count: int = fastlb.targets()[str(target)]["requests"]
    return count


def total_requests(fastlb: FastlbProcess) -> int:
    count: int = fastlb.status()["totals"]["requests"]
    return count


def wait_served(fastlb: FastlbProcess, more: int, seconds: float = 30.0) -> None:
    """Until so many more requests have come."""
    before = total_requests(fastlb)
    wait_until(lambda: total_requests(fastlb) >= before + more, seconds, f"{more} more requests")


def wait_target_served(fastlb: FastlbProcess, target: object, more: int = 50) -> None:
    before = requests_of(fastlb, target)
    wait_until(lambda: requests_of(fastlb, target) >= before + more, 30, f"traffic at {target}")


def assert_all_well(fastlb: FastlbProcess, result: LoadResult) -> None:
    """No failed request, and no count of what is in flight that stayed."""
    assert result.failed == 0, f"{result}\n{fastlb.log()}"
    assert result.succeeded == result.requests
    assert_nothing_in_flight(fastlb)


def assert_nothing_in_flight(fastlb: FastlbProcess) -> None:
    def idle() -> bool:
        status = fastlb.status()
        targets = [one for group in status["target_groups"] for one in group["targets"]]
        return not any(one["in_flight"] for one in (status["totals"], *targets))

    wait_until(idle, 30, "nothing is in flight")


# --- kill -9 --------------------------------------------------------------------------------------


def kill_and_restart(case: Balanced, rounds: int = 1, connections: int = 16) -> LoadResult:
    """kill -9 one target, let the load go on, start it again, see that it gets traffic again."""
    with case.load(connections=connections) as load:
        load.started()
        for number in range(rounds):
            victim = case.targets[number % len(case.targets)]
            wait_target_served(case.fastlb, victim)
            victim.kill()
            wait_served(case.fastlb, 400)
            victim.start()
            wait_target_served(case.fastlb, victim)
        result = load.stop()
    assert_all_well(case.fastlb, result)
    return result


@pytest.mark.parametrize(
    ("check", "unix"),
    [
        pytest.param(HTTP_CHECK, False, id="http check, ports"),
        pytest.param(TCP_CHECK, True, id="tcp check, unix sockets"),
        pytest.param(NO_CHECK, True, id="no check, unix sockets"),
    ],
)
def test_a_killed_target_costs_no_request(
    run_root: Path, tmp_path: Path, check: tuple[str, ...], unix: bool
) -> None:
    sockets = tmp_path if unix else None
    with light(run_root, *check, sockets=sockets, pace=HALF_BUSY) as case:
        kill_and_restart(case)


def test_the_only_target_restarts_and_its_return_is_noticed(run_root: Path) -> None:
    """Nothing can be saved while nobody is there; all is well at once when somebody is again."""
    with light(run_root, *HTTP_CHECK, count=1) as case:
        (only,) = case.targets
        only.kill()
        result = run_load(case.fastlb.port, count=40, connections=4)
        assert result.failures == {"status-502": 40}, result
        only.start()
        assert run_load(case.fastlb.port, count=40, connections=4).failed == 0
        case.fastlb.wait_state(only, "healthy")
        assert_nothing_in_flight(case.fastlb)


def flap(case: Balanced, times: int, seed: int, connections: int = 16) -> LoadResult:
    """Kill and restart one target again and again, at moments that nothing agrees with."""
    chance = random.Random(seed)
    victim = case.targets[1]
    with case.load(connections=connections) as load:
        load.started()
        for _ in range(times):
            time.sleep(chance.uniform(0.02, 0.6))  # paces the flapping
            victim.kill()
            time.sleep(chance.uniform(0.0, 0.3))
            victim.start()
        wait_target_served(case.fastlb, victim)
        result = load.stop()
    assert_all_well(case.fastlb, result)
    return result


def test_a_flapping_target_costs_no_request(run_root: Path, tmp_path: Path) -> None:
    with light(run_root, *HTTP_CHECK, sockets=tmp_path, pace=HALF_BUSY) as case:
        flap(case, 3, seed=1)


def test_a_file_server_is_killed(run_root: Path, tmp_path: Path) -> None:
    """HTTP/1.0 answers, a new connection for each request."""
    (tmp_path / "file").write_bytes(b"x" * 5000)
    with ExitStack() as stack:
        targets = [stack.enter_context(StdlibHttpTarget(tmp_path)) for _ in range(3)]
        fastlb = stack.enter_context(FastlbProcess(run_root, targets=targets, workers=2))
        fastlb.wait_states()
        load = stack.enter_context(
            LoadClient(fastlb.port, connections=8, path="/file", check="none", pause=0.01)
        )
        load.started()
        targets[0].kill()
        wait_served(fastlb, 200, 30)
        targets[0].start()
        wait_target_served(fastlb, targets[0], 20)
        assert_all_well(fastlb, load.stop())


# --- kill -STOP -----------------------------------------------------------------------------------


CHECKS = {"http": 'health_check = { path = "/health" }', "tcp": ""}


def config_of_groups(targets: Sequence[AppTarget]) -> tuple[str, list[str]]:
    """One listener and one group for each algorithm and check, all over the same targets."""
    names = [f"{algorithm}-{check}" for algorithm in ALGORITHMS for check in CHECKS]
    addresses = ", ".join(f'"{one}"' for one in targets)
    lines = []
    for name in names:
        lines += ["[[listeners]]", 'address = "http://127.0.0.1:0"']
        lines += [f'default = {{ forward = "{name}" }}']
    for name in names:
        algorithm, _, check = name.rpartition("-")
        lines += [f"[target_groups.{name}]", f'algorithm = "{algorithm}"']
        lines += [f"targets = [{addresses}]", CHECKS[check]]
    return "\n".join(lines), names


def hang(fastlb: FastlbProcess, victim: AppTarget, seconds: float, port: int) -> LoadResult:
    """SIGSTOP under 16 keep-alive clients; the load ends as the stop does. bench/kill_tests.py has it for
    each check; the test below has all checks and algorithms at once."""
    with LoadClient(port, connections=16) as load:
        load.started()
        wait_served(fastlb, 200)
        victim.stop()
        time.sleep(seconds)  # is the length of the hang, not a guess
        result = load.stop()
        victim.cont()
    return result


def well(fastlb: FastlbProcess, target: object, group: str) -> bool:
    one = fastlb.targets(group)[str(target)]
    return one["state"] == "healthy" and not one["suspect"]


def hang_under_all(
    root: Path,
    folder: Path,
    seconds: float,
    pace: Mapping[str, Any] | None = None,
    app: type[AppTarget] = DemoTarget,
) -> tuple[int, dict[str, LoadResult]]:
    """Requests served in the hang, and the result of the load of each algorithm and check."""
    results = {}
    with ExitStack() as stack:
        targets = [stack.enter_context(app(f"demo-{i}")) for i in range(3)]
        path = folder / "fastlb.toml"
        text, names = config_of_groups(targets)
        path.write_text(text)
        fastlb = stack.enter_context(
            FastlbProcess(root, "--config", str(path), listen=(), workers=2)
        )
        fastlb.wait_states()
        loads = [
            stack.enter_context(LoadClient(port, connections=4, **(pace or {})))
            for port in fastlb.ports
        ]
        for load in loads:
            load.started()
        wait_served(fastlb, 400)
        # The one to which the hash leads this host's address: with the others it is one of three.
        hashed = fastlb.targets("source_ip_hash-http")
        victim = next(one for one in targets if hashed[str(one)]["requests"])
        began = total_requests(fastlb)
        victim.stop()
        time.sleep(seconds)  # is the length of the hang
        served = total_requests(fastlb) - began
        victim.cont()
        for name, load in zip(names, loads, strict=True):
            result = results[name] = load.stop()
            assert result.failed == 0, f"{name}: {result}\n{fastlb.log()}"
            assert result.max_latency < LONGEST_REQUEST, f"{name}: {result}\n{fastlb.log()}"
        assert served > HUNG_REQUESTS_A_SECOND * seconds
        assert_nothing_in_flight(fastlb)
        for name, port in zip(names, fastlb.ports, strict=True):
            wait_until(lambda name=name: well(fastlb, victim, name), 30, f"trust again in {name}")  # type: ignore[misc]
            if name.startswith("round_robin"):
                again = run_load(port, count=30, connections=3)
                assert again.by_target.keys() == {one.name for one in targets}
    return served, results


def test_a_hung_target_costs_no_request_whatever_the_algorithm(
    run_root: Path, tmp_path: Path
) -> None:
    hang_under_all(run_root, tmp_path, 3.5, HALF_BUSY | {"pause": 0.02}, LightTarget)


# --- ejection -------------------------------------------------------------------------------------


class Moody:
    """The script of a raw target: answers, or resets each connection while `ill`."""

    def __init__(self) -> None:
        self.ill = False
        self.hits: list[float] = []
        """When requests other than checks came while ill."""
        self._lock = threading.Lock()

    def __call__(self, connection: RawConnection) -> None:
        while True:
            raw = connection.read_request()
            if self.ill:
                if request_target(raw) != "/health":
                    with self._lock:
                        self.hits.append(time.monotonic())
                connection.reset()
            connection.send(named_answer(raw))


def named_answer(raw: bytes) -> bytes:
    """With the request's own X-Request-Id, as the load client checks it."""
    found = re.search(rb"(?im)^x-request-id: ([^\r]*)\r$", raw)
    name = found[1].decode() if found else "none"
    return answer(b"answer\n", f"X-Request-Id: {name}", head_only=raw.startswith(b"HEAD "))


def answers_by_name(connection: RawConnection) -> None:
    while True:
        connection.send(named_answer(connection.read_request()))


@contextmanager
def raw_balanced(
    root: Path, scripts: list[Callable[[RawConnection], None]], *arguments: str, workers: int = 2
) -> Iterator[tuple[FastlbProcess, list[RawTarget]]]:
    with ExitStack() as stack:
        targets = [stack.enter_context(RawTarget(script)) for script in scripts]
        fastlb = stack.enter_context(
            FastlbProcess(root, *arguments, targets=targets, workers=workers)
        )
        fastlb.wait_states()
        yield fastlb, targets


def ejection(root: Path) -> tuple[float, LoadResult]:
    """Seconds from the first evidence to the last request that any worker still sent there."""
    moody = Moody()
    scripts: list[Callable[[RawConnection], None]] = [moody, answers_by_name, answers_by_name]
    arguments = (*HTTP_CHECK, "--algorithm", "round_robin")
    with raw_balanced(root, scripts, *arguments) as (fastlb, targets):
        with LoadClient(fastlb.port, connections=16) as load:
            load.started()
            wait_target_served(fastlb, targets[0])
            moody.ill = True
            wait_until(lambda: moody.hits, 30, "evidence")
            wait_served(fastlb, 1000)
            assert fastlb.targets()[str(targets[0])]["state"] == "unhealthy"
            hits = list(moody.hits)
            moody.ill = False
            fastlb.wait_state(targets[0], "healthy", 30)
            wait_target_served(fastlb, targets[0])
            result = load.stop()
        assert moody.hits == hits, "requests came while it was ejected"
        assert_all_well(fastlb, result)
        return hits[-1] - hits[0], result


def test_a_target_is_ejected_for_all_workers_at_once(run_root: Path) -> None:
    took, _ = ejection(run_root)
    assert took <= EJECTED_EVERYWHERE


def test_the_ejection_time_grows(run_root: Path) -> None:
    """A target that passes its (TCP) check and resets every request is asked ever less."""
    moody = Moody()
    scripts: list[Callable[[RawConnection], None]] = [moody, answers_by_name, answers_by_name]
    with raw_balanced(run_root, scripts, "--algorithm", "round_robin") as (fastlb, targets):
        with LoadClient(fastlb.port, connections=8, pause=0.005) as load:
            load.started()
            wait_target_served(fastlb, targets[0])
            moody.ill = True
            wait_until(lambda: "ejected for 1 s" in fastlb.log(), 30, "the third ejection")
            moody.ill = False
            fastlb.wait_state(targets[0], "healthy", 30)
            wait_target_served(fastlb, targets[0])
            result = load.stop()
        assert_all_well(fastlb, result)
        ejected = re.findall(r"ejected(?: for (\S+) s)?$", fastlb.log(), re.MULTILINE)
        assert ejected == ["", "0.5", "1"]


def test_a_request_that_kills_whoever_gets_it_is_tried_at_most_once_more(run_root: Path) -> None:
    poisoned: list[int] = []

    def script(connection: RawConnection) -> None:
        while True:
            raw = connection.read_request()
            if request_target(raw) == "/poison":
                poisoned.append(connection.target.port)
                connection.reset()
            connection.send(named_answer(raw))

    with (
        raw_balanced(run_root, [script] * 3) as (fastlb, _),
        LoadClient(fastlb.port, connections=16, pause=0.01) as load,
    ):
        load.started()
        result = run_load(fastlb.port, count=1, connections=1, path="/poison")
        assert result.failures == {"status-502": 1}
        assert len(set(poisoned)) == 2
        # On a pooled connection a reset may be one of an idle connection: the same target once more.
        assert len(poisoned) <= 4
        fastlb.wait_states("healthy", 30)
        # Whatever harm a row of them does, the others' requests are answered all the while.
        for number in range(2, 7):
            run_load(fastlb.port, count=1, connections=1, path="/poison")
            assert len(poisoned) <= 4 * number
            wait_served(fastlb, 200)
        assert_all_well(fastlb, load.stop())


# --- backups and failing open ---------------------------------------------------------------------


def test_backups_serve_only_while_no_primary_can(run_root: Path) -> None:
    with (
        light(run_root, *HTTP_CHECK, backups=1, pace=HALF_BUSY) as case,
        case.load(connections=16) as load,
    ):
        first, second, backup = case.targets
        load.started()
        wait_served(case.fastlb, 200)
        first.kill()
        wait_served(case.fastlb, 200)
        assert requests_of(case.fastlb, backup) == 0
        second.kill()
        wait_target_served(case.fastlb, backup, 200)
        first.start()
        wait_target_served(case.fastlb, first)
        # Workers store their counts ten times a second: the last of them is seen by now.
        wait_served(case.fastlb, 300)
        at = requests_of(case.fastlb, backup)
        wait_served(case.fastlb, 200)
        assert requests_of(case.fastlb, backup) == at
        assert_all_well(case.fastlb, load.stop())


def test_all_unhealthy_fails_open(run_root: Path) -> None:
    flags = (*HTTP_CHECK, "--health-interval", "200ms")
    with light(run_root, *flags, pace=HALF_BUSY) as case:
        fastlb = case.fastlb
        with case.load(connections=16) as load:
            load.started()
            for one in case.targets:
                tell(one, "health")
            wait_until(lambda: fastlb.status()["target_groups"][0]["fail_open"], 30, "fail open")
            assert {one["state"] for one in fastlb.targets().values()} == {"unhealthy"}
            assert "all 3 targets of group default are unhealthy: failing open" in fastlb.log()
            for one in case.targets:
                wait_target_served(fastlb, one)
            for one in case.targets:
                tell(one, "off")
            fastlb.wait_states()
            assert not fastlb.status()["target_groups"][0]["fail_open"]
            assert "no longer failing open" in fastlb.log()
            assert_all_well(fastlb, load.stop())


def tell(target: AppTarget, mode: str) -> None:
    assert isinstance(target.where, int)
    result = run_load(
        target.where, count=1, connections=1, method="POST", path=f"/fail?mode={mode}"
    )
    assert result.failed == 0, result


# --- closings that nobody is to blame for ---------------------------------------------------------


class Impatient:
    """The script of a raw target that closes a connection after a short, changing idle time."""

    def __init__(self, least: float, most: float, seed: int) -> None:
        self.least = least
        self.most = most
        self.closed = 0
        self._chance = random.Random(seed)

    def __call__(self, connection: RawConnection) -> None:
        while True:
            connection.socket.settimeout(self._chance.uniform(self.least, self.most))
            try:
                first = connection.socket.recv(65536)
            except TimeoutError:
                self.closed += 1
                connection.close()
            if not first:
                raise Closed
            connection.socket.settimeout(30)
            connection.received += first
            connection.send(named_answer(connection.read_request()))


def idle_closes(
    root: Path, method: str, seconds: float, least: float, most: float
) -> tuple[int, LoadResult]:
    """How many connections targets closed, and how requests fared that come at about that time."""
    scripts = [Impatient(least, most, seed) for seed in range(2)]
    with (
        raw_balanced(root, list(scripts), "--algorithm", "round_robin") as (fastlb, _),
        LoadClient(
            fastlb.port,
            connections=32,
            seconds=seconds,
            method=method,
            body_bytes=100 if method == "POST" else 0,
            pause=(least + most) / 2,
        ) as load,
    ):
        result = load.wait()
        assert_nothing_in_flight(fastlb)
    return sum(script.closed for script in scripts), result


def test_idle_connections_that_a_target_closes_are_never_a_502(run_root: Path) -> None:
    closed, result = idle_closes(run_root, "GET", 1.5, 0.05, 0.3)
    assert closed > 20
    assert result.failed == 0, result


def test_idle_connections_that_a_target_closes_and_posts(run_root: Path) -> None:
    """A POST is not sent twice; the kernel is asked first, which leaves a gap of microseconds."""
    closed, result = idle_closes(run_root, "POST", 1.5, 0.05, 0.3)
    assert closed > 20
    assert result.failed <= max(2, result.requests // 200), result


def graceful_restarts(case: Balanced, times: int) -> LoadResult:
    """Targets that stop listening, finish what they have, end, and start again, in turns."""
    with case.load(connections=16, path="/slow?ms=20") as load:
        load.started()
        for number in range(times):
            victim = case.targets[number % len(case.targets)]
            wait_target_served(case.fastlb, victim, 20)
            victim.terminate()
            wait_served(case.fastlb, 100)
            victim.start()
        wait_target_served(case.fastlb, victim, 20)
        result = load.stop()
    assert_all_well(case.fastlb, result)
    return result


def test_a_target_that_restarts_gracefully_costs_no_request(run_root: Path) -> None:
    with light(run_root, *HTTP_CHECK) as case:
        graceful_restarts(case, 2)


def test_an_echoing_target_is_no_exception(run_root: Path) -> None:
    """The raw target's own script, once, so that its answers are checked against their paths."""
    with raw_balanced(run_root, [echo_requests] * 3) as (fastlb, _):
        result = run_load(fastlb.port, count=500, path="/{id}", check="body")
        assert result.failed == 0, result
        assert_nothing_in_flight(fastlb)
