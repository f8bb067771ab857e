"""What is done when a worker is born, is ready, says something, or dies.

Each event goes on to whoever it concerns; nothing is decided here.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from fastlb.control_plane.foundation import Foundation
from fastlb.control_plane.run_dir import RunDir
from fastlb.control_plane.slot_keeping import SlotKeeper
from fastlb.control_plane.worker_pool import Worker
from fastlb.target_table.pipe import (
    Evidence,
    InheritedFd,
    Message,
    Missing,
    Relieve,
    Wanted,
    WorkerStart,
)


def worker_start(
    base: Foundation, run_dir: RunDir, log_format: str, index: int, pipe: socket.socket
) -> WorkerStart:
    """What a worker is born with."""
    return WorkerStart(
        index=index,
        listen=base.sockets.sockets,
        table=InheritedFd(base.writer.fd),
        counters=InheritedFd(base.counters.fd),
        pipe=pipe,
        run_dir=str(run_dir.path),
        bindings=base.sockets.bindings,
        log=str(run_dir.log),
        log_format=log_format,
    )


@dataclass(slots=True)
class WorkerEvents:
    """`wanted` hears of the target groups for which requests are held, `lacks` of who has not got the
    sockets of which listener, and `end_orphans` that one more may be able to serve in their place."""

    base: Foundation
    run_dir: RunDir
    slots: SlotKeeper
    wanted: Callable[[str], None]
    lacks: Callable[[Worker, str], None]
    end_orphans: Callable[[], None]

    def ready(self, worker: Worker) -> None:
        self.slots.assign()
        self.end_orphans()

    def said(self, worker: Worker, message: Message) -> None:
        if isinstance(message, Evidence):
            self.base.monitor.on_evidence(message)
        elif isinstance(message, Relieve):
            self.slots.relieve(worker, message.slot)
        elif isinstance(message, Wanted):
            self.wanted(message.group)
        elif isinstance(message, Missing):
            self.lacks(worker, message.key)

    def died(self, worker: Worker, pid: int) -> None:
        base = self.base
        self.slots.died(worker)
        targets = (*base.registry.entries(), *base.registry.leaving())
        listeners = [column for _, column in base.columns.items()]
        base.totals.absorb(worker.index, targets, base.registry.columns, listeners)
        if worker.retired:
            base.publication.changed()  # the others need not look at its row any more
        self.run_dir.remove_worker_socket(pid)
        self.slots.assign()
