"""What an instance prints: no line is lost, repeated, or able to steer a terminal; floods are bounded."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.auto_scaling import output as output_module
from fastlb.auto_scaling import output_lines
from fastlb.auto_scaling.output import (
    HOLE,
    KEPT_OF_LAG,
    MIB,
    MOST_LAG,
    MOST_READ,
    FileSink,
    LogSink,
    Output,
)
from fastlb.auto_scaling.output_lines import MOST_LINE, cut_lines, groups_of, shown
from fastlb.errors import FastlbError
from tests.support.processes import wait_until


class ListSink:
    most_lines = 100
    most_at_end = 1 * MIB

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.closed = False

    def write(self, lines: Sequence[bytes]) -> None:
        self.lines += lines

    def close(self) -> None:
        self.closed = True


class Spool:
    """An Output with its sink, and an instance's descriptor to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "web-1.out"
        self.sink = ListSink()
        self.output = Output(self.path, self.sink)
        self.fd = self.output.open_for_child()

    def print(self, data: bytes) -> None:
        assert os.write(self.fd, data) == len(data)

    def take_over(self) -> None:
        """As a new supervisor would after a kill -9."""
        self.output.close(remove=False)
        self.sink = ListSink()
        self.output = Output(self.path, self.sink)

    def read_all(self) -> None:
        while self.output.read():
            pass

    def close(self) -> None:
        self.output.close(remove=True)
        os.close(self.fd)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    one = Spool(tmp_path)
    yield one
    one.close()
    assert one.sink.closed
    assert not list(tmp_path.glob("web-1.*"))


def test_whole_lines_are_passed_on_as_they_come(spool: Spool) -> None:
    assert spool.output.read() is False
    spool.print(b"one\ntw")
    assert spool.output.read() is False
    assert spool.sink.lines == [b"one"]
    spool.print(b"o\n\nthr")
    spool.output.read()
    assert spool.sink.lines == [b"one", b"two", b""]
    spool.output.finish()
    assert spool.sink.lines == [b"one", b"two", b"", b"thr"]
    spool.output.finish()
    assert len(spool.sink.lines) == 4


def test_the_files_are_for_nobody_else(spool: Spool) -> None:
    assert [path.stat().st_mode & 0o777 for path in spool.path.parent.iterdir()] == [0o600] * 2
    assert not os.get_inheritable(spool.fd)


def test_a_supervisor_that_takes_over_neither_loses_nor_repeats(spool: Spool) -> None:
    spool.print(b"one\ntwo\nhal")
    spool.output.read()
    spool.take_over()
    spool.print(b"f\nmore\n")
    spool.output.read()
    assert spool.sink.lines == [b"half", b"more"]


def test_one_read_is_bounded(spool: Spool) -> None:
    spool.print(b"a\n" * 250)
    assert spool.output.read() is True
    assert len(spool.sink.lines) == 100
    spool.read_all()
    assert len(spool.sink.lines) == 250
    spool.print((b"b" * 9_999 + b"\n") * 50)
    assert spool.output.read() is True
    assert len(spool.sink.lines) == 250 + MOST_READ // 10_000
    spool.read_all()
    assert len(spool.sink.lines) == 300


def test_what_was_read_is_given_back(spool: Spool) -> None:
    spool.print((b"x" * 9_999 + b"\n") * 200)
    os.fsync(spool.fd)
    full = spool.path.stat().st_blocks * 512
    spool.read_all()
    after = spool.path.stat()
    assert (after.st_size, len(spool.sink.lines)) == (2_000_000, 200)
    assert after.st_blocks * 512 < HOLE + MOST_LINE < full
    spool.take_over()
    spool.print(b"next\n")
    spool.output.read()
    assert spool.sink.lines == [b"next"]


def test_without_holes_it_is_said_once(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(output_module, "punch_hole", refuse)
    monkeypatch.setattr(Output, "_holes", True)
    for _ in range(2):
        spool.print((b"x" * 9_999 + b"\n") * 60)
        spool.read_all()
    assert len(spool.sink.lines) == 120
    assert [one.message for one in caplog.records if "cannot give back" in one.message] == [
        f"the file system of {spool.path.parent} cannot give back what was read of a file (Operation "
        "not supported): the files there grow by all that instances print, until these end"
    ]


def test_the_kernel_refuses_a_hole_where_there_can_be_none() -> None:
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(OSError, match=r"Illegal seek|No such device"):
            output_module.punch_hole(write_end, 0, 4096)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_who_lags_skips_to_a_line_start_and_says_so(spool: Spool) -> None:
    count = 2 * MOST_LAG // 10
    spool.print(b"".join(b"%09d\n" % number for number in range(count)))
    spool.output.read()
    skipped, first = spool.sink.lines[:2]
    assert skipped == b"... 7.0 MiB of output were skipped"
    left = count - int(first)
    assert KEPT_OF_LAG - 10 <= left * 10 <= KEPT_OF_LAG
    spool.sink.most_lines = 100_000
    spool.read_all()
    assert spool.sink.lines[-1] == b"%09d" % (count - 1)
    assert len(spool.sink.lines) == 1 + left


def test_the_end_is_bounded_too_and_keeps_the_last_words(spool: Spool) -> None:
    spool.print((b"x" * 99 + b"\n") * (3 * MIB // 100) + b"last words")
    spool.output.finish()
    assert spool.sink.lines[0].endswith(b"of output were skipped")
    assert spool.sink.lines[-1] == b"last words"
    assert sum(map(len, spool.sink.lines)) <= spool.sink.most_at_end


def test_the_last_lines_for_a_report(spool: Spool) -> None:
    spool.print(b"".join(b"line %d\n" % number for number in range(150)))
    spool.read_all()
    spool.print("é".encode() * 3000 + b"\n\x1b[2Jboom")
    spool.output.finish()
    last = spool.output.last_lines
    assert len(last) == 20
    assert (last[0], last[-2], last[-1]) == ("line 132", "é" * 500, "\\x1b[2Jboom")


def test_an_instance_that_cuts_its_own_output_off_is_read_on(spool: Spool) -> None:
    spool.print(b"before\n" * 3)
    spool.output.read()
    subprocess.run(
        ["/bin/sh", "-c", "echo anew > /dev/stdout; echo more"], stdout=spool.fd, check=True
    )
    spool.output.read()
    assert spool.sink.lines[3:] == [b"anew", b"more"]


def test_an_instance_lives_on_without_a_reader(spool: Spool) -> None:
    script = "import time\nfor i in range(100): print('line', i, flush=True)\ntime.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=spool.fd, stderr=spool.fd, stdin=subprocess.DEVNULL
    )
    try:
        spool.output.close(remove=False)
        wait_until(lambda: b"line 99\n" in spool.path.read_bytes())
        assert process.poll() is None
        spool.sink = ListSink()
        spool.output = Output(spool.path, spool.sink)
        spool.read_all()
        assert spool.sink.lines == [b"line %d" % number for number in range(100)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(FastlbError, match=r"cannot open .*gone/a.out .*No such file"):
        Output(tmp_path / "gone" / "a.out", ListSink())


def test_a_failing_read_is_told_once_and_not_raised(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    spool.print(b"one\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        assert spool.output.read() is False
        spool.print(b"two\n")
        assert spool.output.read() is False
        spool.output.finish()
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    assert spool.sink.lines == [b"one", b"two"]


# Pieces that are whole, unfinished, empty, or hold half a character.
PRINTED = st.lists(
    st.one_of(
        st.binary(max_size=30), st.sampled_from([b"\n", b"\r\n", "é€😀".encode(), b"\xf0\x9f"])
    ),
    max_size=30,
)


@given(PRINTED, st.lists(st.booleans(), max_size=30))
def test_nothing_is_lost_however_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], takes_over: list[bool]
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"))
    lines: list[bytes] = []
    for number, piece in enumerate(pieces):
        spool.print(piece)
        spool.output.read()
        if number < len(takes_over) and takes_over[number]:
            lines += spool.sink.lines
            spool.take_over()
    spool.output.finish()
    lines += spool.sink.lines
    whole = b"".join(pieces)
    assert lines == whole.removesuffix(b"\n").split(b"\n") if whole else not lines
    spool.close()


@given(st.binary(max_size=60), st.integers(1, 10))
def test_cut_lines_accounts_for_every_byte(data: bytes, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_lines, "MOST_LINE", 8)
        lines, used = cut_lines(data, most)
    assert len(lines) <= most
    assert all(len(line) <= 8 for line in lines)
    assert b"".join(lines) == data[:used].replace(b"\n", b"")
    if len(lines) < most:
        assert len(data) - used <= 8
        assert b"\n" not in data[used:]


def test_a_line_without_an_end_is_cut_between_characters() -> None:
    data = b"x" + "€".encode() * MOST_LINE + b"\n"
    lines, used = cut_lines(data, 1000)
    assert used == len(data)
    assert all(line.decode() and MOST_LINE - 3 < len(line) <= MOST_LINE for line in lines[:-1])
    assert b"".join(lines) == data[:-1]
    exact = b"y" * MOST_LINE
    assert cut_lines(exact + b"\n", 1000) == ([exact], MOST_LINE + 1)
    assert cut_lines(exact * 2 + b"\n", 1000)[0] == [exact, exact]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"plain\ttext\r", "plain\ttext"),
        (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        (b"a\rb", "a\\rb"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\u009b31m \u202eevil".encode(), "\\x9b31m \\u202eevil"),
        ("Grüße €".encode(), "Grüße €"),
    ],
)
def test_shown_lines_do_not_steer(line: bytes, text: str) -> None:
    assert shown(line) == text


@given(st.lists(st.binary(max_size=9), max_size=40), st.integers(1, 50))
def test_groups_hold_all_lines_in_order(lines: list[bytes], least: int) -> None:
    groups = groups_of(lines, least)
    assert [line for group in groups for line in group] == lines
    assert all(sum(len(line) + 1 for line in group) < least + 10 for group in groups)


def test_the_log_sink_tags_each_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    LogSink("web-1", "web").write([b"100 % \x1b", b"two"])
    assert [(one.name, one.levelname, one.message) for one in caplog.records] == [
        ("fastlb.instance", "INFO", "web-1: 100 % \\x1b"),
        ("fastlb.instance", "INFO", "web-1: two"),
    ]


def test_the_file_sink_keeps_bytes_and_rotates(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a" / "b", "web-1", 4096, 2)
    lines = [b"%04d \xff\x1b[1m\r" % number for number in range(1000)]
    for start in range(0, 1000, 300):
        sink.write(lines[start : start + 300])
    sink.close()
    files = [sink.path, Path(f"{sink.path}.1"), Path(f"{sink.path}.2")]
    assert sorted(tmp_path.glob("a/b/*")) == files
    assert all(0 < path.stat().st_size <= 4096 for path in files)
    kept = b"".join(path.read_bytes() for path in reversed(files))
    assert b"".join(line + b"\n" for line in lines).endswith(kept)


def test_the_file_sink_goes_on_with_a_file_and_can_keep_nothing(tmp_path: Path) -> None:
    for number in range(2):
        sink = FileSink(tmp_path, "web-1", 4096, 0)
        sink.write([b"%d" % number])
        sink.close()
    assert sink.path.read_bytes() == b"0\n1\n"
    sink.write([b"%04d" % number for number in range(3000)])
    sink.close()
    assert list(tmp_path.iterdir()) == [sink.path]
    assert sink.path.stat().st_size <= 4096
    assert sink.path.read_bytes().endswith(b"2999\n")


def test_a_file_that_cannot_be_written_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = 100.0
    (tmp_path / "logs").write_text("a file where the folder should be")
    sink = FileSink(tmp_path / "logs", "web-1", 4096, 1, clock=lambda: now)
    sink.write([b"1", b"2"])
    sink.write([b"3"])
    now += output_module.SECONDS_BETWEEN_TRIES
    sink.write([b"4"])
    (tmp_path / "logs").unlink()
    sink.write([b"5"])
    now += output_module.SECONDS_BETWEEN_TRIES
    sink.write([b"6"])
    sink.close()
    assert sink.path.read_bytes() == b"6\n"
    first, second = (one.message for one in caplog.records)
    assert first.startswith(f"the output of an instance cannot be written to {sink.path}: ")
    assert second == f"{sink.path} is written again; 5 lines are missing in it"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_and_not_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = FileSink(tmp_path, "web-1", 4096, 0)
    sink.path.symlink_to("/dev/full")
    sink.write([b"1"])
    sink.write([b"2"])
    sink.close()
    assert "No space left on device" in caplog.text
    assert len(caplog.records) == 1
