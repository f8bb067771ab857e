"""The commands of auto scaling: what they ask, what they say, when --wait ends; with a stand-in."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.cli.main import COMMANDS, run
from fastlb.cli.usage import Word, assign
from fastlb.cli.waiting import Outcome, judge

Answer = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def supervising(path: Path, answer: Answer) -> Iterator[list[dict[str, Any]]]:
    """A control socket whose commands are `answer`; what it was asked, in its order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    asked: list[dict[str, Any]] = []
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                request = json.loads(lines.readline())
                asked.append(request)
                connection.sendall(json.dumps(answer(request)).encode() + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)
        path.unlink()


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the control socket of the instance `default`."""
    monkeypatch.setenv("FASTLB_RUN_DIR", str(tmp_path))
    monkeypatch.delenv("FASTLB_NAME", raising=False)
    return tmp_path / "default" / "control.sock"


@pytest.mark.parametrize(
    ("argv", "request_"),
    [
        ("scale 5", {"command": "scale", "desired": 5}),
        ("scale web 5", {"command": "scale", "group": "web", "desired": 5}),
        ("scale --name default web 0", {"command": "scale", "group": "web", "desired": 0}),
        ("scale web --name default 5", {"command": "scale", "group": "web", "desired": 5}),
        ("scale -1", {"command": "scale", "desired": -1}),
        ("refresh", {"command": "refresh", "action": "start"}),
        ("refresh web --cancel", {"command": "refresh", "group": "web", "action": "cancel"}),
        ("refresh --rollback", {"command": "refresh", "action": "rollback"}),
        (
            "refresh web --force",
            {"command": "refresh", "group": "web", "action": "start", "force": True},
        ),
        ("suspend launch", {"command": "suspend", "process": "launch"}),
        ("suspend web scaling", {"command": "suspend", "group": "web", "process": "scaling"}),
        ("resume", {"command": "resume"}),
        ("resume web", {"command": "resume", "group": "web"}),
        ("resume launch", {"command": "resume", "process": "launch"}),
        ("resume web launch", {"command": "resume", "group": "web", "process": "launch"}),
        ("protect i-1", {"command": "protect", "instance": "i-1", "on": True}),
        ("protect --off i-1", {"command": "protect", "instance": "i-1", "on": False}),
        ("standby i-1", {"command": "standby", "instance": "i-1", "replace": False}),
        ("standby i-1 --replace", {"command": "standby", "instance": "i-1", "replace": True}),
        ("return i-1", {"command": "return", "instance": "i-1"}),
        ("terminate i-1", {"command": "terminate", "instance": "i-1", "decrement": False}),
        (
            "terminate i-1 --decrement",
            {"command": "terminate", "instance": "i-1", "decrement": True},
        ),
        ("reload", {"command": "reload", "wait": 24.0}),
        ("reload --dry-run", {"command": "reload", "dry_run": True, "wait": 24.0}),
    ],
)
def test_a_command_asks_and_says_what_was_answered(
    argv: str, request_: dict[str, Any], control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with supervising(control, lambda _: {"said": "as you like \x1b[2J", "group": "web"}) as asked:
        assert run(argv.split()) == 0
    assert asked == [request_]
    assert capsys.readouterr().out == "as you like ?[2J\n"


def test_a_refusal_is_told_in_the_supervisor_s_words(
    control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with supervising(control, lambda _: {"error": "group web has from 1 to 3 instances, got 9"}):
        assert run(["scale", "9"]) == 1
    assert capsys.readouterr().err == "fastlb: group web has from 1 to 3 instances, got 9\n"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("scale", "expected N: instances that it should have"),
        ("scale web", 'expected a number of instances, got "web"'),
        ("scale 5 web", 'expected a number of instances, got "web"'),
        ("scale a b 5", "expected [GROUP] N, got 3 words: a b 5"),
        ("scale 5 --wiat", "there is no flag --wiat; did you mean --wait?"),
        ("scale 5 --timeout 5", 'expected a duration such as 500ms, 2s or 1m, got "5"'),
        ("suspend web", 'expected launch, terminate or scaling, got "web"'),
        ("suspend lanch", 'got "lanch"; did you mean launch?'),
        ("resume web lanch", 'got "lanch"; did you mean launch?'),
        ("protect", "expected INSTANCE: id of the instance"),
        ("terminate i-1 i-2", "expected INSTANCE, got 2 words: i-1 i-2"),
        ("refresh --cancel --rollback", "not allowed with argument --cancel"),
        ("refresh --force --cancel", "not allowed with argument --force"),
        ("activity -n x", 'expected a whole number of at least 0, got "x"'),
        ("activity -n -1", 'expected a whole number of at least 0, got "-1"'),
    ],
)
def test_wrong_usage_is_told_with_the_command_s_own(
    argv: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv.split()) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"usage: fastlb {argv.split()[0]} ")
    assert expected in shown


def test_a_time_to_wait_without_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["scale", "5"], ["reload"]):
        assert run([*argv, "--timeout", "5s"]) == 2
        assert "add --wait" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_can_be_read_at_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: fastlb {command} ")
    assert run(["--help"]) == 0
    (listed,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith(f"  {command} ")
    )
    assert len(listed) <= 80


WORDS = (Word("a", "A", "", True), Word("b", "B", ""), Word("c", "C", "", True))


@given(st.lists(st.text(min_size=1), max_size=5))
def test_no_word_is_lost(given_: list[str]) -> None:
    if 1 <= len(given_) <= 3:
        values = assign(WORDS, given_)
        assert [values[name] for name in "abc" if values[name] is not None] == given_
        assert values["b"] is not None
    else:
        with pytest.raises(ValueError, match="expected"):
            assign(WORDS, given_)


# --wait


def entry(number: int, what: str, outcome: str = "", **values: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "number": number,
        "at": 1.0,
        "kind": "activity",
        "subject": "web",
        "what": what,
        "cause": "asked for",
        "inputs": {},
        "outcome": outcome,
        "ended": 2.0 if outcome else None,
    }
    return plain | values


FAILED = entry(2, "launch i-2", "failed: ended with status 3; it printed last:\n    no database")
BACK = entry(1, "instance refresh to v2", "rolled back: 2 launches in a row failed")


@pytest.mark.parametrize(
    ("settled", "entries", "outcome"),
    [
        (True, [], ""),
        (False, [], None),
        (False, [entry(1, "launch i-1")], None),
        (True, [entry(1, "launch i-1", "in service after 0.5 s")], ""),
        (True, [entry(1, "standby i-1")], None),
        (True, [entry(1, "resume launch", "done")], ""),
        (False, [FAILED], "launch i-2: failed: ended with status 3"),
        (False, [FAILED, entry(3, "launch i-3")], None),
        (True, [FAILED, entry(3, "launch i-3", "in service after 1 s")], ""),
        (False, [entry(1, "instance refresh to v2"), FAILED], None),
        (True, [entry(1, "instance refresh to v2", "done; no worse")], ""),
        (False, [BACK, FAILED, entry(3, "rollback to v1")], None),
        (False, [BACK, FAILED, entry(3, "rollback to v1", "done; rolled back: x")], None),
        (
            True,
            [BACK, FAILED, entry(3, "rollback to v1", "done; rolled back: x")],
            "instance refresh to v2: rolled back: 2 launches in a row failed\nlaunch i-2: failed",
        ),
        (True, [entry(1, "instance refresh to v1", "stopped: x")], "instance refresh to v1: stop"),
        (True, [entry(1, "instance refresh to v2", "superseded")], "instance refresh to v2: sup"),
    ],
)
def test_when_waiting_ends(
    settled: bool, entries: list[dict[str, Any]], outcome: str | None
) -> None:
    found = judge(settled, entries)
    if not outcome:
        assert found == (None if outcome is None else Outcome())
    else:
        assert found is not None
        assert found.failed.startswith(outcome)


def scripted(looks: list[dict[str, Any]], entries: list[dict[str, Any]]) -> Answer:
    """A supervisor that has the newest activity 7 and then answers `settled` from a script."""
    left = list(looks)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        match request["command"]:
            case "activity" if "last" in request:
                return {"entries": [], "newest": 7}
            case "activity":
                return {"entries": entries, "newest": 9}
            case "settled":
                return left.pop(0) if len(left) > 1 else left[0]
        return {"said": "so be it", "group": "web"}

    return answer


def test_wait_says_each_change_once_and_the_end(
    control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = [
        *({"settled": False, "doing": said} for said in ("2 starting", "2 starting", "1 starting")),
        {"settled": False, "doing": "v1 failed 2 times in a row, next try in 3 s"},
        {"settled": False, "doing": "v1 failed 2 times in a row, next try in 2 s"},
        {"settled": True, "doing": ""},
    ]
    with supervising(control, scripted(looks, [])) as asked:
        assert run(["scale", "3", "--wait"]) == 0
    said, *changes, end = capsys.readouterr().out.splitlines()
    assert said == "so be it"
    assert changes == [
        "2 starting",
        "1 starting",
        "v1 failed 2 times in a row, next try in 3 s",
    ]
    assert end.startswith("done after ")
    assert asked[0] == {"command": "activity", "last": 0}
    assert {one["group"] for one in asked if one["command"] == "settled"} == {"web"}
    assert [one["after"] for one in asked if "after" in one] == [7] * len(looks)


def test_wait_ends_with_what_is_missing(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look = {"settled": False, "doing": "1 starting"}
    with supervising(control, scripted([look], [])):
        assert run(["scale", "3", "--wait", "--timeout", "0s"]) == 1
    expected = "fastlb: group web is not done after 0s: 1 starting; it goes on\n"
    assert capsys.readouterr().err == expected


def test_wait_ends_with_a_failure_and_the_app_s_last_words(
    control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look = {"settled": False, "doing": "1 missing"}
    failed = FAILED | {"outcome": FAILED["outcome"] + " \x1b[2J"}
    with supervising(control, scripted([look], [failed])):
        assert run(["scale", "3", "--wait"]) == 1
    shown = capsys.readouterr().err
    assert "fastlb: group web: launch i-2: failed: ended with status 3" in shown
    assert "fastlb:     no database ?[2J\n" in shown


def test_a_reload_that_leaves_something_out_of_force_is_no_success(
    control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "group web: v3 is configured, but was rolled back before"

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        match request["command"]:
            case "reload":
                return {"said": "nothing has changed", "not_in_force": [why + " \x1b[2J"]}
            case "status":
                return {"auto_scaling_groups": [{"name": "web"}]}
        return scripted([{"settled": True, "doing": ""}], [])(request)

    with supervising(control, answer):
        for argv, status in ((["reload"], 0), (["reload", "--wait"], 1)):
            assert run(argv) == status
            assert capsys.readouterr().err == f"fastlb: {why} ?[2J\n"


# activity and why


def test_activity_shows_the_last_ones(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"entries": [entry(1, "launch i-1", "in service after 0.5 s")], "newest": 1}
    with supervising(control, lambda _: answer) as asked:
        assert run(["activity", "web", "-n", "3"]) == 0
        assert "launch i-1" in capsys.readouterr().out
        assert run(["activity", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == answer["entries"][0]  # type: ignore[index]
        assert run(["why"]) == 0
    assert asked == [
        {"command": "activity", "group": "web", "last": 3},
        {"command": "activity", "last": 20},
        {"command": "why", "last": 20},
    ]


def test_nothing_so_far(control: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with supervising(control, lambda _: {"entries": [], "newest": 0}):
        assert run(["activity"]) == 0
        assert capsys.readouterr().out == "nothing so far\n"
        assert run(["why", "--json"]) == 0
        assert capsys.readouterr().out == ""


def test_follow_asks_for_what_comes_and_for_what_ends(
    control: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, ended = entry(4, "launch i-4"), entry(4, "launch i-4", "in service after 0.5 s")
    answers = [
        {"entries": [begun], "newest": 4},
        {"entries": [], "newest": 6},
        {"entries": [ended, entry(7, "terminate i-1")], "newest": 7},
        {"error": "it is over"},
    ]
    with supervising(control, lambda _: answers.pop(0)) as asked:
        assert run(["activity", "--follow"]) == 1
    shown = capsys.readouterr()
    assert shown.err == "fastlb: it is over\n"
    assert [line.split()[-2:] for line in shown.out.splitlines()] == [
        ["launch", "i-4"],
        ["asked", "for"],
        ["launch", "i-4"],
        ["0.5", "s"],
        ["terminate", "i-1"],
        ["asked", "for"],
    ]
    common = {"command": "activity", "wait": 20.0}
    assert asked[1:] == [
        common | {"after": 4, "open": [4]},
        common | {"after": 6, "open": [4]},
        common | {"after": 7, "open": [7]},
    ]
