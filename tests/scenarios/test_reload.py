"""Each kind of change by a reload, under connections that are open: what changed acts, the rest lives on."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.fastlb import FastlbProcess
from tests.support.load import HALF_BUSY, LoadClient
from tests.support.processes import alive, open_files, wait_until
from tests.support.raw_client import Answer, Ended, RawClient
from tests.support.reloading import ReloadedFastlb, group, listener
from tests.support.scaling import HEALTH_CHECK, Refused, ask, group_of
from tests.support.targets import DemoTarget, free_port

FIXED = {"fixed_response": {"status": 200, "body": "fixed"}}


@pytest.fixture(scope="module")
def one() -> Iterator[DemoTarget]:
    with DemoTarget("one") as target:
        yield target


@pytest.fixture(scope="module")
def two() -> Iterator[DemoTarget]:
    with DemoTarget("two") as target:
        yield target


def get(client: RawClient, path: str = "/", *fields: str, body: str = "") -> Answer:
    lines = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", "Host: a", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    client.send(["\r\n".join([*lines, "", body]).encode()])
    return client.answer()


def fetch(where: str | int, path: str = "/") -> Answer:
    """By a connection of its own."""
    port = where if isinstance(where, int) else int(where.rpartition(":")[2])
    with RawClient(port) as client:
        return get(client, path)


def text(where: str | int, path: str = "/") -> str:
    return fetch(where, path).body.decode()


def who(answer: Answer) -> str:
    return answer.fields("x-demo-worker")[0]


def test_rules_limits_and_fields_change_under_an_open_connection(
    run_root: Path, one: DemoTarget, two: DemoTarget
) -> None:
    where = f"http://127.0.0.1:{free_port()}"
    groups = [group("web", [one]), group("other", [two])]
    with (
        ReloadedFastlb(run_root, 'drain_timeout = "0.5s"\n', listener(where), *groups) as fastlb,
        RawClient(fastlb.port) as client,
        connect(f"ws://127.0.0.1:{fastlb.port}/ws") as ws,
    ):
        assert who(get(client)) == "one"
        shown = get(client, "/echo", "X-Forwarded-For: 9.9.9.9").body.decode()
        assert "9.9.9.9, 127.0.0.1" in shown
        said = fastlb.reload(
            'drain_timeout = "0.5s"\n',
            listener(
                where,
                "other",
                {"priority": 5, "path": ["/fixed"]} | FIXED,
                max_body_bytes=10,
                x_forwarded_for="preserve",
            ),
            *groups,
        )
        key = f'listeners["{where}"]'
        assert said == [
            f'{key}.default.forward: "web" -> "other"',
            f'{key}.max_body_bytes: "off" -> "10B"',
            f'{key}.x_forwarded_for: "append" -> "preserve"',
            f"{key}.rules[5]: added",
        ]
        assert who(get(client)) == "two"
        assert get(client, "/fixed").body == b"fixed"
        shown = get(client, "/echo", "X-Forwarded-For: 9.9.9.9").body.decode()
        assert "9.9.9.9" in shown
        assert "9.9.9.9, 127.0.0.1" not in shown
        ws.send("still here")
        assert ws.recv(5) == "still here"
        assert get(client, "/", body="x" * 11).status == 413
        assert fastlb.reload() == []
        fastlb.stop()


def test_a_wrong_configuration_changes_nothing(run_root: Path, one: DemoTarget) -> None:
    where, new = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    with (
        ReloadedFastlb(
            run_root, listener(where), group("web", [one]), flags=["--workers", "1"]
        ) as fastlb,
        socket.create_server(("127.0.0.1", 0)) as taken,
        LoadClient(fastlb.port, connections=4, **HALF_BUSY) as load,
    ):
        load.started()
        files = open_files(fastlb.pid)
        used = f"http://127.0.0.1:{taken.getsockname()[1]}"
        web = group("web", [one])
        for parts, why in (
            (["[[listeners]]\n"], "listeners"),
            (["workers = = 2\n"], r"\.toml: line 1, column 11: Invalid value"),
            ([listener(where, "wbe"), web], r'listeners\[0\].*did you mean "web"'),
            (
                [listener(where), listener(new), listener(used), web],
                rf"listeners\[2\]\.address: cannot listen on {used}: the address is in use by pid",
            ),
            ([listener(where), listener(new), group("web", ["app.invalid:80"])], "cannot resolve"),
            (
                [listener(where), group("web", ["localhost:7", "127.0.0.1:7"])],
                "127.0.0.1:7 is localhost:7 already",
            ),
            (['access_log = "/no/such/folder/log"\n', listener(where), web], "access_log: cannot"),
        ):
            for dry_run in (True, False):
                with pytest.raises(Refused, match=why):
                    fastlb.reload(*parts, dry_run=dry_run)
        with pytest.raises(ConnectionRefusedError):
            RawClient(int(new.rpartition(":")[2]))
        assert fastlb.reload(listener(where), listener(new), web, dry_run=True) == [
            f'listeners["{new}"]: added'
        ]
        with pytest.raises(ConnectionRefusedError):
            RawClient(int(new.rpartition(":")[2]))
        assert open_files(fastlb.pid) == files
        assert len(fastlb.status()["listeners"]) == 1
        result = load.stop()
        assert not result.failures, result
        assert fastlb.reload(listener(where), web) == []
        fastlb.write("workers = 2\n", listener(where), web)
        assert ask(fastlb.run_dir / fastlb.name, "reload")["said"] == (
            "workers: is set on the command line (--workers); the file's value is not used\n"
            "nothing has changed"
        )
        fastlb.stop()


def test_a_removed_listener_finishes_what_it_has_with_its_groups(
    run_root: Path, one: DemoTarget, two: DemoTarget
) -> None:
    stays, goes = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    port = int(goes.rpartition(":")[2])
    web, other = group("web", [one]), group("other", [two])
    drain = 'drain_timeout = "2s"\n'
    with (
        ReloadedFastlb(
            run_root,
            drain,
            listener(stays),
            listener(goes, "other"),
            web,
            other,
            flags=["--workers", "2"],
        ) as fastlb,
        LoadClient(fastlb.port, connections=4, **HALF_BUSY) as load,
        ExitStack() as stack,
    ):
        load.started()
        fastlb.wait_states()
        idle = stack.enter_context(RawClient(port))
        slow = stack.enter_context(RawClient(port))
        kept = stack.enter_context(connect(f"ws://127.0.0.1:{port}/ws"))
        assert who(get(idle)) == "two"
        slow.send([b"GET /slow?ms=700 HTTP/1.1\r\nHost: a\r\n\r\n"])
        said = fastlb.reload(drain, listener(stays), web)
        assert sorted(said) == [f'listeners["{goes}"]: removed', "target_groups.other: removed"]
        with pytest.raises(ConnectionRefusedError):
            RawClient(port)
        last = get(idle)
        assert who(last) == "two"
        assert last.fields("connection") == ["close"]
        assert slow.answer().status == 200
        kept.send("on")
        assert kept.recv(5) == "on"
        wait_until(lambda: len(fastlb.status()["target_groups"]) == 1, 30, "the group has gone")
        kept.send("and on")
        assert kept.recv(5) == "and on"
        # It comes again as if it had never been there.
        fastlb.reload(drain, listener(stays), listener(goes, FIXED), web)
        assert text(goes) == "fixed"
        with pytest.raises(ConnectionClosed):
            kept.recv(10)
        result = load.stop()
        assert not result.failures, result
        fastlb.stop()


def test_whoever_waits_at_a_removed_listener_is_answered(run_root: Path, one: DemoTarget) -> None:
    """Its queue is emptied, also that of a worker that hangs."""
    stays, goes = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    port = int(goes.rpartition(":")[2])
    web = group("web", [one])
    with ReloadedFastlb(
        run_root, listener(stays), listener(goes), web, flags=["--workers", "2"]
    ) as fastlb:
        fastlb.wait_states()
        pids = fastlb.worker_pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            clients = [RawClient(port) for _ in range(40)]
            for client in clients:
                client.send([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
            fastlb.write(listener(stays), web)
            asking = threading.Thread(target=ask, args=(fastlb.run_dir / "t", "reload"))
            asking.start()
            wait_until(lambda: len(fastlb.status()["listeners"]) == 1, 30, "the reload is applied")
            os.kill(pids[0], signal.SIGCONT)
            assert [client.answer().status for client in clients] == [200] * 40
            with pytest.raises(ConnectionRefusedError):
                RawClient(port)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        asking.join(30)
        for client in clients:
            client.socket.close()
        fastlb.stop()


def test_fewer_and_more_workers(run_root: Path, one: DemoTarget) -> None:
    """The connections in the queues of retired workers are answered by those who stay."""
    where = f"http://127.0.0.1:{free_port()}"
    parts = [listener(where), group("web", [one])]
    with ReloadedFastlb(run_root, "workers = 3\n", *parts) as fastlb:
        fastlb.wait_states()
        pids = fastlb.worker_pids()
        for pid in pids[1:]:
            os.kill(pid, signal.SIGSTOP)
        try:
            clients = [RawClient(fastlb.port) for _ in range(60)]
            for client in clients:
                client.send([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
            fastlb.write("workers = 1\n", *parts)
            asking = threading.Thread(target=ask, args=(fastlb.run_dir / "t", "reload"))
            asking.start()
            assert [client.answer().status for client in clients] == [200] * 60
        finally:
            for pid in pids[1:]:
                os.kill(pid, signal.SIGCONT)
        asking.join(30)
        for client in clients:
            client.socket.close()
        wait_until(lambda: len(fastlb.status()["workers"]) == 1, 30, "two have ended")
        assert not any(alive(pid) for pid in pids[1:])
        with LoadClient(fastlb.port, connections=8, **HALF_BUSY) as load:
            load.started()
            fastlb.reload("workers = 3\n", *parts)
            status = fastlb.status()["workers"]
            assert [(one["index"], one["state"]) for one in status] == [
                (index, "running") for index in range(3)
            ]
            # What comes anew is spread over all, and four slots need no fourth worker.
            with LoadClient(fastlb.port, connections=30, seconds=0.5, **HALF_BUSY) as more:
                assert not more.wait().failures
            fastlb.reload("workers = 2\n", *parts)
            result = load.stop()
        assert not result.failures, result
        fastlb.stop()


def test_targets_weights_and_checks(run_root: Path, one: DemoTarget, two: DemoTarget) -> None:
    where = f"http://127.0.0.1:{free_port()}"
    with ReloadedFastlb(run_root, listener(where), group("web", [one, two])) as fastlb:
        fastlb.wait_states()
        with LoadClient(fastlb.port, connections=8, **HALF_BUSY) as load:
            load.started()
            with ExitStack() as stack:
                several = [stack.enter_context(RawClient(fastlb.port)) for _ in range(8)]
                for client in several:
                    client.send([b"GET /slow?ms=700 HTTP/1.1\r\nHost: a\r\n\r\n"])
                there = lambda: fastlb.targets()[str(two)]["in_flight"] >= 2  # noqa: E731
                wait_until(there, 30, "some of them are at the one that goes")
                assert fastlb.reload(listener(where), group("web", [one])) == [
                    f'target_groups.web.targets["{two}"]: removed'
                ]
                assert {who(client.answer()) for client in several} == {"one", "two"}
            wait_until(lambda: str(two) not in fastlb.targets(), 30, "it has left")
            before = fastlb.targets()[str(one)]
            assert before["state"] == "healthy"
            backup = {"address": str(two), "backup": True}
            heavy = {"address": str(one), "weight": 7}
            check = {"path": "/health", "interval": "0.1s", "unhealthy_threshold": 1}
            fastlb.reload(listener(where), group("web", [heavy, backup], health_check=check))
            after = fastlb.targets()
            assert after[str(one)]["weight"] == 7
            assert after[str(one)]["state"] == "healthy"
            assert after[str(one)]["requests"] >= before["requests"]
            assert after[str(two)]["backup"]
            fastlb.wait_states()
            assert "GET /health every 0.1 s" in fastlb.status()["target_groups"][0]["health_check"]
            # Checks that are turned off leave nobody behind who is unhealthy.
            bad = check | {"path": "/no-such-path"}
            fastlb.reload(listener(where), group("web", [heavy, backup], health_check=bad))
            fastlb.wait_states("unhealthy")
            fastlb.reload(
                listener(where), group("web", [heavy, backup], health_check={"enabled": False})
            )
            fastlb.wait_states("healthy")
            result = load.stop()
        assert not result.failures, result
        fastlb.stop()


def test_protocol_limits_and_logs(run_root: Path, one: DemoTarget, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    web = group("web", [one])
    logs = [tmp_path / "first.log", tmp_path / "second.log"]

    def told(path: Path) -> str:
        return f'access_log = "{path}"\n'

    with ReloadedFastlb(run_root, told(logs[0]), listener(f"http://{address}"), web) as fastlb:
        fastlb.wait_states()
        assert fetch(address, "/?first").status == 200
        said = fastlb.reload(told(logs[1]), listener(f"http://{address}"), web)
        assert said == [f'access_log: "{logs[0]}" -> "{logs[1]}"']
        assert fetch(address, "/?second").status == 200
        wait_until(lambda: "second" in logs[1].read_text(), 30, "the new log")
        wait_until(lambda: "first" in logs[0].read_text(), 30, "the old log")
        assert "second" not in logs[0].read_text()
        more = 'max_connections = 2\nlog_level = "debug"\ndrain_timeout = "5s"\n'
        fastlb.reload(more, listener(f"tcp://{address}"), web)
        assert fetch(address, "/?tcp").status == 200  # through the stream
        assert fastlb.status()["listeners"][0]["address"] == f"tcp://{address}"
        wait_until(
            lambda: not sum(one["connections"] for one in fastlb.status()["workers"]),
            30,
            "the last client has gone",
        )
        with RawClient(fastlb.port) as first, RawClient(fastlb.port) as second:
            assert get(first).status == get(second).status == 200
            with pytest.raises((Ended, ConnectionResetError)):
                fetch(fastlb.port)
            fastlb.reload(more, listener(f"http://{address}"), web)
            assert get(first).status == 200
        fastlb.stop()


def test_one_after_the_other_and_none_while_it_stops(run_root: Path, one: DemoTarget) -> None:
    where = f"http://127.0.0.1:{free_port()}"
    web = group("web", [one])
    with ReloadedFastlb(run_root, listener(where), web) as fastlb:
        fastlb.wait_states()
        fastlb.write("workers = 2\n", listener(where), web)
        answers: list[dict[str, object]] = []

        def reload() -> None:
            answers.append(ask(fastlb.run_dir / "t", "reload"))

        several = [threading.Thread(target=reload) for _ in range(4)]
        for thread in several:
            thread.start()
        for thread in several:
            thread.join(30)
        assert sorted(len(one["changed"]) for one in answers) == [0, 0, 0, 1]  # type: ignore[arg-type]
        with RawClient(fastlb.port) as client:
            client.send([b"GET /slow?ms=1000 HTTP/1.1\r\nHost: a\r\n\r\n"])
            wait_until(lambda: fastlb.status()["totals"]["in_flight"] == 1, 30, "it is there")
            fastlb.process.send_signal(signal.SIGTERM)
            wait_until(lambda: fastlb.status()["draining"], 30, "it stops")
            with pytest.raises(Refused, match="this instance is stopping"):
                fastlb.reload(listener(where), web)
            assert client.answer().status == 200
        assert fastlb.process.wait(20) == 0


def test_a_supervisor_killed_amid_reloads(run_root: Path, one: DemoTarget) -> None:
    """Orphans serve all that was added, by a whole table, and hand it over."""
    first, second = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    web = group("web", [one])
    with ReloadedFastlb(run_root, "workers = 1\n", listener(first), web) as fastlb:
        fastlb.wait_states()
        with LoadClient(fastlb.port, connections=8, **HALF_BUSY) as load:
            load.started()
            fastlb.reload("workers = 2\n", listener(first), listener(second), web)

            def reload_on() -> None:
                for number in range(200):
                    rule = {"priority": 1, "path": ["/n"]} | FIXED
                    rule["fixed_response"] = {"status": 200, "body": str(number)}
                    try:
                        fastlb.reload(
                            f"workers = {2 + number % 2}\n",
                            listener(first, "web", rule),
                            listener(second, "web", rule),
                            web,
                        )
                    except (OSError, ValueError, AssertionError):
                        return

            going = threading.Thread(target=reload_on)
            going.start()
            wait_until(lambda: text(first, "/n") in ("3", "4", "5"), 30, "some are in force")
            pids = fastlb.worker_pids()
            fastlb.kill_supervisor()
            going.join(30)

            def all_alike() -> bool:
                return len({text(where, "/n") for where in (first, second) for _ in range(10)}) == 1

            wait_until(all_alike, 30, "all orphans act on one table")
            assert all(fetch(second).status == 200 for _ in range(20))
            with FastlbProcess(
                run_root,
                *("--config", str(fastlb.config)),
                listen=(),
                workers=None,
                run_dir=fastlb.run_dir,
            ) as next_one:
                wait_until(lambda: not any(alive(pid) for pid in pids), 30, "the orphans end")
                assert fetch(second).status == 200
                result = load.stop()
                assert not result.failures, result
                next_one.stop()


def test_watching_the_file(run_root: Path, one: DemoTarget) -> None:
    where = f"http://127.0.0.1:{free_port()}"
    web = group("web", [one])
    with ReloadedFastlb(run_root, listener(where), web, flags=["--watch"]) as fastlb:
        fastlb.wait_states()
        fastlb.write("[")
        wait_until(lambda: "the configuration stays as it is" in fastlb.log(), 30, "it is told")
        other = fastlb.config.with_suffix(".new")
        other.write_text(listener(where, FIXED) + web)
        other.replace(fastlb.config)
        wait_until(lambda: text(where) == "fixed", 30, "the new one acts")
        assert fastlb.log().count("the configuration stays as it is") == 1
        fastlb.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload: nothing has changed" in fastlb.log(), 30, "SIGHUP is told")
        fastlb.stop()


def test_auto_scaling_groups_come_and_go(run_root: Path, one: DemoTarget) -> None:
    where, second = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    web = group("web", [one])
    scaled = group_of("api", min=1, max=3)
    with ReloadedFastlb(run_root, listener(where), web) as fastlb:
        fastlb.wait_states()
        fastlb.reload(listener(where), listener(second, "api"), web, scaled)
        with LoadClient(int(second.rpartition(":")[2]), connections=4, **HALF_BUSY) as load:
            load.started()
            ask(fastlb.run_dir / "t", "scale", group="api", desired=2)

            def in_service() -> list[int]:
                groups = fastlb.status()["auto_scaling_groups"]
                return [
                    one["pid"] for one in groups[0]["instances"] if one["state"] == "in_service"
                ]

            wait_until(lambda: len(in_service()) == 2, 30, "two instances")
            bigger = group_of("api", min=1, max=4)
            fastlb.reload(listener(where), listener(second, "api"), web, bigger)
            assert fastlb.status()["auto_scaling_groups"][0]["desired"] == 2
            assert fastlb.status()["auto_scaling_groups"][0]["max"] == 4
            pids = in_service()
            result = load.stop()
        assert not result.failures, result
        with RawClient(int(second.rpartition(":")[2])) as client:
            assert get(client).status == 200
            fastlb.reload(listener(where), web)
            last = get(client)  # its instances are still there
            assert last.status == 200
            assert last.fields("connection") == ["close"]
        wait_until(lambda: not any(alive(pid) for pid in pids), 30, "the instances have ended")
        assert fastlb.status()["auto_scaling_groups"] == []
        assert HEALTH_CHECK
        fastlb.stop()
