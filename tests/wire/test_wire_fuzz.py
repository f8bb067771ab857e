"""A short run of the fuzzer; the long ones are started by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wire.fuzz import Mutator, fuzz, parse_answers


def test_mutated_requests_kill_no_worker_and_mix_nothing(run_root: Path) -> None:
    result = fuzz(run_root, requests=2000, seed=20240607)
    assert not result.violations, "\n".join(result.violations)
    assert result.statuses[200] > 100, "hardly a request was good: the mutations are too wild"
    assert result.statuses[400] > 100, "hardly a request was refused: the mutations are too tame"


def test_the_same_seed_makes_the_same_bytes() -> None:
    one, other = Mutator(3), Mutator(3)
    for _ in range(50):
        assert one.connection(one.new_tag()) == other.connection(other.new_tag())


def test_answers_that_do_not_parse_are_noticed() -> None:
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert [body for _, _, body in parse_answers(good * 2)] == [b"ok", b"ok"]
    for wrong in (good[:-1], good + b"x", b"ok" + good, good.replace(b"2\r", b"1\r")):
        with pytest.raises(ValueError, match=r"head|body"):
            list(parse_answers(wrong))
