"""Answers of fastlb's own: whole messages, the cause in Proxy-Status, nothing a detail could inject."""

from __future__ import annotations

from http import HTTPStatus

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.data_plane.own_answers import answer, error_answer
from fastlb.errors import RequestError

NOW = 1782000000.0


def parse(data: bytes, method: str = "GET") -> tuple[h11.Response, dict[str, list[str]], bytes]:
    """`data` as an independent client reads it, which finds one message and nothing after it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    head = connection.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert connection.trailing_data == (b"", False)
    fields: dict[str, list[str]] = {}
    for name, value in head.headers:
        fields.setdefault(name.decode().lower(), []).append(value.decode("latin-1"))
    return head, fields, body


@pytest.mark.parametrize("status", [200, 301, 400, 404, 418, 500, 503, 599])
@pytest.mark.parametrize("close", [True, False])
def test_an_answer_is_one_whole_message(status: int, close: bool) -> None:
    data = answer(status, b"hello", NOW, close=close, fields=b"X-A: 1\r\nX-B: 2\r\n")
    head, fields, body = parse(data)
    assert (head.status_code, body) == (status, b"hello")
    assert fields["content-length"] == ["5"]
    assert fields["content-type"] == ["text/plain; charset=utf-8"]
    assert (fields["x-a"], fields["x-b"]) == (["1"], ["2"])
    assert fields.get("connection") == (["close"] if close else None)
    if status in set(HTTPStatus):
        assert head.reason.decode() == HTTPStatus(status).phrase


@pytest.mark.parametrize("status", [204, 304])
def test_no_body_where_none_may_be(status: int) -> None:
    head, fields, body = parse(answer(status, b"hello", NOW, close=False))
    assert (head.status_code, body) == (status, b"")
    assert not {"content-length", "content-type", "transfer-encoding"} & set(fields)


def test_an_answer_to_head_says_the_length_and_sends_nothing() -> None:
    data = answer(200, b"hello", NOW, close=False, head_only=True)
    _, fields, body = parse(data, "HEAD")
    assert (fields["content-length"], body) == (["5"], b"")


def test_a_client_of_1_0_is_told_that_the_connection_stays() -> None:
    _, fields, _ = parse(answer(200, b"", NOW, close=False, keep_alive=True))
    assert fields["connection"] == ["keep-alive"]
    _, fields, _ = parse(answer(200, b"", NOW, close=True, keep_alive=True))
    assert fields["connection"] == ["close"]


def test_the_content_type_is_the_callers() -> None:
    _, fields, _ = parse(answer(200, b"{}", NOW, close=False, content_type="application/json"))
    assert fields["content-type"] == ["application/json"]


@pytest.mark.parametrize("status", [400, 405, 408, 413, 414, 417, 431, 502, 503, 504])
def test_an_error_names_its_cause(status: int) -> None:
    error = RequestError(status, "connection_refused", "connection refused on 127.0.0.1:9001")
    head, fields, body = parse(error_answer(error, NOW, close=True))
    assert head.status_code == status
    assert fields["proxy-status"] == [
        'fastlb; error=connection_refused; details="connection refused on 127.0.0.1:9001"'
    ]
    assert body.decode().startswith(f"{status} ")
    assert body.endswith(b"connection refused on 127.0.0.1:9001\n")
    assert fields.get("retry-after") == (["1"] if status == 503 else None)
    assert ("allow" in fields) is (status == 405)
    assert fields["connection"] == ["close"]


def test_an_error_may_leave_the_connection_open_and_answer_head() -> None:
    error = RequestError(502, "connection_refused", "x")
    data = error_answer(error, NOW, close=False, head_only=True)
    _, fields, body = parse(data, "HEAD")
    assert body == b""
    assert "connection" not in fields


@given(st.text(max_size=40))
def test_a_detail_cannot_add_a_field_or_leave_its_quotes(detail: str) -> None:
    data = error_answer(RequestError(502, "http_protocol_error", detail), NOW, close=True)
    _, fields, _ = parse(data)
    assert set(fields) == {"date", "content-type", "content-length", "proxy-status", "connection"}
    (value,) = fields["proxy-status"]
    inside = value.removeprefix('fastlb; error=http_protocol_error; details="')
    assert inside.endswith('"')
    assert '"' not in inside[:-1]
    assert "\\" not in inside
    assert inside.isascii()
    assert inside.isprintable()
    assert len(inside) == len(detail) + 1
