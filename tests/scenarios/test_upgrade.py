"""A new supervisor takes over from the living one, under load; whichever of the two dies, nothing is lost.

What bench/upgrade_tests.py runs for longer is a function here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.fastlb import FastlbProcess
from tests.support.load import HALF_BUSY, LoadClient, LoadResult, run_load
from tests.support.processes import RUN_DIR_VARIABLE, open_files, resident_bytes, wait_until
from tests.support.scaling import ScaledFastlb, gone, group_of
from tests.support.targets import free_port
from tests.support.upgrading import WebSockets, command, install, upgrade

from .test_failover import HTTP_CHECK, assert_all_well, balanced, light
from .test_worker_death import PROBE_PAUSE, Probes


@dataclass
class Upgrades:
    """What upgrades in a row cost."""

    load: LoadResult
    counted: int
    """Requests by the status at the end."""
    probes: Probes
    echoes: int
    seconds: list[float] = field(default_factory=list)
    supervisor: list[tuple[int, int]] = field(default_factory=list)
    """Resident bytes and open files of each new supervisor, when the others had gone."""
    workers: list[tuple[int, int]] = field(default_factory=list)
    """The most resident bytes of one of its workers, and the open files of all."""


def upgrades(
    root: Path,
    count: int,
    connections: int,
    sockets: int,
    pace: Mapping[str, Any] | None = None,
    probe_pause: float = 0.0,
) -> Upgrades:
    """Upgrade an instance `count` times under one and the same load."""
    with (
        # The first workers keep the WebSockets until the last upgrade.
        balanced(root, *HTTP_CHECK, "--drain-timeout", f"{120 + 30 * count}s", pace=pace) as case,
        WebSockets(case.fastlb.port, sockets) as held,
        case.load(connections=connections) as load,
        Probes(case.fastlb.port, probe_pause).running() as probes,
    ):
        fastlb = case.fastlb
        load.started()
        found = Upgrades(LoadResult(), 0, probes, 0)
        first = fastlb.pid
        for _ in range(count):
            old = fastlb.status()
            began = time.monotonic()
            pid = upgrade(fastlb)
            found.seconds.append(time.monotonic() - began)
            status = fastlb.status()
            assert status["totals"]["requests"] >= old["totals"]["requests"]
            held.wait_round()
            assert {one["state"] for one in fastlb.targets().values()} == {"healthy"}
            if old["pid"] != first:
                gone([old["pid"]])
            found.supervisor.append((resident_bytes(pid), min_files(pid)))
            pids = [one["pid"] for one in status["workers"]]
            found.workers.append(
                (max(map(resident_bytes, pids)), sum(open_files(one) for one in pids))
            )
        found.echoes = sum(held.echoed)
        held.__exit__()
        assert held.failures == []
        found.load = load.stop()
        probes.stop()
        assert_all_well(fastlb, found.load)
        assert probes.failures == []
        # Probes and handshakes are requests too; what old workers did is in it. Counts are stored ten
        # times a second.
        least = found.load.requests + len(probes.taken) + sockets

        def counted() -> bool:
            found.counted = fastlb.status()["totals"]["requests"]
            return found.counted >= least

        wait_until(counted, 30, f"{least} requests are counted")
        fastlb.stop()
        assert not (fastlb.run_dir / "t").exists()
    return found


def min_files(pid: int) -> int:
    """Without those of the checks that are under way just now."""
    return min(open_files(pid) for _ in range(20))


def test_no_request_and_no_websocket_is_lost_and_the_totals_go_on(run_root: Path) -> None:
    found = upgrades(
        run_root, 2, connections=16, sockets=6, pace=HALF_BUSY, probe_pause=PROBE_PAUSE
    )
    # Of the probes each thread may have had one on its way when it ended, and a handshake its second.
    assert found.counted <= found.load.requests + len(found.probes.taken) + 6 + 8


# --- whoever dies ---------------------------------------------------------------------------------


@contextmanager
def under_load(root: Path, *arguments: str) -> Iterator[tuple[FastlbProcess, LoadClient, Probes]]:
    with (
        light(root, *HTTP_CHECK, *arguments, count=2, pace=HALF_BUSY) as case,
        case.load(connections=8) as load,
        Probes(case.fastlb.port, PROBE_PAUSE).running(2) as probes,
    ):
        load.started()
        yield case.fastlb, load, probes


def start_takeover(fastlb: FastlbProcess, *more: str) -> subprocess.Popen[bytes]:
    words = [*fastlb.command[:4], "--takeover", *fastlb.command[4:], *more]
    with Path(fastlb._log.name).open("ab") as log:
        return subprocess.Popen(
            words,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"FASTLB_RUN_DIR": str(fastlb.run_dir)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_log(fastlb: FastlbProcess, text: str, times: int = 1) -> None:
    wait_until(lambda: fastlb.log().count(text) >= times, 30, f"{text!r} in the log")


def wait_pid(fastlb: FastlbProcess, pid: int) -> None:
    def serves() -> bool:
        try:
            return bool(fastlb.status()["pid"] == pid)
        except (OSError, ValueError):
            return False

    wait_until(serves, 30, f"pid {pid} serves")


def test_run_takeover_takes_over_and_the_old_one_ends_with_0(run_root: Path) -> None:
    with under_load(run_root) as (fastlb, load, probes):
        second = start_takeover(fastlb)
        assert fastlb.process.wait(30) == 0
        wait_pid(fastlb, second.pid)
        assert_all_well(fastlb, load.stop())
        assert probes.failures == []
        second.terminate()
        assert second.wait(30) == 0


def test_a_new_one_that_is_killed_leaves_the_old_one_in_charge(run_root: Path) -> None:
    with under_load(run_root) as (fastlb, load, probes):
        workers = fastlb.worker_pids()
        second = start_takeover(fastlb)
        wait_log(fastlb, "taking over from pid")
        second.kill()
        second.wait()
        wait_log(fastlb, "this supervisor goes on")
        assert fastlb.status()["pid"] == fastlb.pid
        assert fastlb.worker_pids() == workers
        pid = upgrade(fastlb)
        assert pid != fastlb.pid
        assert_all_well(fastlb, load.stop())
        assert probes.failures == []
        fastlb.stop()


def test_an_old_one_that_is_killed_in_the_midst_is_taken_over_from(run_root: Path) -> None:
    with under_load(run_root) as (fastlb, load, probes):
        second = start_takeover(fastlb)
        wait_log(fastlb, "taking over from pid")
        fastlb.kill_supervisor()
        wait_pid(fastlb, second.pid)
        assert_all_well(fastlb, load.stop())
        assert probes.failures == []
        second.terminate()
        assert second.wait(30) == 0


def test_a_stop_in_the_midst_ends_both_and_leaves_nothing(run_root: Path) -> None:
    with light(run_root, *HTTP_CHECK, count=1) as case:
        second = start_takeover(case.fastlb)
        wait_log(case.fastlb, "taking over from pid")
        case.fastlb.process.send_signal(signal.SIGTERM)
        assert case.fastlb.process.wait(30) == 0
        assert second.wait(30) != 0
        assert not (case.fastlb.run_dir / "t").exists()


def test_a_stop_of_the_new_one_before_its_time_costs_nothing(run_root: Path) -> None:
    with under_load(run_root) as (fastlb, load, probes):
        second = start_takeover(fastlb)
        wait_log(fastlb, "taking over from pid")
        second.terminate()
        status = second.wait(30)
        wait_pid(fastlb, fastlb.pid if status else second.pid)
        assert_all_well(fastlb, load.stop())
        assert probes.failures == []


def test_a_stop_before_it_has_begun_is_not_undone(run_root: Path) -> None:
    with under_load(run_root) as (fastlb, load, _):
        asked = subprocess.Popen(
            [sys.executable, "-m", "fastlb", "upgrade", "--name", fastlb.name],
            env=os.environ | {RUN_DIR_VARIABLE: str(fastlb.run_dir)},
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_log(fastlb, ", to take over")
        load.stop()
        fastlb.stop()
        told = asked.communicate(timeout=30)[1]
        assert (asked.returncode, "did not take over" in told) == (1, True), told
        assert "the instance is to stop" in told
        assert not (fastlb.run_dir / fastlb.name).exists()


def test_a_file_that_names_only_who_was_removed_is_refused(run_root: Path) -> None:
    one, two = free_port(), free_port()
    config = run_root / "removable.toml"
    config.write_text(removable(one, two))
    with FastlbProcess(run_root, "--config", str(config), listen=()) as fastlb:
        assert command(fastlb, "target", "remove", "web", f"127.0.0.1:{two}").returncode == 0
        config.write_text(removable(two))
        done = command(fastlb, "upgrade")
        assert done.returncode == 1
        assert "nobody would be left, because of what operators said" in done.stderr
        assert fastlb.status()["pid"] == fastlb.pid


def removable(*ports: int) -> str:
    targets = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    return (
        '[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = { forward = "web" }\n'
        f"[target_groups.web]\ntargets = [{targets}]\n"
    )


def test_a_wrong_configuration_is_told_and_changes_nothing(run_root: Path) -> None:
    with ScaledFastlb(run_root, group_of(min=1, max=2)) as fastlb:
        fastlb.wait_steady(1)
        pids = [fastlb.pid, *fastlb.worker_pids(), *fastlb.pids()]
        fastlb.config.write_text(group_of(min=3, max=2))
        done = command(fastlb, "upgrade")
        assert done.returncode == 1
        assert "does not take the configuration" in done.stderr
        assert "auto_scaling_groups.web" in done.stderr
        # One that only a start finds: it gets as far as binding.
        fastlb.config.write_text(group_of(min=1, max=2))
        busy = start_takeover(fastlb, "--listen", "http://192.0.2.1:80")
        assert busy.wait(30) == 1
        wait_log(fastlb, "this supervisor goes on: cannot listen on http://192.0.2.1:80")
        assert [fastlb.pid, *fastlb.worker_pids(), *fastlb.pids()] == pids
        fastlb.ask("scale", group="web", desired=2)
        fastlb.wait_steady(2)


def test_listeners_that_cannot_be_told_apart_stay_with_the_old_one(run_root: Path) -> None:
    with FastlbProcess(run_root, listen=["http://127.0.0.1:0"] * 2, targets=["127.0.0.1:1"]) as one:
        ports = one.ports
        done = command(one, "upgrade")
        assert done.returncode == 1
        assert "several listeners are http://127.0.0.1:0" in done.stderr
        assert one.status()["pid"] == one.pid
        one.wait_ready()
        assert one.ports == ports


def test_another_handover_number_is_refused_before_anything_is_touched(run_root: Path) -> None:
    with light(run_root, *HTTP_CHECK, count=1) as case:
        words = case.fastlb.command[3:]
        code = (
            "from fastlb.target_table import handover; handover.HANDOVER = 99\n"
            "from fastlb.control_plane import predecessor; predecessor.HANDOVER = 99\n"
            f"import sys; from fastlb.cli.main import run; sys.exit(run({[*words, '--takeover']!r}))"
        )
        done = subprocess.run(
            [*case.fastlb.command[:1], "-c", code],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"FASTLB_RUN_DIR": str(case.fastlb.run_dir)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
        assert "by handover 1, and" in done.stderr
        assert "handing over" not in case.fastlb.log()


# --- instances ------------------------------------------------------------------------------------


def test_instances_live_on_and_one_that_is_killed_meanwhile_is_replaced(
    run_root: Path, start_load: Callable[..., LoadClient]
) -> None:
    with ScaledFastlb(run_root, group_of(min=1, max=4, desired=3)) as fastlb:
        before = fastlb.wait_steady(3)
        victim = next(iter(before))
        load = start_load(fastlb.port, connections=4, pause=0.005).started()
        second = start_takeover(fastlb)
        wait_log(fastlb, "taking over from pid")
        os.kill(before[victim]["pid"], signal.SIGKILL)
        assert fastlb.process.wait(30) == 0
        wait_pid(fastlb, second.pid)
        wait_until(lambda: victim not in fastlb.instances(state=None), 30, "it is missed")
        after = fastlb.wait_steady(3)
        kept = {id: one["pid"] for id, one in after.items() if id in before}
        assert kept == {id: one["pid"] for id, one in before.items() if id != victim}
        result = load.stop()
        assert result.failed == 0, f"{result}\n{fastlb.log()}"
        started = [one["what"] for one in fastlb.activity() if one["what"].startswith("launch ")]
        assert len(started) == 4
        second.terminate()
        assert second.wait(30) == 0
        gone(one["pid"] for one in after.values())


def test_a_request_held_for_its_first_instance_lives_through_an_upgrade(
    run_root: Path, start_load: Callable[..., LoadClient]
) -> None:
    with ScaledFastlb(run_root, group_of(min=0, max=1)) as fastlb:
        second = start_takeover(fastlb)
        wait_log(fastlb, "taking over from pid")
        result = start_load(fastlb.port, connections=2, count=2).wait()
        assert result.failed == 0, f"{result}\n{fastlb.log()}"
        wait_pid(fastlb, second.pid)
        second.terminate()
        assert second.wait(30) == 0


def test_an_instance_that_a_failed_new_one_launched_is_led_on_by_the_old_one(
    run_root: Path,
) -> None:
    with ScaledFastlb(run_root, group_of(min=2, max=4)) as fastlb:
        before = fastlb.wait_steady(2)
        victim = next(iter(before))
        second = start_takeover(fastlb)
        wait_log(fastlb, "taking over from pid")
        second.send_signal(signal.SIGSTOP)
        os.kill(before[victim]["pid"], signal.SIGKILL)
        second.send_signal(signal.SIGCONT)
        second.kill()
        second.wait()
        wait_log(fastlb, "this supervisor goes on")
        after = fastlb.wait_steady(2)
        assert victim not in after
        assert fastlb.status()["pid"] == fastlb.pid
        fastlb.stop()
        gone(one["pid"] for one in after.values())


def test_another_release_takes_over_and_who_stays_behind_says_that_it_was_killed(
    run_root: Path, tmp_path: Path
) -> None:
    with light(run_root, *HTTP_CHECK, count=1) as case:
        program = install(tmp_path, "9.8.7")
        pid = upgrade(case.fastlb, program)
        status = case.fastlb.status()
        assert status["version"] == "9.8.7"
        assert str(program) in Path(f"/proc/{pid}/cmdline").read_text()
        assert run_load(case.fastlb.port, connections=2, count=20).failed == 0
        held = [os.readlink(one) for one in Path(f"/proc/{case.fastlb.pid}/fd").iterdir()]
        assert not any("socket:" in one or "memfd:" in one or "lock" in one for one in held), held
        os.kill(pid, signal.SIGKILL)
        assert case.fastlb.process.wait(30) == 128 + signal.SIGKILL
