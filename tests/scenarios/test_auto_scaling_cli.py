"""The commands of auto scaling against a real instance, as a person types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.fastlb import ROOT, FastlbProcess
from tests.support.processes import RUN_DIR_VARIABLE, wait_until
from tests.support.scaling import LIGHT

BROKEN = [sys.executable, "-c", "print('no database'); raise SystemExit(3)  # {socket}"]
CONFIGURATION = """
[target_groups.web]
auto_scaling_group = "web"
health_check = {{ path = "/health" }}
[auto_scaling_groups.web]
min = 1
max = 3
warmup = "0s"
slow_start = "0s"
policies = []
refresh = {{ bake_time = "0s" }}
[auto_scaling_groups.web.launch_template]
command = {command}
"""


def write(path: Path, command: list[str]) -> None:
    path.write_text(CONFIGURATION.format(command=json.dumps(command)))


def started(
    start_fastlb: Callable[..., FastlbProcess], path: Path, command: list[str]
) -> FastlbProcess:
    write(path, command)
    return start_fastlb("--config", str(path))


def typed(fastlb: FastlbProcess, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastlb", *words, "--name", fastlb.name],
        cwd=ROOT,
        env=os.environ | {RUN_DIR_VARIABLE: str(fastlb.run_dir)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def group_of(fastlb: FastlbProcess) -> dict[str, Any]:
    group: dict[str, Any] = fastlb.status()["auto_scaling_groups"][0]
    return group


def ids(fastlb: FastlbProcess) -> list[str]:
    return [one["id"] for one in group_of(fastlb)["instances"]]


def test_a_day_of_an_operator(start_fastlb: Callable[..., FastlbProcess], tmp_path: Path) -> None:
    fastlb = started(start_fastlb, tmp_path / "fastlb.toml", [*LIGHT])

    done = typed(fastlb, "scale", "2", "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("group web: desired capacity 1 -> 2\n")
    assert "\ndone after " in done.stdout
    assert group_of(fastlb)["in_service"] == 2

    first, second = ids(fastlb)
    assert "is protected from scale-in" in typed(fastlb, "protect", first).stdout
    done = typed(fastlb, "standby", second, "--wait")
    assert done.returncode == 0, done.stderr
    assert group_of(fastlb)["standby"] == 1
    assert typed(fastlb, "return", second, "--wait").returncode == 0
    assert group_of(fastlb)["in_service"] == 2
    done = typed(fastlb, "terminate", second, "--wait")
    assert done.returncode == 0, done.stderr
    assert group_of(fastlb)["in_service"] == 2
    assert second not in ids(fastlb)

    shown = typed(fastlb, "status").stdout
    assert "web  auto scaling group: 2 desired (1-3), 2 in service\n" in shown
    assert f"  {first}  healthy " in shown
    assert "protected" in shown
    shown = typed(fastlb, "activity", "web", "-n", "2").stdout
    assert f"terminate {second}" in shown
    assert "drained in " in shown
    lines = typed(fastlb, "why", "--json").stdout.splitlines()
    assert {json.loads(line)["kind"] for line in lines} == {"scaling", "health", "routing"}

    refused = typed(fastlb, "scale", "wbe", "2")
    assert refused.returncode == 1
    assert 'did you mean "web"?' in refused.stderr
    fastlb.stop()


def test_a_deploy_that_fails_is_told(
    start_fastlb: Callable[..., FastlbProcess], tmp_path: Path
) -> None:
    path = tmp_path / "fastlb.toml"
    fastlb = started(start_fastlb, path, [*LIGHT])
    wait_until(lambda: group_of(fastlb)["steady"], 30, "the first instance")
    write(path, BROKEN)
    done = typed(fastlb, "reload", "--wait")
    assert done.returncode == 1
    assert done.stdout.startswith("auto_scaling_groups.web.launch_template.command: [")
    assert "instance refresh to v2: rolled back: 2 launches in a row" in done.stderr
    assert "no database" in done.stderr
    assert group_of(fastlb)["in_service"] == 1
    fastlb.stop()


def test_an_app_that_never_comes_up_ends_the_wait(
    start_fastlb: Callable[..., FastlbProcess], tmp_path: Path
) -> None:
    fastlb = started(start_fastlb, tmp_path / "fastlb.toml", BROKEN)
    done = typed(fastlb, "scale", "2", "--wait", "--timeout", "40s")
    assert done.returncode == 1
    assert "failed: ended with status 3 before it was in service" in done.stderr
    assert typed(fastlb, "suspend", "launch").stdout == "group web: suspended: launch\n"
    shown = typed(fastlb, "status").stdout
    assert "suspended: launch" in shown
    assert "no launch: launching is suspended" in shown
    fastlb.stop()


def test_following_ends_cleanly(start_fastlb: Callable[..., FastlbProcess], tmp_path: Path) -> None:
    fastlb = started(start_fastlb, tmp_path / "fastlb.toml", [*LIGHT])
    wait_until(lambda: group_of(fastlb)["steady"], 30, "the first instance")
    outs = [tmp_path / name for name in ("one", "two")]
    following = []
    for path in outs:
        with path.open("w") as out:
            following.append(
                subprocess.Popen(
                    [sys.executable, "-m", "fastlb", "activity", "--follow", "--name", "t"],
                    cwd=ROOT,
                    env=os.environ | {RUN_DIR_VARIABLE: str(fastlb.run_dir)},
                    stdout=out,
                    stderr=out,
                )
            )
    interrupted, left = following
    try:
        for path in outs:
            wait_until(lambda path=path: "launch i-" in path.read_text(), 30, "what was there")
        assert typed(fastlb, "scale", "2", "--wait").returncode == 0
        for path in outs:
            wait_until(
                lambda path=path: path.read_text().count("in service after") == 2, 30, "its end"
            )
        interrupted.send_signal(signal.SIGINT)
        assert interrupted.wait(30) == 130
        assert "Traceback" not in outs[0].read_text()
        fastlb.process.terminate()
        assert left.wait(30) == 1
        fastlb.stop()
        assert 'fastlb: the supervisor of instance "t" has gone' in outs[1].read_text()
    finally:
        for one in following:
            one.kill()
            one.wait()
