"""The admin server of a real fastlb: figures that are exact, actions, and clients that mean no good."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from fastlb.admin.operations import OPERATIONS
from tests.support.admin import JSON, admin_url, events, over_tcp, over_unix, samples, total
from tests.support.fastlb import FastlbProcess
from tests.support.load import run_load
from tests.support.processes import wait_until
from tests.support.scaling import ScaledFastlb, group_of
from tests.support.targets import LightTarget

ADMIN = ("--admin", "127.0.0.1:0")
Start = Callable[..., FastlbProcess]


@pytest.fixture(scope="module")
def target() -> Iterator[LightTarget]:
    with LightTarget("admin") as one:
        yield one


@pytest.fixture(scope="module")
def fastlb(run_root: Path, target: LightTarget) -> Iterator[FastlbProcess]:
    listen = ["http://127.0.0.1:0", "tcp://127.0.0.1:0"]
    with FastlbProcess(
        run_root,
        *ADMIN,
        "--health-interval",
        "200ms",
        targets=[target.address],
        listen=listen,
        workers=2,
    ) as one:
        one.wait_states()
        yield one
        one.stop()


@pytest.fixture
def admin(fastlb: FastlbProcess) -> Iterator[httpx.Client]:
    with over_tcp(fastlb) as one:
        yield one


def test_metrics_are_the_clients_counts_exactly(
    fastlb: FastlbProcess, admin: httpx.Client, target: LightTarget
) -> None:
    listener = fastlb.addresses[0]
    before = admin.get("/metrics").text

    def grown(text: str, name: str, **labels: str) -> float:
        return total(text, name, **labels) - total(before, name, **labels)

    result = run_load(fastlb.port, connections=8, count=700)
    assert result.succeeded == 700, result
    missing = httpx.get(f"{fastlb.url}/status/404")
    assert missing.status_code == 404

    def counted(requests: int) -> str:
        text = admin.get("/metrics").text
        found = grown(text, "fastlb_target_requests_total", target=target.address)
        return text if found >= requests else ""

    wait_until(lambda: counted(701))  # what a worker has not stored yet goes with it
    os.kill(fastlb.worker_pids()[0], signal.SIGKILL)
    wait_until(lambda: fastlb.status()["workers"][0]["restarts"] == 1)
    wait_until(lambda: fastlb.status()["workers"][0]["state"] == "running")
    result = run_load(fastlb.port, connections=8, count=300)
    assert result.succeeded == 300, result

    def all_stored() -> bool:
        """Also that the last client has gone, which a worker may store a tenth of a second later."""
        found = counted(1001)
        return bool(found) and total(found, "fastlb_connections", listener=listener) == 0

    wait_until(all_stored)
    text = admin.get("/metrics").text
    assert grown(text, "fastlb_requests_total", listener=listener, code="2xx") == 1000
    assert grown(text, "fastlb_requests_total", listener=listener, code="4xx") == 1
    assert grown(text, "fastlb_requests_total") == 1001
    assert grown(text, "fastlb_group_requests_total", group="default") == 1001
    assert grown(text, "fastlb_request_duration_seconds_count", group="default") == 1001
    assert grown(text, "fastlb_worker_requests_total") == 1001
    seconds = grown(text, "fastlb_request_duration_seconds_sum", group="default")
    assert 0 < seconds < 8 * 60
    assert total(text, "fastlb_target_up", target=target.address) == 1
    assert total(text, "fastlb_worker_restarts_total") == 1
    assert total(text, "fastlb_connections", listener=listener) == 0
    # What has no place in a label: a path, a client.
    for (name, labels), _ in samples(text).items():
        assert not {"path", "client"} & {label for label, _ in labels}, name


def test_tcp_connections_are_counted_by_their_listener(
    fastlb: FastlbProcess, admin: httpx.Client
) -> None:
    listener = fastlb.addresses[1]
    with socket.create_connection(("127.0.0.1", fastlb.ports[1])) as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := one.recv(65536):
            answer += piece

    def counted() -> bool:
        text = admin.get("/metrics").text
        return total(text, "fastlb_sent_bytes_total", listener=listener) == len(answer)

    wait_until(counted)
    text = admin.get("/metrics").text
    assert total(text, "fastlb_connections_accepted_total", listener=listener) == 1
    assert total(text, "fastlb_connections", listener=listener) == 0


def test_openmetrics_is_given_to_who_asks_for_it(admin: httpx.Client) -> None:
    wanted = "application/openmetrics-text; version=1.0.0"
    answer = admin.get("/metrics", headers={"Accept": wanted})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in openmetrics_families(answer.text)}
    assert families["fastlb_requests"].type == "counter"
    assert families["fastlb_request_duration_seconds"].type == "histogram"
    plain = admin.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_the_overview_says_everything(fastlb: FastlbProcess, target: LightTarget) -> None:
    with over_unix(fastlb) as admin:
        result = run_load(fastlb.port, connections=4, seconds=2.2, pause=0.005)
        assert not result.failures
        busy = admin.get("/api/v1/overview").json()
        wait_until(
            lambda: (
                admin.get("/api/v1/overview").json()["totals"]["requests_total"] >= result.requests
            )
        )
        series = admin.get("/api/v1/series", params={"scope": "group:default"}).json()
    (group,) = busy["groups"]
    assert (group["name"], group["healthy"], group["fail_open"]) == ("default", 1, False)
    (one,) = busy["targets"]
    assert (one["group"], one["address"]) == ("default", target.address)
    assert (one["state"], one["weight"], one["override"]) == ("healthy", 1, None)
    assert {key["key"]: key["protocol"] for key in busy["listeners"]} == {
        fastlb.addresses[0]: "http",
        fastlb.addresses[1]: "tcp",
    }
    assert [worker["state"] for worker in busy["workers"]] == ["running", "running"]
    assert all(worker["rss_bytes"] > 1e6 for worker in busy["workers"])
    assert busy["host"]["cores"] >= 1
    rates = busy["totals"]
    assert rates["requests_per_s"] == pytest.approx(sum(rates["status"].values()), rel=0.3)
    assert busy["listeners"][0]["latency_known"] is False, "both forward to the same group"
    working = [one for one in busy["workers"] if one["requests_per_s"]]
    assert working
    for scope in (rates, group, one, *working):
        assert 0 < scope["p50_s"] <= scope["p95_s"] <= scope["p99_s"] < 5
    assert series["step"] == 1
    assert abs(series["end"] - time.time()) < 5
    assert max(series["series"]["requests"]) > 0
    lengths = {len(values) for values in series["series"].values()}
    assert len(lengths) == 1


@pytest.mark.parametrize(
    "scope", ["all", "listener:{0}", "listener:{1}", "target:default/{t}", "worker:1"]
)
def test_each_scope_has_its_series(
    fastlb: FastlbProcess, admin: httpx.Client, target: LightTarget, scope: str
) -> None:
    name = scope.format(*fastlb.addresses, t=target.address)
    for span in ("5m", "1h"):
        answer = admin.get("/api/v1/series", params={"scope": name, "span": span})
        assert answer.status_code == 200, answer.text
    assert admin.get("/api/v1/series", params={"scope": "group:nobody"}).status_code == 404
    assert admin.get("/api/v1/series", params={"span": "2h"}).status_code == 400


def test_the_stream_tells_each_second_and_each_decision(
    fastlb: FastlbProcess, target: LightTarget
) -> None:
    with over_tcp(fastlb) as admin, admin.stream("GET", "/api/v1/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        found = events(stream.iter_lines())
        kind, first = next(found)
        assert kind == "overview"
        target.kill()
        subjects = set()
        later = first
        for kind, value in found:
            if kind == "decision":
                subjects.add(value["subject"])
            else:
                later = value
            if target.address in subjects and later["time"] > first["time"] + 1:
                break
        target.restart()
    fastlb.wait_states()


def test_every_command_of_the_control_socket_has_an_operation(fastlb: FastlbProcess) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(fastlb.run_dir / fastlb.name / "control.sock"))
        one.sendall(b'{"command":"?"}\n')
        said = json.loads(one.makefile().readline())["error"]
    commands = said.partition("(one of ")[2].partition(")")[0].split(", ")
    # An upgrade runs a program, which is for whoever has the run-time folder.
    of_the_folder_alone = {"upgrade", "upgrade_outcome"}
    assert set(commands) - of_the_folder_alone <= {one.command for one in OPERATIONS}


def test_refusals(admin: httpx.Client) -> None:
    def refused(status: int, *request: str, **options: object) -> str:
        answer = admin.request(*request, **options)  # type: ignore[arg-type]
        assert answer.status_code == status, answer.text
        return str(answer.json()["error"])

    api = "/api/v1"
    scale = f"{api}/auto-scaling-groups/web/scale"
    assert "no auto scaling group" in refused(404, "POST", scale, json={"desired": 1})
    assert refused(400, "POST", scale, json={"desired": "x"}).startswith("desired: expected")
    assert refused(400, "POST", scale, json={}).startswith("desired: is missing")
    assert refused(400, "POST", scale, content=b"[1]", headers=JSON) == "expected a JSON object"
    assert refused(400, "POST", scale, content=b"{", headers=JSON) == "the body is no JSON"
    assert "is not known here" in refused(400, "GET", f"{api}/decisions?limt=1")
    assert refused(415, "POST", f"{api}/reload", content=b"{}")
    refused(413, "POST", scale, content=b" " * 70_000, headers=JSON)
    refused(405, "GET", f"{api}/reload")
    refused(404, "GET", f"{api}/nothing")
    refused(404, "GET", "/static/../../server.py")


def test_another_sites_page_can_neither_look_nor_act(admin: httpx.Client) -> None:
    reload = "/api/v1/reload"
    host = admin.base_url.netloc.decode()
    assert admin.post(reload, json={}).status_code == 200
    same = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert admin.post(reload, json={}, headers=same).status_code == 200
    for foreign in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://{host}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": f"127.0.0.1.evil.example:{admin.base_url.port}"},
    ):
        assert admin.post(reload, json={}, headers=foreign).status_code == 403, foreign
    rebound = admin.get("/api/v1/overview", headers={"Host": "evil.example"})
    assert rebound.status_code == 403
    assert "access-control-allow-origin" not in rebound.headers
    named = admin.get("/api/v1/overview", headers={"Host": f"localhost:{admin.base_url.port}"})
    assert named.status_code == 200
    assert "access-control-allow-origin" not in named.headers
    assert "default-src 'self'" in named.headers["content-security-policy"]
    assert named.headers["x-content-type-options"] == "nosniff"
    assert named.headers["cache-control"] == "no-store"


def test_the_socket_is_its_owners_and_comes_back(fastlb: FastlbProcess) -> None:
    path = fastlb.run_dir / fastlb.name / "admin.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    wait_until(path.exists)
    with over_unix(fastlb) as admin:
        assert admin.get("/api/v1/overview").status_code == 200


# -- with a token


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text("correct-horse-battery\n")
    path.chmod(0o600)
    return path


def test_a_token_is_demanded_and_guessing_ends(start_fastlb: Start, token_file: Path) -> None:
    fastlb = start_fastlb(
        "--admin", "0.0.0.0:0", "--admin-token-file", str(token_file), targets=["127.0.0.1:1"]
    )
    port = int(admin_url(fastlb).rpartition(":")[2])
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as admin:
        right = {"Authorization": "Bearer correct-horse-battery"}
        nobody = admin.get("/api/v1/overview")
        assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, "Bearer")
        assert admin.get("/metrics").status_code == 401
        assert admin.get("/api/v1/overview", headers=right).status_code == 200
        assert admin.post("/api/v1/reload", json={}, headers=right).status_code == 200

        page = admin.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/login")
        assert "<form" in admin.get("/login").text
        signed_in = admin.post("/login", data={"token": "correct-horse-battery"})
        assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/")
        cookie = signed_in.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert admin.get("/api/v1/overview").status_code == 200
        assert admin.post("/api/v1/reload", json={}).status_code == 200
        name, value = next(iter(admin.cookies.items()))
        admin.cookies.clear()
        admin.cookies.set(name, value[:-1] + ("0" if value[-1] != "0" else "1"))
        assert admin.get("/api/v1/overview").status_code == 401
        admin.cookies.clear()

        wrong = {"Authorization": "Bearer wrong"}
        statuses = [admin.get("/metrics", headers=wrong).status_code for _ in range(6)]
        assert statuses == [401] * 5 + [429]
        barred = admin.post("/login", data={"token": "wrong"})
        assert barred.status_code == 429
        assert 0 < int(barred.headers["retry-after"]) <= 60
        assert admin.get("/metrics", headers=right).status_code == 200
        assert admin.post("/login", data={"token": "correct-horse-battery"}).status_code == 303
    with over_unix(fastlb) as own:
        assert own.get("/api/v1/overview").status_code == 200
    assert "correct-horse" not in fastlb.log()
    fastlb.stop()


def test_a_token_that_others_may_read_is_told_once(start_fastlb: Start, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("correct-horse-battery\n")
    fastlb = start_fastlb(
        "--admin", "127.0.0.1:0", "--admin-token-file", str(token), targets=["127.0.0.1:1"]
    )
    with over_unix(fastlb) as own:
        for mode, told in ((0o644, 1), (0o640, 1), (0o600, 1), (0o644, 2)):
            token.chmod(mode)
            for body in ({}, {"dry_run": True}):
                assert own.post("/api/v1/reload", json=body).status_code == 200
            assert fastlb.log().count(f"others may read {token}: chmod 600 {token}") == told
    fastlb.stop()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--admin", "0.0.0.0:0"], "a token is needed"),
        (["--admin", "[::]:0"], "a token is needed"),
        (["--admin", "127.0.0.1:0", "--admin-token-file", "/nonexistent"], "cannot read"),
        (["--admin", "127.0.0.1:0", "--admin-token-file", "/dev/null"], "at least 16"),
    ],
)
def test_what_is_refused_at_the_start(start_fastlb: Start, arguments: list[str], said: str) -> None:
    fastlb = start_fastlb(*arguments, targets=["127.0.0.1:1"], wait=False)
    assert fastlb.process.wait(30) == 1
    assert said in fastlb.log()
    assert "Traceback" not in fastlb.log()


def test_an_address_in_use_is_told(start_fastlb: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fastlb = start_fastlb("--admin", f"127.0.0.1:{port}", targets=["127.0.0.1:1"], wait=False)
        assert fastlb.process.wait(30) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in fastlb.log()


def test_a_reload_moves_the_address_and_changes_the_token(
    start_fastlb: Start, tmp_path: Path
) -> None:
    config, token = tmp_path / "fastlb.toml", tmp_path / "token"

    def write(secret: str, address: str, more: str = "") -> None:
        token.write_text(secret)
        config.write_text(
            '[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = { fixed_response = {} }\n'
            f'[admin]\naddress = "{address}"\n{more}'
        )

    with_token = f'token_file = "{token}"\n'
    write("correct-horse-battery", "127.0.0.1:0")
    fastlb = start_fastlb("--config", str(config), listen=())

    def status(url: str, secret: str = "") -> int:
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        return httpx.get(f"{url}/api/v1/overview", headers=headers).status_code

    def reload() -> httpx.Response:
        with over_unix(fastlb) as own:
            return own.post("/api/v1/reload", json={})

    url = admin_url(fastlb)
    assert status(url) == 200
    write("correct-horse-battery", "127.0.0.1:0", with_token)
    assert reload().json()["changed"] == ["admin.token_file: changed"]
    assert (status(url), status(url, "correct-horse-battery")) == (401, 200)
    write("another-horse-battery", "127.0.0.1:0", with_token)
    assert reload().json()["changed"] == ["admin.token_file: changed"]
    assert status(url, "another-horse-battery") == 200
    assert status(url, "correct-horse-battery") == 401

    write("", "0.0.0.0:0")
    refused = reload()
    assert refused.status_code == 409
    assert "a token is needed" in refused.json()["error"]
    write("too short", "127.0.0.1:0", with_token)
    assert reload().status_code == 409
    assert status(url, "another-horse-battery") == 200

    other = tmp_path / "admin.sock"
    write("another-horse-battery", f"unix:{other}", with_token)
    assert any(line.startswith("admin.address: ") for line in reload().json()["changed"])
    transport = httpx.HTTPTransport(uds=str(other))
    with httpx.Client(base_url="http://a", transport=transport) as admin:
        right = {"Authorization": "Bearer another-horse-battery"}
        wait_until(lambda: admin.get("/api/v1/overview", headers=right).status_code == 200)
        assert admin.get("/api/v1/overview").status_code == 401

    def gone() -> bool:
        try:
            return not status(url)
        except httpx.ConnectError:
            return True

    wait_until(gone)
    fastlb.stop()
    assert not other.exists()


# -- clients that mean no good


def test_slow_and_stuck_clients_hold_up_neither_the_others_nor_the_stop(
    start_fastlb: Start, target: LightTarget
) -> None:
    fastlb = start_fastlb(*ADMIN, targets=[target.address])
    url = httpx.URL(admin_url(fastlb))
    where = (url.host, url.port)
    held = []
    for n in range(30):
        one = socket.create_connection(where)
        if n % 3 == 0:
            one.sendall(b"GET /api/v1/overview HTTP/1.1\r\nHost: localhost\r\n")  # and no more
        elif n == 2:  # an answer that waits
            one.sendall(b"GET /api/v1/activity?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        elif n % 3 == 1:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")  # reads nothing
        held.append(one)
    with over_tcp(fastlb) as admin:
        begun = time.monotonic()
        for _ in range(20):
            assert admin.get("/api/v1/overview").status_code == 200
        assert time.monotonic() - begun < 10
        flood = [socket.create_connection(where) for _ in range(300)]
        assert httpx.get(fastlb.url).status_code == 200
        for one in flood:
            one.close()
        garbage = socket.create_connection(where)
        garbage.sendall(b"\x16\x03\x01 garbage\r\n\r\n" + b"x" * 100_000)
        garbage.close()
        wait_until(lambda: admin.get("/api/v1/overview").status_code == 200)
    begun = time.monotonic()
    fastlb.stop()
    assert time.monotonic() - begun < 8
    for one in held:
        one.close()


def test_whoever_connects_and_asks_nothing_makes_room(
    start_fastlb: Start, target: LightTarget
) -> None:
    fastlb = start_fastlb(*ADMIN, targets=[target.address])
    url = httpx.URL(admin_url(fastlb))
    where = (url.host, url.port)
    with over_tcp(fastlb) as admin, admin.stream("GET", "/api/v1/events") as stream:
        followed = events(stream.iter_lines())
        next(followed)
        idle = []
        for n in range(200):
            idle.append(one := socket.create_connection(where))
            if n % 2:
                one.sendall(b"POST /api/v1/reload HTTP/1.1\r\n")  # and no more
        begun = time.monotonic()
        answer = httpx.get(f"{url}/api/v1/overview", timeout=10)
        assert answer.status_code == 200, answer.text
        assert time.monotonic() - begun < 2
        ended, _, _ = select.select(idle, [], [], 10)
        assert 70 <= len(ended) < 90, "as many as had to be"
        # Who asked something keeps its place: so does the stream.
        assert next(followed)[0] == "overview"
    for one in idle:
        one.close()
    fastlb.stop()


def test_the_socket_can_be_turned_off(start_fastlb: Start) -> None:
    fastlb = start_fastlb("--no-admin-socket", targets=["127.0.0.1:1"])
    assert not (fastlb.run_dir / fastlb.name / "admin.sock").exists()
    fastlb.stop()


def test_an_admin_address_may_be_a_path(start_fastlb: Start, tmp_path: Path) -> None:
    path = tmp_path / "admin"
    fastlb = start_fastlb("--admin", f"unix:{path}", targets=["127.0.0.1:1"])
    transport = httpx.HTTPTransport(uds=str(path))
    with httpx.Client(base_url="http://localhost", transport=transport) as admin:
        answer = wait_until(lambda: admin.get("/api/v1/overview"))
        assert answer.status_code == 200
    fastlb.stop()
    assert not path.exists()


# -- auto scaling


UNITS = {
    "time": {"s", "ms", "us", "ns", "seconds", "minutes"},
    "size": {"bytes", "kib", "mib"},
    "rate": {"per_s", "per_second", "a_second", "per_minute", "a_minute", "per_min"},
    "share": {"percent", "ratio"},
}


def measured(key: str) -> tuple[str, str, str] | None:
    """What a key measures, in which kind of unit, in which; None of a key without a unit."""
    for kind in ("rate", "time", "size", "share"):
        for unit in UNITS[kind]:
            if key.endswith(f"_{unit}"):
                return key.removesuffix(f"_{unit}"), kind, unit
    return None


def keys_of(value: Any) -> Iterator[str]:
    """Of all objects in a value."""
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, dict | list):
            yield from keys_of(item)
    if isinstance(value, dict):
        yield from value


def test_one_unit_has_one_name_at_all_endpoints(run_root: Path) -> None:
    paths = [
        one.path for one in OPERATIONS if one.method == "GET" and not one.path.endswith("/idle")
    ]
    with ScaledFastlb(run_root, group_of(min=1, max=3)) as fastlb:
        fastlb.wait_steady(1)
        with over_unix(fastlb) as admin:
            found = {}
            for path in ("/overview", "/series", *paths):
                answer = admin.get(f"/api/v1{path.format(group='web')}")
                assert answer.status_code == 200, answer.text
                found |= dict.fromkeys(keys_of(answer.json()), path)
    assert {"p50_s", "uptime_s", "rss_bytes", "requests_per_s", "cpu_percent"} <= found.keys()
    names: dict[tuple[str, str], set[str]] = {}
    spelled: dict[str, set[str]] = {}
    for key in found:
        one = measured(key)
        if one is not None:
            stem, kind, unit = one
            names.setdefault((stem, kind), set()).add(key)
            spelled.setdefault(kind, set()).add(unit)
    # A scaling policy holds an instance's requests a minute against its target, as AWS does.
    assert names.pop(("requests", "rate")) == {"requests_per_s", "requests_per_minute"}
    assert [both for both in names.values() if len(both) > 1] == []
    assert spelled["time"] == {"s"}
    assert spelled["size"] == {"bytes"}
    assert spelled["rate"] <= {"per_s", "per_minute"}


def test_a_group_is_seen_and_scaled(run_root: Path) -> None:
    with ScaledFastlb(run_root, group_of(min=1, max=3)) as fastlb:
        fastlb.wait_steady(1)
        with over_unix(fastlb) as admin:
            group = "/api/v1/auto-scaling-groups/web"
            assert admin.post(f"{group}/suspend", json={"processes": ["scaling"]}).json()["said"]
            said = admin.post(f"{group}/scale", json={"desired": 2})
            assert said.json()["said"] == "group web: desired capacity 1 -> 2"
            fastlb.wait_steady(2)
            too_many = admin.post(f"{group}/scale", json={"desired": 9})
            assert too_many.status_code == 409
            assert "from 1 to 3" in too_many.json()["error"]
            overview = wait_until(
                lambda: (
                    found
                    if (found := admin.get("/api/v1/overview").json())["auto_scaling"][0][
                        "in_service"
                    ]
                    == 2
                    else None
                )
            )
            (scaled,) = overview["auto_scaling"]
            assert (scaled["desired"], scaled["min"], scaled["max"]) == (2, 1, 3)
            assert scaled["suspended"] == ["scaling"]
            assert "1 -> 2" in scaled["last_decision"]["what"]
            instances = {one["id"]: one for one in overview["instances"]}
            assert {one["instance"] for one in overview["targets"]} == set(instances)
            text = admin.get("/metrics").text
            assert total(text, "fastlb_autoscaling_desired_capacity", group="web") == 2
            assert total(text, "fastlb_autoscaling_instances", state="in_service") == 2
            id = next(iter(instances))
            assert "is protected" in admin.post(f"/api/v1/instances/{id}/protect", json={}).text
            unknown = admin.post("/api/v1/instances/i-nobody/terminate", json={})
            assert unknown.status_code == 404

            # What an instance did is still its group's when it is gone.
            result = run_load(fastlb.port, connections=2, count=50)
            assert result.succeeded == 50
            (place,) = {one["group"] for one in overview["targets"]}
            name = "fastlb_group_requests_total"
            counted = wait_until(lambda: total(admin.get("/metrics").text, name, group=place) >= 50)
            assert counted
            admin.post(f"/api/v1/instances/{id}/protect", json={"on": False})
            admin.post(f"{group}/scale", json={"desired": 1})
            fastlb.wait_steady(1)
            wait_until(lambda: len(fastlb.targets()) == 1)
            assert total(admin.get("/metrics").text, name, group=place) == 50
            entries = admin.get("/api/v1/activity", params={"limit": 2}).json()["entries"]
            assert len(entries) == 2
            decisions = admin.get("/api/v1/decisions").json()["entries"]
            assert any("2 -> 1" in one["what"] for one in decisions)
        fastlb.stop()
