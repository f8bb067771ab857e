"""`fastlb logs`: which lines it shows, how they look, and how it follows files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from fastlb.cli.following import GrowingFile, Watch, last_lines
from fastlb.cli.log_view import Wanted, in_order, parse, printed, render

AT = datetime(2026, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def record(**changes: Any) -> dict[str, Any]:
    usual = {
        "time": "2026-06-01T12:00:00.250Z",
        "level": "info",
        "logger": "fastlb",
        "message": "hello",
        "pid": 7,
        "source": "supervisor",
    }
    return usual | changes


def test_what_is_wanted() -> None:
    assert Wanted().takes(record())
    assert not Wanted(level="warning").takes(record())
    assert Wanted(level="warning").takes(record(level="critical"))
    assert Wanted(since=AT.timestamp() - 1).takes(record())
    assert not Wanted(since=AT.timestamp() + 1).takes(record())
    assert not Wanted(instances={"i-1"}).takes(record())
    assert Wanted(instances={"i-1"}).takes(record(instance="i-1"))
    of_group = Wanted(group="web", instances={"i-1"})
    assert of_group.takes(record(group="web"))
    assert of_group.takes(record(instance="i-1"))
    assert not of_group.takes(record(group="api", instance="i-2"))
    assert Wanted(since=AT.timestamp()).takes(printed("i-1", "web", b"no time"))


def test_torn_and_strange_lines_are_left_out() -> None:
    line = json.dumps(record()).encode()
    assert parse([line, line[:20], b"", b"[1]", b"\xff"]) == [record()]
    later = record(time="2026-06-01T12:00:01.000Z")
    assert in_order([later, record()]) == [record(), later]


def plain(one: Any) -> list[str]:
    return [line.plain for line in render(one, date(2030, 1, 1))]


def test_how_lines_look() -> None:
    moment = datetime.fromtimestamp(AT.timestamp())
    time = f"{moment:%Y-%m-%d %H:%M:%S}.250"
    assert plain(record()) == [f"{time}  INFO     supervisor  hello"]
    failed = record(level="error", source="worker 1", message="a\x1b[2J", traceback="x\n  y")
    assert plain(failed) == [f"{time}  ERROR    worker 1    a?[2J", "    x", "      y"]
    of_instance = record(logger="fastlb.instance", instance="i-1", message="i-1: said")
    assert plain(of_instance) == [f"{time}  INFO     i-1         said"]
    about_instance = record(instance="i-1", message="instance i-1 is in service")
    assert plain(about_instance)[0].endswith("supervisor  instance i-1 is in service")
    assert plain(printed("i-1", "web", b"said\x1b"))[0].endswith("i-1         said\\x1b")


def test_a_file_is_followed_through_moves_and_cuts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    file = GrowingFile(path)

    def add(data: bytes) -> list[bytes]:
        with open(path, "ab") as out:
            out.write(data)
        return file.read()

    assert add(b"one\nha") == [b"one"]
    assert add(b"lf\n") == [b"half"]
    path.rename(tmp_path / "old")
    with open(tmp_path / "old", "ab") as out:
        out.write(b"last\n")
    assert file.read() == [b"last"]
    assert add(b"new\n") == [b"new"]
    os.truncate(path, 0)
    assert file.read() == []
    assert add(b"again\n") == [b"again"]
    file.close()
    assert last_lines(path, 3) == [b"again"]
    assert last_lines(tmp_path / "old", 2) == [b"half", b"last"]
    assert last_lines(tmp_path / "none", 2) == []
    later = GrowingFile(tmp_path / "later")
    assert later.read() == []
    (tmp_path / "later").write_bytes(b"x\n")
    assert later.read() == [b"x"]
    later.close()


def test_the_last_lines_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"%d %b\n" % (n, b"x" * 100) for n in range(3000)))
    assert [line.split()[0] for line in last_lines(path, 1000)] == [
        b"%d" % n for n in range(2000, 3000)
    ]
    assert last_lines(path, 0) == []


@pytest.mark.parametrize("what", ["write", "end"])
def test_a_watch_wakes_at_a_line_and_at_the_end(tmp_path: Path, what: str) -> None:
    path = tmp_path / "log"
    path.touch()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    watch = Watch(process.pid)
    watch.add([path])
    woken = threading.Event()

    def act() -> None:
        while not woken.wait(0.05):
            if what == "write":
                path.write_bytes(b"x\n")
            else:
                process.kill()

    thread = threading.Thread(target=act)
    thread.start()
    watch.wait()
    woken.set()
    thread.join()
    assert watch.ended is (what == "end")
    process.kill()
    process.communicate()
    watch.wait()
    watch.close()
    assert what == "end" or not watch.ended or path.exists()
