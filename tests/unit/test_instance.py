"""What an Instance is started with, and what is said where that does not work."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastlb.auto_scaling.instance import (
    LOOPBACK,
    choose_address,
    command_of,
    environment_of,
    fill,
    last_words,
    make_socket_folder,
    new_id,
    not_found_hint,
)
from fastlb.auto_scaling.process import MARK, InstanceProcess
from fastlb.errors import FastlbError
from fastlb.model.address import Address
from fastlb.model.launch_template import LaunchTemplate

ID = "i-0badcafe"
SOCKET = Address(path="/run/i-0badcafe/app.sock")
PORT = Address(host=LOOPBACK, port=12345)


@pytest.mark.parametrize(
    ("text", "on_socket", "on_port"),
    [
        ("{socket}", SOCKET.path, "{socket}"),
        ("{port}", "{port}", "12345"),
        ("unix:{socket}", f"unix:{SOCKET.path}", "unix:{socket}"),
        ("{instance}-{instance}", f"{ID}-{ID}", f"{ID}-{ID}"),
        ("{{port}}", "{{port}}", "{12345}"),
        ("${PORT} {} {0} {Port} { port }", "${PORT} {} {0} {Port} { port }", None),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}', None),
        ("awk '{print $1}'", "awk '{print $1}'", None),
        ("{port", "{port", None),
        ("", "", None),
    ],
)
def test_placeholders_are_filled_in_and_other_braces_stay(
    text: str, on_socket: str, on_port: str | None
) -> None:
    assert fill(text, ID, SOCKET) == on_socket
    assert fill(text, ID, PORT) == (text if on_port is None else on_port)


def test_commands_with_and_without_a_shell() -> None:
    plain = LaunchTemplate(command=("app", "--port={port}", "a b"))
    assert command_of(plain, ID, PORT) == ["app", "--port=12345", "a b"]
    shell = LaunchTemplate(command=("exec app --port {port} | cat",), shell=True)
    assert command_of(shell, ID, PORT) == ["/bin/sh", "-c", "exec app --port 12345 | cat"]


@pytest.mark.parametrize(
    ("address", "own", "inherited", "expected"),
    [
        (PORT, {}, {"A": "1"}, {"A": "1", "PORT": "12345"}),
        (SOCKET, {}, {}, {"FASTLB_SOCKET": SOCKET.path}),
        # what fastlb itself was given to listen on is none of the Instance's
        (PORT, {}, {"FASTLB_SOCKET": "/x", "PORT": "1"}, {"PORT": "12345"}),
        (SOCKET, {}, {"FASTLB_SOCKET": "/x", "PORT": "1"}, {"FASTLB_SOCKET": SOCKET.path}),
        # the user's come after both, filled in
        (PORT, {"A": "{port}"}, {"A": "1"}, {"A": "12345", "PORT": "12345"}),
        (PORT, {"PORT": "x{port}"}, {}, {"PORT": "x12345"}),
        (SOCKET, {"PORT": "8000"}, {}, {"PORT": "8000", "FASTLB_SOCKET": SOCKET.path}),
        (PORT, {"PYTHONUNBUFFERED": ""}, {}, {"PYTHONUNBUFFERED": "", "PORT": "12345"}),
        (PORT, {}, {"PYTHONUNBUFFERED": "x"}, {"PYTHONUNBUFFERED": "x", "PORT": "12345"}),
        # but nobody sets the mark
        (PORT, {MARK: "mine"}, {MARK: "outer"}, {"PORT": "12345"}),
    ],
)
def test_whose_variable_holds(
    address: Address, own: dict[str, str], inherited: dict[str, str], expected: dict[str, str]
) -> None:
    template = LaunchTemplate(env=tuple(own.items()))
    given = dict(inherited)
    found = environment_of(template, ID, address, inherited)
    assert found == {"PYTHONUNBUFFERED": "1", MARK: ID, **expected}
    assert inherited == given


def test_a_user_brings_a_home_which_the_template_may_change() -> None:
    me = pwd.getpwuid(os.geteuid())
    template = LaunchTemplate(user=me.pw_name, env=(("HOME", "/elsewhere"),))
    found = environment_of(template, ID, PORT, {"USER": "other"})
    assert (found["USER"], found["LOGNAME"], found["HOME"]) == (me.pw_name,) * 2 + ("/elsewhere",)


def test_where_it_listens(tmp_path: Path) -> None:
    on_socket = LaunchTemplate(command=("app",), env=(("BIND", "unix:{socket}"),))
    assert choose_address(on_socket, tmp_path, ()) == Address(path=str(tmp_path / "app.sock"))
    chosen = choose_address(LaunchTemplate(command=("app",)), tmp_path, ())
    assert (chosen.host, chosen.is_unix) == (LOOPBACK, False)


def test_its_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    make_socket_folder(tmp_path / ID, None)
    assert (tmp_path / ID).stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        make_socket_folder(tmp_path / ID, None)
    with pytest.raises(FastlbError, match='there is no user "nobody-of-this-name"'):
        make_socket_folder(tmp_path / "i-2", "nobody-of-this-name")


def test_ids_are_short_and_differ() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(id) for id in ids} == {10}


# -- what is said where it cannot be started


def hint(**given: Any) -> str:
    """The hint after a real attempt."""
    template = LaunchTemplate(**given)
    try:
        subprocess.Popen(template.command, cwd=template.cwd).wait()
    except OSError as error:
        return not_found_hint(error, template)
    raise AssertionError("it could be started")


def test_a_program_that_is_nowhere() -> None:
    assert hint(command=("no-such-app", "-x")) == 'there is no program "no-such-app" in the PATH'
    assert hint(command=("/no/such/app",)) == 'there is no program "/no/such/app"'


def test_one_beside_this_python_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gunicorn").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert hint(command=("gunicorn",)).endswith(f"in the PATH; write {tmp_path}/gunicorn")
    assert hint(command=("gunicorn2",)).endswith("in the PATH")


def test_a_folder_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert hint(command=("true",), cwd=missing) == f"there is no folder {missing} (cwd)"
    file = tmp_path / "file"
    file.touch()
    assert hint(command=("true",), cwd=str(file)) == (
        f"the folder {file} (cwd) cannot be used: Not a directory"
    )


def test_a_script_whose_interpreter_is_missing(tmp_path: Path) -> None:
    script = tmp_path / "app"
    script.write_text("#!/no/such/python\n")
    script.chmod(0o755)
    said = f'"{script}" is there, but the interpreter that its first line names is not'
    assert hint(command=(str(script),)) == said
    assert hint(command=("./app",), cwd=str(tmp_path)) == said.replace(str(script), "./app")


def test_one_that_is_no_program(tmp_path: Path) -> None:
    text = tmp_path / "readme"
    text.write_text("hello")
    assert hint(command=(str(text),)) == f'"{text}" cannot be run: Permission denied'
    text.chmod(0o755)
    assert hint(command=(str(text),)) == f'"{text}" cannot be run: Exec format error'


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        ({"cpus": ((4000, 4001),)}, "cpus"),
        ({"cpus": ((4000, 4001),), "nice": 1}, "nice or cpus"),
    ],
)
def test_limits_that_cannot_be_set_are_named(limits: dict[str, Any], names: str) -> None:
    template = LaunchTemplate(command=("true",), **limits)
    with pytest.raises(FastlbError, match=f"^{names} cannot be set: there is no such core"):
        InstanceProcess.start(template, ["true"], os.environ, 1, ID)


def test_what_it_said_last() -> None:
    assert last_words([]) == "; it printed nothing"
    assert last_words(["one", "two"]) == "; it printed last:\n    one\n    two"
    many = last_words([str(number) for number in range(50)])
    assert many.splitlines()[1:] == [f"    {number}" for number in range(40, 50)]
