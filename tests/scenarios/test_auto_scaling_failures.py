"""Instances that crash, hang, leak or never come up: replaced under load, or reported and given up."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.support.load import LoadClient
from tests.support.processes import alive, processes_of, wait_until
from tests.support.scaling import (
    DEMO,
    ScaledFastlb,
    environment_of,
    gone,
    group_members,
    group_of,
    toml,
)

Start = Callable[..., LoadClient]


def nothing_failed(load: LoadClient) -> None:
    result = load.stop()
    assert not result.failures, result
    assert result.succeeded > 4, result


def to_instance(one: dict[str, str], path: str, method: str = "GET") -> str:
    """What one instance answers that is asked directly."""
    transport = httpx.HTTPTransport(uds=one["address"].removeprefix("unix:"))
    with httpx.Client(transport=transport) as client:
        return client.request(method, f"http://instance{path}").text


# --- never in service -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def failing(run_root: Path) -> Iterator[ScaledFastlb]:
    """Groups whose instances never come up, each in another way, at once."""
    grace = {"health_check_grace": "0.8s"}
    groups = [
        group_of("crash", [*DEMO, "--crash-at-start"]),
        group_of("sick", [*DEMO, "--health-status", "503"], **grace),
        group_of("deaf", ["sleep", "1000"], **grace),
        group_of("absent", ["no-such-program", "{socket}"]),
        group_of("leaves", ["sh", "-c", "sleep 1000 & exit 0"]),
        group_of("folder", DEMO, template={"cwd": "/nowhere"}),
    ]
    names = ("sick", "deaf", "absent", "leaves", "folder")
    rules = [
        {"priority": n, "path": [f"/{name}"], "forward": name} for n, name in enumerate(names, 1)
    ]
    listener = (
        '[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = { forward = "crash" }\n'
        f"rules = {toml(rules)}\n"
    )
    with ScaledFastlb(run_root, listener, *groups, listen=()) as one:
        yield one
        one.stop()


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("sick", "failed: passed no health check within 0.8 s: "),
        ("deaf", "did not listen on 127.0.0.1:"),
        ("absent", 'could not be started: there is no program "no-such-program" in the PATH'),
        ("leaves", "ended with status 0 (an instance must stay in the foreground)"),
        ("folder", "could not be started: there is no folder /nowhere (cwd)"),
    ],
)
def test_it_says_why_none_comes_up(failing: ScaledFastlb, name: str, outcome: str) -> None:
    entry = failing.wait_activity("launch", outcome, name)
    assert entry["outcome"].startswith("failed: ")
    id = entry["what"].split()[1]
    assert not (failing.run_dir / "t" / id).exists()
    assert not (failing.run_dir / "t" / f"{id}.json").exists()


def test_none_of_them_leaves_a_process(failing: ScaledFastlb) -> None:
    """One launch at a time, and what failed is gone."""
    failing.wait_activity("launch", "failed: ", "deaf")
    failing.wait_activity("launch", "failed: ", "leaves")

    def nobody() -> bool:
        living = {
            one["id"]
            for group in failing.status()["auto_scaling_groups"]
            for one in group["instances"]
        }
        marks = {
            environment_of(pid).get("FASTLB_INSTANCE_ID") for pid in processes_of(failing.run_dir)
        }
        return marks - living == {None}

    wait_until(nobody, 30, "all that failed has ended")


def test_requests_for_it_are_refused_with_a_reason(run_root: Path) -> None:
    web = group_of(
        command=[sys.executable, "-c", "raise SystemExit(3)", "{socket}"], hold_timeout="0.3s"
    )
    with ScaledFastlb(run_root, web) as fastlb:
        answer = httpx.get(fastlb.url)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "no instance in time" in answer.text
        fastlb.stop()


# --- in service -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fastlb(run_root: Path) -> Iterator[ScaledFastlb]:
    """Two instances with a child each, which are replaced where they leak or grow old."""
    web = group_of(
        command=[*DEMO, "--fork", "1"],
        min=2,
        max=2,
        template={"max_rss": "150MiB", "stop_timeout": "1s"},
        # Where all are killed, a request may meet one after the other.
        target_group={"retries": 3},
    )
    with ScaledFastlb(run_root, web) as one:
        one.wait_steady(2)
        yield one
        one.stop()


@pytest.fixture
def load(fastlb: ScaledFastlb, start_load: Start) -> LoadClient:
    fastlb.forgive()  # those that were killed before are no crash loop
    fastlb.wait_steady(2)
    return start_load(fastlb.port, connections=4, pause=0.01).started()


def test_a_crash_is_replaced_and_nobody_notices(fastlb: ScaledFastlb, load: LoadClient) -> None:
    (id, one), _ = fastlb.instances().items()
    family = group_members(one["pid"])
    assert len(family) == 2
    os.kill(one["pid"], signal.SIGKILL)
    gone(family)
    wait_until(lambda: id not in fastlb.instances(), 30, "its end is seen")
    fastlb.wait_steady(2)
    nothing_failed(load)
    entry = fastlb.wait_activity(f"lost {id}")
    assert "was ended by SIGKILL after" in entry["cause"]


def test_all_crash_and_nobody_notices(fastlb: ScaledFastlb, load: LoadClient) -> None:
    before = fastlb.pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(before) & set(fastlb.pids()), 30, "their end is seen")
    fastlb.wait_steady(2)
    nothing_failed(load)


def new_before_old(fastlb: ScaledFastlb, old: str, cause: str, count: int = 2) -> None:
    """Wait until `old` is replaced; never were there fewer than `count` in service."""

    def replaced() -> bool:
        group = fastlb.group()
        assert group["in_service"] >= count, group
        return old not in {one["id"] for one in group["instances"]}

    wait_until(replaced, 30, f"{old} is replaced")
    fastlb.wait_steady(count)
    assert cause in fastlb.wait_activity(f"terminate {old}")["cause"]


def test_one_that_leaks_is_replaced(fastlb: ScaledFastlb, load: LoadClient) -> None:
    id, one = next(iter(fastlb.instances().items()))
    to_instance(one, "/leak?mb=160")
    new_before_old(fastlb, id, "over max_rss: ")
    nothing_failed(load)


def test_an_unhealthy_one_is_replaced(fastlb: ScaledFastlb, load: LoadClient) -> None:
    id, one = next(iter(fastlb.instances().items()))
    to_instance(one, "/fail?mode=health", "POST")
    entry = fastlb.wait_activity(f"terminate {id}", "drained")
    assert entry["cause"].startswith("unhealthy: answered 503")
    fastlb.wait_steady(2)
    nothing_failed(load)


def test_the_only_one_is_unhealthy(run_root: Path, start_load: Start) -> None:
    """It goes on serving until the new one is there."""
    with ScaledFastlb(run_root, group_of()) as fastlb:
        ((id, one),) = fastlb.wait_steady(1).items()
        load = start_load(fastlb.port, connections=2, pause=0.01).started()
        to_instance(one, "/fail?mode=health", "POST")
        new_before_old(fastlb, id, "unhealthy: answered 503", 1)
        nothing_failed(load)
        fastlb.stop()


def test_one_that_hangs_is_replaced(fastlb: ScaledFastlb, load: LoadClient) -> None:
    id, one = next(iter(fastlb.instances().items()))
    os.kill(one["pid"], signal.SIGSTOP)
    wait_until(lambda: id not in fastlb.instances(state=None), 30, f"{id} is replaced")
    assert not alive(one["pid"])
    fastlb.wait_steady(2)
    nothing_failed(load)


def test_an_old_one_is_replaced(run_root: Path, start_load: Start) -> None:
    web = group_of(template={"max_lifetime": "1.5s", "stop_timeout": "2s"})
    with ScaledFastlb(run_root, web) as fastlb:
        fastlb.wait_steady(1)
        load = start_load(fastlb.port, connections=2, pause=0.01).started()
        fastlb.wait_activity("terminate", "drained")
        entry = fastlb.wait_activity("terminate")
        assert entry["cause"] == "older than max_lifetime of 1.5 s"
        nothing_failed(load)
        fastlb.stop()


def test_whoever_ignores_everything_is_killed(run_root: Path) -> None:
    command = [*DEMO, "--ignore-term", "--fork", "2"]
    web = group_of(command=command, min=1, max=2, desired=2, template={"stop_timeout": "0.4s"})
    with ScaledFastlb(run_root, web) as fastlb:
        families = [group_members(pid) for pid in (fastlb.wait_steady(2) and fastlb.pids())]
        assert list(map(len, families)) == [3, 3]
        fastlb.ask("scale", desired=1)
        (left,) = fastlb.wait_steady(1).values()
        entry = fastlb.wait_activity("terminate")
        assert "killed at the stop timeout of 0.4 s" in entry["outcome"]
        gone([pid for family in families for pid in family if left["pid"] not in family])
        fastlb.stop()
        assert not [pid for family in families for pid in family if alive(pid)]
        assert "killed at the stop timeout of 0.4 s: i-" in fastlb.log()


def test_a_second_signal_ends_them_at_once(run_root: Path) -> None:
    """One that would not end, one that is drained and one that comes up."""
    command = [*DEMO, "--ignore-term", "--fork", "1", "--start-delay", "0.4"]
    web = group_of(command=command, min=1, max=3, template={"stop_timeout": "60s"})
    with ScaledFastlb(run_root, web) as fastlb:
        fastlb.wait_steady(1)
        fastlb.ask("standby", instance=next(iter(fastlb.instances())), replace=True)
        fastlb.wait_steady(1)
        fastlb.ask("scale", desired=2)
        wait_until(lambda: len(fastlb.group()["instances"]) == 3, 30, "another is launched")
        fastlb.process.terminate()
        wait_until(lambda: "ended with status 0" in fastlb.log(), 30, "the worker has ended")
        fastlb.stop(5, signal.SIGQUIT)


# --- at last: its delays have passed meanwhile -----------------------------------------------------


def test_a_crash_loop_is_quarantined_loudly(failing: ScaledFastlb) -> None:
    wait_until(lambda: failing.group("crash")["quarantined"], 30, "the quarantine")
    entries = [one for one in failing.activity("crash") if one["what"].startswith("launch")]
    assert len(entries) >= 5
    entries = entries[:5]
    assert "ended with status 3 before it was in service" in entries[0]["outcome"]
    assert "a setting that it needs is missing" in entries[0]["outcome"]
    pauses = [later["at"] - earlier["ended"] for earlier, later in pairwise(entries)]
    for pause, least in zip(pauses, (0, 0.5, 1, 2), strict=True):
        assert least - 0.1 <= pause < least + 2, pauses
    blocked = wait_until(lambda: failing.group("crash")["blocked"], 30, "it waits for its next try")
    said = re.search(
        r"failed (\d+) times in a row and is quarantined, next try in (.+) s; last: i-", blocked
    )
    assert said, blocked
    assert int(said[1]) >= 5
    assert float(said[2]) <= 5, "nobody serves, so the next try is soon"
    assert "5 times in a row: it is quarantined" in failing.log()

    failing.forget_activity()
    failing.forgive("crash")
    assert not failing.group("crash")["quarantined"]
    failing.wait_activity("launch", "ended with status 3", "crash")
