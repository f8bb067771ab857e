"""Access log lines: whatever a client sends, each is one line that the format's parsers read back."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.data_plane.access_log import lines_of
from fastlb.data_plane.access_log_format import (
    Client,
    Ending,
    Lines,
    Memo,
    fields_of,
    is_plain,
)
from fastlb.data_plane.exchange_notes import ENDED_BY, ExchangeNotes
from fastlb.data_plane.request_head import ForwardedFields, HeadReader, RequestHead, glimpse

NOON = 1_780_315_200.25  # 2026-06-01 12:00:00.250 UTC
TRACE = b"1-6a1d7c40-0123456789abcdef01234567"
QUOTED = r'"((?:[^"\\\x00-\x1f\x7f]|\\x[0-9a-f]{2})*)"'
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
ALB = re.compile(
    rf"(http|ws|tcp) ({TIME}) (\S+) (\S+):(\d+) (?:(\S+):(\d+)|-) (-1|\d+\.\d{{3}}) (-1|\d+\.\d{{3}}) "
    rf"(-1|\d+\.\d{{3}}) (\d{{3}}|-) (\d{{3}}|-) (\d+) (\d+) {QUOTED} {QUOTED} - - (\S+) {QUOTED} {QUOTED} "
    rf"{QUOTED} (-1|\d+) ({TIME}) {QUOTED} {QUOTED} {QUOTED} {QUOTED} {QUOTED} {QUOTED} {QUOTED} "
    r"(TID_[0-9a-f]{16})\n"
)
COMBINED = re.compile(
    rf"(\S+) - - \[(\d\d/[A-Z][a-z]{{2}}/\d{{4}}:\d\d:\d\d:\d\d \+0000)\] {QUOTED} (\d{{3}}) (\d+) "
    rf"{QUOTED} {QUOTED}\n"
)
FIELDS = ForwardedFields("192.0.2.1", b"192.0.2.1", b"80", b"127.0.0.1:80", "append", False, False)
FIELD_BYTES = st.binary(max_size=60).map(
    lambda data: data.translate(None, bytes(range(32)) + b"\x7f").strip()
)
TARGET_BYTES = st.text(
    st.sampled_from([chr(n) for n in range(33, 127) if chr(n) != "#"]), max_size=60
).map(lambda text: b"/" + text.encode())


def head_of(target: bytes, *fields: bytes, host: bytes = b"example.com") -> RequestHead:
    lines = b"".join(field + b"\r\n" for field in (b"Host: " + host, *fields))
    raw = b"GET %b HTTP/1.1\r\n%b\r\n" % (target, lines)
    return HeadReader().read(raw, None, FIELDS, 100)


def client_of(head: RequestHead | None, address: str = "192.0.2.1") -> Client:
    block = head.block if head is not None else None
    return Client(
        listener="http://127.0.0.1:8080",
        address=address,
        port=4711,
        head_bytes=len(block.raw) if block is not None else 0,
        connection=b"0123456789abcdef",
        **fields_of(block),
    )


def exchange_of(head: RequestHead, **changes: Any) -> Any:
    group = SimpleNamespace(name="web")
    target = SimpleNamespace(key="127.0.0.1:9001", group=group)
    # Hashable, as a TargetRuntime is.
    target = type("T", (), {"key": target.key, "group": group})()
    usual = {
        "head": head,
        "target": target,
        "target_keys": ("127.0.0.1:9001",),
        "status": 200,
        "trace": TRACE,
        "began": 100.0,
        "waited": 0.0,
        "head_out": 100,
        "bytes_out": 11,
        "received": 0,
        "body": None,
        "payload": b"",
        "rule": 0,
        "notes": None,
    }
    return SimpleNamespace(**(usual | changes))


def ending(**changes: Any) -> Ending:
    usual = Ending(
        kind="http",
        status=504,
        target_status=0,
        bytes_in=80,
        bytes_out=200,
        body_bytes_out=20,
        group="web",
        target="127.0.0.1:9001",
        targets=("127.0.0.1:9002", "127.0.0.1:9001"),
        held=0.5,
        connect=0.001,
        response=-1,
        total=2.0,
        retries=1,
        rule=7,
        action="forward",
        location=b"",
        why="http_response_timeout",
        detail='no "answer"\nwithin 1 s',
    )
    return replace(usual, **changes)


def written(lines: Lines, pieces: tuple[bytes, ...]) -> bytes:
    """As AccessLog joins them."""
    assert len(pieces) == lines.columns
    found = list(pieces)
    if not is_plain(found[lines.uri_at]):
        found[lines.uri_at] = lines.escape(found[lines.uri_at])
    line = b"".join(found)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    return line


def complete(format: str, head: RequestHead, **changes: Any) -> str:
    lines = lines_of(format, "shop", 4242)
    lines.set_offset(NOON - 100.5)
    known = lines.known(client_of(head))
    return written(lines, lines.answered([(known, exchange_of(head, **changes), 100.5)])).decode()


def other(format: str, head: RequestHead | None, end: Ending) -> str:
    lines = lines_of(format, "shop", 4242)
    known = lines.known(client_of(head))
    trace = TRACE if head is not None else b""
    return written(lines, lines.other(known, head, trace, end, NOON)).decode()


def test_json() -> None:
    head = head_of(b"/a?b=1", b"User-Agent: curl/8")
    assert json.loads(complete("json", head, rule=12)) == {
        "time": "2026-06-01T12:00:00.250Z",
        "type": "http",
        "listener": "http://127.0.0.1:8080",
        "client": "192.0.2.1:4711",
        "method": "GET",
        "target_uri": "/a?b=1",
        "status": 200,
        "bytes_in": len(b"GET /a?b=1 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl/8\r\n\r\n"),
        "bytes_out": 111,
        "target_group": "web",
        "target": "127.0.0.1:9001",
        "held_ms": 0,
        "connect_ms": 0,
        "response_ms": 500.0,
        "total_ms": 500.0,
        "retries": 0,
        "rule": 12,
        "trace_id": f"Root={TRACE.decode()}",
        "host": "example.com",
        "protocol": "HTTP/1.1",
        "user_agent": "curl/8",
        "termination": "complete",
        "worker": 4242,
    }


def test_alb_as_aws_writes_it() -> None:
    head = head_of(b"/a?b=1", b"User-Agent: curl/8", b"X-Amzn-Trace-Id: Root=1-2-3")
    assert complete("alb", head) == (
        "http 2026-06-01T12:00:00.250000Z fastlb/shop 192.0.2.1:4711 127.0.0.1:9001 0.000 0.500 0.000 "
        '200 200 91 111 "GET http://example.com:8080/a?b=1 HTTP/1.1" "curl/8" - - web '
        f'"Self={TRACE.decode()};Root=1-2-3" "example.com" "-" 0 2026-06-01T11:59:59.750000Z "forward" '
        '"-" "-" "127.0.0.1:9001" "200" "-" "-" TID_0123456789abcdef\n'
    )


def test_combined() -> None:
    head = head_of(b"/a", b"User-Agent: curl/8", b"Referer: http://x/")
    assert complete("combined", head) == (
        '192.0.2.1 - - [01/Jun/2026:12:00:00 +0000] "GET /a HTTP/1.1" 200 11 "http://x/" "curl/8"\n'
    )


def test_the_times_of_a_request_that_was_noted() -> None:
    notes = ExchangeNotes()
    notes.sent_again(100.1)
    notes.connecting = 100.1
    notes.connected(100.125)
    notes.first_byte(100.325)
    notes.first_byte(100.4)
    changes: dict[str, Any] = {
        "notes": notes,
        "waited": 1.0,
        "target_keys": ("127.0.0.1:9002", "127.0.0.1:9001"),
    }
    one = json.loads(complete("json", head_of(b"/"), **changes))
    times = {name: value for name, value in one.items() if name.endswith("_ms")}
    assert times == {"held_ms": 1000, "connect_ms": 25, "response_ms": 200, "total_ms": 1500}
    assert one["retries"] == 1
    found = ALB.fullmatch(complete("alb", head_of(b"/"), **changes))
    assert found
    assert found.group(8, 9, 10) == ("1.125", "0.200", "0.175")
    assert found[26] == "127.0.0.1:9002 127.0.0.1:9001"


@given(TARGET_BYTES, FIELD_BYTES, FIELD_BYTES, FIELD_BYTES)
def test_whatever_is_sent_is_one_line_that_parses(
    target: bytes, agent: bytes, referer: bytes, root: bytes
) -> None:
    fields = (b"User-Agent: " + agent, b"Referer: " + referer, b"X-Amzn-Trace-Id: Root=" + root)
    head = head_of(target, *fields)
    for line in (complete("json", head), other("json", head, ending())):
        one = json.loads(line)
        assert one["target_uri"] == target.decode()
        assert one["user_agent"] == (agent.decode("utf-8", "backslashreplace"))
    for line in (complete("alb", head), other("alb", head, ending())):
        found = ALB.fullmatch(line)
        assert found, line
        assert unescaped(found[15]) == b"GET http://example.com:8080%b HTTP/1.1" % target
        assert unescaped(found[16]) == agent
    for line in (complete("combined", head), other("combined", head, ending())):
        found = COMBINED.fullmatch(line)
        assert found, line
        assert unescaped(found[3]) == b"GET %b HTTP/1.1" % target
        assert (unescaped(found[6]), unescaped(found[7])) == (referer, agent)


def unescaped(text: str) -> bytes:
    return re.sub(
        rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode()
    )


@given(st.text(max_size=40), st.text(max_size=20), st.binary(max_size=40), st.integers(0, 10**7))
def test_whatever_a_target_or_a_cause_is_called(
    detail: str, group: str, location: bytes, size: int
) -> None:
    end = ending(detail=detail, group=group or "-", location=location, bytes_out=size)
    one = json.loads(other("json", head_of(b"/"), end))
    assert (one["detail"], one["target_group"], one["bytes_out"]) == (detail, group or "-", size)
    assert ALB.fullmatch(other("alb", head_of(b"/"), end))


@pytest.mark.parametrize("kind", ["http", "ws", "tcp"])
@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("answered", [True, False])
def test_other_endings(kind: Any, with_head: bool, answered: bool) -> None:
    end = ending(
        kind=kind,
        status=0 if kind == "tcp" else 101,
        response=0.25 if answered else -1,
        target="127.0.0.1:9001" if answered else "-",
        targets=("127.0.0.1:9001",) if answered else (),
        group="web" if answered else "-",
        rule=None,
    )
    head = head_of(b"/") if with_head else None
    one = json.loads(other("json", head, end))
    assert (one["type"], one["ended_by"]) == (kind, "target")
    assert one["response_ms"] == (250 if answered else None)
    assert ALB.fullmatch(other("alb", head, end)), other("alb", head, end)
    assert COMBINED.fullmatch(other("combined", head, end)), other("combined", head, end)


def test_what_was_refused_as_a_request_is_still_told() -> None:
    head = glimpse(b"GET /x HTTP/1.1\r\nHost: a\r\nUser-Agent: bad\x01\r\n\r\n")
    one = json.loads(other("json", head, ending(why="http_request_error")))
    assert (one["target_uri"], one["user_agent"], one["ended_by"]) == ("/x", "bad\x01", "client")


def test_the_same_fields_in_each_json_line() -> None:
    usual = json.loads(complete("json", head_of(b"/")))
    cut = json.loads(other("json", None, ending()))
    assert cut.keys() - usual.keys() == {"ended_by", "detail"}
    assert not usual.keys() - cut.keys()


def test_a_target_on_a_unix_socket_and_a_client_of_ipv6() -> None:
    end = ending(target="unix:/run/a b.sock", targets=("unix:/run/a b.sock",))
    found = ALB.fullmatch(other("alb", head_of(b"/"), end))
    assert found
    assert (found[6], found[7]) == ("/run/a\\x20b.sock", "0")
    assert client_of(None, "2001:db8::1").named == b"[2001:db8::1]:4711"


def test_who_ended_it_is_known_of_each_cause() -> None:
    assert set(ENDED_BY.values()) == {"", "client", "target"}
    assert ending(why="stopping").by == "fastlb"


def test_a_memo_is_bounded() -> None:
    made: list[int] = []

    def make(key: int) -> bytes:
        made.append(key)
        return b"%d" % key

    memo = Memo(make, most=3)
    assert [memo[n] for n in (1, 2, 1, 3, 4, 4)] == [b"1", b"2", b"1", b"3", b"4", b"4"]
    assert made == [1, 2, 3, 4]
    assert len(memo) == 1
