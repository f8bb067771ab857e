"""Response heads: framing, what is refused, what the client gets, and that the memo changes nothing."""

from __future__ import annotations

from itertools import zip_longest

import h11
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastlb.data_plane.response_head import (
    ResponseBlock,
    ResponseHead,
    ResponseReader,
    _read_any,
    _read_common,
    without_length,
)
from fastlb.errors import RequestError

Pair = tuple[bytes, bytes]


def read(head: bytes) -> ResponseHead:
    return ResponseReader().read(head, None)


def outcome(
    reader: ResponseReader, head: bytes, last: ResponseBlock | None, message: bytes = b""
) -> ResponseHead | tuple[int, str]:
    try:
        return reader.read(head, last, message)
    except RequestError as error:
        return error.status, error.cause if error.detail.isascii() else "a detail beyond ASCII"


def response(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((line, *lines, b"", b""))


class FieldLog:
    def __init__(self) -> None:
        self.fields: list[Pair] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))


def fields_of(head: bytes) -> list[Pair]:
    """The fields as httptools finds them."""
    log = FieldLog()
    try:
        httptools.HttpResponseParser(log).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    return log.fields


def fields_by_h11(head: bytes) -> list[Pair]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.receive_data(head)
    event = connection.next_event()
    assert isinstance(event, h11.Response)
    return [(name.lower(), value) for name, value in event.headers]


# -- strategies

lines_of_status = st.one_of(
    st.sampled_from(
        b"HTTP/1.1 200 OK|HTTP/1.1 200|HTTP/1.1 204 No|HTTP/1.0 200 OK|HTTP/1.1 304 |HTTP/1.1 599 \xff\t"
        b"|HTTP/1.1 100 Continue|HTTP/1.1 600 a|HTTP/1.1 99 a|HTTP/1.2 200 a|HTTP/1.1 0200 a".split(
            b"|"
        )
    ),
    st.binary(max_size=4).map(lambda reason: b"HTTP/1.1 200 " + reason),
)
names = st.sampled_from(
    b"""Content-Length Transfer-Encoding Connection Connection Keep-Alive Proxy-Connection Upgrade
    Set-Cookie Server X-A X-B Content-Type Trailer Te content-length Content-Lengthy Date""".split()
)
field_values = st.one_of(
    st.sampled_from(
        b"a|b|close|keep-alive|Close|x-a|x-a, x-b|close, X-A|content-length, te|0|1|5|05|+5|5, 5"
        b"|chunked|Chunked|chunked, chunked|gzip, chunked|identity||timeout=5|max=3, timeout=7"
        b"|upgrade|set-cookie|trailers|a b|\x22close\x22".split(b"|")
    ),
    st.binary(max_size=5),
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    line = draw(lines_of_status) if not draw(st.integers(0, 2)) else b"HTTP/1.1 200 OK"
    pairs = draw(st.lists(st.tuples(names, field_values), max_size=4))
    colon = draw(st.sampled_from([b": "] * 8 + [b":", b":\t", b" :"]))
    fields = (name + colon + value + b"\r\n" for name, value in pairs)
    return cut(b"".join((line, b"\r\n", *fields, b"\r\n")))


def cut(data: bytes) -> bytes:
    """The first head in `data`, as the connection cuts it out of the stream."""
    return data[: data.index(b"\r\n\r\n") + 4]


@st.composite
def related_heads(draw: st.DrawFn) -> list[bytes]:
    """What one target may answer in a row."""
    found = [draw(heads())]
    for _ in range(draw(st.integers(1, 4))):
        _, block = found[-1].split(b"\r\n", 1)
        match draw(st.integers(0, 2)):
            case 0:
                found.append(cut(draw(lines_of_status) + b"\r\n" + block))
            case 1:
                found.append(found[-1])
            case _:
                at = draw(st.integers(0, len(found[-1]) - 5))
                byte = bytes(
                    [draw(st.one_of(st.sampled_from(b"\r\n\0 \t:,a05"), st.integers(0, 255)))]
                )
                found.append(cut(found[-1][:at] + byte + found[-1][at + draw(st.integers(0, 1)) :]))
    return found


# -- the memo, and one reader for all

# As long as the heads say, or not; some look like another response.
bodies = st.sampled_from(
    [b"", b"5", b"12345", b"123456", b"HTTP/1.1 200 OK\r\n\r\n"]
) | st.integers(0, 99).map(lambda size: b"x" * size)


@settings(max_examples=500)
@given(related_heads(), st.lists(bodies, min_size=8))
@example(
    [response(b"Content-Length: 5"), response(b"Content-Length: 5", line=b"HTTP/1.0 404 No")], []
)
@example([response(b"Content-Length: 5"), response(b"Content-Length: 6")], [b"12345"])
@example([response(b"Content-Length: 5", line=b"HTTP/1.0 200 OK"), response(b"X: y")], [b"12345"])
@example([response(b"Content-Length: 0", line=b"HTTP/1.1 304 Same"), response(b"X: y")], [b""])
@example([response(b"Content-Length: 5", line=b"HTTP/1.1 204 None"), response(b"X: y")], [b"12345"])
@example([response(b"Connection: close"), response(b"X: y")], [])
@example([response(b"a b: c"), response(b"X: y")], [])
def test_with_memo_or_without_and_after_whatever_else_the_same_is_read(
    connection: list[bytes], bodies: list[bytes]
) -> None:
    reader = ResponseReader()
    last: ResponseBlock | None = None
    for head, body in zip_longest(connection, bodies[: len(connection)], fillvalue=b""):
        found = outcome(reader, head, last, head + body)
        assert found == outcome(ResponseReader(), head, None)
        last = found.block if isinstance(found, ResponseHead) else None


def test_the_memo_is_used_for_whatever_status() -> None:
    reader = ResponseReader()
    first = reader.read(response(b"Content-Length: 5"), None)
    second = reader.read(response(b"Content-Length: 5", line=b"HTTP/1.0 404 No"), first.block)
    assert second.block is first.block
    assert (second.status, second.line, second.http_11) == (404, b"HTTP/1.1 404 No\r\n", False)


@pytest.mark.parametrize("place", ["digit", "reason", "version", "end"])
def test_no_status_line_is_accepted_that_httptools_refuses(place: str) -> None:
    last = read(response(b"X: y")).block
    for byte in range(256):
        odd = bytes([byte])
        line = {
            "digit": b"HTTP/1.1 2" + odd + b"0 OK",
            "reason": b"HTTP/1.1 200 O" + odd + b"K",
            "version": b"HTTP/1." + odd + b" 200 OK",
            "end": b"HTTP/1.1 200" + odd,
        }[place]
        head = response(b"X: y", line=line)
        assert outcome(ResponseReader(), head, last) == outcome(ResponseReader(), head, None)
        if isinstance(outcome(ResponseReader(), head, last), ResponseHead):
            fields_of(head)  # raises what it refuses


# -- refusals

REFUSED = {
    "Content-Length and chunked": [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
    "chunked and Content-Length": [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
    "different Content-Length": [b"Content-Length: 5", b"Content-Length: 6"],
    "same Content-Length twice": [b"Content-Length: 5", b"Content-Length: 5"],
    "two in a line": [b"Content-Length: 5, 5"],
    "negative": [b"Content-Length: -1"],
    "plus": [b"Content-Length: +1"],
    "hex": [b"Content-Length: 0x1"],
    "empty": [b"Content-Length:"],
    "overflow": [b"Content-Length: 18446744073709551621"],
    "chunked twice": [b"Transfer-Encoding: chunked, chunked"],
    "two Transfer-Encoding": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "gzip, chunked": [b"Transfer-Encoding: gzip, chunked"],
    "chunked, gzip": [b"Transfer-Encoding: chunked, gzip"],
    "identity": [b"Transfer-Encoding: identity"],
    "empty Transfer-Encoding": [b"Transfer-Encoding:"],
    "folded": [b"X: a", b" b"],
    "bare LF": [b"X: a\nY: b"],
    "bare CR": [b"X: a\rY: b"],
    "NUL": [b"X: \0"],
    "space before colon": [b"X : a"],
    "empty name": [b": a"],
    "space in name": [b"X Y: a"],
    "no colon": [b"X"],
    "malformed Connection": [b"Connection: a b"],
}


@pytest.mark.parametrize("lines", REFUSED.values(), ids=REFUSED)
def test_refused_with_502(lines: list[bytes]) -> None:
    reader = ResponseReader()
    good = reader.read(response(b"X: y"), None)
    assert outcome(reader, response(*lines), good.block) == (502, "http_protocol_error")
    assert isinstance(outcome(reader, response(b"X: z"), None), ResponseHead)


@pytest.mark.parametrize(
    "line",
    b"HTTP/1.2 200 OK|HTTP/2 200|HTTP/0.9 200 OK|http/1.1 200 OK|HTTP/1.1 20 OK|HTTP/1.1 2000 OK"
    b"|HTTP/1.1 600 OK|HTTP/1.1 000 OK|HTTP/1.1 2x0 OK|HTTP/1.1  200 OK|HTTP/1.1\t200 OK|HTTP/1.1 -20 OK"
    b"|HTTP/1.1 200OK|HTTP/1.1 200 a\0b|HTTP/1.1 200 a\rb|HTTP/1.1 200 a\nb|HTTP/1.1 200\r"
    b"|ICY 200 OK|RTSP/1.0 200 OK| HTTP/1.1 200 OK|200 OK|SSH-2.0-x|".split(b"|"),
)
def test_bad_status_lines_are_refused(line: bytes) -> None:
    head = response(b"X: y", line=line)
    assert outcome(ResponseReader(), head, None) == (502, "http_protocol_error")
    memo = read(response(b"X: y")).block
    assert outcome(ResponseReader(), head, memo) == (502, "http_protocol_error")


@settings(max_examples=400)
@given(heads())
@example(response(b"Content-Length: 5"))
@example(response(b"content-length: 5", b"Connection: keep-alive"))
@example(response(b"Connection: keep-alive", b"Content-Length: 5"))
@example(response(b"Content-Length: 5", b"X: Connection: keep-alive"))
@example(response(b"Content-Length:  5", b"X: Content-Length: 5"))
@example(response(b"Connection:  keep-alive", b"Content-Length: 5"))
@example(response(b"Connection: keep-alive", b"Connection: keep-alive"))
def test_the_common_head_is_read_as_any_other(head: bytes) -> None:
    if not isinstance(outcome(ResponseReader(), head, None), ResponseHead):
        return
    at = head.index(b"\r\n") + 2
    common = _read_common(head, at)
    assert common is None or common == _read_any(head, at)


# -- what is read, and what the client gets


def without_lengths(fields: list[Pair]) -> list[Pair]:
    return [pair for pair in fields if pair[0] != b"content-length"]


@settings(max_examples=400)
@given(heads())
@example(response(b"Content-Length: 05", b"X: y"))
@example(response(b"Content-Length:5", b"X: y"))
def test_the_client_gets_all_but_hop_by_hop_fields(head: bytes) -> None:
    found = outcome(ResponseReader(), head, None)
    if not isinstance(found, ResponseHead) or found.status == 101:
        return
    block = found.block
    fields = fields_of(head)
    named = {
        option.strip(b" \t").lower()
        for name, value in fields
        if name == b"connection"
        for option in value.split(b",")
    }
    never = {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"transfer-encoding"}
    kept = {b"content-length", b"content-type", b"set-cookie", b"te"}
    wanted = [(name, value) for name, value in fields if name not in never | (named - kept)]
    out = fields_of(found.line + block.forwarded + b"\r\n")
    assert without_lengths(out) == without_lengths(wanted)
    if found.status >= 200:
        assert fields_by_h11(found.line + block.forwarded + b"\r\n") == out
    assert block.unchanged is (block.forwarded + b"\r\n" == block.raw)
    # A length is written as it was understood, perhaps in another place.
    length = [] if block.length is None else [b"%d" % block.length]
    assert [value for name, value in out if name == b"content-length"] == length
    lengths = [int(value) for name, value in fields if name == b"content-length"]
    assert ([] if block.length is None else [block.length]) == lengths
    assert block.chunked is any(name == b"transfer-encoding" for name, _ in fields)


def test_hop_by_hop_fields_and_what_connection_names_are_removed() -> None:
    block = read(
        response(
            b"Connection: Keep-Alive, X-Secret",
            b"Keep-Alive: timeout=5, max=100",
            b"x-secret: 1",
            b"X-Secrets: 2",
            b"connection: x-other",
            b"X-Other: 3",
            b"Upgrade: h2c",
            b"Proxy-Connection: close",
            b"Transfer-Encoding: chunked",
            b"Set-Cookie: a=b",
            b"Set-Cookie: c=d",
        )
    ).block
    assert block.forwarded == b"X-Secrets: 2\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n"
    assert not block.unchanged
    assert block.chunked
    assert block.keep_alive_timeout == 5.0
    assert not block.close


@pytest.mark.parametrize("name", [b"Content-Length", b"Content-Type", b"Set-Cookie"])
def test_connection_cannot_take_away_what_frames(name: bytes) -> None:
    line = name + b": 5"
    block = read(response(b"Connection: " + name.lower(), line)).block
    assert block.forwarded == line + b"\r\n"


@pytest.mark.parametrize(
    ("line", "lines", "reusable"),
    [
        (b"HTTP/1.1 200 OK", [], True),
        (b"HTTP/1.1 200 OK", [b"Connection: keep-alive"], True),
        (b"HTTP/1.1 200 OK", [b"Connection: CLOSE"], False),
        (b"HTTP/1.1 200 OK", [b"Connection: keep-alive, close"], False),
        (b"HTTP/1.1 200 OK", [b"Connection: keep-alive", b"Connection: close"], False),
        (b"HTTP/1.0 200 OK", [], False),
        (b"HTTP/1.0 200 OK", [b"Connection: Keep-Alive"], True),
        (b"HTTP/1.0 200 OK", [b"Connection: keep-alive, close"], False),
    ],
)
def test_whether_the_target_keeps_the_connection(
    line: bytes, lines: list[bytes], reusable: bool
) -> None:
    assert read(response(*lines, line=line)).reusable is reusable


@pytest.mark.parametrize(
    ("value", "timeout"),
    [
        (b"timeout=5", 5.0),
        (b"Timeout=5, max=100", 5.0),
        (b"max=100,timeout=75", 75.0),
        (b"timeout=0", 0.0),
        (b"max=5", None),
        (b"nottimeout=5", None),
        (b"timeout=", None),
        (b"", None),
    ],
)
def test_keep_alive_timeout(value: bytes, timeout: float | None) -> None:
    assert read(response(b"Keep-Alive: " + value)).block.keep_alive_timeout == timeout


def test_http_1_0_becomes_1_1_for_the_client() -> None:
    found = read(response(b"Content-Length: 5", line=b"HTTP/1.0 404 Not Found"))
    assert found.line == b"HTTP/1.1 404 Not Found\r\n"
    assert not found.http_11
    assert read(response(line=b"HTTP/1.0 200")).line == b"HTTP/1.1 200\r\n"


def test_an_upgrade_is_told_where_connection_names_it() -> None:
    line = b"HTTP/1.1 101 Switching Protocols"
    asked = [b"Upgrade: websocket", b"Connection: upgrade", b"Sec-WebSocket-Accept: a"]
    found = read(response(*asked, line=line))
    assert (found.status, found.block.upgrade) == (101, b"websocket")
    assert found.block.forwarded == b"Sec-WebSocket-Accept: a\r\n"
    assert read(response(b"Upgrade: h2c")).block.upgrade == b""
    # Without both fields it is no 101: httptools refuses it, and so would the exchange.
    assert outcome(ResponseReader(), response(line=line), None) == (502, "http_protocol_error")


def test_an_empty_head_is_framed_by_the_connections_end() -> None:
    block = read(response()).block
    assert (block.length, block.chunked, block.forwarded) == (None, False, b"")
    assert block.unchanged


def test_a_length_is_taken_out_whatever_its_case_and_nothing_else() -> None:
    lines = b"A: 1\r\ncontent-LENGTH: 5\r\nContent-Length-X: 2\r\nX-Content-Length: 3\r\n"
    wanted = b"A: 1\r\nContent-Length-X: 2\r\nX-Content-Length: 3\r\n"
    assert without_length(lines) == wanted
    assert without_length(wanted) == wanted
