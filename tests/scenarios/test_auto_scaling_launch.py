"""How an instance is started: where it listens, what it is told, as whom it runs, and its output."""

from __future__ import annotations

import json
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.apps import http_server
from tests.support.fastlb import FastlbProcess
from tests.support.processes import wait_until
from tests.support.scaling import DEMO, ScaledFastlb, environment_of, gone, group_of, toml

SYSTEM_PYTHON = "/usr/bin/python3"
"""One that another user may run, unlike the interpreter of the tests."""

SECRET = "s3cr3t-of-the-environment"

ON_SOCKET = """
import os, socketserver, sys
from http.server import BaseHTTPRequestHandler

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = repr((os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"])).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return "unix"

socketserver.ThreadingUnixStreamServer(sys.argv[1], Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs") / "of-instances"


@pytest.fixture(scope="module")
def fastlb(
    run_root: Path, logs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScaledFastlb]:
    """Three groups, each on its own path, for all tests that only look."""
    web = group_of(
        "web",
        [*DEMO, "--print-every", "0.2", "--name", "of-{instance}"],
        template={
            "env": {"SECRET": SECRET, "WHERE": "at {socket} as {instance}"},
            "nice": 3,
            "cpus": "0",
            "limit_nofile": 321,
            "limit_core": 0,
            "limit_as": 4 * 1024**3,
        },
    )
    port = group_of("port", http_server(tmp_path_factory.mktemp("app")))
    files = group_of(
        "files",
        [*DEMO, "--print-every", "0.002"],
        template={"log": str(logs), "log_max_bytes": 4096, "log_keep": 2},
    )
    rules = [
        {"priority": n, "path": [f"/{name}/*"], "forward": name}
        for n, name in enumerate(("port", "files"), 1)
    ]
    listener = (
        '[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = { forward = "web" }\n'
        f"rules = {toml(rules)}\n"
    )
    with ScaledFastlb(run_root, listener, web, port, files, listen=()) as one:
        for name in ("web", "port", "files"):
            one.wait_steady(1, name)
        yield one
        one.stop()


def test_it_listens_on_its_socket_in_a_folder_of_its_own(fastlb: ScaledFastlb) -> None:
    ((id, one),) = fastlb.instances().items()
    answer = httpx.get(fastlb.url)
    assert answer.headers["x-demo-worker"] == f"of-{id}"
    folder = fastlb.run_dir / "t" / id
    assert one["address"] == f"unix:{folder}/app.sock"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    for path in folder.parent.glob("*.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path

    environment = environment_of(one["pid"])
    assert environment["FASTLB_SOCKET"] == str(folder / "app.sock")
    assert environment["FASTLB_INSTANCE_ID"] == id
    assert environment["WHERE"] == f"at {folder}/app.sock as {id}"
    assert "PORT" not in environment
    assert environment["SECRET"] == SECRET
    assert SECRET not in fastlb.log()
    assert SECRET not in json.dumps(fastlb.status())


def test_it_listens_on_its_port(fastlb: ScaledFastlb) -> None:
    ((id, one),) = fastlb.instances("port").items()
    assert httpx.get(f"{fastlb.url}/port/").text == str(one["pid"])
    environment = environment_of(one["pid"])
    assert environment["PORT"] == one["address"].removeprefix("127.0.0.1:")
    assert environment["FASTLB_INSTANCE_ID"] == id
    assert "FASTLB_SOCKET" not in environment


def test_it_has_a_process_group_a_niceness_cores_and_limits(fastlb: ScaledFastlb) -> None:
    (pid,) = fastlb.pids()
    assert os.getpgid(pid) == pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == 3
    assert os.sched_getaffinity(pid) == {0}
    limits = {
        line[:26].strip(): line[26:].split()[:2]
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
    }
    assert limits["Max open files"] == ["321", "321"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max address space"] == [str(4 * 1024**3)] * 2


def test_its_output_is_in_the_log_with_its_id(fastlb: ScaledFastlb) -> None:
    (id,) = fastlb.instances()
    wait_until(lambda: f"{id}: of-{id} (pid" in fastlb.log(), 30, "a line of the instance")


def test_its_output_goes_to_files_that_are_rotated(fastlb: ScaledFastlb, logs: Path) -> None:
    (id,) = fastlb.instances("files")
    wait_until((logs / f"{id}.log.2").exists, 30, "the second rotation")

    def found() -> list[str]:
        return sorted(path.name for path in logs.iterdir())

    # It goes on rotating: in the midst of it one of the names is missing, and there is never one more.
    names = [f"{id}.log", f"{id}.log.1", f"{id}.log.2"]
    assert set(found()) <= set(names)
    wait_until(lambda: found() == names, 30, "all three are there")
    assert all(path.stat().st_size <= 4096 + 200 for path in logs.glob("*.log.*"))
    assert f"{id}: " not in fastlb.log()


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(SYSTEM_PYTHON, os.X_OK),
    reason="only root starts processes as another user",
)
def test_it_runs_as_another_user(run_root: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    base = run_root / "passable"
    base.mkdir()
    run_root.chmod(0o711)
    base.chmod(0o711)
    group = group_of(
        command=[SYSTEM_PYTHON, "-c", ON_SOCKET, "{socket}"],
        template={"user": "nobody", "cwd": "/"},
        target_group={"health_check": {"interval": "0.2s"}},
    )
    with ScaledFastlb(run_root, group, run_dir=base) as fastlb:
        ((id, one),) = fastlb.wait_steady(1).items()
        groups = os.getgrouplist("nobody", nobody.pw_gid)
        said = httpx.get(fastlb.url).text
        ids = ((nobody.pw_uid,) * 3, (nobody.pw_gid,) * 3)
        assert said == repr((*ids, groups, nobody.pw_dir))
        folder = base / "t" / id
        assert (folder.stat().st_uid, folder.stat().st_gid) == (nobody.pw_uid, nobody.pw_gid)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o711
        fastlb.stop()
        gone([one["pid"]])


def test_a_command_after_two_dashes_is_a_group(run_root: Path) -> None:
    """And one that forks is ended to its last child, whoever ignores what."""
    arguments = ["--warmup", "0.2s", "--stop-timeout", "0.5s", "--max", "2", "--"]
    command = [*DEMO, "--fork", "2", "--ignore-term"]
    with FastlbProcess(run_root, *arguments, *command) as fastlb:
        wait_until(lambda: httpx.get(fastlb.url).status_code == 200, 30, "an answer")
        fastlb.stop()
