"""What an operator says to a group under load: nobody notices, and the answer says what will happen."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.load import LoadClient
from tests.support.processes import alive, wait_until
from tests.support.scaling import Refused, ScaledFastlb, gone, group_of

Start = Callable[..., LoadClient]


@pytest.fixture(scope="module")
def running(run_root: Path) -> Iterator[ScaledFastlb]:
    with ScaledFastlb(run_root, group_of(min=1, max=4)) as one:
        yield one
        one.stop()


@pytest.fixture
def fastlb(running: ScaledFastlb) -> ScaledFastlb:
    """With one instance in service, nothing suspended and nobody protected or in standby."""
    running.ask("resume")
    for one in running.group()["instances"]:
        if one["protected"]:
            running.ask("protect", instance=one["id"], on=False)
        if one["state"] == "standby":
            running.ask("terminate", instance=one["id"])
    running.ask("scale", desired=1)
    running.wait_steady(1)
    running.forget_activity()
    return running


@pytest.fixture
def load(fastlb: ScaledFastlb, start_load: Start) -> LoadClient:
    return start_load(fastlb.port, connections=4, pause=0.01).started()


def nothing_failed(load: LoadClient) -> None:
    result = load.stop()
    assert not result.failures, result
    assert result.succeeded > 10, result


def test_scale_out_and_in(fastlb: ScaledFastlb, load: LoadClient) -> None:
    (first,) = fastlb.instances()
    said = fastlb.ask("scale", desired=3)["said"]
    assert said == "group web: desired capacity 1 -> 3"
    three = fastlb.wait_steady(3)
    assert first in three
    fastlb.ask("scale", desired=1)
    (left,) = fastlb.wait_steady(1)
    ended = [one["pid"] for id, one in three.items() if id != left]
    gone(ended)
    nothing_failed(load)
    entry = fastlb.wait_activity("terminate")
    assert entry["cause"] == "desired capacity 3 -> 1: asked for by `fastlb scale`"
    assert entry["outcome"].startswith("drained in ")


def test_who_has_requests_goes_last_and_who_is_protected_not_at_all(
    fastlb: ScaledFastlb, start_load: Start
) -> None:
    fastlb.ask("scale", desired=3)
    three = fastlb.wait_steady(3)
    slow = start_load(fastlb.port, connections=1, path="/slow?ms=900", count=1)
    wait_until(
        lambda: any(one["in_flight"] for one in fastlb.instances().values()), 30, "a request"
    )
    (busy,) = [id for id, one in fastlb.instances().items() if one["in_flight"]]
    protected = next(id for id in three if id != busy)
    fastlb.ask("protect", instance=protected)
    fastlb.ask("scale", desired=2)
    two = fastlb.wait_steady(2)
    assert set(two) == {busy, protected}
    fastlb.ask("scale", desired=1)
    assert set(fastlb.wait_steady(1)) == {protected}
    result = slow.wait()
    assert result.succeeded == 1, result


def test_nobody_is_left_to_end(fastlb: ScaledFastlb) -> None:
    fastlb.ask("scale", desired=2)
    two = fastlb.wait_steady(2)
    for id in two:
        fastlb.ask("protect", instance=id)
    fastlb.ask("scale", desired=1)
    assert fastlb.group()["desired"] == 1
    fastlb.ask("protect", instance=next(iter(two)), on=False)
    (left,) = fastlb.wait_steady(1)
    assert left == list(two)[1]


def test_standby_and_return(fastlb: ScaledFastlb, load: LoadClient) -> None:
    (first,) = fastlb.instances()
    with pytest.raises(Refused, match="would fall under its least of 1: with --replace"):
        fastlb.ask("standby", instance=first)
    fastlb.ask("standby", instance=first, replace=True)
    fastlb.wait_activity(f"standby {first}", "in standby")
    wait_until(lambda: first not in fastlb.instances(), 30, "it is out of service")
    fastlb.wait_steady(1)
    standing = fastlb.instances(state="standby")
    assert list(standing) == [first]
    assert alive(standing[first]["pid"])

    fastlb.ask("return", instance=first)
    two = fastlb.wait_steady(2)
    assert first in two
    assert two[first]["pid"] == standing[first]["pid"]
    assert fastlb.group()["desired"] == 2

    # Back at once, while it still drains.
    fastlb.ask("standby", instance=first)
    fastlb.ask("return", instance=first)
    assert first in fastlb.wait_steady(2)
    # And ended while it waits for the end of that.
    fastlb.ask("standby", instance=first)
    fastlb.ask("return", instance=first)
    with pytest.raises(Refused, match="is pending; only one in service can stand by"):
        fastlb.ask("standby", instance=first)
    fastlb.ask("terminate", instance=first, decrement=True)
    gone([two[first]["pid"]])
    fastlb.wait_steady(1)
    nothing_failed(load)


def test_one_that_dies_in_standby_is_forgotten(fastlb: ScaledFastlb) -> None:
    (first,) = fastlb.instances()
    pid = fastlb.pids()[0]
    fastlb.ask("standby", instance=first, replace=True)
    fastlb.wait_activity(f"standby {first}", "in standby")
    fastlb.wait_steady(1)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not fastlb.instances(state="standby"), 30, "it is forgotten")
    fastlb.wait_steady(1)


def test_terminate(fastlb: ScaledFastlb, load: LoadClient) -> None:
    (first,) = fastlb.instances()
    said = fastlb.ask("terminate", instance=first)["said"]
    assert "as soon as another one is in its place" in said
    wait_until(lambda: first not in fastlb.instances(state=None), 30, "it is gone")
    assert len(fastlb.wait_steady(1)) == 1

    fastlb.ask("scale", desired=2)
    two = fastlb.wait_steady(2)
    fastlb.ask("terminate", instance=next(iter(two)), decrement=True)
    assert fastlb.group()["desired"] == 1
    assert set(fastlb.wait_steady(1)) == {list(two)[1]}
    with pytest.raises(Refused, match="would fall under its least of 1"):
        fastlb.ask("terminate", instance=list(two)[1], decrement=True)
    nothing_failed(load)


def test_suspended_launches(fastlb: ScaledFastlb) -> None:
    fastlb.ask("suspend", process="launch")
    fastlb.ask("scale", desired=2)
    group = fastlb.group()
    assert (group["desired"], len(group["instances"])) == (2, 1)
    wait_until(lambda: "launching is suspended" in fastlb.group()["blocked"], 30, "it says so")
    fastlb.ask("resume", process="launch")
    fastlb.wait_steady(2)
    assert fastlb.group()["blocked"] == ""


def test_suspended_terminations(fastlb: ScaledFastlb) -> None:
    fastlb.ask("scale", desired=2)
    two = fastlb.wait_steady(2)
    fastlb.ask("suspend", process="terminate")
    fastlb.ask("scale", desired=1)
    assert fastlb.ask("settled", wait=0.5)["settled"] is False
    assert set(fastlb.instances()) == set(two)
    fastlb.ask("resume", process="terminate")
    fastlb.wait_steady(1)


@pytest.mark.parametrize(
    ("command", "fields", "said"),
    [
        (
            "scale",
            {"group": "wob", "desired": 1},
            "no auto scaling group 'wob'; did you mean \"web\"?",
        ),
        ("scale", {"desired": 9}, "from 1 to 4 instances (min and max), got 9"),
        ("scale", {"desired": "two"}, "expected a number of instances, got 'two'"),
        ("scale", {}, "expected a number of instances, got None"),
        ("terminate", {"instance": "i-nobody"}, "there is no instance 'i-nobody'; there "),
        ("return", {"instance": None}, "there is no instance None; there "),
        (
            "suspend",
            {"process": "lunch"},
            "expected one of launch, terminate, scaling, got 'lunch'",
        ),
        ("refresh", {"action": "cancel"}, "no refresh is under way"),
        ("refresh", {"action": "pause"}, "expected start, cancel or rollback, got 'pause'"),
        ("activity", {"wait": -1}, "wait: expected a number, got -1"),
        ("activity", {"group": 3}, "no auto scaling group 3"),
        ("scael", {}, "expected a command (one of activity, "),
    ],
)
def test_what_makes_no_sense(
    fastlb: ScaledFastlb, command: str, fields: dict[str, object], said: str
) -> None:
    before = fastlb.group()
    with pytest.raises(Refused) as caught:
        fastlb.ask(command, **fields)
    assert said in str(caught.value)
    assert fastlb.group()["desired"] == before["desired"]
