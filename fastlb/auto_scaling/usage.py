"""What process trees use up, and what is left of the host. The only place of auto scaling with psutil.

Processes are read from /proc/<pid>/stat by hand: one file holds parent, group, CPU time and memory,
and with 380 processes a look costs 5 ms, where psutil takes 22 ms for the same.
Knows no Instance: a tree is named by the pid of its root.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process tree. CPU time is in seconds, that of waited-for children included, so that it
    only grows while these come and go. `rss` is in bytes; pages that processes share count for each.
    """

    cpu_seconds: float
    rss: int
    processes: int


@dataclass(frozen=True, slots=True)
class Host:
    """`cpu_percent` is of all cores, None at the first look. `memory_available` is in bytes."""

    cpu_percent: float | None
    memory_available: int


class Stat(NamedTuple):
    """One process: what of /proc/<pid>/stat is needed here."""

    parent: int
    group: int
    cpu_seconds: float
    rss: int
    ended: bool
    """A zombie; its CPU time counts until its parent has waited for it."""


def usage_of_trees(roots: Collection[int]) -> dict[int, Usage]:
    """The usage of the tree below each of these pids, in one pass over the host's processes.

    A root that has ended is missing in the answer.
    """
    return sum_trees(dict(_processes()), roots) if roots else {}


def sum_trees(stats: Mapping[int, Stat], roots: Collection[int]) -> dict[int, Usage]:
    """As `usage_of_trees`, of the processes given by pid."""
    totals: dict[int, list[float]] = {
        root: [0.0, 0, 0] for root in roots if root in stats and not stats[root].ended
    }
    for pid, root in owners(stats, roots).items():
        total = totals.get(root)
        if total is not None:
            one = stats[pid]
            total[0] += one.cpu_seconds
            total[1] += one.rss
            total[2] += not one.ended
    return {
        root: Usage(cpu, int(rss), int(processes)) for root, (cpu, rss, processes) in totals.items()
    }


def owners(stats: Mapping[int, Stat], roots: Collection[int]) -> dict[int, int]:
    """By pid the root to whose tree it belongs; others are missing.

    A descendant belongs to the nearest root above it. One whose parent has died has another parent
    now: it, and who descends from it, belongs to the root whose process group it is still in.
    """
    found: dict[int, int | None] = {root: root for root in roots}
    for pid in stats:
        way: list[int] = []
        at = pid
        while at not in found and at in stats:
            found[at] = None
            way.append(at)
            at = stats[at].parent
        if at in way:
            # A circle: the processes were not all read in the same moment. Nobody is above its members.
            circle = way[way.index(at) :]
            for one in circle:
                found[one] = stats[one].group if stats[one].group in roots else None
            way = way[: -len(circle)]
        owner = found.get(at)
        for one in reversed(way):
            if owner is None and stats[one].group in roots:
                owner = stats[one].group
            found[one] = owner
    return {pid: root for pid, root in found.items() if root is not None and pid in stats}


def parse_stat(text: bytes) -> Stat:
    """The content of /proc/<pid>/stat. The name in it may hold blanks and parentheses."""
    values = text[text.rindex(b")") + 2 :].split(None, 22)
    return Stat(
        parent=int(values[1]),
        group=int(values[2]),
        # utime, stime, cutime, cstime
        cpu_seconds=sum(map(int, values[11:15])) * _TICK,
        rss=int(values[21]) * _PAGE,
        ended=values[0] in (b"Z", b"X"),
    )


def _processes() -> Iterator[tuple[int, Stat]]:
    """Every process that can be read; one that vanishes meanwhile is left out."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            # A third cheaper than a file object.
            fd = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
            try:
                text = os.read(fd, 4096)
            finally:
                os.close(fd)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone, or hidden by hidepid: then it is none of ours
        yield int(name), parse_stat(text)


@dataclass(frozen=True, slots=True)
class _Mark:
    cpu_seconds: float
    at: float
    fell: bool = False


WHOLE_CORES = 1.0
"""Percent. CPU time is counted in ticks of 10 ms: an app that fills one core would else be read as
100.2 %, and a target of 50 would need three instances of it, not two."""


@dataclass(slots=True)
class CpuMeter:
    """CPU of each tree between two looks."""

    _marks: dict[int, _Mark] = field(default_factory=dict)

    def look(self, usages: Mapping[int, Usage], now: float) -> dict[int, tuple[float | None, int]]:
        """By root the percent of one core since the last look, and the resident bytes.

        `usages` is the answer of `usage_of_trees`, `now` is in seconds on a clock that never goes
        back. The percent is None at the first look at a root and where its CPU time fell. Roots that
        are missing are forgotten.
        """
        before, self._marks = self._marks, {}
        answer: dict[int, tuple[float | None, int]] = {}
        for root, usage in usages.items():
            percent, self._marks[root] = _since(before.get(root), usage.cpu_seconds, now)
            answer[root] = percent, usage.rss
        return answer


def _since(mark: _Mark | None, cpu_seconds: float, now: float) -> tuple[float | None, _Mark]:
    """The percent of one core since `mark`, and what to compare the next look with."""
    if mark is None:
        return None, _Mark(cpu_seconds, now)
    if cpu_seconds < mark.cpu_seconds:
        # Mostly a child that ended between the readings of its own file and its parent's: the time
        # is back at the next look, and would be taken for a burst if that were compared with this
        # one. Where it does not come back, a process has left the tree with its time.
        return None, _Mark(cpu_seconds, now) if mark.fell else replace(mark, fell=True)
    if now <= mark.at:
        return None, mark
    percent = 100 * (cpu_seconds - mark.cpu_seconds) / (now - mark.at)
    cores = round(percent / 100)
    if cores and abs(percent - 100 * cores) < WHOLE_CORES:
        percent = 100.0 * cores
    return percent, _Mark(cpu_seconds, now)


class HostMeter:
    """CPU of the host between two looks, and the memory that is left to us."""

    def __init__(
        self,
        own_cgroups: Path = Path("/proc/self/cgroup"),
        cgroup_mount: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        self._own_cgroups = own_cgroups
        self._cgroup_mount = cgroup_mount
        self._times: tuple[float, float] | None = None

    def look(self) -> Host:
        before, self._times = self._times, _host_times()
        available = psutil.virtual_memory().available
        room = memory_room(cgroup_folders(self._own_cgroups, self._cgroup_mount))
        return Host(
            None if before is None else busy_percent(before, self._times),
            available if room is None else min(available, room),
        )


def _host_times() -> tuple[float, float]:
    """Seconds that all cores together were busy, and in all."""
    times = psutil.cpu_times()._asdict()
    # The kernel counts a guest's time in user's and nice's too.
    total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    return total - times["idle"] - times.get("iowait", 0.0), total


def busy_percent(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    """Percent between two (busy, all) times; None where none has passed."""
    busy, total = after[0] - before[0], after[1] - before[1]
    # iowait may run backwards, which makes busy larger than it was.
    return max(0.0, min(100.0, 100 * busy / total)) if total > 0 else None


def cgroup_folders(own_cgroups: Path, mount: Path) -> list[Path]:
    """Where the memory limits of our cgroup and of those around it stand, if they do; both versions."""
    try:
        lines = own_cgroups.read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = mount / controllers
        inner = PurePosixPath(path).relative_to("/")
        # In a container the mount may show only our own part, and not at this path.
        folders += [root / one for one in (inner, *inner.parents) if ".." not in one.parts]
    return list(dict.fromkeys(folders))


def memory_room(folders: Collection[Path]) -> int | None:
    """The least that a limit in these cgroups leaves, in bytes; None without a limit.

    What is used does not count cached files that the kernel would drop first.
    """
    rooms = [room for folder in folders if (room := _room_in(folder)) is not None]
    return min(rooms, default=None)


def _room_in(folder: Path) -> int | None:
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limited = (folder / limit).read_text().strip()
            if limited == "max":
                return None
            now_used = int((folder / used).read_text())
            details = dict(
                line.split() for line in (folder / "memory.stat").read_text().splitlines()
            )
        except OSError:
            continue  # no such cgroup, or the other version
        return max(int(limited) - now_used + int(details.get(cached, 0)), 0)
    return None
