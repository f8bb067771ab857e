"""Log lines: their form, and that nobody waits for whoever reads them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING worker 1 \(pid 7\): 100% of it")
SCRIPT = """
import logging, sys
from fastlb.logs import start_logging
stop = start_logging("info", "worker 1 (pid 7)")
for _ in range({lines}):
    logging.getLogger("fastlb").warning("100%% of %s", "it")
logging.getLogger("fastlb").debug("not at this level")
print("logged", flush=True)
sys.stdin.readline()
stop()
"""


def start(lines: int, stderr: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(lines=lines)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def test_lines_are_whole_and_all_there_at_the_end() -> None:
    with start(50, subprocess.PIPE) as process:
        _, logged = process.communicate("\n", timeout=20)
    lines = logged.splitlines()
    assert len(lines) == 50
    assert all(LINE.fullmatch(line) for line in lines), lines[0]


def test_a_pipe_that_nobody_reads_holds_up_neither_the_process_nor_its_end() -> None:
    reading, writing = os.pipe()
    with start(30_000, writing) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "logged\n"
        process.communicate("\n", timeout=20)
        assert process.returncode == 0
    os.close(reading)
    os.close(writing)


def test_a_reader_that_comes_back_learns_how_many_lines_it_missed() -> None:
    reading, writing = os.pipe()
    with start(30_000, writing) as process, os.fdopen(reading) as log:
        os.close(writing)
        assert process.stdout is not None
        assert process.stdout.readline() == "logged\n"
        kept = 0
        for line in log:
            found = re.search(r"WARNING worker 1 \(pid 7\): (\d+) log lines were dropped", line)
            if found:
                break
            kept += 1
        assert found
        assert kept + int(found[1]) == 30_000
        process.communicate("\n", timeout=20)


def test_without_standard_error_it_writes_to_no_other_file(tmp_path: Path) -> None:
    script = "exec 2>&-; exec {} -c '{}'".format(
        sys.executable,
        f'other = open("{tmp_path}/other", "w"); assert other.fileno() <= 3'
        + SCRIPT.format(lines=9),
    )
    done = subprocess.run(
        ["sh", "-c", script], cwd=ROOT, input="\n", text=True, stdout=subprocess.PIPE, timeout=20
    )
    assert done.stdout == "logged\n"
    assert (tmp_path / "other").read_text() == ""
