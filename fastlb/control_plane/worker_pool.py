"""The worker processes: each replaced when it dies, the crash-looping ever later.

Knows how a worker is born, talks and ends, and nothing of what it serves: which slots it gets and
what its counters are worth is for the hooks.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import multiprocessing.connection  # else imported at the first death, when files may be short
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess, _children  # type: ignore[attr-defined]
from typing import Literal

from fastlb.control_plane.restart_delay import RestartDelay
from fastlb.control_plane.stop_signals import FOR_THE_SUPERVISOR
from fastlb.target_table import pipe
from fastlb.target_table.counters import ROWS
from fastlb.target_table.pipe import Drain, Message, Ready, Retire, WorkerStart

log = logging.getLogger("fastlb.workers")

WorkerMain = Callable[[WorkerStart], None]
State = Literal["starting", "running", "draining", "ended", "dead"]
"""`ended` as it was asked to; `dead` otherwise, and before the first start."""

READY_WITHIN = 10.0
RETIRE_GRACE = 1.0
"""Over its time, before a retired worker that is still there is killed."""
REAP_WITHIN = 5.0
"""A process that has closed its descriptors is a zombie within microseconds."""


@dataclass(slots=True, eq=False)
class Worker:
    """One worker index over all its lives. `pid` is 0 while no process lives."""

    index: int
    state: State = "dead"
    pid: int = 0
    restarts: int = 0
    started: float = 0.0
    ready_at: float = 0.0
    """When it said that it accepts, in seconds of the monotonic clock."""
    process: BaseProcess | None = None
    pipe: socket.socket | None = None
    delay: RestartDelay = field(default_factory=RestartDelay)
    timer: asyncio.TimerHandle | None = None
    """The next start, while dead; the look whether it is ready, while starting; the end, while it
    drains since it is retired."""
    killed: bool = False
    """By us: its end is no news."""
    retired: bool = False
    """Fewer are wanted: it is not replaced, and forgotten once it has ended."""


@dataclass(frozen=True, slots=True)
class PoolHooks:
    """What the pool reports. `died` comes after the process is reaped, before it is replaced."""

    ready: Callable[[Worker], None]
    died: Callable[[Worker, int], None]
    """With the pid that it had."""
    message: Callable[[Worker, Message], None]


class WorkerPool:
    """`count` workers, replaced as they die until `drain` or `kill`.

    `workers` are in the order of their indexes, those that are retired and not yet gone included.
    `birth` makes what a worker is born with, from its index and its end of the pipe.
    """

    def __init__(
        self,
        count: int,
        worker_main: WorkerMain,
        birth: Callable[[int, socket.socket], WorkerStart],
        hooks: PoolHooks,
    ) -> None:
        self.workers: tuple[Worker, ...] = tuple(Worker(index) for index in range(count))
        self._main = worker_main
        self._birth = birth
        self._hooks = hooks
        self._context = multiprocessing.get_context("spawn")
        self._stopping = False
        self._gone = asyncio.Event()

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers)

    @property
    def running(self) -> list[Worker]:
        """Those that accept."""
        return [worker for worker in self.workers if worker.state == "running"]

    @property
    def active(self) -> list[Worker]:
        """Those that there should be, dead or alive."""
        return [worker for worker in self.workers if not worker.retired]

    @property
    def all_ready(self) -> bool:
        return all(worker.state == "running" for worker in self.active)

    @property
    def rows(self) -> int:
        """The rows of the counters that are in use: the highest index and one."""
        return max(worker.index for worker in self.workers) + 1

    def by_index(self, index: int) -> Worker | None:
        return next((worker for worker in self.workers if worker.index == index), None)

    def start(self) -> None:
        # Before SIGINT is blocked for the spawn: starting the tracker unblocks it. It ignores
        # SIGINT itself; the others of the group's signals would end it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_SUPERVISOR)
        try:
            resource_tracker.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for worker in self.workers:
            self._spawn(worker)

    def broadcast(self, message: Message, fds: Sequence[int] = ()) -> None:
        for worker in self.workers:
            self.tell(worker, message, fds)

    def tell(self, worker: Worker, message: Message, fds: Sequence[int] = ()) -> None:
        if worker.pipe is not None:
            pipe.send(worker.pipe, message, fds)

    def room_for(self, count: int) -> bool:
        """Whether each of `count` workers can have a row, beside those of retired ones that drain."""
        return count + sum(worker.retired for worker in self.workers) <= ROWS

    def grow(self, count: int) -> None:
        """Start what is missing to `count`, each with the least index that nobody has."""
        for _ in range(count - len(self.active)):
            taken = {worker.index for worker in self.workers}
            worker = Worker(min(set(range(ROWS)) - taken))
            self.workers = tuple(sorted((*self.workers, worker), key=lambda one: one.index))
            self._spawn(worker)

    def surplus(self, count: int) -> list[Worker]:
        """Those over `count`, marked as retired: they serve until `retire`."""
        over = self.active[count:]
        for worker in over:
            worker.retired = True
            if worker.pipe is not None:
                self._read(worker)  # a Ready that waits there decides what follows
            if worker.state == "running":
                worker.state = "draining"
        return over

    def retire(self, worker: Worker, seconds: float) -> None:
        """One of the surplus ends: others have its slots by now, and it finishes what it has."""
        _cancel(worker)
        if worker.process is None:
            self._forget(worker)
        elif worker.state == "draining":
            log.info("worker %d (pid %d) is retired and drains", worker.index, worker.pid)
            self.tell(worker, Retire(seconds))
            loop = asyncio.get_running_loop()
            worker.timer = loop.call_later(seconds + RETIRE_GRACE, self._outstays, worker)
        else:
            worker.killed = True
            worker.process.kill()  # it accepted nothing yet

    def _outstays(self, worker: Worker) -> None:
        worker.timer = None
        if worker.process is not None:
            log.error(
                "retired worker %d (pid %d) outstays its drain: killed", worker.index, worker.pid
            )
            worker.killed = True
            worker.process.kill()

    def _forget(self, worker: Worker) -> None:
        self.workers = tuple(one for one in self.workers if one is not worker)

    async def drain(self, seconds: float, deadline: float) -> bool:
        """Replace nobody any more, have all end; whether all had before the loop's `deadline`."""
        self._stopping = True
        for worker in self.workers:
            if worker.pipe is not None:
                self._read(worker)  # a Ready that waits there decides what follows
            if worker.state == "starting" and worker.process is not None:
                worker.killed = True
                worker.process.kill()  # it accepted nothing yet
            elif worker.pipe is not None:
                worker.state = "draining"
                pipe.send(worker.pipe, Drain(seconds))
        return await self.wait_gone(deadline)

    async def wait_gone(self, deadline: float) -> bool:
        """Whether no worker process is left before the loop's `deadline`."""
        self._note_gone()
        try:
            async with asyncio.timeout_at(deadline):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True

    def kill(self) -> list[int]:
        """SIGKILL to all that are left; their pids."""
        self._stopping = True
        self._note_gone()
        left = [worker for worker in self.workers if worker.process is not None]
        for worker in left:
            if worker.process is not None:
                worker.killed = True
                worker.process.kill()
        return [worker.pid for worker in left]

    def close(self) -> None:
        """The end where nobody waits: kill what is left and reap it. No hook is called any more."""
        self.kill()
        loop = asyncio.get_running_loop()
        for worker in self.workers:
            _cancel(worker)
            if worker.process is not None:
                loop.remove_reader(worker.process.sentinel)
                worker.process.join(REAP_WITHIN)
            if worker.pipe is not None:
                loop.remove_reader(worker.pipe.fileno())
                worker.pipe.close()

    def abandon(self) -> None:
        """Let all workers go on without us: the closed pipes tell them that they have no supervisor. No
        hook is called any more."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        for worker in self.workers:
            _cancel(worker)
            if worker.process is not None:
                loop.remove_reader(worker.process.sentinel)
                # Or the end of this process would wait for theirs: multiprocessing joins them.
                _children.discard(worker.process)
            if worker.pipe is not None:
                loop.remove_reader(worker.pipe.fileno())
                worker.pipe.close()
                worker.pipe = None

    def _spawn(self, worker: Worker) -> None:
        worker.timer = None
        if self._stopping:
            return
        loop = asyncio.get_running_loop()
        worker.started = time.monotonic()
        try:
            process, ours = self._begin(worker.index)
        except OSError as error:  # out of descriptors, processes or memory: that may pass
            log.error("worker %d cannot be started: %s", worker.index, error)
            self._later(worker)
            return
        worker.process, worker.pipe, worker.pid = process, ours, process.pid or 0
        worker.state, worker.killed = "starting", False
        worker.timer = loop.call_later(READY_WITHIN, self._late, worker)
        loop.add_reader(process.sentinel, self._ended, worker)
        loop.add_reader(ours.fileno(), self._read, worker)

    def _begin(self, index: int) -> tuple[BaseProcess, socket.socket]:
        """A started process and our end of its pipe. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # What a terminal sends to the whole group is the supervisor's to handle: the child is born
        # with it blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_SUPERVISOR)
        try:
            process = self._context.Process(
                target=self._main,
                args=(self._birth(index, theirs),),
                name=f"fastlb-worker-{index}",
            )
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        return process, ours

    def _late(self, worker: Worker) -> None:
        worker.timer = None
        log.error(
            "worker %d (pid %d) is not ready after %g s", worker.index, worker.pid, READY_WITHIN
        )

    def _read(self, worker: Worker) -> None:
        """Take in all messages that wait; at the end of the pipe the worker's death follows."""
        while worker.pipe is not None:
            try:
                message = pipe.receive(worker.pipe)
            except BlockingIOError:
                return
            if message is None:
                asyncio.get_running_loop().remove_reader(worker.pipe.fileno())
                return
            if isinstance(message, Ready):
                self._ready(worker)
            else:
                self._hooks.message(worker, message)

    def _ready(self, worker: Worker) -> None:
        if worker.state != "starting":
            return
        _cancel(worker)
        worker.state = "running"
        worker.ready_at = time.monotonic()
        took = worker.ready_at - worker.started
        log.info("worker %d (pid %d) is ready after %.2f s", worker.index, worker.pid, took)
        self._hooks.ready(worker)

    def _ended(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        process = worker.process
        if process is None or worker.pipe is None:
            return
        pid, draining = worker.pid, worker.state == "draining"
        code: int | None = None
        loop.remove_reader(process.sentinel)
        try:
            self._read(worker)
            loop.remove_reader(worker.pipe.fileno())
            code = self._reap(worker, process)
        finally:
            # Whatever went wrong: the worker is gone, and one that is not replaced is missed.
            worker.pipe.close()
            _cancel(worker)
            expected = worker.killed or (draining and code == 0)
            worker.process, worker.pipe, worker.pid = None, None, 0
            worker.state = "ended" if expected else "dead"
            level = logging.INFO if expected else logging.ERROR
            log.log(level, "worker %d (pid %d) %s", worker.index, pid, _ending(code))
            try:
                self._hooks.died(worker, pid)
            finally:
                if worker.retired:
                    self._forget(worker)
                if self._stopping:
                    self._note_gone()
                elif not worker.retired:
                    self._later(worker)

    def _reap(self, worker: Worker, process: BaseProcess) -> int | None:
        process.join(REAP_WITHIN)
        code = process.exitcode
        if code is None:
            pid = worker.pid
            log.error("worker %d (pid %d) closed all it had and did not end", worker.index, pid)
            process.kill()
            process.join()
        process.close()
        return code

    def _later(self, worker: Worker) -> None:
        """Replace a dead worker, the later the more often it died."""
        now = time.monotonic()
        worker.restarts += 1
        delay = worker.delay.died(now, now - worker.started)
        if delay:
            log.error(
                "worker %d died %d times in %.1f s, next try in %.1f s",
                worker.index,
                worker.delay.deaths,
                worker.delay.span(now),
                delay,
            )
        worker.timer = asyncio.get_running_loop().call_later(delay, self._spawn, worker)

    def _note_gone(self) -> None:
        for worker in self.workers:
            if worker.process is None:
                _cancel(worker)
        if self._stopping and all(worker.process is None for worker in self.workers):
            self._gone.set()


def _cancel(worker: Worker) -> None:
    if worker.timer is not None:
        worker.timer.cancel()
        worker.timer = None


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
