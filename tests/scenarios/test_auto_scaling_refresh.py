"""Instance refresh under load: to a good version, and back from bad ones before many have seen them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.apps import asgi_app
from tests.support.load import LoadClient
from tests.support.processes import wait_until
from tests.support.scaling import DEMO, Refused, ScaledFastlb, group_of

Start = Callable[..., LoadClient]
GOOD = [*DEMO, "--version", "good"]


def web(*flags: str, **settings: Any) -> str:
    return group_of(command=[*GOOD, *flags], **({"min": 2, "max": 4} | settings))


@pytest.fixture(scope="module")
def running(run_root: Path) -> Iterator[ScaledFastlb]:
    with ScaledFastlb(run_root, web()) as one:
        yield one
        one.stop()


@pytest.fixture
def fastlb(running: ScaledFastlb) -> ScaledFastlb:
    """Two instances of the good version, which is configured."""
    running.reload(web())
    running.wait_steady(2)
    running.forget_activity()
    return running


@pytest.fixture
def load(fastlb: ScaledFastlb, start_load: Start) -> LoadClient:
    load = start_load(fastlb.port, connections=4, pause=0.005, target_header="x-demo-version")
    return load.started()


def test_to_a_good_version(fastlb: ScaledFastlb, load: LoadClient) -> None:
    before = set(fastlb.instances())
    said = fastlb.reload(web("--version", "better", hold_timeout="9s"))["said"].splitlines()
    assert said[0] == 'auto_scaling_groups.web.hold_timeout: "30s" -> "9s"'
    assert said[1].startswith('auto_scaling_groups.web.launch_template.command: ["/')
    assert said[2] == "2 changes in force"
    fastlb.wait_activity("instance refresh to v", "done")
    after = fastlb.wait_steady(2)
    assert not before & set(after)
    result = load.stop()
    assert not result.failures, result
    assert set(result.by_target) == {"good", "better"}
    assert result.max_latency < 3, result
    group = fastlb.group()
    assert group["version"] == group["configured_version"]


def test_from_one_uvicorn_app_to_another(run_root: Path, tmp_path: Path, start_load: Start) -> None:
    def app(version: str) -> str:
        return group_of(command=asgi_app(tmp_path, version), min=2, max=2)

    with ScaledFastlb(run_root, app("old")) as fastlb:
        fastlb.wait_steady(2)
        options = {"check": "none", "target_header": "x-app-version"}
        load = start_load(fastlb.port, connections=2, pause=0.005, **options).started()
        fastlb.reload(app("new"))
        fastlb.wait_activity("instance refresh to v2", "done")
        assert httpx.get(fastlb.url).text == "new"
        result = load.stop()
        assert not result.failures, result
        assert set(result.by_target) == {"old", "new"}
        fastlb.stop()


def test_to_one_that_fails(fastlb: ScaledFastlb, load: LoadClient) -> None:
    before = set(fastlb.instances())
    fastlb.reload(web("--fail", "500", "--version", "bad"))
    entry = fastlb.wait_activity("instance refresh to v", "rolled back: ")
    assert "requests to the new launch template failed (" in entry["outcome"]
    fastlb.wait_activity("rollback to v", "done")
    after = fastlb.wait_steady(2)
    assert before & set(after), "the old ones were kept"
    result = load.stop()
    assert set(result.failures) == {"status-500"}, result
    # One bad instance of three gets a third of the traffic until it has failed often enough.
    assert result.failed < 100, result
    assert result.failed < result.succeeded
    group = fastlb.group()
    assert group["version"] != group["configured_version"]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--health-status", "503"], "2 launches in a row of version"),
        (["--crash-at-start"], "2 launches in a row of version"),
    ],
)
def test_to_one_that_never_comes_up(
    fastlb: ScaledFastlb, load: LoadClient, flags: list[str], why: str
) -> None:
    before = set(fastlb.instances())
    fastlb.reload(web(*flags, "--version", "bad", health_check_grace="0.7s"))
    entry = fastlb.wait_activity("instance refresh to v", "rolled back: ")
    assert why in entry["outcome"]
    assert set(fastlb.wait_steady(2)) == before
    result = load.stop()
    assert not result.failures, result
    assert set(result.by_target) == {"good"}


def test_to_the_same_template(fastlb: ScaledFastlb, load: LoadClient) -> None:
    before = set(fastlb.instances())
    fastlb.ask("refresh")
    with pytest.raises(Refused, match="is under way"):
        fastlb.ask("refresh")
    with pytest.raises(Refused, match="there is nothing to go back to"):
        fastlb.ask("refresh", action="rollback")
    fastlb.wait_activity("instance refresh", "done")
    assert not before & set(fastlb.wait_steady(2))
    result = load.stop()
    assert not result.failures, result


def test_a_checkpoint_and_a_rollback_by_hand(fastlb: ScaledFastlb, load: LoadClient) -> None:
    steps = {"checkpoints": [50], "checkpoint_delay": "1h"}
    fastlb.reload(web("--version", "better", refresh=steps))
    wait_until(
        lambda: (fastlb.group()["refresh"] or {}).get("phase") == "waiting", 30, "checkpoint"
    )
    wait_until(lambda: fastlb.group()["draining"] == 0, 30, "the first old one has gone")
    group = fastlb.group()
    assert sorted(one["version"] == group["version"] for one in group["instances"]) == [False, True]
    assert group["refresh"]["left"] == 1
    assert fastlb.ask("settled", wait=0)["settled"] is False

    fastlb.ask("refresh", action="rollback")
    fastlb.wait_activity("rollback to v", "done")
    fastlb.wait_steady(2)
    group = fastlb.group()
    assert {one["version"] for one in group["instances"]} == {group["version"]}
    result = load.stop()
    assert not result.failures, result
    assert set(result.by_target) == {"good", "better"}


def test_a_cancelled_one_stays_as_it_is(fastlb: ScaledFastlb, load: LoadClient) -> None:
    steps = {"checkpoints": [50], "checkpoint_delay": "1h"}
    fastlb.reload(web("--version", "better", refresh=steps))
    wait_until(
        lambda: (fastlb.group()["refresh"] or {}).get("phase") == "waiting", 30, "checkpoint"
    )
    fastlb.ask("refresh", action="cancel")
    two = fastlb.wait_steady(2)
    assert len({one["version"] for one in two.values()}) == 2
    # The old one goes when another refresh is asked for.
    said = fastlb.reload(web("--version", "better"))["changed"]
    assert all(one.startswith("auto_scaling_groups.web.refresh.") for one in said)
    fastlb.ask("refresh")
    fastlb.wait_activity("instance refresh", "done")
    group = fastlb.group()
    assert {one["version"] for one in group["instances"]} == {group["configured_version"]}
    result = load.stop()
    assert not result.failures, result


def test_another_one_while_it_runs(fastlb: ScaledFastlb, load: LoadClient) -> None:
    fastlb.reload(web("--version", "one"))
    fastlb.reload(web("--version", "two"))
    fastlb.wait_activity("instance refresh", "done")
    fastlb.wait_steady(2)
    result = load.stop()
    assert not result.failures, result
    assert "two" in result.by_target
    fastlb.wait_activity("instance refresh", "superseded")


def test_scaling_and_a_crash_meanwhile(fastlb: ScaledFastlb, load: LoadClient) -> None:
    fastlb.reload(web("--version", "better", "--start-delay", "0.3"))
    fastlb.ask("scale", desired=4)
    os.kill(fastlb.pids()[0], signal.SIGKILL)
    fastlb.wait_activity("instance refresh", "done")
    four = fastlb.wait_steady(4)
    assert len({one["version"] for one in four.values()}) == 1
    fastlb.ask("scale", desired=2)
    result = load.stop()
    assert not result.failures, result


def test_what_cannot_be_reloaded(fastlb: ScaledFastlb) -> None:
    before = fastlb.instances()
    absent = group_of("other", command=("no-such-program",))
    rule = '[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = { forward = "other" }\n'
    with pytest.raises(Refused, match="--listen: expected one target group"):
        fastlb.reload(rule, web("--version", "x"), absent)
    fastlb.config.write_text("[")
    with pytest.raises(Refused, match=r"\.toml: "):
        fastlb.ask("reload")
    assert fastlb.reload(web())["said"] == "nothing has changed"
    assert list(fastlb.instances()) == list(before)
