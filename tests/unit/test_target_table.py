"""The bridge: a snapshot comes back as it went in, and nobody ever acts on half of one."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb.model.address import Address
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.listener import (
    Action,
    FixedResponse,
    Forward,
    Header,
    Listener,
    QueryPair,
    Redirect,
    Rule,
    WeightedGroup,
)
from fastlb.model.target_group import ALGORITHMS, Target, TargetGroup
from fastlb.target_table.counters import (
    BUCKETS,
    HISTOGRAM,
    QUICK_BUCKETS,
    Cell,
    Counters,
    Worker,
    block,
    bucket_bounds,
    bucket_of,
    percentile,
)
from fastlb.target_table.handover import last_snapshot
from fastlb.target_table.layout import (
    HEADER_BYTES,
    SLOT_BYTES,
    SLOT_HEADER_BYTES,
    Snapshot,
    SnapshotCodec,
    TargetEntry,
)
from fastlb.target_table.reader import TableReader
from fastlb.target_table.writer import TableWriter

texts = st.text(max_size=12)
counts = st.integers(0, 2**40)
seconds = st.floats(0, 1e6, allow_nan=False)
addresses = st.one_of(
    st.builds(Address, host=texts, port=st.integers(0, 65535)),
    st.builds(Address, path=st.text(min_size=1, max_size=12)),
)
actions: st.SearchStrategy[Action] = st.one_of(
    st.builds(Forward, st.lists(st.builds(WeightedGroup, texts, counts)).map(tuple)),
    st.builds(Redirect, status=st.just(301), host=texts),
    st.builds(FixedResponse, status=st.just(404), body=texts),
)
some_texts = st.lists(texts, max_size=3).map(tuple)
rules = st.builds(
    Rule,
    priority=counts,
    action=actions,
    host=some_texts,
    path=some_texts,
    method=some_texts,
    header=st.lists(st.builds(Header, texts, some_texts), max_size=2).map(tuple),
    query=st.lists(st.builds(QueryPair, st.none() | texts, texts), max_size=2).map(tuple),
    source_ip=some_texts,
)
listeners = st.builds(
    Listener,
    protocol=st.sampled_from(["http", "tcp"]),
    address=addresses,
    default=actions,
    rules=st.lists(rules, max_size=2).map(tuple),
    idle_timeout=seconds,
    max_body_bytes=st.none() | counts,
)
checks = st.builds(
    HealthCheck,
    enabled=st.booleans(),
    path=st.none() | texts,
    interval=seconds,
    matcher=st.lists(st.tuples(counts, counts), max_size=2).map(tuple),
    port=st.none() | counts,
)
groups = st.builds(
    TargetGroup,
    name=texts,
    targets=st.lists(st.builds(Target, addresses, counts, st.booleans()), max_size=3).map(tuple),
    health_check=checks,
    algorithm=st.sampled_from(ALGORITHMS),
)
configurations = st.builds(
    Configuration,
    listeners=st.lists(listeners, max_size=2).map(tuple),
    target_groups=st.lists(groups, max_size=2).map(tuple),
    name=texts,
)
entries = st.builds(
    TargetEntry,
    index=counts,
    group=texts,
    address=texts,
    weight=counts,
    backup=st.booleans(),
    state=st.sampled_from(["initial", "healthy", "unhealthy", "draining", "unused"]),
    suspect=st.booleans(),
    epoch=counts,
)
snapshots = st.builds(
    Snapshot,
    config=configurations,
    config_id=counts,
    targets=st.lists(entries, max_size=4).map(tuple),
    slots=st.lists(counts, max_size=4).map(tuple),
)


@given(snapshots)
def test_a_snapshot_comes_back_as_it_went_in(snapshot: Snapshot) -> None:
    assert SnapshotCodec().decode(SnapshotCodec().encode(snapshot)) == snapshot


@settings(max_examples=40)  # of one to three snapshots each
@given(st.lists(snapshots, min_size=1, max_size=3))
def test_the_codecs_memory_of_the_configuration_follows_its_id(found: list[Snapshot]) -> None:
    writer, reader = SnapshotCodec(), SnapshotCodec()
    for number, snapshot in enumerate(found):
        one = replace(snapshot, config_id=number)
        assert reader.decode(writer.encode(one)) == one
        again = replace(one, slots=(7,))
        assert reader.decode(writer.encode(again)) == again


@pytest.fixture
def writer() -> Iterator[TableWriter]:
    made = TableWriter()
    yield made
    made.close()


@pytest.fixture
def reader(writer: TableWriter) -> Iterator[TableReader]:
    made = TableReader(writer.fd)
    yield made
    made.close()


def numbered(number: int, targets: int = 300) -> Snapshot:
    """A snapshot that says the same number everywhere."""
    entry = TargetEntry(
        number, f"group-{number}", "127.0.0.1:1", 1, False, "healthy", False, number
    )
    return Snapshot(Configuration(name=str(number)), number, (entry,) * targets, (number,) * 4)


def the_number(snapshot: Snapshot) -> int:
    """The number that the snapshot says; AssertionError where it is a mix."""
    (number,) = set(snapshot.slots)
    assert snapshot == numbered(number, len(snapshot.targets))
    return number


def test_nothing_is_read_before_the_first_publication(
    writer: TableWriter, reader: TableReader
) -> None:
    assert reader.read() is None
    assert last_snapshot(writer.fd) is None
    assert writer.publish(numbered(1)) == 1
    found = reader.read()
    assert found is not None
    assert found[0] == reader.words[0] == writer.generation == 1
    assert the_number(found[1]) == 1


def test_what_a_successor_reads_is_what_was_published_last(writer: TableWriter) -> None:
    for number in (1, 2, 3):
        writer.publish(numbered(number))
        found = last_snapshot(writer.fd)
        assert found is not None
        assert the_number(found) == number


def test_a_successor_refuses_bytes_that_mean_nothing(writer: TableWriter) -> None:
    writer.publish(numbered(1))
    writer._memory[HERE : HERE + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="checksum"):
        last_snapshot(writer.fd)
    with open(os.devnull, "rb") as empty, pytest.raises(ValueError, match="size"):
        last_snapshot(empty.fileno())


HERE = HEADER_BYTES + SLOT_BYTES + SLOT_HEADER_BYTES + 10
"""Ten bytes into the payload of the slot of odd generations."""


def _hammer(writer: TableWriter, first: int) -> int:
    """Fork a process that publishes without a pause; its pid."""
    pid = os.fork()
    if pid:
        return pid
    number = first
    while True:
        number += 1
        writer.publish(numbered(number, targets=100 + number % 3 * 100))


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[0] == pid


def test_readers_never_see_a_mix_while_a_writer_hammers(
    writer: TableWriter, reader: TableReader
) -> None:
    pid = _hammer(writer, 0)
    other = os.fork()
    if other == 0:  # a second reader, in a process of its own
        status = 1
        try:
            status = 0 if _read_for(TableReader(writer.fd), 1.0) > 10 else 2
        finally:
            os._exit(status)
    try:
        assert _read_for(reader, 1.0) > 10
    finally:
        _end(pid)
        _, status = os.waitpid(other, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _read_for(reader: TableReader, seconds: float) -> int:
    """Read without a pause; how many different snapshots were seen."""
    seen = set()
    until = time.monotonic() + seconds
    last = 0
    while time.monotonic() < until:
        found = reader.read(attempts=100_000)
        if found is not None:
            assert found[0] >= last
            last = found[0]
            seen.add(the_number(found[1]))
    return len(seen)


class Ready(SnapshotCodec):
    """Encodes beforehand, so that nearly all of a publication's time is the write."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads = [SnapshotCodec().encode(numbered(n, targets=3000 + n)) for n in range(3)]

    def encode(self, snapshot: Snapshot) -> bytes:
        return self.payloads[snapshot.config_id]


def test_a_writer_killed_in_the_midst_of_a_write_leaves_a_whole_snapshot(
    writer: TableWriter, reader: TableReader
) -> None:
    chance = random.Random(4)
    writer._codec = Ready()
    names = [Snapshot(Configuration(), number, (), ()) for number in range(3)]
    half_written = 0
    for _ in range(50):
        before = writer.generation
        pid = os.fork()
        while pid == 0:
            writer.publish(names[(writer.generation + 1) % 3])
        until = time.monotonic() + 5
        while writer.generation < before + 2:
            assert time.monotonic() < until
        spin = time.perf_counter() + chance.random() * 0.001
        while time.perf_counter() < spin:
            pass
        _end(pid)
        found = reader.read(attempts=1)  # nobody writes: the first look must do
        assert found is not None
        assert the_number(found[1]) == found[0] % 3
        left = last_snapshot(writer.fd)
        assert left is not None
        assert the_number(left) == found[0] % 3
        half_written += _other_slot_is_torn(writer)
    assert half_written > 5


def _other_slot_is_torn(writer: TableWriter) -> bool:
    at = HEADER_BYTES + (writer.generation + 1 & 1) * SLOT_BYTES
    _, length, checksum = struct.unpack_from("=QQQ", writer._memory, at)
    body = at + SLOT_HEADER_BYTES
    return crc32(writer._memory[body : body + length]) != checksum


def test_the_memory_is_nobody_elses_and_cannot_be_resized(writer: TableWriter) -> None:
    before = set(os.listdir("/dev/shm"))
    counters = Counters()
    for fd in (writer.fd, counters.fd):
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
        assert not os.get_inheritable(fd)
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        assert sealed & fcntl.F_SEAL_SHRINK
        assert sealed & fcntl.F_SEAL_GROW
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 1)
        assert "memfd:" in os.readlink(f"/proc/self/fd/{fd}")
    counters.close()
    assert set(os.listdir("/dev/shm")) <= before
    assert not list(Path("/dev/shm").glob("*fastlb*"))


@given(st.integers(0, 250_000_000))
def test_a_latency_lies_within_its_bucket(microseconds: int) -> None:
    low, high = bucket_bounds(bucket_of(microseconds))
    assert low <= microseconds < high


@given(st.lists(st.integers(0, 2**27), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_within_a_quarter_of_the_true_one(found: list[int], share: float) -> None:
    histogram = [0] * BUCKETS
    for one in found:
        histogram[bucket_of(one)] += 1
    estimate = percentile(histogram, share)
    assert estimate is not None
    rank = max(next(n for n in range(1, len(found) + 1) if n >= share * len(found)), 1)
    true = sorted(found)[rank - 1]
    assert true * 0.8 - 1 <= estimate * 1e6 <= true * 1.25 + 1


def test_counters_are_summed_over_rows_and_cleared_by_row_and_column() -> None:
    counters = Counters()
    other = Counters(os.dup(counters.fd))
    for index, requests in ((0, 3), (1, 4)):
        row = other.row(index)
        row[Worker.REQUESTS] = requests
        row[block(5) + Cell.REQUESTS] = requests
        row[block(5) + Cell.IN_FLIGHT] = index
        row[block(5) + HISTOGRAM + 2] = requests
        row[block(6) + Cell.ERRORS] = 1
        row.release()
    assert counters.target(5, rows=2).requests == 7
    assert counters.target(5, rows=2).in_flight == 1
    assert counters.target(5, rows=1).requests == 3
    assert counters.histogram(5, rows=2)[2] == 7
    counters.clear_row(0, targets=6)
    assert counters.target(5, rows=2).requests == 4
    assert counters.target(6, rows=2).errors == 2
    counters.clear_target(6, rows=2)
    assert counters.target(6, rows=2).errors == 0
    assert counters.row(1)[Worker.REQUESTS] == 4
    other.close()
    counters.close()


def test_quick_buckets_say_what_bucket_of_says() -> None:
    assert bytes(map(bucket_of, range(65536))) == QUICK_BUCKETS
