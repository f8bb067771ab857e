"""Operators drain, disable, weigh, add and remove targets under a load that checks its answers."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

from fastlb.cli.main import run
from tests.scenarios.test_failover import Balanced, balanced
from tests.support.fastlb import FastlbProcess
from tests.support.load import HALF_BUSY, LoadClient, run_load
from tests.support.processes import RUN_DIR_VARIABLE, wait_until
from tests.support.raw_client import RawClient
from tests.support.raw_target import RawTarget, echo_requests
from tests.support.scaling import ScaledFastlb, ask, group_of
from tests.support.targets import LightTarget

LISTEN = '[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = { forward = "web" }\n'

Say = Callable[..., tuple[int, str, str]]
"""A command line without the program's name: its exit status, what it printed, and its errors."""


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """`fastlb ...` for one process: `say(fastlb, "drain 9001 --wait")`."""

    def command(fastlb: FastlbProcess, line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setenv(RUN_DIR_VARIABLE, str(fastlb.run_dir))
            status = run([*shlex.split(line), "--name", fastlb.name])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return command


def requests(fastlb: FastlbProcess, target: object) -> int:
    count: int = fastlb.targets()[str(target)]["requests"]
    return count


def more_answers(fastlb: FastlbProcess, count: int) -> None:
    """Until so many more requests were given to targets, of all."""

    def total() -> int:
        return sum(one["requests"] for one in fastlb.targets().values())

    goal = total() + count
    wait_until(lambda: total() >= goal, 30, f"{count} more requests", every=0.05)


def all_counted(fastlb: FastlbProcess, target: object) -> int:
    """The requests that were given to it, once each worker has counted its own: they do some times a
    second."""
    seen = [-1]

    def the_same() -> bool:
        more_answers(fastlb, 100)
        seen.append(requests(fastlb, target))
        return seen[-1] == seen[-2]

    wait_until(the_same, 30, "all are counted", every=0.1)
    return seen[-1]


@pytest.fixture(scope="module")
def case(run_root: Path) -> Iterator[Balanced]:
    """Three targets in turn, two workers; each test leaves them as they were."""
    flags = ("--algorithm", "round_robin", "--health-interval", "200ms")
    with balanced(run_root, *flags, pace=HALF_BUSY) as case:
        yield case
        case.fastlb.stop()


@contextmanager
def streams(case: Balanced) -> Iterator[Callable[[], None]]:
    """Unfinished requests and WebSockets at all targets; to be called: they come to a good end."""
    many = 2 * len(case.targets)
    url = f"ws://127.0.0.1:{case.fastlb.port}/ws"
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(url)) for _ in range(many)]
        clients = [stack.enter_context(RawClient(case.fastlb.port)) for _ in range(many)]
        for client in clients:
            client.send([b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf"])

        def end() -> None:
            for client in clients:
                client.send([b" more"])
            assert [client.answer().status for client in clients] == [200] * many
            for socket in sockets:
                socket.send("still here")
                assert "still here" in str(socket.recv(10))
                socket.close()

        def all_begun() -> bool:
            return sum(one["in_flight"] for one in case.fastlb.targets().values()) == 2 * many

        wait_until(all_begun, 30, "all are in flight")
        yield end


def test_drain_under_load_ends_new_requests_at_once_and_lets_the_others_finish(
    case: Balanced, say: Say
) -> None:
    fastlb, target = case.fastlb, case.targets[0]

    def in_flight() -> int:
        count: int = fastlb.targets()[str(target)]["in_flight"]
        return count

    with streams(case) as end:
        long_ones = in_flight()
        assert long_ones >= 2
        with case.load(connections=8) as load:
            load.started()
            status, out, err = say(fastlb, f'drain {target.where} --reason "deploy 12"')
            assert (status, err) == (0, "")
            assert f"target {target} of group default: drained; " in out
            shown = fastlb.targets()[str(target)]
            assert shown["state"] == "draining"
            assert shown["override"] == "drained"
            assert shown["overrides"][0]["reason"] == "deploy 12"
            assert abs(shown["overrides"][0]["since"] - time.time()) < 30
            wait_until(lambda: in_flight() == long_ones, 30, "the long ones are left")
            given = all_counted(fastlb, target)
            more_answers(fastlb, 300)
            assert requests(fastlb, target) == given, "not one more"

            status, out, err = say(fastlb, f"drain {target} --wait --timeout 10ms")
            assert status == 1
            assert "is drained already" in out
            assert f"target {target} of group default is not idle after 10ms: {long_ones} " in err
            with ThreadPoolExecutor(1) as pool:
                ending = pool.submit(end)
                status, out, _ = say(fastlb, f"drain {target} --wait --timeout 30s")
                ending.result()
            assert status == 0
            assert "nothing is in flight there" in out

            # The checks went on: it is back without waiting for one.
            assert fastlb.targets()[str(target)]["reason"].startswith("healthy: check passed")
            status, out, _ = say(fastlb, f"undrain {target}")
            assert (status, out) == (0, f"target {target} of group default: no longer drained\n")
            assert fastlb.targets()[str(target)]["state"] == "healthy"
            wait_until(lambda: requests(fastlb, target) > given + 50, 30, "it gets requests again")
            result = load.stop()
    assert not result.failures, result
    status, out, _ = say(fastlb, f"why {target.where} --json")
    told = [(one["what"], one["cause"]) for one in map(json.loads, out.splitlines())]
    assert ("drained", "by an operator: deploy 12") in told
    assert ("no longer drained", "by an operator") in told


def test_a_disabled_target_is_not_probed_and_a_drained_one_is(
    run_root: Path, start_raw_target: Callable[..., RawTarget], say: Say
) -> None:
    targets = [start_raw_target(), start_raw_target()]
    check = ("--health-path", "/health", "--health-interval", "50ms")
    with FastlbProcess(run_root, *check, targets=targets) as fastlb:
        fastlb.wait_states()
        probed = targets[0].connections
        status, _, _ = say(fastlb, f"drain {targets[0]}")
        assert status == 0
        count = len(probed)
        wait_until(lambda: len(probed) > count + 3, 30, "the drained one is probed")
        answer = ask(fastlb.run_dir / fastlb.name, "drain", target=str(targets[0]), wait=10)
        assert (answer["idle"], answer["in_flight"], answer["warning"]) == (True, 0, "")
        status, out, err = say(fastlb, f"disable {targets[0]}")
        assert (status, err) == (0, ""), "its group is not worse off than before"
        count = len(probed)
        other = targets[1].connections
        before = len(other)
        wait_until(lambda: len(other) > before + 10, 30, "the other one is probed")
        assert len(probed) <= count + 1, "one may have been under way"
        assert fastlb.targets()[str(targets[0])]["state"] == "disabled"

        status, _, err = say(fastlb, f"undrain {targets[0]}")
        assert status == 1
        assert "is disabled, not drained: fastlb enable" in err
        assert say(fastlb, f"enable {targets[0]}")[0] == 0
        fastlb.wait_state(targets[0], "healthy", 5)
        status, out, _ = say(fastlb, f"enable {targets[0]}")
        assert (status, out.endswith("is not disabled: it is healthy\n")) == (0, True)


def test_the_last_one_is_not_taken_out_by_accident_and_nobody_fails_open_to_it(
    run_root: Path,
    start_raw_target: Callable[..., RawTarget],
    start_light: Callable[..., LightTarget],
    say: Say,
) -> None:
    first, second = start_raw_target(), start_light()
    check = ("--health-interval", "100ms", "--unhealthy-threshold", "1")
    with FastlbProcess(run_root, *check, targets=[first, second]) as fastlb:
        fastlb.wait_states()
        assert say(fastlb, f"drain {first}")[0] == 0
        for command in ("drain", "disable", "weight"):
            status, _, err = say(fastlb, f"{command} {second}" + " 0" * (command == "weight"))
            assert status == 1
            assert "nobody is left in group default" in err
            assert "--force" in err
        status, _, err = say(fastlb, f"target remove default {second}")
        assert (status, "--force" in err) == (1, True)
        assert fastlb.targets()[str(second)]["state"] == "healthy"

        # The other one dies: the group fails open to it alone, and not to the drained one.
        second.kill()
        fastlb.wait_state(second, "unhealthy")
        result = run_load(fastlb.port, count=20, connections=2)
        assert result.failures == {"status-502": 20}
        assert requests(fastlb, first) == 0

        status, _, err = say(fastlb, f"drain {second} --force")
        assert status == 0
        assert "each request to it is answered 503" in err
        result = run_load(fastlb.port, count=20, connections=2)
        assert result.failures == {"status-503": 20}
        assert requests(fastlb, first) == 0


def test_weights_share_the_load_as_they_say(case: Balanced, say: Say) -> None:
    fastlb, (a, b, c) = case.fastlb, case.targets

    def shares() -> list[int]:
        """Of one connection, which is one worker's."""
        result = run_load(fastlb.port, count=240, connections=1)
        assert not result.failures, result
        return [result.by_target.get(one.name, 0) for one in (a, b, c)]

    status, out, _ = say(fastlb, f"weight {a} 4 --reason more")
    assert (status, out) == (0, f"target {a} of group default: weight 1 -> 4\n")
    assert shares() == [160, 40, 40]
    assert say(fastlb, f"weight {a} 50%")[1].endswith("weight 4 -> 0.5 (50% of 1)\n")
    assert shares() == [48, 96, 96]
    assert fastlb.targets()[str(a)]["weight"] == 0.5
    assert say(fastlb, f"weight {a} 0")[0] == 0
    assert shares() == [0, 120, 120]
    assert say(fastlb, f"weight {a} --reset")[1].endswith("-> 1, the configured one\n")
    assert shares() == [80, 80, 80]
    assert fastlb.targets()[str(a)]["override"] is None


def test_targets_come_and_go_under_load(
    case: Balanced, start_light: Callable[..., LightTarget], say: Say
) -> None:
    fastlb, a = case.fastlb, case.targets[0]
    new = start_light("new")
    with case.load(connections=8) as load:
        load.started()
        status, out, err = say(fastlb, f"target add default localhost:{new.where} --weight 2")
        assert status == 0
        assert "gets requests when its first check has passed" in out
        assert "it lasts until fastlb is stopped" in err
        wait_until(lambda: requests(fastlb, new) > 50, 30, "it gets requests")
        status, _, err = say(fastlb, f"target add default {new}")
        assert (status, "is in group default already" in err) == (1, True)

        status, out, _ = say(fastlb, f"target remove default {a} --wait")
        assert status == 0, out
        assert str(a) not in fastlb.targets()
        a.kill()  # nobody needs it any more
        (group,) = fastlb.status()["target_groups"]
        assert [one["address"] for one in group["removed"]] == [str(a)]
        more_answers(fastlb, 200)
        status, _, err = say(fastlb, f"drain {a}")
        assert (status, "it was removed: fastlb target add default" in err) == (1, True)
        a.start()
        status, _, err = say(fastlb, f"target add default {a} --weight 3")
        assert (status, "is configured: add it without" in err) == (1, True)
        assert say(fastlb, f"target add default {a}")[0] == 0
        wait_until(lambda: requests(fastlb, a) > 50, 30, "it is back")
        status, out, _ = say(fastlb, f"target remove default {new} --wait")
        assert (status, "is configured" in out) == (0, False)
        assert str(new) not in fastlb.targets()
        more_answers(fastlb, 200)
        result = load.stop()
    assert not result.failures, result


def test_what_was_said_outlives_the_supervisor_and_not_a_stop(
    run_root: Path, start_light: Callable[..., LightTarget], say: Say
) -> None:
    a, b, c, d = (start_light(name) for name in "abcd")
    options = {"targets": [a, b, c], "workers": 2}
    often = ("--health-interval", "200ms")
    with FastlbProcess(run_root, *often, **options) as first:  # type: ignore[arg-type]
        first.wait_states()
        assert say(first, f'drain {a} --reason "new disk"')[0] == 0
        assert say(first, f"weight {b} 50%")[0] == 0
        assert say(first, f"target add default {d}")[0] == 0
        assert say(first, f"target remove default {c} --wait")[0] == 0
        since = first.targets()[str(a)]["overrides"][0]["since"]
        with LoadClient(first.port, connections=8, **HALF_BUSY) as load:
            load.started()
            more_answers(first, 100)
            given = requests(first, a), requests(first, d)
            first.kill_supervisor()
            listen = (f"http://127.0.0.1:{first.port}",)
            with FastlbProcess(
                run_root,
                *often,
                listen=listen,
                run_dir=first.run_dir,
                **options,  # type: ignore[arg-type]
            ) as second:
                second.wait_state(d, "healthy")
                found = second.targets()
                assert {at: one["override"] for at, one in found.items()} == {
                    str(a): "drained",
                    str(b): "weight 50%",
                    str(d): "added",
                }
                assert found[str(a)]["overrides"][0] == {
                    "what": "drained",
                    "since": since,
                    "reason": "new disk",
                }
                more_answers(second, 200)
                result = load.stop()
                assert not result.failures, result
                assert a.name not in result.by_target
                assert c.name not in result.by_target
                assert given[0] == requests(second, a) == 0
                status, out, _ = say(second, f"drain {a} --wait")
                assert (status, "is drained already" in out) == (0, True)
                second.wait_state(b, "healthy")
                assert say(second, f"undrain {a}")[0] == 0
                second.wait_state(a, "healthy")
                second.stop()
            assert not (first.run_dir / first.name / "overrides.json").exists()


def test_an_instance_is_drained_by_its_standby(
    run_root: Path, start_raw_target: Callable[..., RawTarget], say: Say
) -> None:
    beside = start_raw_target(echo_requests)
    check = {"interval": "0.2s"}
    group = {"target_group": {"targets": [str(beside)], "health_check": check}}
    bounds = {"min": 1, "max": 3, "desired": 2}
    with ScaledFastlb(run_root, LISTEN, group_of(**group, **bounds), workers=1) as fastlb:
        one, other = fastlb.wait_steady(2)
        status, out, _ = say(fastlb, f"weight {one} 50%")
        assert (status, "weight 1 -> 0.5" in out) == (0, True)
        assert say(fastlb, f"drain {beside}")[0] == 0
        assert fastlb.reload(LISTEN, group_of(**group, **bounds | {"max": 4}))["changed"]
        found = [target["override"] for target in fastlb.targets().values()]
        assert sorted(map(str, found)) == ["None", "drained", "weight 50%"]
        address = fastlb.instances()[one]["address"]
        status, out, _ = say(fastlb, f"drain {address} --wait --reason disk")
        assert status == 0
        assert f"instance {one} is drained and kept running" in out
        assert "standby, since it is an instance" in out
        assert list(fastlb.instances(state="standby")) == [one]
        status, _, err = say(fastlb, f"drain {other}")
        assert (status, f"fastlb standby {other} --replace" in err) == (1, True)
        status, _, err = say(fastlb, f"target remove web {other}x")
        assert status == 2
        status, _, err = say(fastlb, f"target remove web {fastlb.instances()[other]['address']}")
        assert (status, f"fastlb terminate {other} ends it" in err) == (1, True)
        status, _, err = say(fastlb, f"weight {one} 3")
        assert (status, "it is no target" in err) == (1, True)
        assert say(fastlb, f"undrain {one}")[0] == 0
        fastlb.wait_steady(2)
        assert fastlb.targets()[address]["override"] is None, "its weight ended with its service"
        told = json.loads(say(fastlb, f"why {one} --json")[1].splitlines()[-1])
        assert told["kind"] in ("health", "routing", "scaling")


def test_wrong_words_are_told_and_change_nothing(
    run_root: Path, start_raw_target: Callable[..., RawTarget], say: Say
) -> None:
    target, other = start_raw_target(), start_raw_target()
    with FastlbProcess(run_root, targets=[target, other]) as fastlb:
        fastlb.wait_states()
        port = str(target).rpartition(":")[2]
        before = fastlb.targets()
        for line, status, said in (
            ("drain", 2, "expected TARGET"),
            ("drain 1", 1, 'there is no target "1"; there are 127.0.0.1:'),
            (f"drain {port} --group nope", 1, "there is no target group 'nope'; there is: default"),
            (f"drain {port} --timeout 3s", 2, "--timeout is how long to --wait"),
            (f"drain {port} --reason {'x' * 201}", 1, "a reason of at most 200 characters"),
            (f"weight {port}", 2, "expected a weight such as 3 or 50%, or --reset"),
            (f"weight {port} 1000", 2, "expected a weight from 0 to 999"),
            (f"weight {port} 3 --reset", 2, "expected a weight such as 3 or 50%, or --reset"),
            ("target add nope 127.0.0.1:1", 1, "there is no target group 'nope'"),
            ("target add default http://x", 2, "expected HOST:PORT without http://"),
            ("target add default no.such.host.invalid:80", 1, "cannot resolve"),
            ("target add default :80,backup", 2, "--weight and --backup are flags"),
            ("target add default :80 --wait", 2, "--wait says nothing here"),
            (f"target remove default {target} --backup", 2, "--backup says nothing here"),
            ("target replace default :80", 2, "expected add or remove"),
        ):
            found, _, err = say(fastlb, line)
            assert (found, said in err) == (status, True), (line, found, err)
        after = fastlb.targets()
        assert {at: one["override"] for at, one in after.items()} == dict.fromkeys(before)


def test_a_removed_target_is_gone_at_the_drain_timeout_and_what_it_has_goes_on(
    run_root: Path, start_light: Callable[..., LightTarget], say: Say
) -> None:
    targets = [start_light(name) for name in "ab"]
    flags = ("--drain-timeout", "200ms", "--algorithm", "round_robin")
    with FastlbProcess(run_root, *flags, targets=targets, workers=1) as fastlb:
        fastlb.wait_states()
        with ExitStack() as stack:
            clients = [stack.enter_context(RawClient(fastlb.port)) for _ in targets]
            for client in clients:
                client.send([b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf"])
            wait_until(
                lambda: [one["in_flight"] for one in fastlb.targets().values()] == [1, 1],
                10,
                "one is in flight at each",
            )
            status, out, _ = say(fastlb, f"target remove default {targets[0]}")
            assert status == 0
            assert "and after 0.2 s (drain_timeout) at the latest" in out
            wait_until(lambda: str(targets[0]) not in fastlb.targets(), 10, "it is gone")
            idle = {"group": "default", "target": str(targets[0])}
            answer = ask(fastlb.run_dir / fastlb.name, "target_idle", **idle)
            assert (answer["idle"], answer["in_flight"]) == (False, 1)
            told = say(fastlb, f"why {targets[0]}")[1]
            assert "left with 1 request in flight" in told
            for client in clients:
                client.send([b" more"])
            assert [client.answer().status for client in clients] == [200, 200]
            answer = ask(fastlb.run_dir / fastlb.name, "target_idle", wait=10, **idle)
            assert (answer["idle"], answer["in_flight"]) == (True, 0)
        fastlb.stop()
