"""What the target table says (Snapshot), and where its bytes lie in the shared memory.

Knows how to encode and decode one snapshot; who writes and who reads is in `writer` and `reader`.

    offset 0   generation, u64: even or odd says which of two slots is current; 0 is "none yet"
    offset 64  slot 0: generation u64, length u64, crc32 u64, payload (msgpack)
    then       slot 1, the same
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field

import msgpack

from fastlb.model.configuration import Configuration
from fastlb.model.plain import from_plain, to_plain
from fastlb.model.target_group import TargetState

HEADER_BYTES = 64
SLOT_BYTES = 8 * 1024 * 1024
"""Room for some 50,000 targets; the memory is sparse, so that unused room costs nothing."""
SLOT_HEADER_BYTES = 24
TABLE_BYTES = HEADER_BYTES + 2 * SLOT_BYTES


@dataclass(frozen=True, slots=True)
class TargetEntry:
    """One registered target, as the workers see it.

    `index` is its column in the counters. `suspect` targets are asked only when nobody else can be.
    `epoch` grows with each passed check after an ejection: a worker's own doubt about a target ends
    where the epoch is newer than the one it doubted.
    """

    index: int
    group: str
    address: str
    weight: int
    backup: bool
    state: TargetState
    suspect: bool = False
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a worker acts on. `slots[i]` is the index of the worker that accepts from slot i.

    The groups' own `targets` inside `config` are where the registry began; membership is `targets`.
    `config_id` changes with `config` alone, so that readers decode it only then. `bindings` are the
    numbers of the sets of sockets of `config.listeners`, in their order: a listener that was removed
    and came again has another set. `rows` of the counters are in use by workers, those that still
    drain included.
    """

    config: Configuration
    config_id: int
    targets: tuple[TargetEntry, ...]
    slots: tuple[int, ...]
    bindings: tuple[int, ...] = ()
    rows: int = 0
    listener_columns: tuple[tuple[str, int], ...] = ()
    """Where each listener, by `listener_key`, is counted. It keeps its column over a reload."""

    @property
    def all_rows(self) -> range:
        """The rows of the counters that a worker must look at."""
        return range(max((self.rows - 1, self.config.workers, *self.slots)) + 1)


@dataclass(slots=True)
class SnapshotCodec:
    """Encodes and decodes snapshots, doing the part that rarely changes, the configuration, once."""

    _id: int = -1
    _config: Configuration | None = None
    _packed: bytes = field(default=b"")

    def encode(self, snapshot: Snapshot) -> bytes:
        if snapshot.config_id != self._id:
            self._packed = msgpack.packb(to_plain(snapshot.config))
            self._id = snapshot.config_id
        rows = [
            (t.index, t.group, t.address, t.weight, t.backup, t.state, t.suspect, t.epoch)
            for t in snapshot.targets
        ]
        more = (snapshot.slots, snapshot.bindings, snapshot.rows, snapshot.listener_columns)
        return msgpack.packb((snapshot.config_id, self._packed, rows, *more))

    def decode(self, payload: bytes) -> Snapshot:
        config_id, packed, rows, slots, bindings, counted, columns = msgpack.unpackb(payload)
        if self._config is None or config_id != self._id:
            self._config = from_plain(Configuration, msgpack.unpackb(packed))
            self._id = config_id
        targets = tuple(TargetEntry(*row) for row in rows)
        listeners = tuple((key, column) for key, column in columns)
        return Snapshot(
            self._config, config_id, targets, tuple(slots), tuple(bindings), counted, listeners
        )


def create_memory(name: str, size: int) -> int:
    """A memfd of `size` bytes that only its owner can open and nobody can resize; returns the fd."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, size)
    # A shrunken file would end every reader with SIGBUS.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd
