"""`fastlb top` in a real terminal, before a real instance: what it shows, what its keys change, and how
it leaves the terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlb.cli.main import run
from tests.support.fastlb import ROOT, FastlbProcess
from tests.support.looked_at import looked_at, wait_for_admin
from tests.support.processes import RUN_DIR_VARIABLE, wait_until
from tests.support.raw_target import RawTarget
from tests.support.scaling import ScaledFastlb
from tests.support.terminal import Terminal

ALTERNATE = b"\x1b[?1049h"
BACK = b"\x1b[?1049l"
HIDDEN_CURSOR = b"\x1b[?25l"
SHOWN_CURSOR = b"\x1b[?25h"


@pytest.fixture(scope="module")
def fastlb(run_root: Path) -> Iterator[ScaledFastlb]:
    with looked_at(run_root) as one:
        yield one


def command(fastlb: FastlbProcess, *flags: str) -> list[str]:
    return [sys.executable, "-m", "fastlb", "top", "--name", fastlb.name, *flags]


def environment(fastlb: FastlbProcess) -> dict[str, str]:
    return {RUN_DIR_VARIABLE: str(fastlb.run_dir)}


@pytest.fixture
def top(fastlb: ScaledFastlb) -> Iterator[Terminal]:
    with Terminal(command(fastlb), environment=environment(fastlb)) as one:
        one.wait_for("q quit")
        yield one


def test_it_shows_and_leaves_the_terminal_as_it_was(fastlb: ScaledFastlb, top: Terminal) -> None:
    top.wait_for(r"^fastlb t  up .* live \d\d:\d\d:\d\d$")
    top.wait_for(r"^\d.* req/s  2xx")
    top.wait_for(r"> plain +2/2")
    top.wait_for(r"  web +1/1 .* 1/1 of 1-3")
    top.wait_for("web  auto scaling: 1 desired")
    assert top.modes() != top.modes_before
    top.press("3")
    top.wait_for(r"127\.0\.0\.1:\d+ +healthy")
    top.press("5")
    top.wait_for("> 0 +[0-9]+  running")
    top.resize(120, 40)
    top.wait_for("^─{120}$")
    top.press("q")
    assert top.wait_end() == 0
    assert_left_in_order(top)


def assert_left_in_order(top: Terminal) -> None:
    assert top.modes() == top.modes_before
    assert top.written.count(ALTERNATE) == top.written.count(BACK) > 0
    assert top.written.rindex(SHOWN_CURSOR) > top.written.rindex(HIDDEN_CURSOR)


def test_a_signal_leaves_the_terminal_as_it_was(top: Terminal) -> None:
    top.process.send_signal(signal.SIGTERM)
    assert top.wait_end() == 128 + signal.SIGTERM
    assert_left_in_order(top)


def test_stopped_by_ctrl_z_it_gives_the_terminal_back(top: Terminal) -> None:
    top.press("\x1a")
    pid = top.process.pid

    def stopped() -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    wait_until(stopped, 30, "it is stopped")
    assert top.modes() == top.modes_before
    top.process.send_signal(signal.SIGCONT)
    top.press("4")
    top.wait_for("INSTANCE +STATE")
    top.press("\x03")
    assert top.wait_end() == 0
    assert_left_in_order(top)


def test_keys_drain_undrain_and_scale(fastlb: ScaledFastlb, top: Terminal) -> None:
    top.press("3")
    top.wait_for("TARGET +STATE")
    address = top.wait_for(r"^> (127\.0\.0\.1:\d+)")[1]
    top.press("d")
    top.wait_for(rf"^Drain {address}\?")
    top.press("y")
    fastlb.wait_state(address, "draining")
    top.wait_for(rf"{address} +draining")
    top.press("u")
    top.wait_for(rf"^Undrain {address}\?")
    top.press("y")
    fastlb.wait_state(address, "healthy")
    top.press("1")
    top.wait_for("> plain")
    top.press("j+")
    top.wait_for(r"^Scale web from 1 to 2\?")
    top.press("y")
    fastlb.wait_steady(2)
    top.wait_for(r"> web +2/2 .* 2/2 of 1-3")
    top.press("3jjjjjjj")
    id = top.wait_for(r"^> (i-\w+) +healthy")[1]
    top.press("d")
    top.wait_for(rf"^Drain {id}\?")
    top.press("y")
    top.wait_for(rf"> {id} +standby")
    top.press("u")
    top.wait_for(rf"^Undrain {id}\?")
    top.press("y")
    top.wait_for(rf"> {id} +healthy")
    top.press("1j9-n")
    top.wait_for("left as it is")
    top.press("q")
    assert top.wait_end() == 0


def test_a_pipe_gets_one_plain_frame(fastlb: ScaledFastlb) -> None:
    done = subprocess.run(
        command(fastlb),
        cwd=ROOT,
        env=os.environ | environment(fastlb),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for word in ("req/s", "Groups", "Listeners", "Targets", "Instances", "Workers", "auto scaling"):
        assert word in done.stdout


@pytest.mark.parametrize("extra", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_it_works_without_colour(fastlb: ScaledFastlb, extra: dict[str, str]) -> None:
    with Terminal(command(fastlb), environment=environment(fastlb) | extra) as top:
        if "TERM" in extra:  # it cannot do more than print, and that may be more than a screen
            assert top.wait_end() == 0
            assert re.search(rb"plain +2/2", top.written)
            assert b"\x1b" not in top.written
        else:
            top.wait_for("plain +2/2")
            top.press("q")
            assert top.wait_end() == 0
            assert b"\x1b[3" not in top.written  # no foreground colour


def test_without_an_instance_it_says_so(
    run_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(run_root))
    assert run(["top", "--name", "nobody"]) == 1
    assert 'no instance named "nobody" is running' in capsys.readouterr().err


def test_the_end_of_the_instance_is_said(run_root: Path) -> None:
    with RawTarget() as target, FastlbProcess(run_root, targets=[target]) as one:
        wait_for_admin(one)
        with Terminal(command(one), environment=environment(one)) as top:
            top.wait_for("q quit")
            one.process.terminate()
            one.process.wait()
            top.wait_for("no connection, trying again: ")
            assert top.wait_end() == 1
            assert_left_in_order(top)
            assert "it has ended" in top.text()
