"""The command line: flags, exit statuses, what is printed where; `status` against a stand-in."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastlb import __version__
from fastlb.cli import asking
from fastlb.cli.flags import GROUPS, settings_with_flags
from fastlb.cli.layout import age, latency, size, span
from fastlb.cli.main import COMMANDS, run
from fastlb.cli.reference import BEGIN, END, main, put_between_markers, reference
from fastlb.cli.status_view import render
from fastlb.config import load
from fastlb.errors import FastlbError
from fastlb.model.configuration import Configuration
from fastlb.model.scaling_policy import TargetTracking

FLAGS_OF_RUN = """
--listen -l --target -t --config -c --name --workers -w --algorithm --health-path --health-interval
--health-timeout --healthy-threshold --unhealthy-threshold --health-matcher --no-health-check
--connect-timeout --response-timeout --idle-timeout --header-timeout --drain-timeout --retries
--max-connections --max-header-bytes --max-body-bytes --trusted-proxies --access-log --log-level
--min --max --scale --warmup --slow-start --health-check-grace --zero-after --hold-timeout --bake-time
--user --stop-timeout --max-rss --max-lifetime
"""

GOOD = ["--listen", "http://127.0.0.1:8080", "--target", "127.0.0.1:9001"]


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_help_of_run_groups_all_flags_with_default_and_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{title}:\n" in shown for title in GROUPS)
    for flag in FLAGS_OF_RUN.split():
        assert re.search(rf"(^|\s){flag}\b", shown), flag
    assert "(default 2s: HAProxy's; local probes are cheap)" in " ".join(shown.split())


def test_every_declared_flag_stands_in_one_group() -> None:
    flags = [flag for *_, flag in settings_with_flags()]
    grouped = [flag for group in GROUPS.values() for flag in group]
    assert sorted(flags) == sorted(grouped)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"fastlb {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from fastlb.cli.main import run; run(['--help']); "
        "heavy = {'rich', 'uvloop', 'psutil', 'msgpack', 'asyncio', 'fastlb.config'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "argv",
    [[], ["serve"], ["run", "--lisen", "x"], ["run", "--work", "2", *GOOD], ["status", "x"]],
)
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argv) == 2
    assert "usage: fastlb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("run --wrokers 2", "there is no flag --wrokers; did you mean --workers?"),
        ("run --wrokers=2", "there is no flag --wrokers; did you mean --workers?"),
        ("check good.toml", 'got "good.toml"; use --config good.toml'),
        ("run -t 127.0.0.1:1 127.0.0.1:2", 'got "127.0.0.1:2"; use --target 127.0.0.1:2'),
        ("run http://:80", 'got "http://:80"; use --listen http://:80'),
        ("run --workers 2 4", 'expected a flag, got "4"\n'),
        ("run stray -l http://:80 -- app", 'expected a flag, got "stray"\n'),
        ("run --wrokers 2 app --uds", "there is no flag --wrokers; did you mean --workers?"),
        (
            "run --listen http://:80 --min 1 uvicorn app:app --uds {socket}",
            "the app's command stands after --, the flags of fastlb before that:\n"
            "  fastlb run --listen http://:80 --min 1 -- uvicorn app:app --uds {socket}\n",
        ),
        ("run --min=1 -w2 node --port", "fastlb run --min=1 -w2 -- node --port\n"),
        ("check --print app --workers", "fastlb check --print -- app --workers\n"),
        ("status --jsn", "did you mean --json?"),
        ("status mine", "use --name mine"),
        ("statsu", 'there is no command "statsu"; did you mean status?'),
    ],
)
def test_wrong_usage_is_told_by_the_command_itself_with_a_guess(
    argv: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = argv.split()
    assert run(words) == 2
    shown = capsys.readouterr().err
    assert expected in shown
    own = words[0] if words[0] in COMMANDS else "[-h]"
    assert shown.startswith(f"usage: fastlb {own} ")


def test_a_negative_value_is_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", *GOOD, "--idle-timeout", "-1s", "-w", "-1"]) == 2
    shown = capsys.readouterr().err
    assert '--idle-timeout: expected a duration such as 500ms, 2s or 1m, got "-1s"' in shown
    assert "--workers: expected a whole number from 0 to 64, got -1" in shown


def test_run_without_anything_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run"]) == 2
    shown = capsys.readouterr().err
    assert "fastlb run --listen http://127.0.0.1:8080 --target" in shown
    assert run(["run", "--listen", "http://:1"]) == 2
    assert "fastlb: --listen: there is nothing to forward to" in capsys.readouterr().err


def test_run_without_listen_says_what_to_add(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--min", "2", "--", "node", "server.js", "--port", "{port}"]) == 2
    shown = capsys.readouterr().err
    assert "there is nothing to listen on; add --listen http://127.0.0.1:8080" in shown


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("status -- x", "status takes no command after --; fastlb run -- COMMAND does"),
        ("run --listen http://:1 --", "expected the app's command after --, such as"),
        ("statsu -- x", 'there is no command "statsu"; did you mean status?'),
        ("-- x", "usage: fastlb"),
    ],
)
def test_dashes_without_a_use(argv: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argv.split()) == 2
    assert expected in capsys.readouterr().err


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In place of the two planes: `answer` is what `run_supervisor` does, `got` what it was given."""
    seen: dict[str, Any] = {"answer": lambda: 0}

    def run_supervisor(
        configuration: Configuration, worker_main: object, load: object, **more: object
    ) -> int:
        seen.update(more)
        seen["configuration"], seen["worker_main"] = configuration, worker_main
        seen["load"] = load
        answer: Callable[[], int] = seen["answer"]
        return answer()

    def worker_main() -> None:
        raise AssertionError("called in the supervisor")

    planes = {
        "fastlb.control_plane.supervisor": {"run_supervisor": run_supervisor},
        "fastlb.cli.worker_entry": {"worker_main": worker_main},
    }
    for name, members in planes.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


def test_run_hands_the_configuration_to_the_supervisor(supervisor: dict[str, Any]) -> None:
    argv = [
        *("-l", "http://127.0.0.1:8080", "-t", "127.0.0.1:9001", "-t", "127.0.0.1:9002,backup"),
        *("-w", "2", "--no-health-check", "--max-body-bytes", "1MB", "--algorithm=round_robin"),
    ]
    assert run(["run", *argv]) == 0
    configuration: Configuration = supervisor["configuration"]
    assert supervisor["worker_main"].__name__ == "worker_main"
    assert configuration.workers == 2
    assert configuration.listeners[0].max_body_bytes == 1_000_000
    (group,) = configuration.target_groups
    assert [target.backup for target in group.targets] == [False, True]
    assert (group.algorithm, group.health_check.enabled) == ("round_robin", False)


def test_flags_override_the_file(supervisor: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "fastlb.toml"
    file.write_text(
        '\ufeffworkers = 1\n[[listeners]]\naddress = "http://:80"\ndefault = { forward = "web" }\n'
        '[target_groups.web]\ntargets = ["127.0.0.1:1"]\nhealth_check = false\n',
        encoding="utf-8",
    )
    assert run(["run", "-c", str(file), "-w", "3", "--health-check"]) == 0
    assert supervisor["configuration"].workers == 3
    assert supervisor["configuration"].target_groups[0].health_check.enabled


def test_the_command_after_the_dashes_is_the_app_s_own(supervisor: dict[str, Any]) -> None:
    app = ["app", "--listen", "{socket}", "-1", "--workers", "9", "--", "--help"]
    argv = ["-l", "http://127.0.0.1:8080", "--min", "2", "--max=8", "--scale", "requests=20/s"]
    assert run(["run", *argv, "--scale=cpu=60", "--", *app]) == 0
    configuration: Configuration = supervisor["configuration"]
    (scaling,) = configuration.auto_scaling_groups
    assert scaling.launch_template.command == tuple(app)
    assert (scaling.name, scaling.min, scaling.max) == ("default", 2, 8)
    assert scaling.policies == (
        TargetTracking(metric="requests", target=1200.0),
        TargetTracking(metric="cpu", target=60.0),
    )
    (group,) = configuration.target_groups
    assert (group.name, group.auto_scaling_group, group.targets) == ("default", "default", ())
    assert configuration.workers == 0


def test_the_status_of_run(supervisor: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    supervisor["answer"] = lambda: 1
    assert run(["run", *GOOD]) == 1

    def taken() -> int:
        raise FastlbError("127.0.0.1:8080 is in use by nginx (pid 12)")

    supervisor["answer"] = taken
    assert run(["run", *GOOD]) == 1
    assert capsys.readouterr().err == "fastlb: 127.0.0.1:8080 is in use by nginx (pid 12)\n"


def test_check_is_ok(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", *GOOD]) == 0
    shown = capsys.readouterr()
    assert shown.out == "ok: 1 listener, 0 rules, 1 target group, 1 target\n"
    assert shown.err == ""


def test_check_prints_the_effective_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--print", *GOOD, "--health-path", "/health"]) == 0
    printed = capsys.readouterr().out
    configuration = load(printed).configuration
    assert configuration.target_groups[0].health_check.path == "/health"
    assert 'drain_timeout = "30s"' in printed


def test_check_counts_auto_scaling_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--listen", "http://:1", "--", "app", "{port}"]) == 0
    shown = capsys.readouterr().out
    assert shown == "ok: 1 listener, 0 rules, 1 target group, 0 targets, 1 auto scaling group\n"


def test_check_prints_values_of_variables_only_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fastlb.toml"
    file.write_text(
        "[auto_scaling_groups.a]\n[auto_scaling_groups.a.launch_template]\n"
        'command = ["app", "{socket}"]\nenv = { KEY = "secret", MODE = "x y" }\n'
    )
    argv = ["check", "-c", str(file), *GOOD, "--print"]
    assert run(argv) == 0
    shown = capsys.readouterr()
    assert "secret" not in shown.out + shown.err
    assert 'env = { KEY = "***", MODE = "***" }' in shown.out
    assert shown.out.startswith('# Values of `env` are hidden as "***"; --show-env shows them.\n')
    assert run([*argv, "--show-env"]) == 0
    shown = capsys.readouterr()
    assert 'env = { KEY = "secret", MODE = "x y" }' in shown.out
    assert not shown.out.startswith("#")


def test_check_says_each_error_on_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fastlb.toml"
    file.write_text('workers = "x"\nnam = "a"\n')
    assert run(["check", "--config", str(file), "--retries", "99"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "workers",
        "nam",
        "--retries",
        "listeners",
        str(file),
    ]
    assert lines[-1] == f"{file}: 4 errors"
    assert run(["check", "--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'name = "a"\r\nworkers = = 2\n', "line 2, column 11: Invalid value"),
        (b'\xef\xbb\xbfname = "a"\nname = "b"\n', "line 2, column 11: this key has a value"),
        (b'name = "\xff"', "line 1, column 9: expected UTF-8, got the byte 0xff"),
        (b'\xef\xbb\xbf# \xc3\xa4\nname = "\xff"', "line 2, column 9: expected UTF-8"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_file_that_is_no_toml_is_refused_with_line_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bytes, expected: str, command: str
) -> None:
    file = tmp_path / "fastlb.toml"
    file.write_bytes(raw)
    assert run([command, "--config", str(file)]) == 2
    assert f"{file}: {expected}" in capsys.readouterr().err


def test_check_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fastlb.toml"
    file.write_text(
        '[[listeners]]\naddress = "http://:80"\ndefault = { fixed_response = {} }\n'
        '[target_groups.web]\ntargets = ["127.0.0.1:1"]\n'
    )
    assert run(["check", "-c", str(file)]) == 0
    assert capsys.readouterr().err.startswith("warning: target_groups.web: no listener forwards")


def test_check_warns_of_a_second_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    second.write_text("workers = 2\n")
    assert run(["check", "-c", str(first), "-c", str(second), *GOOD]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith(f"warning: --config: {second} is read, the last one given, and")
    assert shown.out.startswith(f"{second}: ok: 1 listener")


# fastlb status


def target(**values: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "address": "127.0.0.1:9001",
        "weight": 1,
        "backup": False,
        "state": "healthy",
        "suspect": False,
        "reason": "check passed 0.4 s ago",
        "in_flight": 3,
        "requests": 123456,
        "errors": 0,
        "status_5xx": 0,
        "p50_s": 0.0004,
        "p99_s": 0.0123,
        "connections": 8,
    }
    return plain | values


REASON = "connection refused on :9002, 3 of 3 checks failed, last 0.4 s ago"
DOCUMENT: dict[str, Any] = {
    "name": "default",
    "pid": 4711,
    "version": "0.1.0",
    "started": 1.0,
    "uptime_s": 3725.0,
    "draining": False,
    "workers": [
        {
            "index": n,
            "pid": 4712 + n,
            "state": "running",
            "connections": 32,
            "requests": 61728,
            "in_flight": 2,
            "cpu_percent": 41.6,
            "rss_bytes": 27_000_000,
            "restarts": 0,
            "slots": [n],
        }
        for n in range(2)
    ],
    "listeners": [{"address": "http://0.0.0.0:8080", "default": "forward web", "rules": 2}],
    "target_groups": [
        {
            "name": "web",
            "algorithm": "least_outstanding_requests",
            "fail_open": False,
            "health_check": "GET /health every 2 s expects 200-399",
            "targets": [
                target(),
                target(address="127.0.0.1:9002", state="unhealthy", reason=REASON, p50_s=None),
                target(
                    address="unix:/srv/run/my-app/app.sock", weight=2, backup=True, suspect=True
                ),
            ],
        },
        {
            "name": "empty",
            "algorithm": "round_robin",
            "fail_open": True,
            "health_check": "off",
            "targets": [],
        },
    ],
    "auto_scaling_groups": [],
    "totals": {
        "requests": 123456,
        "in_flight": 4,
        "connections": 64,
        "status_2xx": 123450,
        "status_5xx": 6,
        "errors": 6,
        "retries": 2,
        "rejected": 0,
        "bytes_in": 10_000,
        "bytes_out": 5_000_000,
    },
}


def lines(document: dict[str, Any], width: int | None) -> list[str]:
    return [line.plain for line in render(document, width)]


def test_status_fits_80_columns_and_says_reasons() -> None:
    shown = lines(DOCUMENT, 80)
    assert max(map(len, shown)) <= 80
    assert shown[0] == "fastlb default  pid 4711, up 1 h 2 m, version 0.1.0"
    at = next(n for n, line in enumerate(shown) if "127.0.0.1:9002" in line)
    assert shown[at].split() == ["127.0.0.1:9002", "unhealthy", "3", "123456", "0", "-", "12ms"]
    assert shown[at + 1].strip() == REASON
    at = next(n for n, line in enumerate(shown) if "…" in line)
    assert shown[at].split()[:2] == ["…/run/my-app/app.sock", "suspect"]
    said = "unix:/srv/run/my-app/app.sock; stalls; check passed 0.4 s ago (weight 2, backup)"
    assert " ".join(" ".join(shown[at + 1 : at + 3]).split()).startswith(said)
    assert any("FAIL OPEN" in line for line in shown)
    assert any(line.split()[:3] == ["1", "4713", "running"] for line in shown)
    said = " ".join(" ".join(shown).split())
    assert "123456 requests, 4 in flight on 64 connections; answers: 123450 2xx, 6 5xx; " in said
    assert "6 errors, 2 retries, 0 connections rejected" in said


def test_status_in_a_pipe_has_a_target_s_reason_on_its_line() -> None:
    shown = lines(DOCUMENT, None)
    assert any("127.0.0.1:9002" in line and line.endswith(REASON) for line in shown)


def test_status_says_one_of_one() -> None:
    totals = DOCUMENT["totals"] | {"requests": 1, "connections": 1, "errors": 1, "retries": 1}
    said = " ".join(lines(DOCUMENT | {"totals": totals}, None)[-1].split())
    assert "1 request, 4 in flight on 1 connection; " in said
    assert "6 5xx (some to what was refused before it was a request); 1 error, 1 retry, " in said


def test_status_in_narrow_terminals_and_with_nothing_to_show() -> None:
    assert lines(DOCUMENT, 40)
    nothing = DOCUMENT | {"workers": [], "listeners": [], "target_groups": [], "draining": True}
    assert "DRAINING" in lines(nothing, 80)[0]


def test_nothing_of_a_reason_steers_the_terminal() -> None:
    group = DOCUMENT["target_groups"][0] | {"targets": [target(reason="\x1b[2Jhi\r\n")]}
    for width in (80, None):
        text = "".join(lines(DOCUMENT | {"target_groups": [group]}, width))
        assert text.isprintable()
        assert "?[2Jhi" in text


def test_figures() -> None:
    ages = [age(seconds) for seconds in (0, 99.9, 100, 5999, 6000, 172799, 172800, 9e6)]
    assert ages == ["0s", "99s", "1m", "99m", "1h", "47h", "2d", "104d"]
    assert [latency(s) for s in (None, 0.0004, 0.25, 2.5)] == ["-", "0.40ms", "250ms", "2.5s"]
    assert [size(n) for n in (0, 2048, 150 * 1024, 5e9)] == ["0B", "2.0KiB", "150KiB", "4.7GiB"]
    assert [span(s) for s in (3, 65, 90061)] == ["3 s", "1 m 5 s", "1 d 1 h"]


@contextmanager
def answering(path: Path, answer: bytes | None) -> Iterator[list[bytes]]:
    """A socket that answers each connection with `answer`, or reads and says nothing (None)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    asked: list[bytes] = []
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    held = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection.makefile("rb") as lines:
                asked.append(lines.readline())
            if answer is None:
                held.append(connection)
                continue
            try:
                connection.sendall(answer)
            except OSError:
                pass  # who only looked whether somebody is there has gone
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)
        for connection in held:
            connection.close()
        path.unlink()


@pytest.fixture
def instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTLB_RUN_DIR", str(tmp_path))
    monkeypatch.delenv("FASTLB_NAME", raising=False)
    return tmp_path


def test_status_asks_and_shows(instances: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.dumps(DOCUMENT).encode() + b"\n"
    with answering(instances / "default" / "control.sock", answer) as asked:
        assert run(["status"]) == 0
        assert "127.0.0.1:9002" in capsys.readouterr().out
        assert run(["status", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == DOCUMENT
    assert [json.loads(line) for line in asked] == [{"command": "status"}] * 2


def test_status_of_nobody(instances: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status"]) == 1
    assert 'no instance named "default" is running' in capsys.readouterr().err
    with answering(instances / "other" / "control.sock", b"{}\n"):
        assert run(["status", "--name", "mine"]) == 1
        assert capsys.readouterr().err.endswith(
            "; running: other; ask: fastlb status --name other\n"
        )
    assert run(["status", "--name", "../x"]) == 2


def test_status_of_the_only_one(instances: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.dumps(DOCUMENT | {"name": "shop"}).encode() + b"\n"
    with answering(instances / "shop" / "control.sock", answer):
        assert run(["status"]) == 0
        shown = capsys.readouterr()
        assert shown.out.startswith("fastlb shop  pid")
        assert 'no instance named "default" is running; this is "shop"' in shown.err
        with answering(instances / "blog" / "control.sock", answer):
            assert run(["status"]) == 1
        shown = capsys.readouterr()
        assert "running: blog, shop; ask: fastlb status --name blog" in shown.err


def test_the_name_may_stand_in_the_environment(
    instances: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTLB_NAME", "shop")
    answer = json.dumps(DOCUMENT | {"name": "shop"}).encode() + b"\n"
    with (
        answering(instances / "shop" / "control.sock", answer) as asked,
        answering(instances / "blog" / "control.sock", answer) as others,
    ):
        assert run(["status"]) == 0
        assert run(["status", "--name", "blog"]) == 0
        assert (len(asked), len(others)) == (1, 1)
        monkeypatch.setenv("FASTLB_NAME", "gone")
        capsys.readouterr()
        assert run(["status"]) == 1
        shown = capsys.readouterr().err
        assert 'no instance named "gone" is running' in shown
        assert shown.endswith("; the name is that of FASTLB_NAME\n")
        assert run(["status", "--name", "gone"]) == 1
        assert "FASTLB_NAME" not in capsys.readouterr().err
    monkeypatch.setenv("FASTLB_NAME", "../x")
    assert run(["status"]) == 2
    assert capsys.readouterr().err.startswith("fastlb: FASTLB_NAME: expected a name of letters")


def test_status_of_orphans(instances: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = instances / "default"
    with answering(folder / "worker-12.sock", b""):
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(folder / "worker-13.sock"))
        stale.close()
        assert run(["status"]) == 1
        shown = capsys.readouterr().err
        assert run(["status", "--name", "mine"]) == 1
        other = capsys.readouterr().err
    assert other.endswith("; workers without a supervisor: default\n")
    assert "workers still serve" in shown
    assert "(pid 12)" in shown
    assert "kill -TERM 12\n" in shown


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"error": "no"}\n', "fastlb: no\n"),
        (b"[]\n", "expected an answer of the supervisor"),
        (b"half", "closed before the answer was whole"),
        (None, "gave no answer"),
    ],
)
def test_status_of_an_instance_that_answers_strangely(
    answer: bytes | None,
    expected: str,
    instances: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.3)
    with answering(instances / "default" / "control.sock", answer):
        assert run(["status"]) == 1
    assert expected in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_failure(instances: Path) -> None:
    answer = json.dumps(DOCUMENT).encode() + b"\n"
    with answering(instances / "default" / "control.sock", answer):
        command = [sys.executable, "-m", "fastlb", "status"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
            assert reading.stdout is not None
            assert reading.stderr is not None
            reading.stdout.close()
            said = reading.stderr.read()
            assert reading.wait(30) == 0, said
        assert said == b""


# The reference in the README


def test_the_readme_holds_the_reference() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    text = readme.read_text(encoding="utf-8")
    changed = put_between_markers(text)
    if changed is None:
        pytest.skip(f"README.md has no {BEGIN} yet")
    assert changed == text, "run `make docs`"


def test_the_reference_is_put_between_the_markers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main([str(file)]) == 0
    text = file.read_text()
    assert text == f"before\n{BEGIN}\n{reference()}{END}\nafter\n"
    assert main([str(file)]) == 0
    assert file.read_text() == text
    file.write_text("nothing")
    assert main([str(file)]) == 1
    assert capsys.readouterr().err


def test_the_example_of_the_reference_is_right() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", reference(), re.DOTALL)
    others = '[target_groups.api]\ntargets = ["a:1"]\n[target_groups.api-canary]\ntargets = ["b:1"]'
    assert load(example + others).warnings == ()
