"""What process trees and the host use: pure sums with made-up processes, figures with real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.auto_scaling.usage import (
    CpuMeter,
    HostMeter,
    Stat,
    Usage,
    busy_percent,
    cgroup_folders,
    memory_room,
    owners,
    parse_stat,
    sum_trees,
    usage_of_trees,
)
from tests.support.processes import alive, children, wait_until

MIB = 1024 * 1024


@pytest.fixture
def start() -> Iterator[Callable[[str], int]]:
    """Starts Python code as the leader of a process group; the group ends with the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(code: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code], process_group=0, stdin=subprocess.DEVNULL
        )
        processes.append(process)
        return process.pid

    yield begin
    for process in processes:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of it has ended and was waited for
        process.wait()


BURNER = "while True: pass"
CHILDREN_BURN = """
import os, time
while True:
    if (pid := os.fork()) == 0:
        end = time.process_time() + 0.05
        while time.process_time() < end: pass
        os._exit(0)
    os.waitpid(pid, 0)
"""
LEAKER = """
import time
kept = []
while True:
    kept.append(b"x" * (1 << 20))
    time.sleep(0.002)
"""
WITH_CHILD = """
import os, signal
os.fork()
while True: signal.pause()
"""


def test_a_burner_uses_cpu(start: Callable[[str], int]) -> None:
    busy, idle = start(BURNER), start("import time; time.sleep(60)")
    meter = CpuMeter()

    def look() -> dict[int, tuple[float | None, int]]:
        return meter.look(usage_of_trees([busy, idle]), time.monotonic())

    wait_until(lambda: usage_of_trees([busy])[busy].cpu_seconds > 0.2, 30)
    assert [percent for percent, _ in look().values()] == [None, None]
    before, began = usage_of_trees([busy])[busy].cpu_seconds, time.monotonic()
    wait_until(lambda: usage_of_trees([busy])[busy].cpu_seconds > before + 0.5, 60)
    found = look()
    expected = 100 * 0.5 / (time.monotonic() - began)
    percent, rss = found[busy]
    assert percent is not None
    assert 0.5 * expected < percent < 115
    assert found[idle][0] is not None
    assert found[idle][0] < 20
    assert rss > MIB


def test_cpu_of_children_that_come_and_go_stays(start: Callable[[str], int]) -> None:
    root = start(CHILDREN_BURN)
    seen = [0.0]

    def enough() -> bool:
        seen.append(usage_of_trees([root])[root].cpu_seconds)
        return seen[-1] > 1.0

    wait_until(enough, 60)
    # A child that ends just between the readings may be missed, or counted twice, in one look.
    falls = [before - after for before, after in pairwise(seen) if after < before]
    assert all(fall < 0.15 for fall in falls)
    assert len(falls) < len(seen) / 10 + 1


def test_a_leak_shows(start: Callable[[str], int]) -> None:
    root = start(LEAKER)
    wait_until(lambda: usage_of_trees([root])[root].rss > 60 * MIB, 30)
    answers = (Path(f"/proc/{root}/statm").read_text().split()[1], usage_of_trees([root])[root].rss)
    assert int(answers[0]) * os.sysconf("SC_PAGE_SIZE") <= answers[1] + 5 * MIB


def test_a_tree_and_those_it_left_behind(start: Callable[[str], int]) -> None:
    root = start(WITH_CHILD)
    wait_until(lambda: usage_of_trees([root])[root].processes == 2)
    both = start(
        "import os, signal\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        while True: signal.pause()\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "while True: signal.pause()\n"
    )
    wait_until(lambda: usage_of_trees([both])[both].processes == 2 and not children(both))
    found = usage_of_trees([root, both])
    assert [found[pid].processes for pid in (root, both)] == [2, 2]


def test_a_root_that_has_ended_is_missing(start: Callable[[str], int]) -> None:
    root, other = start(WITH_CHILD), start("import time; time.sleep(60)")
    meter = CpuMeter()
    meter.look(usage_of_trees([root, other]), 1.0)
    os.kill(root, signal.SIGKILL)
    wait_until(lambda: not alive(root))
    found = usage_of_trees([root, other])  # a zombie yet, and its child lives on
    assert list(found) == [other]
    assert list(meter.look(found, 2.0)) == [other]
    assert usage_of_trees([2**22 + 1]) == {}
    assert usage_of_trees([]) == {}


def test_processes_that_vanish_meanwhile_are_skipped() -> None:
    ending = threading.Event()

    def come_and_go() -> None:
        while not ending.is_set():
            subprocess.run(["/bin/true"], check=True)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(100):
            assert usage_of_trees([os.getpid()])[os.getpid()].processes >= 1
    finally:
        ending.set()
        thread.join()


def test_a_name_may_hold_anything() -> None:
    own = Path("/proc/self/stat").read_bytes()
    found = parse_stat(own)
    assert (found.parent, found.group, found.ended) == (os.getppid(), os.getpgrp(), False)
    tail = own[own.rindex(b")") :]
    assert parse_stat(b"1 (a) R 9 9 (b) " + tail) == found
    assert parse_stat(b"1 (" + tail.replace(b") R", b") Z").replace(b") S", b") Z")).ended


def process(parent: int, group: int = 0, cpu: float = 1.0, ended: bool = False) -> Stat:
    return Stat(parent, group, cpu, 10, ended)


def test_who_belongs_to_whom() -> None:
    stats = {
        1: process(0),
        10: process(1, 10),
        11: process(10, 10),
        12: process(11, 99),  # made a group of its own
        13: process(1, 10),  # an orphan
        14: process(13, 98),  # its child
        20: process(11, 20),  # a root inside another's tree
        21: process(20, 10),  # the parent counts before the group
        30: process(1, 30),
        40: process(41),  # a circle
        41: process(40),
    }
    assert owners(stats, [10, 20]) == {10: 10, 11: 10, 12: 10, 13: 10, 14: 10, 20: 20, 21: 20}
    assert sum_trees(stats, [10, 20, 77]) == {10: Usage(5.0, 50, 5), 20: Usage(2.0, 20, 2)}
    stats[12] = process(11, 99, ended=True)
    assert sum_trees(stats, [10, 20])[10] == Usage(5.0, 50, 4)
    del stats[10]
    assert set(sum_trees(stats, [10, 20])) == {20}


def test_a_circle_is_read_the_same_from_wherever() -> None:
    pairs = {1: process(2), 2: process(3, 9), 3: process(2), 4: process(3), 9: process(0, 9)}
    assert owners(pairs, [9]) == {1: 9, 2: 9, 9: 9}
    assert owners(dict(reversed(pairs.items())), [9]) == {1: 9, 2: 9, 9: 9}


@given(
    st.dictionaries(
        st.integers(1, 15), st.builds(process, st.integers(0, 15), st.integers(0, 15)), max_size=15
    ),
    st.sets(st.integers(1, 15), max_size=4),
)
def test_no_process_counts_twice(stats: dict[int, Stat], roots: set[int]) -> None:
    found = sum_trees(stats, roots)
    assert set(found) == roots & set(stats)
    assert sum(usage.processes for usage in found.values()) <= len(stats)
    alone = {root: sum_trees(stats, [root])[root] for root in found}
    assert all(1 <= found[root].processes <= alone[root].processes for root in found)


def percents(*looks: tuple[float, float]) -> list[float | None]:
    """Of looks at (time, CPU seconds)."""
    meter = CpuMeter()
    return [meter.look({7: Usage(cpu, 10, 1)}, now)[7][0] for now, cpu in looks]


def test_percent_of_one_core_between_two_looks() -> None:
    assert percents((0, 5), (5, 5), (10, 10), (20, 45)) == [None, 0, 100, 350]
    assert percents((0, 5), (0, 6)) == [None, None]


def test_cpu_time_that_fell_for_a_moment_is_no_burst() -> None:
    assert percents((0, 100), (5, 20), (10, 110)) == [None, None, 100]


def test_cpu_time_that_stays_away_is_counted_from_anew() -> None:
    assert percents((0, 100), (5, 20), (10, 25), (15, 30)) == [None, None, None, 100]


def test_a_root_that_was_gone_begins_anew() -> None:
    meter = CpuMeter()
    meter.look({7: Usage(5.0, 10, 1)}, 0)
    assert meter.look({}, 5) == {}
    assert meter.look({7: Usage(50.0, 10, 1)}, 10) == {7: (None, 10)}


def test_the_host(start: Callable[[str], int]) -> None:
    meter = HostMeter()
    first = meter.look()
    assert first.cpu_percent is None
    assert 0 < first.memory_available <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    burner = start(BURNER)
    wait_until(lambda: usage_of_trees([burner])[burner].cpu_seconds > 0.5, 60)
    percent = meter.look().cpu_percent
    assert percent is not None
    assert 0 < percent <= 100


def test_busy_percent_stays_in_its_bounds() -> None:
    assert busy_percent((10, 100), (15, 120)) == 25
    assert busy_percent((10, 100), (10, 100)) is None
    assert busy_percent((10, 100), (40, 120)) == 100
    assert busy_percent((10, 100), (9, 120)) == 0


def write_cgroup(folder: Path, **files: int | str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")


def test_the_tightest_cgroup_around_us_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/a.slice/b.service\n")
    mount = tmp_path / "fs"
    folders = cgroup_folders(own, mount)
    assert folders == [mount / "a.slice/b.service", mount / "a.slice", mount]
    assert memory_room(folders) is None
    write_cgroup(folders[0], max="max", current=70, stat="anon 1\ninactive_file 20")
    assert memory_room(folders) is None
    write_cgroup(folders[1], max=100, current=70, stat="anon 1\ninactive_file 20")
    assert memory_room(folders) == 50
    assert HostMeter(own, mount).look().memory_available == 50
    write_cgroup(folders[0], max=60)
    assert memory_room(folders) == 10
    write_cgroup(folders[0], max=40)
    assert memory_room(folders) == 0


def test_cgroups_of_version_1_and_of_containers(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/../x\n")
    folders = cgroup_folders(own, tmp_path)
    assert folders[:3] == [tmp_path / "memory" / one for one in ("docker/abc", "docker", "")]
    # The mount shows the container's own part at its root.
    write_cgroup(
        tmp_path / "memory",
        limit_in_bytes=1000,
        usage_in_bytes=300,
        stat="inactive_file 1\ntotal_inactive_file 200",
    )
    assert memory_room(folders) == 900
    assert cgroup_folders(tmp_path / "none", tmp_path) == []
