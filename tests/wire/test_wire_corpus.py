"""The wire files themselves are well-formed, and say enough."""

from __future__ import annotations

import pytest

from tests.wire.corpus import HERE, one_of, request_cases, response_cases, unescape

STATUSES = {str(status) for status in range(200, 600)} | {"cut"}


def test_every_file_is_read() -> None:
    requests, responses = request_cases(), response_cases()
    assert len(requests) > 200
    assert len(responses) > 100
    assert len(list(HERE.rglob("*.http"))) == len(requests) + len(responses)
    for case in requests:
        assert all(one_of(one) <= STATUSES for one in case.answers), case.name
        assert case.closed is not None or case.answers[-1] in (405, "200|400"), case.name
    for one in response_cases():
        assert one.cut or one.idle or one_of(one.status or "") <= STATUSES, one.name
        assert one.end in ("keep", "close", "reset"), one.name


def test_escapes() -> None:
    text = "a\\r\\n\nb\\x00\\xff\\0\\t\\\\\\{3*x\\r}\n"
    assert unescape(text) == b"a\r\nb\x00\xff\x00\t\\x\rx\rx\r"
    with pytest.raises(ValueError, match="means nothing"):
        unescape("\\q")
