"""Request heads: what is refused, what a target gets, and that the memo never changes either.

h11 and httptools are the second readers: what they find in the head that a target gets is compared
with what a plain model, written here without the code's own expressions, says it must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import h11
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastlb.data_plane import request_head
from fastlb.data_plane.request_head import (
    ForwardedFields,
    HeaderBlock,
    HeadReader,
    RequestHead,
    listener_host,
)
from fastlb.errors import RequestError
from fastlb.model.address import Address

PLAIN = ForwardedFields(
    peer="192.0.2.7",
    client=b"192.0.2.7",
    port=b"8080",
    host=b"127.0.0.1:8080",
    mode="append",
    trusted=False,
    strict=False,
)
BEHIND_PROXY = replace(PLAIN, trusted=True, strict=True)
STRANGER = replace(PLAIN, trusted=False, strict=True)
TRACE = b"1-67891233-abcdef012345678912345678"
COMMON_METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"]

BROWSER = (
    b"GET /assets/app.js?v=3&x=%20 HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n"
    b'sec-ch-ua: "Chromium";v="124", "Not-A.Brand";v="99"\r\nsec-ch-ua-mobile: ?0\r\n'
    b"Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
    b"Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Encoding: gzip, br\r\n"
    b"Accept-Language: de-DE,de;q=0.9,en;q=0.8\r\nCookie: a=b; c=\xc3\xa9\r\n\r\n"
)

Outcome = tuple[RequestHead, bytes] | tuple[int, str, str]
Pair = tuple[bytes, bytes]


def read(head: bytes, fields: ForwardedFields = PLAIN, max_headers: int = 100) -> RequestHead:
    return HeadReader().read(head, None, fields, max_headers)


def outcome(
    reader: HeadReader,
    head: bytes,
    last: HeaderBlock | None,
    fields: ForwardedFields = PLAIN,
    max_headers: int = 20,
) -> Outcome:
    """All that can be seen of one reading."""
    try:
        found = reader.read(head, last, fields, max_headers)
    except RequestError as error:
        return error.status, error.cause, error.detail
    return found, found.to_target(TRACE)


def request(*lines: bytes, line: bytes = b"GET /a HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    return b"\r\n".join((line, *([host] if host else []), *lines, b"", b""))


def status_of(head: bytes, fields: ForwardedFields = PLAIN) -> int:
    with pytest.raises(RequestError) as caught:
        read(head, fields)
    assert caught.value.detail.isascii()
    return caught.value.status


class FieldLog:
    """The fields that httptools finds."""

    def __init__(self) -> None:
        self.fields: list[Pair] = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_message_complete(self) -> None:
        self.complete = True


def fields_by_httptools(head: bytes) -> list[Pair]:
    log = FieldLog()
    try:
        httptools.HttpRequestParser(log).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    return log.fields


def fields_by_h11(head: bytes) -> list[Pair]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(head)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return [(name.lower(), value) for name, value in event.headers]


def sent(head: bytes, fields: ForwardedFields = PLAIN) -> list[Pair]:
    """The fields that the target gets, as two readers agree on them."""
    found = read(head, fields)
    out = found.to_target(TRACE)
    assert fields_by_h11(out) == fields_by_httptools(out)
    return fields_by_h11(out)


def values(pairs: list[Pair], name: bytes) -> list[bytes]:
    return [value for key, value in pairs if key == name]


# -- strategies

printable = bytes(range(0x21, 0x7F))
odd_methods = b"TRACE CONNECT PROPFIND M-SEARCH PURGE get GE GETT G-T PRI DESCRIBE SOURCE".split()
methods = st.sampled_from([*COMMON_METHODS, *odd_methods, b""])
targets = st.one_of(
    st.sampled_from(
        [b"/", b"*", b"//a", b"/?", b"?", b"", b"a:80", b"/#a", b"http://a", b"http:///"]
    ),
    st.sampled_from([b"http://a/", b"http://A?b", b"HTTP://b/c", b"https://a/", b"http://u@a/"]),
    st.lists(st.sampled_from(printable), max_size=12).map(lambda some: b"/" + bytes(some)),
    st.binary(max_size=6).map(lambda some: b"/" + some),
    st.binary(max_size=6),
)
versions = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1"])
names = st.sampled_from(
    b"""Host Content-Length Transfer-Encoding Connection Connection Upgrade Expect TE Keep-Alive
    Proxy-Connection X-Forwarded-For X-Forwarded-Proto X-Forwarded-Port X-Amzn-Trace-Id Cookie Accept
    X-A X-B Content-Type Trailer Authorization connection HOST X-Amzn-Trace-Idx Hosts Te
    Content-Lengthy""".split()
)
field_values = st.one_of(
    st.sampled_from(
        b"a|b|close|keep-alive|Close|upgrade|x-a|x-a, x-b|close, x-a|keep-alive, Upgrade|host|0|1|5|05"
        b"|+5|5, 5|chunked|Chunked|chunked, chunked|gzip, chunked|identity|websocket|100-continue|"
        b"|Root=1-a-b|Self=1-a-b;Root=1-c-d|trailers|a:80|[::1]:80|content-length|cookie"
        b"|x-forwarded-proto|close;a|close keep-alive|,close,|\tclose\t| close|\x22close\x22".split(
            b"|"
        )
    ),
    st.binary(max_size=5),
)


def cut(data: bytes) -> bytes:
    """The first head in `data`, as the connection cuts it out of the stream."""
    return data[: data.index(b"\r\n\r\n") + 4]


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Requests, most of them with a fault, some without."""
    line = b" ".join((draw(methods), draw(targets), draw(versions)))
    if draw(st.integers(0, 2)):
        line = b"GET /%d HTTP/1.1" % draw(st.integers(0, 99))
    pairs = draw(st.lists(st.tuples(names, field_values), max_size=4))
    colon = draw(st.sampled_from([b": "] * 8 + [b":", b":\t", b" :", b":  "]))
    if draw(st.integers(0, 4)):
        pairs.insert(draw(st.integers(0, len(pairs))), (b"Host", b"a"))
    fields = (name + colon + value + b"\r\n" for name, value in pairs)
    return cut(b"".join((line, b"\r\n", *fields, b"\r\n")))


good_values = {
    b"Connection": b"close|keep-alive|Upgrade|x-a|X-B, close|keep-alive, upgrade|host|x-forwarded-proto"
    b"|content-length, cookie|x-forwarded-for|te|,x-a,|x-amzn-trace-id|transfer-encoding|x-forwarded-port",
    b"Upgrade": b"websocket|h2c|a, b",
    b"Expect": b"100-continue|100-Continue",
    b"TE": b"trailers|",
    b"Keep-Alive": b"timeout=5",
    b"Proxy-Connection": b"close|keep-alive",
    b"X-Forwarded-For": b"a|a, b||[::1]:80",
    b"X-Forwarded-Proto": b"https|http|",
    b"X-Forwarded-Port": b"443|",
    b"X-Amzn-Trace-Id": b"Root=1-a-b|Self=1-a-b;Root=1-c-d|A=b; C=d||;",
    b"X-A": b"1|2|\xff|a, b|",
    b"X-B": b"1|a b",
    b"Cookie": b"a=b",
    b"Content-Type": b"text/a",
    b"Accept": b"*/*",
}
good_fields = st.sampled_from(
    [(name, value) for name, values in good_values.items() for value in values.split(b"|")]
)
framing = st.sampled_from(
    [
        *[[]] * 3,
        [(b"Content-Length", b"0")],
        [(b"Content-Length", b"05")],
        [(b"content-length", b"5")],
        [(b"Transfer-Encoding", b"Chunked")],
    ]
)


@st.composite
def good_heads(draw: st.DrawFn) -> bytes:
    """Requests with nothing wrong, most of them."""
    line = draw(st.sampled_from([b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"PUT / HTTP/1.0"]))
    pairs = draw(st.lists(good_fields, max_size=6)) + draw(framing)
    pairs.append((draw(st.sampled_from([b"Host", b"HOST"])), b"a.example:80"))
    colon = draw(st.sampled_from([b": ", b":", b":\t", b":  "]))
    end = draw(st.sampled_from([b"\r\n", b" \r\n", b"\t\r\n"]))
    fields = [name + colon + value + end for name, value in draw(st.permutations(pairs))]
    return b"".join((line, b"\r\n", *fields, b"\r\n"))


@st.composite
def with_one_byte_changed(draw: st.DrawFn, head: bytes) -> bytes:
    """`head` with one byte replaced, taken out or put in; the empty line at its end stays."""
    at = draw(st.integers(0, len(head) - 5))
    byte = bytes([draw(st.one_of(st.sampled_from(b"\r\n\0 \t:,a0#/"), st.integers(0, 255)))])
    kind = draw(st.sampled_from(["replace", "insert", "remove"]))
    return cut(head[:at] + (b"" if kind == "remove" else byte) + head[at + (kind != "insert") :])


@st.composite
def related_heads(draw: st.DrawFn) -> list[bytes]:
    """A few requests as one connection may send them: alike, or nearly."""
    first = draw(st.one_of(heads(), good_heads(), st.just(BROWSER)))
    line, block = first.split(b"\r\n", 1)
    found = [first]
    for _ in range(draw(st.integers(1, 4))):
        match draw(st.integers(0, 2)):
            case 0:
                other = b" ".join((draw(methods), draw(targets), draw(versions)))
                found.append(other + b"\r\n" + block)
            case 1:
                found.append(line + b"\r\n" + block)
            case _:
                found.append(draw(with_one_byte_changed(found[-1])))
    return found


# -- the memo


@settings(max_examples=300)
@given(related_heads(), st.sampled_from([PLAIN, BEHIND_PROXY, STRANGER]))
@example([BROWSER, BROWSER], PLAIN)
@example([BROWSER, BROWSER.replace(b"GET", b"POST")], PLAIN)
@example([request(), request(line=b"GET /a HTTP/1.0")], PLAIN)
@example([request(), request(line=b"GET http://b/ HTTP/1.1")], PLAIN)
@example([request(), request(line=b"TRACE / HTTP/1.1")], PLAIN)
@example([request(), request(line=b"GET /\0 HTTP/1.1")], PLAIN)
@example([request(), request(line=b"GET * HTTP/1.1")], PLAIN)
def test_with_memo_or_without_the_same_is_read(
    connection: list[bytes], fields: ForwardedFields
) -> None:
    reader = HeadReader()
    last: RequestHead | None = None
    for head in connection:
        plain = outcome(HeadReader(), head, None, fields)
        assert outcome(reader, head, last.block if last is not None else None, fields) == plain
        again = reader.again(head, last) if last is not None else None
        if again is not None:
            assert again.raw in (b"", head)
            again.raw = head
            assert (again, again.to_target(TRACE)) == plain
        last = None
        if isinstance(plain[0], RequestHead):
            assert plain[0].to_target(TRACE) == plain[1]
            if plain[0].block.memorable:
                last = plain[0]


# -- what most requests look like

common_names = st.sampled_from(b"Host host HOST Hosts Connection Content-Length Accept X-A".split())
common_values = st.one_of(
    st.sampled_from(
        b"a|a:80|[::1]|b c|keep-alive|Keep-Alive|close|x-a|0|05|5|-5||5, 5".split(b"|")
    ),
    st.binary(max_size=3),
)


@st.composite
def nearly_common_heads(draw: st.DrawFn) -> bytes:
    """Of Host, Connection, Content-Length and what nobody looks at: most with a fault, some without."""
    pairs = draw(st.lists(st.tuples(common_names, common_values), max_size=4))
    if draw(st.integers(0, 3)):
        pairs.append((b"Host", b"a"))
    colon = draw(st.sampled_from([b": "] * 4 + [b":", b":\t", b":  "]))
    fields = [name + colon + value + b"\r\n" for name, value in draw(st.permutations(pairs))]
    return cut(b"".join((b"POST /a HTTP/1.1\r\n", *fields, b"\r\n")))


@settings(max_examples=400)
@given(
    nearly_common_heads() | good_heads() | with_one_byte_changed(BROWSER),
    st.sampled_from([PLAIN, BEHIND_PROXY, STRANGER]),
    st.sampled_from(["append", "preserve", "remove"]),
    st.integers(0, 12),
)
@example(BROWSER, PLAIN, "append", 100)
@example(request(b"Content-Length: 5", b"X-Content-Length: 5"), PLAIN, "append", 100)
@example(request(b"X-A: \nConnection: keep-alive", b"Connection: keep-alive"), PLAIN, "append", 9)
def test_the_short_way_reads_what_the_long_one_does(
    head: bytes, fields: ForwardedFields, mode: str, max_headers: int
) -> None:
    fields = replace(fields, mode=mode)
    short = outcome(HeadReader(), head, None, fields, max_headers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_head, "_read_common", lambda *_: None)
        assert outcome(HeadReader(), head, None, fields, max_headers) == short


@pytest.mark.parametrize("lines", [[], [b"connection: Keep-Alive"], [b"Content-Length: 5"]])
def test_the_short_way_is_taken(lines: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(request_head, "_read_any")
    assert read(request(b"Accept: */*", *lines, b"Upgrade-Insecure-Requests: 1")).block.stays


def test_the_memo_is_used() -> None:
    reader = HeadReader()
    other = BROWSER.replace(b"/assets", b"/other")
    first = reader.read(BROWSER, None, PLAIN, 100)
    for second in (reader.read(other, first.block, PLAIN, 100), reader.again(other, first)):
        assert second is not None
        assert second.block is first.block
        assert second.target == b"/other/app.js?v=3&x=%20"
    # On other connections: what came twice is kept.
    second = reader.read(other, None, PLAIN, 100)
    assert reader.read(other, None, PLAIN, 100).block is second.block
    assert reader.read(other, None, BEHIND_PROXY, 100).block is not first.block


@pytest.mark.parametrize("framing", [b"Content-Length: 1", b"Transfer-Encoding: chunked"])
def test_what_announces_a_body_is_remembered_with_it(framing: bytes) -> None:
    head = request(framing, line=b"POST / HTTP/1.1")
    reader = HeadReader()
    first = reader.read(head, None, PLAIN, 100)
    again = reader.again(head.replace(b" / ", b" /b "), first)
    assert first.block.memorable
    assert again is not None
    assert again.block is first.block
    assert not again.block.bodyless


def test_an_odd_line_is_checked_though_its_block_is_known() -> None:
    reader = HeadReader()
    for _ in range(3):
        reader.read(request(), None, PLAIN, 100)
    for line in (b"GE /a HTTP/1.1", b"GETT /a HTTP/1.1"):
        assert outcome(reader, request(line=line), None)[0] == 400


def test_only_a_whole_request_and_nothing_else_is_taken_for_the_former_again() -> None:
    reader = HeadReader()
    first = reader.read(BROWSER, None, PLAIN, 100)
    raw = first.block.raw
    for data in (
        b"GET /b HTTP/1.1\r\nX: y\r\n" + raw,
        b"GET /b HTTP/1.0\r\n" + raw,
        BROWSER + b"x",
        BROWSER + BROWSER,
        raw,
        b"\r\n" + BROWSER,
        b"GET /" + b"b" * 17000 + b" HTTP/1.1\r\n" + raw,
    ):
        assert reader.again(data, first) is None


def test_what_is_remembered_over_connections_is_bounded() -> None:
    reader = HeadReader()
    for number in range(3000):
        reader.read(request(b"X: %d" % number), None, PLAIN, 100)
    assert len(reader._blocks) <= 1024
    assert len(reader._marks) <= 4096
    reader.read(request(b"X: " + b"y" * 5000), None, PLAIN, 100)
    assert all(len(raw) <= 4096 for _, _, raw in reader._blocks)


@pytest.mark.parametrize(
    "head",
    [
        request(line=b"GET / HTTP/1.0"),
        request(b"Connection: keep-alive", line=b"GET / HTTP/1.0"),
        request(b"Connection: upgrade", b"Upgrade: websocket"),
        request(b"Upgrade: websocket"),
        request(b"Expect: 100-continue"),
        request(b"Proxy-Connection: close"),
    ],
)
def test_what_changes_a_connection_is_not_remembered(head: bytes) -> None:
    assert not read(head).block.memorable


@pytest.mark.parametrize("place", ["method", "path", "end of path", "query", "alone", "version"])
def test_the_memo_path_accepts_no_byte_that_httptools_refuses(place: str) -> None:
    last = read(request()).block
    for byte in range(256):
        odd = bytes([byte])
        line = {
            "method": b"G" + odd + b"T / HTTP/1.1",
            "path": b"GET /a" + odd + b"b HTTP/1.1",
            "end of path": b"GET /" + odd + b" HTTP/1.1",
            "query": b"GET /?" + odd + b"b HTTP/1.1",
            "alone": b"GET " + odd + b" HTTP/1.1",
            "version": b"GET / HTTP/1." + odd,
        }[place]
        head = request(line=line)
        remembered = outcome(HeadReader(), head, last)
        assert remembered == outcome(HeadReader(), head, None)
        if isinstance(remembered[0], RequestHead):
            fields_by_httptools(head)  # raises what it refuses


@settings(max_examples=300)
@given(st.sampled_from(COMMON_METHODS), targets, versions)
def test_a_request_line_that_the_memo_path_takes_is_one_for_httptools(
    method: bytes, target: bytes, version: bytes
) -> None:
    head = request(line=b" ".join((method, target, version)))
    last = read(request()).block
    try:
        found = HeadReader().read(head, last, PLAIN, 100)
    except RequestError:
        return
    log = FieldLog()
    parser = httptools.HttpRequestParser(log)
    parser.feed_data(head)
    assert log.complete
    assert parser.get_method() == found.method == method


# -- one reader serves all connections


@settings(max_examples=300)
@given(st.lists(heads() | good_heads(), min_size=2, max_size=5))
@example([request(b"Proxy-Connection: close"), request()])
@example([request(b"Content-Length: 9", b"Expect: x"), request()])
@example([request(b"Content-Length: 9999", b"Host: b"), request(b"a b: c")])
@example([request(b"Content-Length: 9", b"Connection: a b"), request()])
def test_no_request_changes_how_anothers_is_read(connections: list[bytes]) -> None:
    shared = HeadReader()
    for head in connections:
        assert outcome(shared, head, None) == outcome(HeadReader(), head, None)


@pytest.mark.parametrize(
    "poison",
    [
        b"Host: b",
        b"Expect: later",
        b"Connection: a b",
        b"Host: a/b",
        b"Connection: close",
        b"Upgrade: websocket",
        b"Proxy-Connection: close",
    ],
)
def test_a_body_that_was_announced_is_not_looked_for_in_the_next_head(poison: bytes) -> None:
    shared = HeadReader()
    outcome(shared, request(b"Content-Length: 1000", poison, line=b"POST / HTTP/1.1"), None)
    assert outcome(shared, request(b"a b: c"), None)[0] == 400
    outcome(shared, request(b"Content-Length: 3", poison, line=b"POST / HTTP/1.1"), None)
    assert isinstance(outcome(shared, request(), None)[0], RequestHead)


# -- refusals

REFUSED = {
    "Content-Length with Transfer-Encoding": [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
    "Transfer-Encoding with Content-Length": [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
    "Content-Length 0 with chunked": [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
    "different Content-Length": [b"Content-Length: 5", b"Content-Length: 6"],
    "same Content-Length twice": [b"Content-Length: 5", b"Content-Length: 5"],
    "same Content-Length twice in a line": [b"Content-Length: 5, 5"],
    "zero and another": [b"Content-Length: 0", b"Content-Length: 5"],
    "negative": [b"Content-Length: -5"],
    "plus": [b"Content-Length: +5"],
    "hex": [b"Content-Length: 0x5"],
    "underscore": [b"Content-Length: 1_0"],
    "space inside": [b"Content-Length: 1 0"],
    "empty Content-Length": [b"Content-Length:"],
    "point": [b"Content-Length: 5.0"],
    "quoted": [b'Content-Length: "5"'],
    "other digits": ["Content-Length: ５".encode()],
    "over 64 bits": [b"Content-Length: 99999999999999999999"],
    "64 bits and 5": [b"Content-Length: 18446744073709551621"],
    "vertical tab": [b"Content-Length: \x0b5"],
    "chunked twice": [b"Transfer-Encoding: chunked, chunked"],
    "chunked in two fields": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "chunked is not last": [b"Transfer-Encoding: chunked, identity"],
    "gzip before chunked": [b"Transfer-Encoding: gzip, chunked"],
    "gzip, chunked in two fields": [b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"],
    "identity": [b"Transfer-Encoding: identity"],
    "identity and Content-Length": [b"Transfer-Encoding: identity", b"Content-Length: 5"],
    "xchunked": [b"Transfer-Encoding: xchunked"],
    "chunked with parameter": [b"Transfer-Encoding: chunked;q=1"],
    "quoted chunked": [b'Transfer-Encoding: "chunked"'],
    "chunked, comma": [b"Transfer-Encoding: chunked,"],
    "comma, chunked": [b"Transfer-Encoding: ,chunked"],
    "empty Transfer-Encoding": [b"Transfer-Encoding:"],
    "chunked after vertical tab": [b"Transfer-Encoding: \x0bchunked"],
    "chunked before vertical tab": [b"Transfer-Encoding: chunked\x0b"],
    "chunked before NUL": [b"Transfer-Encoding: chunked\0"],
    "space before colon": [b"Transfer-Encoding : chunked"],
    "tab before colon": [b"Content-Length\t: 5"],
    "folded": [b"X-A: b", b" c"],
    "folded with tab": [b"X-A: b", b"\tc"],
    "folded Transfer-Encoding": [b"Transfer-Encoding:", b" chunked"],
    "folded Content-Length": [b"Content-Length: 1", b" 0"],
    "bare LF hides a field": [b"X-A: b\nTransfer-Encoding: chunked"],
    "bare LF at a line's end": [b"X-A: b\n"],
    "bare CR in a value": [b"X-A: b\rTransfer-Encoding: chunked"],
    "two CR": [b"X-A: b\r"],
    "NUL in a value": [b"X-A: a\0b"],
    "NUL in a name": [b"X-\0A: b"],
    "control in a value": [b"X-A: a\x01b"],
    "DEL in a value": [b"X-A: a\x7fb"],
    "empty name": [b": b"],
    "space in a name": [b"X A: b"],
    "no colon": [b"X-A"],
    "invalid name": [b"X(A): b"],
    "quoted name": [b'"X-A": b'],
    "non-ASCII name": [b"X-\xe4: b"],
    "two Hosts": [b"Host: b"],
    "two equal Hosts": [b"Host: a"],
    "Connection that is no list of tokens": [b"Connection: close keep-alive"],
    "quoted option": [b'Connection: "close"'],
}


@pytest.mark.parametrize("lines", REFUSED.values(), ids=REFUSED)
def test_refused_with_400(lines: list[bytes]) -> None:
    head = request(*lines, line=b"POST / HTTP/1.1")
    assert status_of(head) == 400
    # As the second request of a connection that was good until now, too, and for other connections.
    reader = HeadReader()
    good = reader.read(request(b"X-A: b"), None, PLAIN, 100)
    assert outcome(reader, head, good.block)[0] == 400
    assert isinstance(outcome(reader, request(b"X-A: c"), good.block)[0], RequestHead)


BAD_HOSTS = b'|a b|a, b|a/b|u@a|a:b|a:1:2|[::1|::1|[]|a#b|a?b|\xe4|a\\b|"a"|<a>|a:123456'.split(
    b"|"
)


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_bad_hosts_are_refused(host: bytes) -> None:
    assert status_of(request(host=b"Host: " + host)) == 400


@pytest.mark.parametrize(
    "host", [b"a", b"a.example:8080", b"[::1]:80", b"[fe80::1%25eth0]", b"192.0.2.1", b"a:", b"x_y"]
)
def test_good_hosts_are_passed_as_they_came(host: bytes) -> None:
    head = request(host=b"Host: " + host)
    assert read(head).block.host == host
    assert values(sent(head), b"host") == [host]


def test_no_host_is_refused_in_1_1() -> None:
    assert status_of(request(host=b"")) == 400


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/1.2", 400),
        (b"GET / HTTP/1.10", 400),
        (b"GET / HTTP/2.0", 400),
        (b"GET / HTTP/0.9", 400),
        (b"GET / HTTP/1", 400),
        (b"GET / http/1.1", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET / HTTPS/1.1", 400),
        (b"GET /", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET /  HTTP/1.1", 400),
        (b"GET\t/ HTTP/1.1", 400),
        (b" GET / HTTP/1.1", 400),
        (b"get / HTTP/1.1", 400),
        (b"GOT / HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET /a\x00b HTTP/1.1", 400),
        (b"GET /a\x7f HTTP/1.1", 400),
        (b"GET /\xe4 HTTP/1.1", 400),
        (b"GET /#a HTTP/1.1", 400),
        (b"GET a HTTP/1.1", 400),
        (b"GET a:80 HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET /\rX: HTTP/1.1", 400),
        (b"GET /\nX: HTTP/1.1", 400),
        (b"GET / HTTP/1.1\nX: y", 400),
        (b"GET / HTTP/1.1\r", 400),
        (b"GET http://b/ HTTP/1.1", 400),
        (b"GET http://a:80/ HTTP/1.1", 400),
        (b"GET http://u@a/ HTTP/1.1", 400),
        (b"GET http:/// HTTP/1.1", 400),
        (b"GET https://a/ HTTP/1.1", 400),
        (b"GET ftp://a/ HTTP/1.1", 400),
        (b"TRACE / HTTP/1.1", 405),
        (b"CONNECT a:443 HTTP/1.1", 405),
        (b"CONNECT / HTTP/1.1", 405),
        (b"PRI * HTTP/2.0", 400),
        (b"PRI / HTTP/1.1", 405),
        (b"PRI / HTTP/1.0", 405),
    ],
)
def test_request_lines_are_refused(line: bytes, status: int) -> None:
    assert status_of(request(line=line)) == status
    memo = read(request()).block
    assert outcome(HeadReader(), request(line=line), memo)[0] == status


def test_too_many_fields_are_refused() -> None:
    lines = [b"X-%d: y" % number for number in range(99)]
    assert read(request(*lines), max_headers=100).block.memorable
    with pytest.raises(RequestError) as caught:
        read(request(*lines, b"X: y"), max_headers=100)
    assert caught.value.status == 431


def test_an_expectation_that_is_unknown_is_refused() -> None:
    assert status_of(request(b"Expect: 200-ok")) == 417
    assert status_of(request(b"Expect: 100-continue", b"Expect: 100-continue")) == 417


# -- what the target gets


def model(pairs: list[Pair], fields: ForwardedFields, http_11: bool) -> list[Pair]:
    """The fields that the target must get for those of the client, less the trace id."""
    options = {
        option.strip(b" \t").lower()
        for option in b",".join(values(pairs, b"connection")).split(b",")
    }
    never = {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"upgrade",
        b"x-amzn-trace-id",
    }
    framing = {b"host", b"content-length", b"content-type", b"authorization", b"cookie"}
    trusted_only = {b"x-forwarded-proto", b"x-forwarded-port"}
    out = []
    for name, value in pairs:
        if name in never or (name in options - framing):
            continue
        if name in (b"transfer-encoding", b"content-length"):
            continue  # written anew, as it was understood
        if name in trusted_only and not fields.trusted:
            continue
        if name == b"x-forwarded-for" and fields.mode != "preserve":
            continue
        out.append((name, value))
    if not values(pairs, b"host"):
        out.append((b"host", fields.host))
    if fields.mode == "append":
        before = values(pairs, b"x-forwarded-for")
        while before and (not before[0] or (fields.strict and not fields.trusted)):
            before = before[1:]
        out.append((b"x-forwarded-for", b", ".join([*before, fields.client])))
    for name, value in ((b"x-forwarded-proto", b"http"), (b"x-forwarded-port", fields.port)):
        if not values(out, name):
            out.append((name, value))
    chunked = bool(values(pairs, b"transfer-encoding"))
    if chunked:
        out.append((b"transfer-encoding", b"chunked"))
    lengths = [int(size) for size in values(pairs, b"content-length")]
    out += [(b"content-length", b"%d" % size) for size in lengths]
    body = chunked or any(lengths)
    upgrade = b", ".join(values(pairs, b"upgrade"))
    if upgrade and b"upgrade" in options and http_11 and not body and b"h2c" not in upgrade:
        out += [(b"connection", b"Upgrade"), (b"upgrade", upgrade)]
    return out


modes = st.sampled_from(["append", "preserve", "remove"])


@settings(max_examples=300)
@given(good_heads() | heads(), st.sampled_from([PLAIN, BEHIND_PROXY, STRANGER]), modes)
@example(
    request(b"Connection: X-Forwarded-Proto", b"X-Forwarded-Proto: https"), BEHIND_PROXY, "append"
)
def test_the_target_gets_what_the_model_says(
    head: bytes, fields: ForwardedFields, mode: str
) -> None:
    fields = replace(fields, mode=mode)
    try:
        found = read(head, fields)
    except RequestError:
        return
    out = found.to_target(TRACE)
    got = fields_by_httptools(out)
    assert got == fields_by_h11(out)
    assert out.count(b"\r\n\r\n") == 1
    assert out.endswith(b"\r\n\r\n")
    assert got[-1][0] == b"x-amzn-trace-id"
    wanted = model(fields_by_httptools(head), fields, found.block.http_11)
    assert got[:-1] == wanted


@settings(max_examples=200)
@given(good_heads() | heads())
def test_the_target_gets_the_same_framing_as_was_read(head: bytes) -> None:
    try:
        found = read(head)
    except RequestError:
        return
    got = fields_by_h11(found.to_target(TRACE))
    lengths, encodings = values(got, b"content-length"), values(got, b"transfer-encoding")
    assert len(lengths) + len(encodings) <= 1
    assert [int(length) for length in lengths] in ([], [found.block.content_length])
    assert bool(encodings) is found.block.chunked
    assert len(values(got, b"host")) == 1


def test_fields_are_copied_as_they_came() -> None:
    found = read(BROWSER)
    kept = BROWSER.split(b"\r\n", 1)[1].replace(b"Connection: keep-alive\r\n", b"")[:-2]
    assert found.to_target(TRACE) == (
        b"GET /assets/app.js?v=3&x=%20 HTTP/1.1\r\n"
        + kept
        + b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 8080\r\n"
        + b"X-Amzn-Trace-Id: Root="
        + TRACE
        + b"\r\n\r\n"
    )


def test_hop_by_hop_fields_and_what_connection_names_are_removed() -> None:
    got = sent(
        request(
            b"Connection: close, X-Secret",
            b"x-secret: 1",
            b"X-SECRET: 2",
            b"X-Secrets: 3",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"TE: trailers",
            b"Upgrade: h2c",
            b"connection: x-other",
            b"X-Other: 4",
            b"Trailer: X-Sum",
        )
    )
    names = [name for name, _ in got]
    assert names == [
        *(b"host", b"x-secrets", b"trailer"),
        *(b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port", b"x-amzn-trace-id"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"Host: a",
        b"Content-Length: 5",
        b"Content-Type: text/a",
        b"Authorization: b",
        b"Cookie: c=d",
    ],
)
def test_connection_cannot_take_away_what_frames_routes_or_authenticates(line: bytes) -> None:
    name, value = line.split(b": ")
    host = b"" if name == b"Host" else b"Host: a"
    got = sent(request(line, b"Connection: " + name.lower(), line=b"POST / HTTP/1.1", host=host))
    assert values(got, name.lower()) == [value]


def test_connection_cannot_take_away_chunked_nor_what_we_add() -> None:
    got = sent(
        request(
            b"Connection: transfer-encoding, x-forwarded-for, x-forwarded-proto, x-amzn-trace-id",
            b"Transfer-Encoding: chunked",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-For: 198.51.100.1",
            line=b"POST / HTTP/1.1",
        ),
        BEHIND_PROXY,
    )
    assert values(got, b"transfer-encoding") == [b"chunked"]
    assert values(got, b"x-forwarded-for") == [b"198.51.100.1, 192.0.2.7"]
    assert values(got, b"x-forwarded-proto") == [b"http"]
    assert len(values(got, b"x-amzn-trace-id")) == 1


# -- X-Forwarded-*


CHAIN = [b"X-Forwarded-For: 198.51.100.1", b"x-forwarded-for: 203.0.113.9"]


@pytest.mark.parametrize(
    ("mode", "fields", "wanted"),
    [
        ("append", PLAIN, [b"198.51.100.1, 203.0.113.9, 192.0.2.7"]),
        ("append", BEHIND_PROXY, [b"198.51.100.1, 203.0.113.9, 192.0.2.7"]),
        ("append", STRANGER, [b"192.0.2.7"]),
        ("preserve", PLAIN, [b"198.51.100.1", b"203.0.113.9"]),
        ("preserve", STRANGER, [b"198.51.100.1", b"203.0.113.9"]),
        ("remove", PLAIN, []),
        ("remove", BEHIND_PROXY, []),
    ],
)
def test_forwarded_for(mode: str, fields: ForwardedFields, wanted: list[bytes]) -> None:
    fields = replace(fields, mode=mode)
    assert values(sent(request(*CHAIN), fields), b"x-forwarded-for") == wanted
    alone = values(sent(request(), fields), b"x-forwarded-for")
    assert alone == ([b"192.0.2.7"] if mode == "append" else [])
    assert read(request(*CHAIN), fields).block.forwarded_for == b"198.51.100.1, 203.0.113.9"


@pytest.mark.parametrize(
    ("fields", "proto", "port"),
    [(PLAIN, b"http", b"8080"), (STRANGER, b"http", b"8080"), (BEHIND_PROXY, b"https", b"443")],
)
def test_only_trusted_proxies_say_what_scheme_and_port_a_client_used(
    fields: ForwardedFields, proto: bytes, port: bytes
) -> None:
    got = sent(request(b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 443"), fields)
    assert values(got, b"x-forwarded-proto") == [proto]
    assert values(got, b"x-forwarded-port") == [port]
    got = sent(request(), fields)
    assert values(got, b"x-forwarded-proto") == [b"http"]
    assert values(got, b"x-forwarded-port") == [b"8080"]


# -- X-Amzn-Trace-Id

OURS = b"1-67891234-12456789abcdef0123456789"
THEIRS = b"1-67891233-abcdef012345678912345678"


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([], b"Root=" + OURS),
        ([b"Root=" + THEIRS], b"Self=" + OURS + b";Root=" + THEIRS),
        ([b"Self=1-0-0;Root=" + THEIRS], b"Self=" + OURS + b";Root=" + THEIRS),
        ([b"Root=" + THEIRS + b"; self=1-0-0"], b"Self=" + OURS + b";Root=" + THEIRS),
        (
            [b"Root=" + THEIRS + b";CalledFrom=app"],
            b"Self=" + OURS + b";Root=" + THEIRS + b";CalledFrom=app",
        ),
        ([b"CalledFrom=app"], b"Root=" + OURS + b";CalledFrom=app"),
        ([b"Self=1-0-0;CalledFrom=app"], b"Root=" + OURS + b";CalledFrom=app"),
        ([b"CalledFrom=root=a"], b"Root=" + OURS + b";CalledFrom=root=a"),
        ([b"Root=" + THEIRS, b"A=b"], b"Self=" + OURS + b";Root=" + THEIRS + b";A=b"),
        ([b" ; ;A=b; "], b"Root=" + OURS + b";A=b"),
        ([b""], b"Root=" + OURS),
    ],
)
def test_trace_id(lines: list[bytes], wanted: bytes) -> None:
    found = read(request(*(b"X-Amzn-Trace-Id: " + line for line in lines)))
    out = found.to_target(OURS)
    assert values(fields_by_h11(out), b"x-amzn-trace-id") == [wanted]


# -- kinds of targets and connections


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"GET http://a/b?c HTTP/1.1", b"/b?c"),
        (b"GET http://A HTTP/1.1", b"/"),
        (b"GET HTTP://a?b HTTP/1.1", b"/?b"),
        (b"OPTIONS * HTTP/1.1", b"*"),
        (b"OPTIONS http://a HTTP/1.1", b"*"),
        (b"OPTIONS http://a/ HTTP/1.1", b"/"),
        (b'GET /"<>[]^`{|}~\\ HTTP/1.1', b'/"<>[]^`{|}~\\'),
    ],
)
def test_targets_get_the_origin_form(line: bytes, target: bytes) -> None:
    found = read(request(line=line))
    assert found.target == target
    assert found.to_target(TRACE).split(b" ")[1] == target


def test_keep_alive_is_as_the_version_and_connection_say() -> None:
    def keeps(*lines: bytes, minor: int = 1) -> bool:
        return read(request(*lines, line=b"GET / HTTP/1.%d" % minor)).block.keep_alive

    assert keeps()
    assert keeps(b"Connection: keep-alive")
    assert not keeps(b"Connection: close")
    assert not keeps(b"Connection: Keep-Alive, CLOSE")
    assert not keeps(b"Connection: keep-alive", b"Connection: close")
    assert not keeps(minor=0)
    assert keeps(b"Connection: Keep-Alive", minor=0)
    assert not keeps(b"Connection: keep-alive, close", minor=0)


def test_http_1_0_needs_no_host_and_may_not_be_chunked() -> None:
    old = b"GET / HTTP/1.0"
    found = read(request(line=old, host=b""))
    assert found.block.host == PLAIN.host
    out = found.to_target(TRACE)
    assert out.startswith(b"GET / HTTP/1.1\r\n")
    assert values(fields_by_h11(out), b"host") == [PLAIN.host]
    assert status_of(request(b"Transfer-Encoding: chunked", line=old)) == 400
    assert not read(request(b"Upgrade: a", b"Connection: upgrade", line=old)).block.upgrade
    assert read(request(b"Content-Length: 5", line=old)).block.content_length == 5


def test_upgrade_is_passed_where_connection_names_it_and_there_is_no_body() -> None:
    asked = [b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: a"]
    found = read(request(*asked))
    assert found.block.upgrade == b"websocket"
    got = sent(request(*asked))
    assert values(got, b"connection") == [b"Upgrade"]
    assert values(got, b"upgrade") == [b"websocket"]
    assert values(got, b"sec-websocket-key") == [b"a"]
    for lines in (
        [*asked, b"Content-Length: 5"],
        [*asked, b"Transfer-Encoding: chunked"],
        asked[1:],
    ):
        assert read(request(*lines)).block.upgrade == b""
        got = sent(request(*lines))
        assert not values(got, b"upgrade") + values(got, b"connection")
    assert read(request(*asked, b"Content-Length: 0")).block.upgrade == b"websocket"


@pytest.mark.parametrize("upgrade", [b"h2c", b"H2C", b"websocket, h2c"])
def test_no_tunnel_of_http_2_is_asked_for(upgrade: bytes) -> None:
    lines = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + upgrade, b"HTTP2-Settings: AA"]
    assert read(request(*lines)).block.upgrade == b""
    names = {name for name, _ in sent(request(*lines))}
    assert not names & {b"connection", b"upgrade", b"http2-settings"}


@pytest.mark.parametrize("length", [b"5", b"05", b"000000000000000005", b"5 \t"])
def test_a_length_is_written_as_it_was_understood(length: bytes) -> None:
    head = request(b"Content-Length: " + length, line=b"POST / HTTP/1.1")
    assert read(head).block.content_length == 5
    assert b"\r\nContent-Length: 5\r\n" in read(head).to_target(TRACE)
    assert values(sent(head), b"content-length") == [b"5"]


def test_expect_is_passed() -> None:
    assert values(sent(request(b"Expect: 100-Continue")), b"expect") == [b"100-Continue"]


def test_a_listener_names_itself_as_a_client_would() -> None:
    assert listener_host(Address("127.0.0.1", 80)) == b"127.0.0.1:80"
    assert listener_host(Address("::1", 80)) == b"[::1]:80"


def test_details_of_errors_are_ascii_whatever_was_sent() -> None:
    reader: Callable[[bytes], int] = status_of
    for byte in range(256):
        head = request(b"X-\xff\x00" + bytes([byte]) + b": a")
        assert reader(head) == 400
