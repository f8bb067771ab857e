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
from tests.support.terminal import Terminal

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
try fastlb help upg
try fastlb suspend web la
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
    assert lines["fastlb help upg"] == "upgrade"
    assert lines["fastlb suspend web la"] == "launch"


COMPLETED = {
    "fastlb dr": "fastlb drain",
    "fastlb run --take": "fastlb run --takeover",
    "fastlb run --algorithm ro": "fastlb run --algorithm round_robin",
    "fastlb run --config /etc/hostn": "fastlb run --config /etc/hostname",
    "fastlb status --name al": "fastlb status --name alpha",
    "fastlb help upg": "fastlb help upgrade",
    "fastlb suspend web la": "fastlb suspend web launch",
}


@pytest.fixture
def path_with_instances(tmp_path: Path) -> str:
    """$PATH with a `fastlb` that has instances to name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "fastlb"
    command.write_text("#!/bin/sh\necho alpha\necho beta\n")
    command.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_a_real_fish_completes(tmp_path: Path, path_with_instances: str) -> None:
    path = tmp_path / "fastlb.fish"
    path.write_text(script("fish"))
    asked = [f"complete -C '{line}'; echo ==" for line in COMPLETED]
    done = subprocess.run(
        ["fish", "--no-config", "-c", "\n".join([f"source {path}", *asked])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": path_with_instances, "HOME": str(tmp_path), "LANG": "C.UTF-8"},
    )
    assert not done.stderr
    for whole, found in zip(COMPLETED.values(), done.stdout.split("==\n"), strict=False):
        words = [line.partition("\t")[0] for line in found.splitlines()]
        assert words == [whole.rpartition(" ")[2]]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_a_real_zsh_completes(tmp_path: Path, path_with_instances: str) -> None:
    (tmp_path / "_fastlb").write_text(script("zsh"))
    environment = {"PATH": path_with_instances, "HOME": str(tmp_path), "TERM": "xterm"}
    with Terminal(["zsh", "-f", "-i"], columns=100, environment=environment) as zsh:
        zsh.press(
            f"fpath=({tmp_path} $fpath); autoload -U compinit; compinit -u -D; PS1='ready ' \n"
        )
        zsh.wait_for("^ready")
        for line, whole in COMPLETED.items():
            zsh.press(f"{line}\t")
            zsh.wait_for(f"^ready {whole}$")
            zsh.press("\x15")  # the line is empty again
        zsh.press("exit\n")
        assert zsh.wait_end() == 0


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
