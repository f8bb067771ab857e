"""The chunked coding: what goes in comes out at every split; httptools is the second opinion."""

from __future__ import annotations

import random
import re

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastlb.data_plane.chunked import (
    MAX_LINE,
    MAX_TRAILERS,
    ChunkedDecoder,
    ChunkError,
    encode,
    encode_end,
)

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def decode(pieces: list[bytes]) -> tuple[bytes, ChunkedDecoder]:
    """All data of `pieces`, which are fed one after the other until the body is done."""
    decoder = ChunkedDecoder()
    data = []
    for position, piece in enumerate(pieces):
        data += decoder.feed(piece)
        if decoder.done:
            decoder.rest += b"".join(pieces[position + 1 :])
            break
    return b"".join(data), decoder


def refused_or_unfinished(body: bytes) -> bool:
    try:
        _, decoder = decode([body])
    except ChunkError:
        return True
    return not decoder.done


class Message:
    """What httptools makes of a whole chunked request."""

    def __init__(self, body: bytes) -> None:
        self.data = b""
        self.done = False
        self.refused = False
        try:
            httptools.HttpRequestParser(self).feed_data(HEAD + body)
        except httptools.HttpParserError:
            # Whatever comes after a whole body is the next request's affair.
            self.refused = not self.done

    def on_body(self, data: bytes) -> None:
        if not self.done:
            self.data += data

    def on_message_complete(self) -> None:
        self.done = True


def split(data: bytes, seed: int) -> list[bytes]:
    """`data` in random pieces, empty ones among them."""
    chance = random.Random(seed)
    cuts = sorted(chance.choices(range(len(data) + 1), k=chance.randrange(1, 9)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


pieces_of_data = st.lists(st.lists(st.binary(max_size=40), max_size=3), max_size=6)
trailer_lines = st.lists(
    st.tuples(
        st.from_regex(rb"\AX-[a-z!#$]{1,8}\Z"), st.from_regex(rb"\A[ -~\x80-\xff]{0,9}\Z")
    ).map(lambda pair: b"%b: %b\r\n" % pair),
    max_size=3,
).map(b"".join)


# -- round trip


@given(pieces_of_data, trailer_lines, st.binary(max_size=20))
def test_what_is_encoded_is_decoded_at_every_split(
    chunks: list[list[bytes]], trailers: bytes, rest: bytes
) -> None:
    body = b"".join(map(encode, chunks)) + encode_end(trailers)
    data = b"".join(b"".join(chunk) for chunk in chunks)
    for cut in range(len(body) + 1):
        found, decoder = decode([body[:cut], body[cut:] + rest])
        assert (found, decoder.done, decoder.trailers) == (data, True, trailers)
        assert decoder.rest == rest
    bytewise, decoder = decode([body[at : at + 1] for at in range(len(body))])
    assert (bytewise, decoder.done, decoder.trailers) == (data, True, trailers)


@given(pieces_of_data)
def test_a_body_is_not_done_before_its_last_byte(chunks: list[list[bytes]]) -> None:
    body = b"".join(map(encode, chunks)) + encode_end(b"")
    for cut in range(len(body)):
        _, decoder = decode([body[:cut]])
        assert not decoder.done


def test_nothing_is_encoded_as_nothing_for_an_empty_chunk_would_end_the_body() -> None:
    assert encode([]) == encode([b""]) == b""
    assert encode([b"a", b"", b"bc"]) == b"3\r\nabc\r\n"


def test_data_is_handed_on_before_its_chunk_is_whole() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"ff\r\nfirst") == [b"first"]
    assert decoder.feed(b"second") == [b"second"]
    assert not decoder.done


def test_bytes_after_the_body_stay_in_rest() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n") == [b"a"]
    assert decoder.rest == b"GET / HTTP/1.1\r\n"


# -- against httptools


sizes = st.sampled_from([b"", b"0", b"000", b"0000000"])
good = [b"", b";a", b";a=b", b";a;b=c", b';a="b c"', b';a="\\"\t\xff"']
bad = [b";", b";a=", b";=b", b" ", b" ;a", b"; a", b";a =b", b";a= b", b';a="b', b';a="b"c']
extension = st.sampled_from([*good, *bad, b";a\t", b";\xff", b";a=b=c"])
replacements = b'-|\r|\n|\r\n|\0| |\t|;|:|0|0x|-1|+1|g|a|\x7f|\xff|"|\\|=|,|'.split(b"|")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Chunked bodies, most of them valid."""
    parts = []
    well = draw(st.booleans())
    for data in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4)):
        more = draw(extension) if not well else draw(st.sampled_from([b"", b";a=b"]))
        case = draw(st.sampled_from([b"%x", b"%X"])) % len(data)
        parts += [draw(sizes), case, more, b"\r\n", data, b"\r\n"]
    last = draw(extension) if not well else b""
    return b"".join((*parts, b"0", last, b"\r\n", draw(trailer_lines), b"\r\n"))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Bodies with some bytes replaced, taken out or put in."""
    body = bytearray(draw(bodies()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        end = min(at + draw(st.integers(0, 2)), len(body))
        body[at:end] = draw(st.sampled_from(replacements))
    return bytes(body)


@settings(max_examples=400)
@given(mutated(), st.integers())
@example(b"5;=b\r\nhello\r\n0\r\n\r\n", 0)
@example(b"5;;a=b\r\nhello\r\n0\r\n\r\n", 0)
@example(b"5\n\r\nhello\r\n0\r\n\r\n", 0)
@example(b'1;a=-"b c"\r\na\r\n0\r\n\r\n', 0)
def test_what_httptools_refuses_is_refused_and_what_both_accept_is_the_same(
    body: bytes, seed: int
) -> None:
    second = Message(body)
    try:
        data, decoder = decode(split(body, seed))
    except ChunkError:
        if second.done:
            assert stricter(body), "refused without a reason that is known"
        return
    if decoder.done:
        assert second.done
        assert data == second.data
    else:
        assert not second.done
        # Perhaps the line with the fault is not whole yet: nothing must make it a body.
        for more in (b"\n", b"\r\n", b"\n\r\n", b"\r\n\r\n", b"\n0\r\n\r\n", b"\r\n0\r\n\r\n"):
            assert not second.refused or refused_or_unfinished(body + more)


def stricter(body: bytes) -> bool:
    """Where we refuse what httptools takes: an extension without its name or value, a value that is half a
    word and half quoted, and a size of more than 15 digits, of which only leading zeros could be meant."""
    return re.search(rb';[;=]|=[;\r]|=[^;"\r]+"|[0-9A-Fa-f]{16}', body) is not None


# What httptools refuses though it is harmless here: fields that are dropped from trailers anyway.
@pytest.mark.parametrize("field", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_framing_in_trailers_is_dropped_where_httptools_refuses_it(field: bytes) -> None:
    body = b"0\r\n" + field + b"\r\nX-Sum: 1\r\n\r\n"
    assert Message(body).refused
    _, decoder = decode([body])
    assert decoder.trailers == b"X-Sum: 1\r\n"


# -- malformed bodies


MALFORMED = {
    "negative": b"-1\r\na\r\n0\r\n\r\n",
    "plus": b"+1\r\na\r\n0\r\n\r\n",
    "0x": b"0x1\r\na\r\n0\r\n\r\n",
    "underscore": b"1_0\r\naaaaaaaaaaaaaaaa\r\n0\r\n\r\n",
    "no size": b"\r\na\r\n0\r\n\r\n",
    "extension without size": b";a=b\r\n\r\n",
    "not hex": b"g\r\na\r\n0\r\n\r\n",
    "overflow": b"1" + b"0" * 16 + b"\r\n",
    "overflow of 32 bits and back": b"100000000000000001\r\na\r\n0\r\n\r\n",
    "full-width digit": "１\r\na\r\n0\r\n\r\n".encode(),
    "space before": b" 1\r\na\r\n0\r\n\r\n",
    "space after": b"1 \r\na\r\n0\r\n\r\n",
    "bare LF after size": b"1\na\r\n0\r\n\r\n",
    "bare LF after size, CRLF later": b"1\na\n0\n\n\r\n",
    "bare CR after size": b"1\ra\r\n0\r\n\r\n",
    "bare LF after data": b"1\r\na\n0\r\n\r\n",
    "bare CR after data": b"1\r\na\r0\r\n\r\n",
    "no CRLF after data": b"1\r\na0\r\n\r\n",
    "data too long": b"1\r\nab\r\n0\r\n\r\n",
    "bare LF at the end": b"0\r\n\n\r\n",
    "bare CR at the end": b"0\r\n\rX\r\n\r\n",
    "NUL in size": b"1\0\r\na\r\n0\r\n\r\n",
    "NUL in extension": b"1;a=\0\r\na\r\n0\r\n\r\n",
    "bare LF in extension": b"1;a\n=b\r\na\r\n0\r\n\r\n",
    "bare CR in extension": b"1;a\r=b\r\na\r\n0\r\n\r\n",
    "empty extension": b"1;\r\na\r\n0\r\n\r\n",
    "unfinished quoted value": b'1;a="b\r\na\r\n0\r\n\r\n',
    "quoted value and more": b'1;a="b"c\r\na\r\n0\r\n\r\n',
    "space in extension": b"1; a=b\r\na\r\n0\r\n\r\n",
    "trailer without colon": b"0\r\nname\r\n\r\n",
    "trailer with empty name": b"0\r\n: a\r\n\r\n",
    "trailer with space before colon": b"0\r\nA : a\r\n\r\n",
    "trailer folded": b"0\r\nA: a\r\n b\r\n\r\n",
    "trailer with bare CR": b"0\r\nA: a\rb\r\n\r\n",
    "trailer with bare LF": b"0\r\nA: a\nB: b\r\n\r\n",
    "trailer with NUL": b"0\r\nA: \0\r\n\r\n",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_bodies_are_refused_at_every_split(body: bytes) -> None:
    assert Message(body).refused, "httptools agrees"
    for cut in range(len(body) + 1):
        with pytest.raises(ChunkError):
            decode([body[:cut], body[cut:]])
    with pytest.raises(ChunkError):
        decode([body[at : at + 1] for at in range(len(body))])


def test_a_bare_lf_is_refused_before_its_line_is_whole() -> None:
    with pytest.raises(ChunkError):
        ChunkedDecoder().feed(b"5\nhel")
    with pytest.raises(ChunkError):
        ChunkedDecoder().feed(b"5\r\nhello\n")


# -- trailers and limits


DROPPED = """Content-Length transfer-encoding HOST Connection Authorization Cookie Set-Cookie Trailer TE
    Upgrade Expect Content-Type Keep-Alive X-Forwarded-For X-Forwarded-Proto X-Forwarded-Port
    X-Amzn-Trace-Id Content-Encoding Content-Range Max-Forwards Proxy-Connection"""


@pytest.mark.parametrize("name", DROPPED.encode().split())
def test_fields_that_frame_route_or_authenticate_are_dropped_from_trailers(name: bytes) -> None:
    body = b"0\r\nA: 1\r\n" + name + b": evil\r\nB: 2\r\n\r\n"
    for cut in range(len(body)):
        _, decoder = decode([body[:cut], body[cut:]])
        assert decoder.trailers == b"A: 1\r\nB: 2\r\n"


def test_a_size_line_may_be_as_long_as_the_limit_and_no_longer() -> None:
    line = b"1;" + b"a" * (MAX_LINE - 2)
    for body in ([line + b"\r\n"], [line, b"\r\n"], [line + b"\r", b"\n"]):
        data, decoder = decode([*body, b"x\r\n0\r\n\r\n"])
        assert data == b"x"
        assert decoder.done
    line += b"a"
    for body in ([line + b"\r\n"], [line, b"\r\n"], [line + b"\r", b"\n"], [line + b"a"]):
        with pytest.raises(ChunkError, match="a line of over"):
            decode(body)


def test_an_endless_line_is_refused_and_not_held() -> None:
    decoder = ChunkedDecoder()
    for _ in range(MAX_LINE + 1):
        assert decoder.feed(b"0") == []
    with pytest.raises(ChunkError, match="a line of over"):
        decoder.feed(b"0")


def test_trailers_are_bounded_together_whether_they_are_kept_or_dropped() -> None:
    for name in (b"A", b"Host"):
        line = name + b": " + b"v" * 1000 + b"\r\n"
        fit = MAX_TRAILERS // (len(line) - 2)
        _, decoder = decode([b"0\r\n" + line * fit + b"\r\n"])
        assert decoder.done
        with pytest.raises(ChunkError, match="trailers of over"):
            decode([b"0\r\n" + line * (fit + 1) + b"\r\n"])


def test_errors_can_be_told_in_ascii_and_stay_short() -> None:
    with pytest.raises(ChunkError) as caught:
        decode([b"\xff" * 3000 + b"\r\n"])
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 250
