"""The control plane's end of the target table: publishes one snapshot in one swap."""

from __future__ import annotations

import mmap
import os
from zlib import crc32

from fastlb.errors import FastlbError
from fastlb.target_table.layout import (
    HEADER_BYTES,
    SLOT_BYTES,
    SLOT_HEADER_BYTES,
    TABLE_BYTES,
    Snapshot,
    SnapshotCodec,
    create_memory,
)


class TableWriter:
    """The one writer of a target table. Owns the memfd `fd`, which workers inherit."""

    def __init__(self) -> None:
        self.fd = create_memory("fastlb-table", TABLE_BYTES)
        self._memory = mmap.mmap(self.fd, TABLE_BYTES)
        self._words = memoryview(self._memory).cast("Q")
        self._codec = SnapshotCodec()

    @property
    def generation(self) -> int:
        return self._words[0]

    def publish(self, snapshot: Snapshot) -> int:
        """Make `snapshot` the current one; returns its generation.

        The slot that is not current is filled first and the generation, one aligned word, is stored
        last: whoever dies in between leaves the old snapshot current and whole.
        """
        payload = self._codec.encode(snapshot)
        if len(payload) > SLOT_BYTES - SLOT_HEADER_BYTES:
            raise FastlbError(f"the target table of {len(payload)} bytes is over {SLOT_BYTES}")
        generation = self._words[0] + 1
        start = HEADER_BYTES + (generation & 1) * SLOT_BYTES
        body = start + SLOT_HEADER_BYTES
        word = start // 8
        self._memory[body : body + len(payload)] = payload
        self._words[word] = generation
        self._words[word + 1] = len(payload)
        self._words[word + 2] = crc32(payload)
        self._words[0] = generation
        return generation

    def close(self) -> None:
        self._words.release()
        self._memory.close()
        os.close(self.fd)
