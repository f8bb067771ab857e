"""Verdicts on a new launch template: quick where it is plain, patient where it may be chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.auto_scaling.judgement import Figures, Verdict, judge
from fastlb.model.instance_refresh import InstanceRefresh
from fastlb.target_table.counters import BUCKETS, bucket_of, percentile

REFRESH = InstanceRefresh()


def figures(requests: int, failed: int = 0, *latencies: float) -> Figures:
    """The latencies, in seconds, are shared out equally among the requests."""
    buckets = [0] * BUCKETS
    for n in range(requests if latencies else 0):
        buckets[bucket_of(round(latencies[n % len(latencies)] * 1e6))] += 1
    return Figures(requests, failed, tuple(buckets))


def verdict(new: Figures, old: Figures, refresh: InstanceRefresh = REFRESH) -> Verdict:
    def of(histogram: Sequence[int], share: float) -> float | None:
        return percentile(list(histogram), share)

    return judge(new, old, refresh, of)


# -- failures


@pytest.mark.parametrize(
    ("new", "old", "bad"),
    [
        # Only 500s: a handful is enough, the fewer the more is known of the old one.
        ((5, 5), (100, 0), True),
        ((5, 5), (20, 0), True),
        ((7, 7), (7, 0), True),
        ((4, 4), (100, 0), False),  # fewer than five say nothing
        ((5, 5), (0, 0), True),
        ((5, 5), (100, 100), False),  # the old one fails as well
        ((5, 5), (5, 5), False),
        ((100, 100), (100, 96), False),  # a rise within what is allowed
        ((40, 20), (40, 0), True),
        ((40, 6), (40, 0), False),  # 15 % of few, against what may be 6 % and 5 allowed
        ((1000, 150), (1000, 0), True),
        (
            (1000, 90),
            (1000, 10),
            False,
        ),  # 8 points, of which 5 are allowed and the rest may be chance
        ((10000, 900), (10000, 100), True),
        ((10000, 590), (10000, 100), False),  # 4.9 points
        ((10000, 0), (10000, 5000), False),
        # Without anything known of the old one the new one's own share counts.
        ((100, 5), (0, 0), False),
        ((100, 20), (0, 0), True),
        ((1000, 60), (0, 0), False),
        ((0, 0), (0, 0), False),
        # Errors before a request was counted.
        ((0, 8), (100, 0), True),
    ],
)
def test_failures(new: tuple[int, int], old: tuple[int, int], bad: bool) -> None:
    assert verdict(Figures(*new), Figures(*old)).bad == bad


def test_an_allowed_rise_of_zero_still_asks_for_more_than_chance() -> None:
    strict = replace(REFRESH, max_error_rise=0.0)
    assert not verdict(Figures(100, 6), Figures(100, 3), strict).bad
    assert verdict(Figures(100, 30), Figures(100, 3), strict).bad
    assert verdict(Figures(100, 5), Figures(0, 0), strict).bad


def test_an_allowed_rise_of_100_points_turns_it_off() -> None:
    lenient = replace(REFRESH, max_error_rise=100.0)
    assert not verdict(Figures(1000, 1000), Figures(1000, 0), lenient).bad
    assert not verdict(Figures(1000, 1000), Figures(0, 0), lenient).bad


def test_the_reason_has_the_numbers() -> None:
    made = verdict(Figures(12, 12), Figures(340, 1))
    assert made.enough
    assert made.reason == (
        "12 of 12 requests to the new launch template failed (100.00%), 1 of 340 to the old one "
        "(0.29%): a rise of 5 percentage points is allowed"
    )
    assert made.inputs["new"] == {"requests": 12, "failed": 12, "p95": None}
    assert made.inputs["chance"] < 0.001


def test_whether_there_was_enough_to_judge_by() -> None:
    made = verdict(Figures(19, 0), Figures(1000, 0))
    assert (made.bad, made.enough) == (False, False)
    assert made.reason.startswith("too few requests to judge by: 0 of 19 requests")
    made = verdict(figures(20, 0, 0.01), figures(1000, 0, 0.01))
    assert (made.bad, made.enough) == (False, True)
    assert made.reason.startswith("no worse than allowed: 0 of 20 requests")
    assert "; p95 1" in made.reason


def test_a_bad_version_is_found_within_a_handful_of_requests() -> None:
    for share, most in ((1.0, 7), (0.5, 30), (0.2, 150)):
        dice = random.Random(7)
        new, old = Figures(), Figures()
        for n in range(1, most + 1):  # noqa: B007
            new = new.plus(Figures(1, dice.random() < share))
            old = old.plus(Figures(1, 0))
            if verdict(new, old).bad:
                break
        else:
            pytest.fail(f"{share:.0%} of failures not found within {most} requests")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("weight", [1, 4])
def test_a_version_as_good_as_the_old_one_is_hardly_ever_called_bad(
    share: float, weight: int
) -> None:
    # Asked after each of 400 requests, since a refresh asks again and again.
    wrong = 0
    for seed in range(50):
        dice = random.Random(seed)
        new, old = Figures(), Figures()
        for _ in range(400):
            new = new.plus(Figures(1, dice.random() < share))
            old = old.plus(Figures(weight, sum(dice.random() < share for _ in range(weight))))
            if verdict(new, old).bad:
                wrong += 1
                break
    assert wrong <= 1


# -- latency


def test_a_slower_p95_is_bad() -> None:
    made = verdict(figures(200, 0, 0.31), figures(200, 0, 0.12))
    assert made.bad
    assert made.reason == (
        "p95 of the new launch template is 324 ms, of the old one 130 ms: 2 times that is allowed"
    )


@pytest.mark.parametrize(
    ("new", "old", "ratio"),
    [
        (figures(200, 0, 0.2), figures(200, 0, 0.12), 2.0),  # not twice
        (figures(200, 0, 0.019), figures(200, 0, 0.001), 2.0),  # not by 20 ms
        (figures(99, 0, 0.5), figures(200, 0, 0.1), 2.0),
        (figures(200, 0, 0.5), figures(99, 0, 0.1), 2.0),
        (figures(200, 0, 0.5), figures(200, 0, 0.1), 0.0),  # turned off
        (Figures(200, 0), Figures(200, 0), 2.0),  # nothing measured
    ],
)
def test_what_is_not_slower(new: Figures, old: Figures, ratio: float) -> None:
    assert not verdict(new, old, replace(REFRESH, max_p95_ratio=ratio)).bad


@pytest.mark.parametrize("requests", [100, 200, 1000])
def test_p95_between_two_kinds_of_requests_is_chance(requests: int) -> None:
    # 5 % of the requests take a second: p95 is 10 ms or 1 s as it happens.
    few, more = round(requests * 0.04), round(requests * 0.06)
    new = figures(requests - more, 0, 0.01).plus(figures(more, 0, 1.0))
    old = figures(requests - few, 0, 0.01).plus(figures(few, 0, 1.0))
    assert not verdict(new, old).bad


def test_many_requests_tell_the_two_kinds_apart() -> None:
    new = figures(850, 0, 0.01).plus(figures(150, 0, 1.0))
    old = figures(970, 0, 0.01).plus(figures(30, 0, 1.0))
    assert verdict(new, old).bad


# -- sums

histograms = st.lists(st.integers(0, 50), max_size=8).map(tuple)
anything = st.builds(Figures, st.integers(0, 10**7), st.integers(0, 10**6), histograms)


@given(anything, anything)
def test_sums_and_deltas(one: Figures, other: Figures) -> None:
    total = one.plus(other)
    assert total.requests == one.requests + other.requests
    assert total == other.plus(one)
    back = total.minus(other)
    assert (back.requests, back.failed) == (one.requests, one.failed)
    width = len(one.histogram)
    assert back.histogram[:width] == one.histogram
    assert not any(back.histogram[width:])
    assert one.minus(total) == Figures(0, 0, (0,) * len(total.histogram))


@given(anything, anything, st.floats(0, 100))
def test_any_figures_get_a_verdict(new: Figures, old: Figures, rise: float) -> None:
    made = verdict(new, old, replace(REFRESH, max_error_rise=rise))
    assert made.reason
    if made.bad:
        assert made.enough
    verdict(new.minus(old), old.minus(new))


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 500), st.data())
def test_more_failures_never_make_it_better(
    requests: int, old_requests: int, more: int, data: st.DataObject
) -> None:
    failed = data.draw(st.integers(0, requests))
    old_failed = data.draw(st.integers(0, old_requests))
    old = Figures(old_requests, old_failed)
    if verdict(Figures(requests, failed), old).bad:
        assert verdict(Figures(requests, min(failed + more, requests)), old).bad
