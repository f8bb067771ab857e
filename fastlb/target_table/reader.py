"""The workers' end of the target table: notices a new generation in one read, decodes it whole."""

from __future__ import annotations

import mmap
from zlib import crc32

from fastlb.errors import FastlbError
from fastlb.target_table.layout import (
    HEADER_BYTES,
    SLOT_BYTES,
    SLOT_HEADER_BYTES,
    TABLE_BYTES,
    Snapshot,
    SnapshotCodec,
)


class TornTable(FastlbError):
    """The writer lapped the reader each time; the snapshot at hand stays in force."""


class TableReader:
    """Reads a target table from the memfd `fd`. `words[0]` is the current generation."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, TABLE_BYTES, prot=mmap.PROT_READ)
        self.words = memoryview(self._memory).cast("Q")
        self._codec = SnapshotCodec()

    def read(self, attempts: int = 100) -> tuple[int, Snapshot] | None:
        """The current generation and snapshot; None before the first was published.

        A slot is overwritten only two generations later, so that a retry means the writer was very
        quick; the CRC is what makes a torn read impossible to act on. Raises TornTable.
        """
        for _ in range(attempts):
            generation = self.words[0]
            if generation == 0:
                return None
            start = HEADER_BYTES + (generation & 1) * SLOT_BYTES
            word = start // 8
            length = self.words[word + 1]
            body = start + SLOT_HEADER_BYTES
            if self.words[word] != generation or length > SLOT_BYTES - SLOT_HEADER_BYTES:
                continue
            payload = bytes(self._memory[body : body + length])
            if crc32(payload) == self.words[word + 2]:
                return generation, self._codec.decode(payload)
        raise TornTable(f"the target table changed {attempts} times while it was read")

    def close(self) -> None:
        self.words.release()
        self._memory.close()
