"""What the bench asks with, and how it sets the contestants up: texts, frames, parsing; nothing is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.app import answer
from bench.clients import MESSAGE, WEBSOCKET_BACK, WEBSOCKET_OUT, percentile
from bench.loads import Wrk, lua_of, wrk_command, wrk_outcome
from bench.processes import BenchError
from bench.proxies import (
    CADDY,
    FASTLB,
    HAPROXY,
    NGINX,
    NO_PROXY,
    PROXIES,
    Place,
    Proxy,
    Setup,
    before,
)
from bench.run import contestants, cores_of
from bench.servers import accept_key, content_length, handshake_answer, websocket_echo
from bench.targets import nginx_config
from bench.workloads import APP_ANSWER_BYTES, WORKLOADS, Workload
from fastlb.config.load import load

PLACE = Place(8080, ("127.0.0.1:9001", "unix:/run/t.sock"), Path("/tmp/p"), 2, 6000)
BY_NAME = {one.name: one for one in WORKLOADS}


def wrk_output(**changed: int) -> str:
    found = {"requests": 1000, "microseconds": 2_000_000, "bytes": 5, "p50": 1, "p99": 2, "p999": 3}
    found |= dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0)
    return "Running 1s test\n  12 requests in 1s\n\n" + json.dumps(found | changed) + "\n"


def test_an_outcome_of_wrk() -> None:
    found = wrk_outcome(wrk_output())
    assert (found.count, found.seconds) == (1000, 2.0)
    assert (found.p50, found.p99, found.p999) == (1, 2, 3)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"status": 3}, "3 answers with an error status beside 1000 answers"),
        ({"read": 1, "timeout": 2}, "1 failed reads, 2 timeouts"),
        ({"requests": 0}, "no answer"),
    ],
)
def test_any_error_of_wrk_fails_the_cell(changed: dict[str, int], said: str) -> None:
    with pytest.raises(BenchError, match=said):
        wrk_outcome(wrk_output(**changed))


def test_wrk_that_says_nothing_is_quoted() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        wrk_outcome("unable to connect to 127.0.0.1:1 Connection refused")


def test_the_command_and_script_of_wrk() -> None:
    post = Wrk(path="/echo", body_bytes=4096, connections=8, fields=(("A", "b"),))
    command = wrk_command(post, 80, (1, 2, 3), 2, "/tmp/x.lua")
    assert command[:4] == ["wrk", "-t3", "-c8", "-d2s"]
    assert command[-5:] == ["-H", "A: b", "http://127.0.0.1:80/echo", "--", "4096"]
    assert wrk_command(Wrk(connections=1), 80, (1, 2), 1, "x")[1] == "-t1"
    assert "function done" in lua_of(post)
    assert "wrk.body" in lua_of(post)
    assert "function request" in lua_of(Wrk(browser=True))


@given(values=st.lists(st.integers(0, 1000)), percent=st.floats(0, 100))
def test_a_percentile_is_one_of_the_values(values: list[int], percent: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, percent)
    assert found in ordered or (not ordered and found == 0)
    if ordered:
        assert sum(1 for one in ordered if one <= found) >= len(ordered) * percent / 100 - 1


def test_the_handshake_is_that_of_the_rfc() -> None:
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    text = handshake_answer(b"GET / HTTP/1.1\r\nSec-WebSocket-Key:  dGhlIHNhbXBsZSBub25jZQ== ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n" in text
    with pytest.raises(ValueError, match="no Sec-WebSocket-Key"):
        handshake_answer(b"GET / HTTP/1.1\r\nHost: x")


@given(
    payloads=st.lists(st.binary(max_size=125), max_size=4),
    mask=st.binary(min_size=4, max_size=4),
    cut=st.integers(0, 200),
)
def test_frames_come_back_unmasked_however_they_are_cut(
    payloads: list[bytes], mask: bytes, cut: int
) -> None:
    sent = b"".join(
        bytes((0x82, 0x80 | len(one))) + mask + bytes(b ^ mask[i & 3] for i, b in enumerate(one))
        for one in payloads
    )
    out, left = websocket_echo(sent[:cut])
    more, rest = websocket_echo(left + sent[cut:])
    assert out + more == b"".join(bytes((0x82, len(one))) + one for one in payloads)
    assert rest == b""


def test_the_clients_message_is_one_frame_each_way() -> None:
    assert websocket_echo(WEBSOCKET_OUT) == (WEBSOCKET_BACK, b"")
    assert len(MESSAGE) == 64


def test_lengths_of_heads_and_of_the_apps_answer() -> None:
    assert content_length(b"POST / HTTP/1.1\r\ncontent-length: 12") == 12
    assert content_length(b"GET / HTTP/1.1\r\nHost: x") == 0
    assert len(answer("/")) == len(answer("/some/longer/path")) == APP_ANSWER_BYTES
    assert json.loads(answer("/x"))["path"] == "/x"


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.name)
def test_fastlbs_configuration_is_one(workload: Workload) -> None:
    for setup in (workload.setup, workload.base):
        if setup is not None:
            configuration = load(FASTLB.config(setup, PLACE)).configuration
            assert len(configuration.listeners[0].rules) == setup.rules
            assert configuration.workers == 2


def test_the_last_of_the_rules_is_the_one_that_is_asked_for() -> None:
    one, hundred = Setup(rules=1), Setup(rules=100)
    for proxy in PROXIES:
        assert proxy.config(one, PLACE).count("/api/") == 1
        assert "/api/99/" in proxy.config(one, PLACE)
        assert proxy.config(hundred, PLACE).count("/api/") == 100


def test_peers_do_the_same_work() -> None:
    for proxy in (NGINX, HAPROXY, CADDY):
        text = proxy.config(Setup(access_log=True), PLACE)
        assert "9001" in text
        assert "/run/t.sock" in text
        assert "X-Amzn-Trace-Id" in text
        assert "X-Forwarded-Port" in text
    assert "http-reuse always" in HAPROXY.config(Setup(), PLACE)
    assert "keepalive 512" in NGINX.config(Setup(), PLACE)
    assert "stream {" in NGINX.config(Setup(mode="tcp"), PLACE)
    assert "mode tcp" in HAPROXY.config(Setup(mode="tcp"), PLACE)


def test_the_target_has_an_address_for_each_of_a_hundred() -> None:
    text = nginx_config(Path("/tmp/t"), 9000, 100)
    assert text.count("listen ") == 102
    assert "listen 127.0.1.100:9000;" in text


def test_who_takes_part_and_who_does_not() -> None:
    def no_caddy(proxy: Proxy, setup: Setup) -> str:
        return "caddy is not installed" if proxy is CADDY else ""

    chosen, skipped = contestants(BY_NAME["rules-100"], PROXIES, True, no_caddy)
    assert [one.name for one in chosen] == ["fastlb", "fastlb, 1 rule", "nginx", "haproxy"]
    assert skipped == {"caddy": "caddy is not installed"}
    names = [one.name for one in contestants(BY_NAME["get"], PROXIES, True, no_caddy)[0]]
    assert names[-1] == NO_PROXY


def test_another_checkout_takes_part_by_its_own_code(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no checkout of fastlb"):
        before(tmp_path)
    (tmp_path / "fastlb").mkdir()
    (tmp_path / "fastlb" / "__main__.py").touch()
    proxy = before(tmp_path)
    assert proxy.env(PLACE)["PYTHONPATH"] == str(tmp_path)
    assert proxy.command("c", PLACE) == FASTLB.command("c", PLACE)
    chosen, _ = contestants(BY_NAME["get"], (FASTLB, proxy), False, lambda *_: "")
    assert [one.name for one in chosen] == ["fastlb", "before"]


def test_cores_are_shared_out() -> None:
    assert cores_of([3, 1, 2]).proxy == 1
    assert cores_of([3, 1, 2]).load == (2, 3)
    with pytest.raises(BenchError, match="two cores"):
        cores_of([0])
