"""`fastlb logs` against a running instance, one whose supervisor was killed, and one that ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.fastlb import ROOT, FastlbProcess
from tests.support.processes import RUN_DIR_VARIABLE, wait_until
from tests.support.raw_client import RawClient
from tests.support.raw_target import RawTarget, echo_requests

PRINTING = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); "
    "print('I listen', flush=True)\n"
    "while True: s.accept()[0].close()"
)


def environment(fastlb: FastlbProcess) -> dict[str, str]:
    return os.environ | {RUN_DIR_VARIABLE: str(fastlb.run_dir), "PYTHONUNBUFFERED": "1"}


def logs(fastlb: FastlbProcess, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastlb", "logs", "--name", fastlb.name, *words],
        cwd=ROOT,
        env=environment(fastlb),
        capture_output=True,
        text=True,
        timeout=30,
    )


class Following:
    """`fastlb logs --follow` in the background."""

    def __init__(self, fastlb: FastlbProcess, folder: Path, *words: str) -> None:
        self._out = folder / f"out{len(list(folder.iterdir()))}"
        command = [sys.executable, "-m", "fastlb", "logs", "--name", fastlb.name, "-f", *words]
        with open(self._out, "wb") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment(fastlb), stdout=out, stderr=out
            )

    @property
    def text(self) -> str:
        return self._out.read_text()

    def until(self, what: str) -> None:
        wait_until(lambda: what in self.text, 30, f"{what!r} is shown")


def test_logs_of_an_instance_and_of_what_is_left_of_it(
    start_fastlb: Callable[..., FastlbProcess],
    start_raw_target: Callable[..., RawTarget],
    tmp_path: Path,
) -> None:
    access = tmp_path / "access.log"
    target = start_raw_target(echo_requests)
    fastlb = start_fastlb("--access-log", str(access), targets=[target])
    fastlb.wait_states()
    following = Following(fastlb, tmp_path)
    requests = Following(fastlb, tmp_path, "--access")
    following.until("is ready")
    with RawClient(fastlb.port) as client:

        def shown() -> bool:
            client.send([b"GET /followed HTTP/1.1\r\nHost: a\r\n\r\n"])
            assert client.answer().status == 200
            return "/followed" in requests.text

        wait_until(shown, 30, "the request is shown", every=0.1)
    fastlb.process.send_signal(signal.SIGUSR1)
    following.until("SIGUSR1")

    records = [json.loads(line) for line in logs(fastlb, "--json").stdout.splitlines()]
    assert {one["source"] for one in records} == {"supervisor"}
    (ready,) = [one for one in records if "is ready" in one["message"]]
    assert (ready["worker"], ready["level"]) == (0, "info")
    (healthy,) = [one for one in records if "-> healthy" in one["message"]]
    assert (healthy["target"], healthy["group"]) == (str(target), "default")
    assert not logs(fastlb, "--level", "error").stdout
    assert not logs(fastlb, "--since", "0s").stdout
    assert len(logs(fastlb, "-n", "1").stdout.splitlines()) == 1
    assert "/followed" in logs(fastlb, "--access").stdout

    fastlb.kill_supervisor()
    assert following.process.wait(30) == requests.process.wait(30) == 1
    assert following.text.endswith(
        f'fastlb: the supervisor of instance "{fastlb.name}" has ended\n'
    )

    def orphan_has_said_so() -> bool:
        return "the supervisor is gone" in logs(fastlb).stdout

    wait_until(orphan_has_said_so, 30, "the log is shown without a supervisor")
    left = logs(fastlb)
    assert "its workers still serve" in left.stderr
    assert left.returncode == 0


def test_what_instances_print(start_fastlb: Callable[..., FastlbProcess], tmp_path: Path) -> None:
    config = tmp_path / "fastlb.toml"
    for log in ("inherit", str(tmp_path / "logs")):
        config.write_text(
            f"""
[[listeners]]
address = "http://127.0.0.1:0"
default = {{ forward = "web" }}
[target_groups.web]
auto_scaling_group = "app"
health_check = false
[auto_scaling_groups.app]
min = 1
max = 1
[auto_scaling_groups.app.launch_template]
command = ["{sys.executable}", "-c", '''{PRINTING}''', "{{socket}}"]
log = "{log}"
"""
        )
        name = "inherit" if log == "inherit" else "files"
        fastlb = start_fastlb("--config", str(config), listen=(), name=name)
        following = Following(fastlb, tmp_path, "--json")
        wait_until(lambda fastlb=fastlb: "I listen" in logs(fastlb, "--group", "app").stdout, 30)
        records = [
            json.loads(line)
            for line in logs(fastlb, "--group", "app", "--json").stdout.splitlines()
        ]
        (said,) = [one for one in records if one["message"].endswith("I listen")]
        assert said["group"] == "app"
        of_one = logs(fastlb, "--instance", said["instance"]).stdout
        assert "I listen" in of_one
        assert "launched: pid" in of_one
        following.until("launched: pid")
        if log == "inherit":
            assert "there is no group" in logs(fastlb, "--group", "nobody").stderr
            assert logs(fastlb, "--access").stderr.startswith(
                "fastlb: the access log cannot be shown: it is off"
            )
            assert "--access-log" in logs(fastlb, "reopen").stderr
        fastlb.stop()
        assert following.process.wait(30) == 1
        assert not list((fastlb.run_dir).glob("*/log.jsonl*"))
        assert "a clean stop removes what is shown here" in logs(fastlb).stderr
