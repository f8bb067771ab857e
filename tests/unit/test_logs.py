"""Log lines: their form, and that nobody waits for whoever reads them."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from fastlb import logs
from fastlb.log_lines import JsonFormatter, fields_of, journal_formatter

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


# -- forms, and what is kept


class About:
    log_fields: ClassVar = {"target": "127.0.0.1:9001", "group": "web"}

    def __str__(self) -> str:
        return "target 127.0.0.1:9001 of group web"


def record(message: object, *arguments: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("fastlb.x", logging.WARNING, "x.py", 1, message, arguments, None)
    made.__dict__.update(extra)
    return made


def test_json_says_whom_a_record_is_about() -> None:
    made = JsonFormatter(77, None).document(record("worker %d (pid %d) is %s", 3, 99, "back"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", made.pop("time"))
    assert made == {
        "level": "warning",
        "logger": "fastlb.x",
        "message": "worker 3 (pid 99) is back",
        "pid": 77,
        "source": "supervisor",
        "worker": 3,
    }
    assert fields_of(record("%s: %s", About(), "healthy")) == About.log_fields
    assert fields_of(record("100%% of group %s at %.2f s", "web", 1.5)) == {"group": "web"}
    assert fields_of(record("%s: %s", "i-1", "line", instance="i-1")) == {"instance": "i-1"}
    assert fields_of(record("plain 100 %")) == {}
    by_worker = JsonFormatter(77, 0).document(record("a line\nof two"))
    assert (by_worker["source"], by_worker["worker"]) == ("worker 0", 0)
    assert "\n" not in JsonFormatter(77, 0).format(record("a line\nof two"))


def test_a_traceback_is_a_field() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    assert JsonFormatter(1, None).document(made)["traceback"].endswith("ValueError: why")


def test_the_journal_gets_a_priority_for_each_line_and_no_time() -> None:
    assert journal_formatter("worker 1").format(record("a\nb")) == "<4>worker 1: a\n<4>b"


@pytest.mark.parametrize("form", ["human", "json", "auto"])
def test_forms_in_a_pipe_and_under_systemd(form: str) -> None:
    script = (
        "import logging, os, sys; from fastlb.logs import start_logging\n"
        "status = os.fstat(2)\n"
        "if sys.argv[2] == 'journal': "
        "os.environ['JOURNAL_STREAM'] = f'{status.st_dev}:{status.st_ino}'\n"
        "stop = start_logging('info', 'w', sys.argv[1], 2)\n"
        "logging.getLogger('fastlb').info('hello')\n"
        "stop()\n"
    )

    def said(where: str) -> str:
        command = [sys.executable, "-c", script, form, where]
        return subprocess.run(
            command, cwd=ROOT, text=True, capture_output=True, timeout=20, check=True
        ).stderr

    plain, journal = said("pipe"), said("journal")
    if form == "human":
        assert re.fullmatch(r"\S+ \S+ INFO    w: hello\n", plain)
    else:
        assert json.loads(plain)["message"] == "hello"
    if form == "json":
        assert json.loads(journal)["message"] == "hello"
    else:
        assert journal == "<6>w: hello\n"


def test_the_kept_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "KEPT_BYTES", 2000)
    path = tmp_path / "log.jsonl"
    logger = logging.getLogger("fastlb.kept")
    logger.setLevel("INFO")
    stop = logs.keep_log(path)
    try:
        for number in range(100):
            logger.info("line %d", number)
    finally:
        stop()
    text = logs.older(path).read_text() + path.read_text()
    kept = [json.loads(line) for line in text.splitlines()]
    assert [one["message"] for one in kept][-1] == "line 99"
    assert len(kept) < 60
    assert all(one.stat().st_size < 2500 for one in tmp_path.iterdir())
    stop = logs.keep_log(path, worker=0)  # a worker makes no file
    path.unlink()
    logger.info("nowhere")
    stop()
    assert not path.exists()
