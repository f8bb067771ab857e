"""The supervisor is killed with kill -9: instances serve on, and the next one leads them on."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from tests.support.load import LoadClient
from tests.support.processes import processes_of, wait_until
from tests.support.scaling import DEMO, LIGHT, ScaledFastlb, environment_of, gone, group_of

Start = Callable[..., LoadClient]


def again(first: ScaledFastlb, root: Path, *groups: str, **options: Any) -> ScaledFastlb:
    """A second start with the same name and folder, and the same file unless there are groups."""
    return ScaledFastlb(
        root,
        *groups,
        config=first.config,
        run_dir=first.run_dir,
        listen=[f"http://127.0.0.1:{first.port}"],
        **options,
    )


def marked(run_dir: Path) -> dict[str, int]:
    """The leaders of instances that live, by id."""
    found = {}
    for pid in processes_of(run_dir):
        id = environment_of(pid).get("FASTLB_INSTANCE_ID")
        if id is not None and os.getpgid(pid) == pid:
            found[id] = pid
    return found


def only_those_of_the_group(fastlb: ScaledFastlb) -> None:
    """No instance lives that the supervisor does not know."""
    known = {id: one["pid"] for id, one in fastlb.instances(state=None).items()}
    assert marked(fastlb.run_dir) == known


def test_instances_are_adopted_and_one_that_died_is_replaced(
    run_root: Path, start_load: Start
) -> None:
    with ScaledFastlb(run_root, group_of(min=1, max=4, desired=3)) as first:
        before = first.wait_steady(3)
        first.ask("protect", instance=next(iter(before)))
        load = start_load(first.port, connections=4, pause=0.005).started()
        first.kill_supervisor()
        with again(first, run_root) as second:
            after = second.wait_steady(3)
            assert {id: one["pid"] for id, one in after.items()} == {
                id: one["pid"] for id, one in before.items()
            }
            assert after[next(iter(before))]["protected"]
            second.ask("scale", desired=4)
            second.wait_steady(4)
            second.ask("scale", desired=2)
            assert next(iter(before)) in second.wait_steady(2)

            second.kill_supervisor()
            dead, left = marked(first.run_dir).values()
            os.kill(dead, signal.SIGKILL)
            with again(first, run_root) as third:
                two = third.wait_steady(2)
                assert left in third.pids()
                assert dead not in third.pids()
                result = load.stop()
                assert not result.failures, result
                only_those_of_the_group(third)
                third.stop()
                gone([one["pid"] for one in two.values()])
                assert not (first.run_dir / "t").exists()
        gone([one["pid"] for one in before.values()])


def test_an_adopted_one_that_crashes_is_replaced(run_root: Path, start_load: Start) -> None:
    """It is no child of ours, and its children are no less to be ended."""
    with ScaledFastlb(run_root, group_of(command=[*DEMO, "--fork", "2"], min=2, max=2)) as first:
        first.wait_steady(2)
        first.kill_supervisor()
        with again(first, run_root) as second:
            second.wait_steady(2)
            load = start_load(second.port, connections=4, pause=0.005).started()
            pid = second.pids()[0]
            family = [one for one in processes_of(first.run_dir) if os.getpgid(one) == pid]
            assert len(family) == 3
            os.kill(pid, signal.SIGKILL)
            gone(family)
            wait_until(lambda: pid not in second.pids(), 30, "its end is seen")
            second.wait_steady(2)
            result = load.stop()
            assert not result.failures, result
            second.stop()


def test_killed_during_a_launch_and_a_drain(run_root: Path, start_load: Start) -> None:
    web = group_of(command=[*LIGHT, "--start-delay", "0.3"], min=1, max=3, drain_timeout="5s")
    with ScaledFastlb(run_root, web) as first:
        first.wait_steady(1)
        first.ask("scale", desired=3)
        wait_until(lambda: len(marked(first.run_dir)) == 3, 30, "both are launched")
        first.kill_supervisor()
        launched = marked(first.run_dir)
        with again(first, run_root) as second:
            three = second.wait_steady(3)
            assert {id: one["pid"] for id, one in three.items()} == launched

            wait_until(lambda: "orphaned worker" in second.log(), 30, "the orphan drains")
            wait_until(lambda: "has ended" in second.log(), 30, "the orphan has ended")
            slow = start_load(second.port, connections=3, count=3, path="/slow?ms=1200")
            wait_until(
                lambda: sum(one["in_flight"] for one in second.instances().values()) == 3,
                30,
                "a request each",
            )
            second.ask("scale", desired=1)
            wait_until(lambda: second.group()["draining"] == 2, 30, "two drain")
            second.kill_supervisor()
            with again(first, run_root) as third:
                third.wait_steady(1)
                result = slow.wait()
                assert not result.failures, result
                only_those_of_the_group(third)
                third.stop()


def test_killed_during_a_refresh(run_root: Path, start_load: Start) -> None:
    old = [*LIGHT, "--version", "old"]
    new = [*LIGHT, "--version", "new", "--start-delay", "0.2"]
    with ScaledFastlb(run_root, group_of(command=old, min=2, max=2)) as first:
        before = first.wait_steady(2)
        load = start_load(
            first.port, connections=4, pause=0.005, target_header="x-demo-version"
        ).started()
        first.reload(group_of(command=new, min=2, max=2))
        wait_until(lambda: len(marked(first.run_dir)) > 2, 30, "a new one is launched")
        first.kill_supervisor()
        with again(first, run_root) as second:
            second.wait_activity("instance refresh to v2", "done")
            after = second.wait_steady(2)
            assert not set(before) & set(after)
            assert {one["version"] for one in after.values()} == {2}
            result = load.stop()
            assert not result.failures, result
            assert "new" in result.by_target
            only_those_of_the_group(second)

            # The template of the file is another one when the next supervisor starts.
            second.kill_supervisor()
            with again(first, run_root, group_of(command=old, min=2, max=2)) as third:
                third.wait_activity("instance refresh to v", "done")
                assert not set(after) & set(third.wait_steady(2))
                only_those_of_the_group(third)
                third.stop()


def test_scaled_to_zero_and_standby_are_remembered(run_root: Path) -> None:
    with ScaledFastlb(run_root, group_of(min=0, max=3, desired=2, idle_timeout="1h")) as first:
        (one, _) = first.wait_steady(2)
        first.ask("standby", instance=one)
        first.wait_activity("standby", "in standby")
        first.ask("suspend", process="launch")
        first.ask("scale", desired=0)
        wait_until(
            lambda: first.group()["in_service"] == first.group()["draining"] == 0, 30, "zero"
        )
        first.kill_supervisor()
        with again(first, run_root) as second:
            group = second.group()
            assert (group["desired"], group["suspended"]) == (0, ["launch"])
            assert list(second.instances(state="standby")) == [one]
            second.ask("return", instance=one)
            assert list(second.wait_steady(1)) == [one]
            second.stop()


def test_a_group_that_is_configured_no_more(run_root: Path, start_load: Start) -> None:
    """Its instances end as soon as the orphans, who still send them requests, have ended."""
    old = group_of(command=[*DEMO, "--fork", "1"], desired=2, max=2)
    with ScaledFastlb(run_root, old) as first:
        first.wait_steady(2)
        before = [
            pid
            for pid in processes_of(first.run_dir)
            if "FASTLB_INSTANCE_ID" in environment_of(pid)
        ]
        assert len(before) == 4
        load = start_load(first.port, connections=4, path="/slow?ms=100").started()
        first.kill_supervisor()
        with again(first, run_root, group_of("api")) as second:
            second.wait_steady(1, "api")
            gone(before)
            assert set(marked(first.run_dir).values()) == set(second.pids("api"))
            result = load.stop()
            assert not result.failures, result
            second.stop()
        assert not (first.run_dir / "t").exists()


def test_the_folder_is_removed_under_it(run_root: Path, start_load: Start) -> None:
    with ScaledFastlb(run_root, group_of(min=1, max=3, desired=2)) as first:
        two = first.wait_steady(2)
        load = start_load(first.port, connections=4, pause=0.01).started()
        for path in (first.run_dir / "t").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        wait_until((first.run_dir / "t" / "control.sock").exists, 30, "it is made anew")
        # Nobody can connect to their sockets any more: they are replaced.
        wait_until(lambda: not set(two) & set(first.instances()), 30, "the old ones are replaced")
        first.wait_steady(2)
        gone([one["pid"] for one in two.values()])
        result = load.stop()
        assert not result.failures, result
        only_those_of_the_group(first)
        first.stop()


def test_what_orphans_hold_goes_to_the_successors_instances(run_root: Path) -> None:
    """Killed while a request is held for the first instance: the orphan that holds it follows the table
    of the supervisor that takes over."""
    slow = group_of(command=[*LIGHT, "--start-delay", "2"], min=0, max=1, idle_timeout="60s")
    with ScaledFastlb(run_root, slow) as first, ThreadPoolExecutor(2) as pool:
        held = [pool.submit(httpx.get, first.url, timeout=20) for _ in range(2)]
        wait_until(lambda: first.instances(state="pending"), 30, "one is launched")
        first.kill_supervisor()
        with again(first, run_root, slow) as second:
            assert [one.result().status_code for one in held] == [200, 200]
            second.stop()
