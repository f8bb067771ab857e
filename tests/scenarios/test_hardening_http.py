"""What testers broke once: retries of slow answers, answers put off, floods of empty lines, broken heads."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path

from fastlb.data_plane.timers import TICK
from tests.support.fastlb import FastlbProcess
from tests.support.processes import resident_bytes, wait_until
from tests.support.raw_client import RawClient, exchange
from tests.support.raw_target import RawConnection, RawTarget, answer, echo_answer
from tests.support.targets import LightTarget


def get(port: int, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode()


def test_no_slow_request_is_lost_with_its_killed_target(run_root: Path) -> None:
    """Half of 40 requests need a second try at once: more than the budget, for longer than a connect."""
    with (
        LightTarget("a") as a,
        LightTarget("b") as b,
        FastlbProcess(run_root, "--health-path", "/health", targets=[a, b]) as fastlb,
    ):
        fastlb.wait_states()
        statuses: Counter[int] = Counter()

        def ask(number: int) -> None:
            with RawClient(fastlb.port, 30) as client:
                client.send([get(fastlb.port, f"/slow?ms=2500&n={number}")])
                statuses[client.answer().status] += 1

        clients = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for client in clients:
            client.start()
        wait_until(
            lambda: sum(one["in_flight"] for one in fastlb.targets().values()) == 40,
            30,
            "all requests are in flight",
        )
        b.kill()
        for client in clients:
            client.join()
        assert statuses == {200: 40}


def test_empty_lines_hold_nobody_up(run_root: Path) -> None:
    with RawTarget() as target, FastlbProcess(run_root, targets=[target]) as fastlb:
        assert exchange(fastlb.port, b"\r\n" * 4 + get(fastlb.port, "/")).status == 200
        with RawClient(fastlb.port) as flood:
            began = time.monotonic()
            flood.send([b"\r\n" * 500_000])
            assert exchange(fastlb.port, get(fastlb.port, "/")).status == 200
            assert time.monotonic() - began < 3.0
            assert flood.answer().status == 400


def test_a_head_that_breaks_off_is_asked_for_elsewhere(run_root: Path) -> None:
    def dies(connection: RawConnection) -> None:
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nX-A: b\r\n")
        connection.reset()

    with (
        RawTarget() as good,
        RawTarget(dies) as bad,
        FastlbProcess(
            run_root, "--no-health-check", "--algorithm", "round_robin", targets=[good, bad]
        ) as fastlb,
    ):
        for number in range(4):
            assert exchange(fastlb.port, get(fastlb.port, f"/{number}")).status == 200


def test_an_answer_behind_many_that_nobody_reads_is_paced(run_root: Path) -> None:
    """Wherever among the answers the client's buffer is full, the next target is read at its pace."""
    small, huge = answer(b"s" * 30_000), answer(b"h" * 60_000_000)

    def script(connection: RawConnection) -> None:
        while True:
            raw = connection.read_request()
            connection.send(huge if b"/huge" in raw else small)

    with RawTarget(script) as target, FastlbProcess(run_root, targets=[target]) as fastlb:
        worker = fastlb.worker_pids()[0]
        assert exchange(fastlb.port, get(fastlb.port, "/warm")).status == 200
        before = resident_bytes(worker)
        for place in range(85, 106):
            with RawClient(fastlb.port) as client:
                paths = ["/small"] * place + ["/huge"] + ["/small"] * 20
                client.send([b"".join(get(fastlb.port, path) for path in paths)])
                assert client.answer().status == 200
            assert resident_bytes(worker) - before < 8_000_000, place


def test_the_log_of_a_failure_names_target_time_and_request(run_root: Path) -> None:
    def hangs(connection: RawConnection) -> None:
        if b"/slow" in connection.read_request():
            connection.never_answer()
        else:
            connection.send(echo_answer(b"GET / HTTP/1.1\r\n\r\n"))

    path = run_root / "access.log"
    with (
        RawTarget(hangs) as target,
        FastlbProcess(
            run_root,
            "--access-log",
            str(path),
            "--response-timeout",
            "300ms",
            "--no-health-check",
            targets=[target],
        ) as fastlb,
    ):
        assert exchange(fastlb.port, get(fastlb.port, "/slow")).status == 504
        refused = exchange(fastlb.port, b"TRACE /t HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert refused.status == 405
        assert refused.fields("date")
        wait_until(lambda: path.read_text().count("\n") == 2, 30, "both lines are written")
        slow, trace = map(json.loads, path.read_text().splitlines())
    assert (slow["status"], slow["target"]) == (504, str(target))
    assert slow["total_ms"] >= 300 - TICK * 1000, "deadlines are counted from the last tick"
    assert (trace["method"], trace["target_uri"], trace["host"]) == ("TRACE", "/t", "a.test")
