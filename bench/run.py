"""One workload from start to end: targets and contestants started, checked, measured in turns.

Contestants take turns within each round (A B C, A B C, ...), so that a machine that changes its pace
changes it for all of them. Knows nothing of tables.
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.figures import Result
from bench.loads import Hold, check
from bench.measure import Effort, measure
from bench.processes import BenchError, find_program, free_port, running
from bench.proxies import FASTLB, NO_PROXY, STREAM_MODULE, Place, Proxy, Setup
from bench.targets import serving
from bench.workloads import IDLE_CONNECTIONS, Workload

FILES_ASIDE = 600
"""Descriptors that a proxy needs beside those of its clients."""


@dataclass(frozen=True, slots=True)
class Cores:
    """One for the proxy, the others for client and targets; what an unpinned run may use is all."""

    proxy: int
    load: tuple[int, ...]

    @property
    def count(self) -> int:
        return 1 + len(self.load)


@dataclass(frozen=True, slots=True)
class Contestant:
    """`proxy` is None for "no proxy"."""

    name: str
    proxy: Proxy | None
    setup: Setup


Step = Callable[[int, str], None]
"""Told of each cell before it is measured: the round, from 1, and the contestant."""


def cores_of(available: Sequence[int]) -> Cores:
    """Raises BenchError where there is only one."""
    if len(available) < 2:
        raise BenchError("the bench needs two cores: one for the proxy, one for client and targets")
    first, *others = sorted(available)
    return Cores(first, tuple(others))


def connections_at_most() -> int:
    """Client connections a proxy can hold by the limit of open files, two for each; raised to what is
    allowed, for this process and all it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(IDLE_CONNECTIONS + 1000, (hard - FILES_ASIDE) // 2)


def missing(proxy: Proxy, setup: Setup) -> str:
    """Why a proxy cannot take part, or nothing."""
    if find_program(proxy.program) is None:
        return f"{proxy.name} is not installed (Debian: {proxy.package})"
    if setup.mode not in proxy.modes:
        return f"{proxy.name} forwards no {setup.mode.upper()} here"
    if proxy.name == "nginx" and setup.mode == "tcp" and not STREAM_MODULE.exists():
        return f"nginx has no {STREAM_MODULE.name} (Debian: libnginx-mod-stream)"
    return ""


def contestants(
    workload: Workload,
    proxies: Sequence[Proxy],
    no_proxy: bool,
    why_not: Callable[[Proxy, Setup], str],
) -> tuple[list[Contestant], dict[str, str]]:
    """Who takes part, in the order of their turns, and who does not with the reason."""
    chosen, skipped = [], {}
    for proxy in proxies:
        if reason := why_not(proxy, workload.setup):
            skipped[proxy.name] = reason
            continue
        chosen.append(Contestant(proxy.name, proxy, workload.setup))
        if proxy is FASTLB and workload.base is not None:
            chosen.append(Contestant(workload.base_title, proxy, workload.base))
    if no_proxy and workload.direct:
        chosen.append(Contestant(NO_PROXY, None, workload.setup))
    return chosen, skipped


@dataclass(frozen=True, slots=True)
class Started:
    """A contestant that answers: where, as which process, with how many workers."""

    name: str
    port: int
    pid: int | None
    workers: int


def run_workload(
    workload: Workload,
    proxies: Sequence[Proxy],
    cores: Cores,
    effort: Effort,
    no_proxy: bool,
    step: Step,
) -> Result:
    """A contestant that fails is out for the remaining rounds, and its failure is in the result."""
    chosen, skipped = contestants(workload, proxies, no_proxy, missing)
    result = Result(workload, skipped=skipped)
    if workload.fresh:
        for number in range(1, effort.rounds + 1):
            for one in chosen:
                _take_turns([one], range(number, number + 1), cores, effort, step, result)
    else:
        _take_turns(chosen, range(1, effort.rounds + 1), cores, effort, step, result)
    return result


def _take_turns(
    chosen: Sequence[Contestant],
    rounds: range,
    cores: Cores,
    effort: Effort,
    step: Step,
    result: Result,
) -> None:
    workload = result.workload
    most = connections_at_most()
    load = workload.load
    if isinstance(load, Hold):
        load = replace(load, connections=min(load.connections, most))
    load_cores = cores.load if workload.pinned else ()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastlb-bench-")))
        folder.chmod(0o755)  # nginx's workers may be nobody
        targets = stack.enter_context(serving(workload.setup, load_cores, folder))
        ready = []
        for one in chosen:
            if one.name in result.failures:
                continue
            try:
                found = stack.enter_context(
                    started(one, targets, folder, cores, workload.pinned, most)
                )
                check(load, found.port)
                ready.append(found)
            except BenchError as error:
                result.failures[one.name] = str(error)
        for number in rounds:
            for this in ready:
                if this.name in result.failures:
                    continue
                step(number, this.name)
                try:
                    cell = measure(
                        load, this.port, this.pid, load_cores, this.workers, effort, folder
                    )
                    result.cells.setdefault(this.name, []).append(cell)
                except BenchError as error:
                    result.failures[this.name] = f"round {number}: {error}"


@contextmanager
def started(
    one: Contestant,
    targets: Sequence[str],
    folder: Path,
    cores: Cores,
    pinned: bool,
    connections: int,
) -> Iterator[Started]:
    """A contestant, in a folder of its own below `folder`, while it lives. Raises BenchError."""
    if one.proxy is None:
        yield Started(one.name, int(targets[0].rpartition(":")[2]), None, 1)
        return
    own = folder / one.name.replace(" ", "-").replace(",", "")
    own.mkdir()
    workers = one.setup.workers or cores.count
    place = Place(
        port=free_port(),
        targets=tuple(targets[: one.setup.target_count]),
        folder=own,
        workers=workers,
        max_connections=connections,
    )
    config = own / "proxy.conf"
    config.write_text(one.proxy.config(one.setup, place))
    with running(
        one.proxy.command(str(config), place),
        (cores.proxy,) if pinned else (),
        own,
        f"127.0.0.1:{place.port}",
        one.proxy.env(place),
    ) as pid:
        yield Started(one.name, place.port, pid, workers)
