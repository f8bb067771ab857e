"""What operators said of targets, over reloads that change the configuration under it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.test_target_commands import Say, more_answers, say
from tests.support.fastlb import FastlbProcess
from tests.support.load import LoadClient
from tests.support.processes import wait_until
from tests.support.raw_target import RawTarget, echo_requests
from tests.support.scaling import ask

__all__ = ["say"]  # the fixture


def configured(*targets: str, algorithm: str = "round_robin") -> str:
    named = ", ".join(f'"{target}"' for target in targets)
    return f"""
[[listeners]]
address = "http://127.0.0.1:0"
default = {{ forward = "web" }}
[target_groups.web]
algorithm = "{algorithm}"
targets = [{named}]
"""


@pytest.mark.usefixtures("say")
def test_a_start_that_fails_forgets_nothing_that_was_said(
    run_root: Path, tmp_path: Path, start_raw_target: Callable[..., RawTarget], say: Say
) -> None:
    a, b = (str(start_raw_target(echo_requests)) for _ in range(2))
    file = tmp_path / "fastlb.toml"
    file.write_text(configured(a, b))
    with FastlbProcess(run_root, "--config", str(file), listen=()) as first:
        first.wait_states()
        assert say(first, f"drain {a}")[0] == 0
        first.kill_supervisor()
        file.write_text(configured(b, "app.invalid:80"))  # names the drained one no more
        options = {"listen": (), "run_dir": first.run_dir}
        with FastlbProcess(run_root, "--config", str(file), wait=False, **options) as second:
            assert second.process.wait(30) == 1
            assert "cannot resolve 'app.invalid'" in second.log()
        file.write_text(configured(a, b))
        with FastlbProcess(run_root, "--config", str(file), **options) as third:
            assert third.targets()[a]["override"] == "drained"
            third.stop()


@pytest.mark.usefixtures("say")
def test_what_was_said_stays_as_long_as_its_target_is_configured(
    run_root: Path,
    tmp_path: Path,
    start_raw_target: Callable[..., RawTarget],
    say: Say,
) -> None:
    a, b, c, d = (str(start_raw_target(echo_requests)) for _ in range(4))
    file = tmp_path / "fastlb.toml"
    file.write_text(configured(a, b, c))
    with FastlbProcess(run_root, "--config", str(file), listen=(), workers=2) as fastlb:

        def overrides() -> dict[str, str | None]:
            return {address: one["override"] for address, one in fastlb.targets().items()}

        def reload(text: str) -> None:
            file.write_text(text)
            assert "error" not in ask(fastlb.run_dir / fastlb.name, "reload", wait=10)

        fastlb.wait_states()
        with LoadClient(fastlb.port, connections=8, check="none", pause=0.01) as load:
            load.started()
            for command in (f"drain {a}", f"weight {b} 50%", f"target remove web {c} --wait"):
                assert say(fastlb, command)[0] == 0
            assert say(fastlb, f"target add web {d}")[0] == 0
            said: dict[str, str | None] = {a: "drained", b: "weight 50%", d: "added"}
            assert overrides() == said

            reload(configured(a, f"{b},weight=4", c, algorithm="weighted_random"))
            assert overrides() == said
            assert fastlb.targets()[b]["weight"] == 2
            assert fastlb.targets()[a]["state"] == "draining"

            reload(configured(b, c, d))
            wait_until(lambda: overrides() == {b: "weight 50%", d: None}, 30, f"{a} is gone")
            reload(configured(a, b, c, d))
            back: dict[str, str | None] = {a: None, b: "weight 50%", d: None}
            wait_until(lambda: overrides() == back, 30, f"{a} is back as it was configured")
            fastlb.wait_states()
            more_answers(fastlb, 200)
            assert not load.stop().failures
        assert "Traceback" not in fastlb.log()
        fastlb.stop()


@pytest.mark.usefixtures("say")
def test_a_reload_that_leaves_nobody_because_of_operators_is_refused(
    run_root: Path,
    tmp_path: Path,
    start_raw_target: Callable[..., RawTarget],
    say: Say,
) -> None:
    a, b, c = (str(start_raw_target(echo_requests)) for _ in range(3))
    file = tmp_path / "fastlb.toml"
    file.write_text(configured(a, b, c))
    with FastlbProcess(run_root, "--config", str(file), listen=(), workers=1) as fastlb:
        fastlb.wait_states()
        assert say(fastlb, f"target remove web {a} --wait")[0] == 0
        assert say(fastlb, f"drain {b}")[0] == 0
        with LoadClient(fastlb.port, connections=4, check="none", pause=0.01) as load:
            load.started()
            file.write_text(configured(a, b))
            answer = ask(fastlb.run_dir / fastlb.name, "reload", wait=10)
            assert (
                f"nobody would be left, because of what operators said: {a} (removed)"
                in (answer["error"])
            )
            assert fastlb.targets()[c]["state"] == "healthy"
            assert say(fastlb, f"undrain {b}")[0] == 0
            assert "error" not in ask(fastlb.run_dir / fastlb.name, "reload", wait=10)
            more_answers(fastlb, 200)
            assert not load.stop().failures
