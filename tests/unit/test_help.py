"""Help topics, the man page, what completes in a shell, and the files for a service manager."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastlb.cli.completion import SHELLS, script
from fastlb.cli.main import COMMANDS, run
from fastlb.cli.man_page import man_page
from fastlb.help import ORDER, topic

ROOT = Path(__file__).parents[2]


def test_each_topic_is_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names = {path.stem for path in (ROOT / "fastlb" / "help").glob("*.md")}
    assert names == set(ORDER)
    assert run(["help"]) == 0
    listed = capsys.readouterr().out
    for name in (*ORDER, *COMMANDS):
        assert re.search(rf"\b{name}\b", listed)
    for name in ORDER:
        assert run(["help", name]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(topic(name))
        assert (f"`fastlb {name} --help`" in shown) == (name in COMMANDS)
        assert topic(name).startswith("# ")


def test_a_command_is_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", "upgrade"]) == 0
    assert "# Upgrade" in capsys.readouterr().out
    assert run(["help", "check"]) == 0
    assert "--show-env" in capsys.readouterr().out


def test_an_unknown_topic_is_told_with_a_guess(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", "scalling"]) == 2
    assert "did you mean scaling?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ORDER)
def test_what_topics_name_is_there(name: str) -> None:
    """Commands and files in backticks, so that none goes on being told of that was renamed."""
    for command in re.findall(r"`fastlb ([a-z]+)", topic(name)):
        assert command in COMMANDS, command
    for path in re.findall(r"`(deploy/[\w.]+)`", topic(name)):
        assert (ROOT / path).exists(), path
    for other in re.findall(r"`fastlb help ([a-z-]+)`", topic(name)):
        assert other in (*ORDER, *COMMANDS), other


def test_the_man_page_is_up_to_date() -> None:
    text = (ROOT / "deploy" / "fastlb.1").read_text()
    assert text == man_page(), "run `make docs`"


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff")
def test_the_man_page_is_understood() -> None:
    done = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", str(ROOT / "deploy" / "fastlb.1")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    assert not done.stderr
    plain = re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout)
    assert "--takeover" in plain
    assert "UPGRADE" in plain


# --- completion -----------------------------------------------------------------------------------

TRY = """
source "$1"
complete -p fastlb
try() {
  COMP_WORDS=("$@"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMPREPLY=()
  _shtab_fastlb
  echo "$*: ${COMPREPLY[*]}"
}
fastlb() { echo alpha; echo beta; }
try fastlb upg
try fastlb run --lis
try fastlb run --take
try fastlb run --algorithm ro
try fastlb run --config /etc/host
try fastlb status --name al
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes(tmp_path: Path) -> None:
    path = tmp_path / "completion"
    path.write_text(script("bash"))
    done = subprocess.run(
        ["bash", "--norc", "-c", TRY, "bash", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert not done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines()[1:])
    assert "-F _shtab_fastlb fastlb" in done.stdout.splitlines()[0]
    assert lines["fastlb upg"] == "upgrade"
    assert lines["fastlb run --lis"] == "--listen"
    assert lines["fastlb run --take"] == "--takeover"
    assert lines["fastlb run --algorithm ro"] == "round_robin"
    assert "/etc/hosts" in lines["fastlb run --config /etc/host"].split()
    assert lines["fastlb status --name al"] == "alpha"


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_knows_commands_and_flags(shell: str) -> None:
    text = script(shell)
    assert all(name in text for name in COMMANDS)
    for flag in ("listen", "takeover", "round_robin"):
        assert flag in text
    if shutil.which(shell):
        flag = "--no-execute" if shell == "fish" else "-n"
        done = subprocess.run([shell, flag], input=text, text=True, timeout=30, check=False)
        assert done.returncode == 0


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "csh"]) == 2
    assert "bash, zsh or fish" in capsys.readouterr().err


# --- the service manager's files ---------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_units_are_understood(tmp_path: Path) -> None:
    for name in ("fastlb.service", "fastlb.socket"):
        text = (ROOT / "deploy" / name).read_text()
        # It looks whether the program is there, and what the man page is.
        text = text.replace("/opt/fastlb/bin/fastlb", sys.executable)
        (tmp_path / name).write_text(re.sub(r"(?m)^(Documentation|User)=.*$", "", text))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        check=False,
    )
    of_ours = [line for line in done.stderr.splitlines() if "fastlb" in line]
    assert not of_ours, of_ours
