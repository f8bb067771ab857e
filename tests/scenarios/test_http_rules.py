"""Which request goes where, and what a target is told of it: rules, algorithms, forwarded fields, log."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.http_stage import field_values, request_bytes
from tests.support.fastlb import FastlbProcess
from tests.support.load import run_load
from tests.support.processes import wait_until
from tests.support.raw_client import Answer, RawClient, exchange
from tests.support.raw_target import RawConnection, RawTarget, Script, answer

GROUPS = ("web", "api", "canary", "mobile", "admin", "only_post", "beta", "near", "far")
BODY_BYTES = 200_000
PROXY = "127.0.0.2"
"""Trusted by the first listener of the town."""

RULES = """
access_log = "{log}"

[[listeners]]
address = "http://127.0.0.1:0"
default = {{ forward = "web" }}
max_body_bytes = {body_bytes}
trusted_proxies = ["127.0.0.2/32", "10.0.0.0/8"]

[[listeners.rules]]
priority = 40
path = ["/split/*"]
forward = [{{ group = "api", weight = 9 }}, {{ group = "canary", weight = 1 }}]

[[listeners.rules]]
priority = 10
path = ["/api/*", "/v?/api"]
forward = "api"

[[listeners.rules]]
priority = 9
path = ["/api/private*"]
fixed_response = {{ status = 403, body = "no", content_type = "text/html" }}

[[listeners.rules]]
priority = 20
host = ["*.admin.example.com", "admin.example.com"]
method = ["GET", "POST"]
forward = "admin"

[[listeners.rules]]
priority = 21
host = ["old.example.com"]
redirect = {{ host = "new.example.com", port = 8443, protocol = "https", status = 301 }}

[[listeners.rules]]
priority = 22
path = ["/moved/*"]
redirect = {{ path = "/to/#{{path}}", query = "#{{query}}&from=#{{host}}", status = 307 }}

[[listeners.rules]]
priority = 30
header = [{{ name = "User-Agent", values = ["*Mobile*", "*Phone*"] }}]
forward = "mobile"

[[listeners.rules]]
priority = 31
method = ["POST"]
path = ["/submit"]
forward = "only_post"

[[listeners.rules]]
priority = 32
query = ["version=2", {{ key = "beta", value = "*" }}]
forward = "beta"

[[listeners.rules]]
priority = 33
source_ip = ["192.0.2.0/24", "2001:db8::/32"]
forward = "far"

[[listeners.rules]]
priority = 34
source_ip = ["127.0.0.3/32"]
forward = "near"

[[listeners]]
address = "http://127.0.0.1:0"
default = {{ forward = "admin" }}
x_forwarded_for = "preserve"

[[listeners]]
address = "http://127.0.0.1:0"
default = {{ fixed_response = {{ status = 404, body = "nothing here" }} }}

[[listeners]]
address = "http://127.0.0.1:0"
default = {{ forward = "web" }}
x_forwarded_for = "remove"
"""


class ClientFrom(RawClient):
    """A client at another address of the loopback network."""

    def __init__(self, port: int, source: str) -> None:
        super().__init__(port)
        if source != "127.0.0.1":
            self.socket.close()
            self.socket = socket.create_connection(
                ("127.0.0.1", port), self.seconds, source_address=(source, 0)
            )


class Town:
    """One fastlb with several listeners, rules and groups; each target answers with its group's name."""

    def __init__(self, root: Path, folder: Path, stack: ExitStack) -> None:
        self.targets = {
            name: stack.enter_context(RawTarget(says(name.encode()))) for name in GROUPS
        }
        self.log = folder / "access.log"
        text = RULES.format(log=self.log, body_bytes=BODY_BYTES)
        for name, target in self.targets.items():
            text += f'[target_groups.{name}]\ntargets = ["{target}"]\nhealth_check = false\n'
        config = folder / "town.toml"
        config.write_text(text)
        self.fastlb = stack.enter_context(
            FastlbProcess(root, "--config", str(config), listen=(), workers=1)
        )

    def ask(
        self, path: str, *fields: str, listener: int = 0, source: str = "127.0.0.1", **options: Any
    ) -> Answer:
        with ClientFrom(self.fastlb.ports[listener], source) as client:
            client.send([request_bytes(path, *fields, **options)])
            return client.answer(options.get("method", "GET"))

    def group(self, path: str, *fields: str, **options: Any) -> str:
        """The group that answered."""
        one = self.ask(path, *fields, **options)
        assert one.status == 200
        return one.body.decode()

    def seen(self, group: str) -> bytes:
        """The last request that the group's target got."""
        return self.targets[group].requests[-1][1]


def says(body: bytes) -> Script:
    def script(target: RawConnection) -> None:
        while True:
            raw = target.read_request()
            target.send(answer(body, head_only=raw.startswith(b"HEAD")))

    return script


@pytest.fixture(scope="module")
def town(run_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with ExitStack() as stack:
        town = Town(run_root, tmp_path_factory.mktemp("town"), stack)
        yield town
        assert "Traceback" not in town.fastlb.log()


# -- rules


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("/", "web"),
        ("/api", "web"),
        ("/api/", "api"),
        ("/api/x?y=z", "api"),
        ("/API/x", "web"),
        ("/v1/api", "api"),
        ("/v12/api", "web"),
        ("/x/api/y", "web"),
        ("/submit", "web"),
        ("/?version=2", "beta"),
        ("/?a=b&version=2", "beta"),
        ("/?version=22", "web"),
        ("/?beta=", "beta"),
        ("/?beta=yes", "beta"),
        ("/api/?version=2", "api"),
    ],
)
def test_paths_and_queries_route(town: Town, path: str, group: str) -> None:
    assert town.group(path) == group


@pytest.mark.parametrize(
    ("host", "method", "group"),
    [
        ("admin.example.com", "GET", "admin"),
        ("ADMIN.example.com:8080", "POST", "admin"),
        ("a.b.admin.example.com", "GET", "admin"),
        ("admin.example.com", "DELETE", "web"),
        ("xadmin.example.com", "GET", "web"),
        ("example.com", "GET", "web"),
    ],
)
def test_hosts_and_methods_route(town: Town, host: str, method: str, group: str) -> None:
    assert town.group("/", host=host, method=method) == group


def test_headers_methods_and_sources_route(town: Town) -> None:
    assert town.group("/", "User-Agent: Some Mobile Thing") == "mobile"
    assert town.group("/", "user-agent: iphone") == "mobile"
    assert town.group("/", "User-Agent: a desktop", "User-Agent: a phone") == "mobile"
    assert town.group("/", "User-Agent: a desktop") == "web"
    assert town.group("/submit", method="POST") == "only_post"
    assert town.group("/", source="127.0.0.3") == "near"
    assert town.group("/", source="127.0.0.4") == "web"


def test_the_source_behind_a_trusted_proxy_routes(town: Town) -> None:
    field = "X-Forwarded-For: 192.0.2.7"
    assert town.group("/", field, source=PROXY) == "far"
    assert town.group("/", "X-Forwarded-For: 2001:db8::7", source=PROXY) == "far"
    assert town.group("/", field + ", 10.1.2.3", source=PROXY) == "far"
    assert town.group("/", field) == "web"  # anybody can say so
    with ClientFrom(town.fastlb.port, PROXY) as client:
        # The proxy's connection carries one client after another.
        for fields, group in (((field,), b"far"), ((), b"web"), ((field,), b"far")):
            client.send([request_bytes("/", *fields)])
            assert client.answer().body == group


def test_rules_are_asked_for_each_request_of_a_connection(town: Town) -> None:
    with RawClient(town.fastlb.port) as client:
        paths = ["/", "/api/", "/api/private", "/moved/x", "/?beta=1"] * 20
        client.send([b"".join(map(request_bytes, paths))])
        answers = [client.answer() for _ in paths]
    assert [one.status for one in answers] == [200, 200, 403, 307, 200] * 20
    assert [one.body for one in answers[:3]] == [b"web", b"api", b"no"]


def test_weights_of_groups(town: Town) -> None:
    count = 3000
    with RawClient(town.fastlb.port) as client:
        client.send([request_bytes("/split/x") * count])
        seen = Counter(client.answer().body for _ in range(count))
    assert seen.keys() == {b"api", b"canary"}
    # Five standard deviations of a tenth of 3,000: wrong once in a million runs.
    assert abs(seen[b"canary"] - count * 0.1) < 5 * (count * 0.1 * 0.9) ** 0.5


def test_a_fixed_response(town: Town) -> None:
    one = town.ask("/api/private/x")
    assert (one.status, one.body, one.fields("content-type")) == (403, b"no", ["text/html"])
    assert town.ask("/api/private", method="HEAD").fields("content-length") == ["2"]
    assert not one.fields("proxy-status")
    one = town.ask("/anything", listener=2)
    assert (one.status, one.body) == (404, b"nothing here")


def test_a_fixed_response_to_a_request_with_a_body(town: Town) -> None:
    with RawClient(town.fastlb.ports[2]) as client:
        client.send([request_bytes("/", method="POST", body=b"x" * 100_000)])
        assert client.answer().status == 404
        assert client.rest() == b""


def test_redirects(town: Town) -> None:
    one = town.ask("/a/b?c=d", host="old.example.com")
    assert one.status == 301
    assert one.fields("location") == ["https://new.example.com:8443/a/b?c=d"]
    one = town.ask("/moved/x?y=1", host="some.example.com:8000")
    assert one.status == 307
    assert one.fields("location") == [
        "http://some.example.com:8000/to/moved/x?y=1&from=some.example.com"
    ]
    with RawClient(town.fastlb.port) as client:
        client.send([request_bytes("/moved/x%0d%0aA:b?q=%0a", host="h") * 2])
        for _ in range(2):
            (location,) = client.answer().fields("location")
            assert location == "http://h/to/moved/x%0d%0aA:b?q=%0a&from=h"


def test_listeners_have_their_own_groups(town: Town) -> None:
    assert town.ask("/api/", listener=1).body == b"admin"
    assert town.ask("/", listener=3).body == b"web"


# -- what the target is told


def test_host_and_target_are_passed_as_they_came(town: Town) -> None:
    town.ask("/A%2fb;c?d=%20&&e", host="Some.Example.COM:8123")
    raw = town.seen("web")
    assert raw.startswith(b"GET /A%2fb;c?d=%20&&e HTTP/1.1\r\n")
    assert field_values(raw, "host") == ["Some.Example.COM:8123"]
    town.ask("http://example.com/abs?x", host="example.com")
    assert town.seen("web").startswith(b"GET /abs?x HTTP/1.1\r\n")
    assert field_values(town.seen("web"), "host") == ["example.com"]


def forwarded(raw: bytes) -> tuple[list[str], list[str], list[str]]:
    return (
        field_values(raw, "x-forwarded-for"),
        field_values(raw, "x-forwarded-proto"),
        field_values(raw, "x-forwarded-port"),
    )


def test_forwarded_fields(town: Town) -> None:
    port = str(town.fastlb.ports[0])
    told = ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443")
    town.ask("/")
    assert forwarded(town.seen("web")) == (["127.0.0.1"], ["http"], [port])
    town.ask("/", *told)
    assert forwarded(town.seen("web")) == (["127.0.0.1"], ["http"], [port])
    town.ask("/", *told, source=PROXY)
    assert forwarded(town.seen("far")) == ([f"192.0.2.1, {PROXY}"], ["https"], ["443"])
    town.ask("/", source=PROXY)
    assert forwarded(town.seen("web")) == ([PROXY], ["http"], [port])


def test_forwarded_for_preserved_or_removed(town: Town) -> None:
    told = ("X-Forwarded-For: 192.0.2.1", "x-forwarded-for: 192.0.2.2")
    town.ask("/", *told, listener=1)
    assert forwarded(town.seen("admin"))[0] == ["192.0.2.1", "192.0.2.2"]
    town.ask("/", listener=1)
    assert forwarded(town.seen("admin"))[0] == []
    town.ask("/", *told, listener=3)
    assert forwarded(town.seen("web"))[0] == []


def trace(raw: bytes) -> str:
    (value,) = field_values(raw, "x-amzn-trace-id")
    return value


def test_trace_ids(town: Town) -> None:
    fresh = r"1-[0-9a-f]{8}-[0-9a-f]{24}"
    with RawClient(town.fastlb.port) as client:
        client.send([request_bytes("/trace") * 100])
        assert all(client.answer().status == 200 for _ in range(100))
    values = [trace(raw) for _, raw in town.targets["web"].requests if b" /trace " in raw]
    assert len(set(values)) == 100
    assert all(re.fullmatch(f"Root={fresh}", value) for value in values)
    made = int(values[0][7:15], 16)
    assert abs(made - time.time()) < 60

    root = "Root=1-67891233-abcdef012345678912345678"
    town.ask("/", f"X-Amzn-Trace-Id: {root};Mine=yes")
    assert re.fullmatch(f"Self={fresh};{root};Mine=yes", trace(town.seen("web")))
    town.ask("/", f"X-Amzn-Trace-Id: Self=1-2-3;{root}")
    assert re.fullmatch(f"Self={fresh};{root}", trace(town.seen("web")))
    town.ask("/", "X-Amzn-Trace-Id: Mine=yes")
    assert re.fullmatch(f"Root={fresh};Mine=yes", trace(town.seen("web")))


# -- the access log


def test_access_log_lines(town: Town) -> None:
    name = "/api/logged?x=1"
    town.ask(name, host="log.example.com")
    town.ask("/api/private/logged")
    town.ask("/logged/big", f"Content-Length: {BODY_BYTES + 1}", method="POST")
    exchange(town.fastlb.port, b"GET /logged\x01 HTTP/1.1\r\nHost: a\r\n\r\n")

    def lines() -> list[dict[str, object]]:
        text = town.log.read_text() if town.log.exists() else ""
        read = [json.loads(line) for line in text.splitlines()]
        return [one for one in read if "logged" in one["target_uri"] or one["status"] == 400]

    wait_until(lambda: len(lines()) >= 4, 30, "four lines")
    one, fixed, big, bad = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(one["time"]))
    for duration in (one["total_ms"], one["response_ms"]):
        assert isinstance(duration, float)
        assert 0 < duration < 5000
    assert re.fullmatch(r"127\.0\.0\.1:\d+", str(one["client"]))
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}", str(one["trace_id"]))
    varying = ("time", "client", "connect_ms", "response_ms", "total_ms", "trace_id", "bytes_out")
    assert one | dict.fromkeys(varying, 0) == {
        **dict.fromkeys(varying, 0),
        "type": "http",
        "listener": f"http://127.0.0.1:{town.fastlb.port}",
        "method": "GET",
        "target_uri": name,
        "host": "log.example.com",
        "protocol": "HTTP/1.1",
        "user_agent": "-",
        "status": 200,
        "bytes_in": len(f"GET {name} HTTP/1.1\r\nHost: log.example.com\r\n\r\n"),
        "target_group": "api",
        "target": town.targets["api"].address,
        "held_ms": 0,
        "retries": 0,
        "rule": 10,
        "termination": "complete",
        "worker": town.fastlb.worker_pids()[0],
    }
    assert (fixed["status"], fixed["target"], fixed["rule"]) == (403, "-", 9)
    assert (big["status"], big["method"], big["target"]) == (413, "POST", "-")
    assert (big["ended_by"], big["rule"]) == ("client", None)
    assert (bad["status"], bad["termination"]) == (400, "http_request_error")


# -- algorithms


def shares(targets: dict[str, RawTarget]) -> dict[str, float]:
    counts = {name: len(target.requests) for name, target in targets.items()}
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


def test_round_robin_keeps_to_its_weights_over_two_workers(
    run_root: Path,
) -> None:
    weights = {"a": 5, "b": 3, "c": 2}
    with ExitStack() as stack:
        targets = {name: stack.enter_context(RawTarget(says(b"ok"))) for name in weights}
        fastlb = stack.enter_context(
            FastlbProcess(
                run_root,
                "--algorithm",
                "round_robin",
                "--no-health-check",
                targets=[f"{target},weight={weights[name]}" for name, target in targets.items()],
                workers=2,
            )
        )
        result = run_load(fastlb.port, connections=16, count=4000, check="none")
        assert not result.failed, result
        served = [one["requests"] for one in fastlb.status()["workers"]]
        fastlb.stop()
    assert min(served) > 400, "both workers took part"
    for name, share in shares(targets).items():
        assert abs(share - weights[name] / 10) < 0.02 * weights[name] / 10, shares(targets)


@pytest.mark.parametrize("algorithm", ["weighted_random", "least_outstanding_requests"])
def test_other_algorithms_keep_to_weights_roughly(run_root: Path, algorithm: str) -> None:
    with ExitStack() as stack:
        targets = {name: stack.enter_context(RawTarget(says(b"ok"))) for name in "ab"}
        fastlb = stack.enter_context(
            FastlbProcess(
                run_root,
                "--algorithm",
                algorithm,
                "--no-health-check",
                targets=[f"{targets['a']},weight=3", f"{targets['b']},weight=1"],
            )
        )
        with RawClient(fastlb.port) as client:
            client.send([request_bytes("/") * 1000])
            assert all(client.answer().status == 200 for _ in range(1000))
    assert 0.68 < shares(targets)["a"] < 0.82


def test_a_clients_address_decides_under_source_ip_hash(run_root: Path) -> None:
    """The same one by whatever worker and connection; also behind a trusted proxy."""
    with ExitStack() as stack:
        targets = [RawTarget(says(b"%d" % n)) for n in range(4)]
        for target in targets[:3]:
            stack.callback(target.end)
        fastlb = stack.enter_context(
            FastlbProcess(
                run_root,
                "--algorithm",
                "source_ip_hash",
                "--health-interval",
                "200ms",
                "--trusted-proxies",
                "127.0.0.1/32",
                targets=targets,
                workers=2,
            )
        )
        fastlb.wait_states()
        chosen: dict[str, bytes] = {}
        for turn in range(4):
            with RawClient(fastlb.port) as client:
                for n in range(40):
                    address = f"192.0.2.{n}"
                    client.send([request_bytes("/", f"X-Forwarded-For: {address}")])
                    body = client.answer().body
                    assert chosen.setdefault(address, body) == body, (turn, address)
        assert len(set(chosen.values())) == 4
        # One target goes: only its own clients move.
        targets[3].end()
        fastlb.wait_state(targets[3], "unhealthy")
        with RawClient(fastlb.port) as client:
            for address, before in chosen.items():
                client.send([request_bytes("/", f"X-Forwarded-For: {address}")])
                now = client.answer().body
                assert now == before if before != b"3" else now != b"3"


def test_least_outstanding_counts_the_requests_of_all_workers(run_root: Path) -> None:
    """Whichever worker holds the waiting requests, the others avoid the target that is full."""
    release = threading.Event()

    def slow(target: RawConnection) -> None:
        while True:
            target.read_request()
            assert release.wait(30)
            target.send(answer(b"slow"))

    with ExitStack() as stack:
        busy = stack.enter_context(RawTarget(slow))
        free = [stack.enter_context(RawTarget(slow)) for _ in range(3)]
        fastlb = stack.enter_context(
            FastlbProcess(
                run_root,
                "--no-health-check",
                targets=[busy, *free],
                workers=2,
            )
        )
        stack.callback(release.set)
        everyone = [busy, *free]
        clients: list[RawClient] = []
        for _ in range(40):
            clients.append(stack.enter_context(RawClient(fastlb.port)))
            clients[-1].send([request_bytes("/")])
            wait_until(lambda: sum(len(one.requests) for one in everyone) == len(clients), 30)
        # Each was given to one with the fewest, so that all have the same.
        assert [len(one.requests) for one in everyone] == [10] * 4
        served = [one["requests"] for one in fastlb.status()["workers"]]
        assert min(served) > 4, "both workers took part"
        release.set()
        assert all(client.answer().body == b"slow" for client in clients)


def test_least_outstanding_avoids_a_slow_target(run_root: Path) -> None:
    release = threading.Event()

    def slow(target: RawConnection) -> None:
        target.read_request()
        assert release.wait(30)
        target.send(answer(b"slow"))

    with ExitStack() as stack:
        slow_target = stack.enter_context(RawTarget(slow))
        quick = stack.enter_context(RawTarget(says(b"quick")))
        fastlb = stack.enter_context(
            FastlbProcess(run_root, "--no-health-check", targets=[slow_target, quick], workers=2)
        )
        stack.callback(release.set)
        stuck: list[RawClient] = []
        while not slow_target.requests:
            stuck.append(stack.enter_context(RawClient(fastlb.port)))
            stuck[-1].send([request_bytes("/")])
            wait_until(lambda: len(quick.requests) + len(slow_target.requests) >= len(stuck), 30)
        for _ in range(10):
            with RawClient(fastlb.port) as client:
                for _ in range(20):
                    client.send([request_bytes("/")])
                    assert client.answer().body == b"quick"
        assert len(slow_target.requests) == 1
        release.set()
        assert stuck[-1].answer().body == b"slow"
