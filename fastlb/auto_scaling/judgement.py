"""Is a new launch template worse than the old one, on live traffic? Pure.

Knows sums of requests, failures and latencies; not whose they are, nor what follows from a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import exp, lgamma, log, log1p, sqrt
from typing import Any

from fastlb.model.instance_refresh import InstanceRefresh

Percentile = Callable[[Sequence[int], float], float | None]
"""The latency in seconds under which a share (0 to 1) of a histogram lies; None of an empty one."""

LEAST_FAILED = 5
"""Fewer failures say nothing of a version."""
CHANCE = 0.001
"""A verdict is asked for again and again while a refresh runs, so it must be surer than one test's."""
ENOUGH_REQUESTS = 20
"""By then a version that fails half of its requests has been found out, if the old one fails hardly
any and has had as many."""
LATENCY_REQUESTS = 100
"""On either side, before p95 is compared: it is the latency of their slowest five."""
LATENCY_RISE = 0.020
"""Seconds; less is nothing that a user feels, however many times the old p95 it is."""
_Z_95 = 1.645
"""One-sided 95 % of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What Instances of one launch template answered; as made without arguments, nothing yet."""

    requests: int = 0
    failed: int = 0
    """5xx answers and errors."""
    histogram: tuple[int, ...] = ()
    """Numbers of latencies in each bucket."""

    def plus(self, other: Figures) -> Figures:
        return self._with(other, 1)

    def minus(self, other: Figures) -> Figures:
        """What has come since `other`; nothing where it is more, as of counters that began anew."""
        return self._with(other, -1)

    def _with(self, other: Figures, sign: int) -> Figures:
        buckets = zip_longest(self.histogram, other.histogram, fillvalue=0)
        return Figures(
            max(self.requests + sign * other.requests, 0),
            max(self.failed + sign * other.failed, 0),
            tuple(max(mine + sign * theirs, 0) for mine, theirs in buckets),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """`bad` is worse than the old template, and not by chance; else `enough` says whether there was
    traffic to find that out by."""

    bad: bool
    enough: bool
    reason: str
    inputs: dict[str, Any]


def judge(new: Figures, old: Figures, refresh: InstanceRefresh, percentile: Percentile) -> Verdict:
    """Compare the figures of a new launch template with those of the old one over the same time.

    Where the old one had no traffic, the new one's share of failures is held against
    `max_error_rise` alone.
    """
    requests, failed = _counts(new)
    old_requests, old_failed = _counts(old)
    share, old_share = _share(failed, requests), _share(old_failed, old_requests)
    new_p95, old_p95 = percentile(new.histogram, 0.95), percentile(old.histogram, 0.95)
    inputs: dict[str, Any] = {
        "new": {"requests": requests, "failed": failed, "p95": new_p95},
        "old": {"requests": old_requests, "failed": old_failed, "p95": old_p95},
        "max_error_rise": refresh.max_error_rise,
        "max_p95_ratio": refresh.max_p95_ratio,
    }
    shares = (
        f"{failed} of {requests} requests to the new launch template failed ({share:.2%}), "
        f"{old_failed} of {old_requests} to the old one ({old_share:.2%})"
    )
    rise = refresh.max_error_rise / 100
    if failed >= LEAST_FAILED and share - old_share > rise:
        chance = _chance(failed, requests, _upper(old_failed, old_requests) + rise)
        inputs["chance"] = chance
        if chance < CHANCE:
            limit = f"a rise of {refresh.max_error_rise:g} percentage points is allowed"
            return Verdict(True, True, f"{shares}: {limit}", inputs)
    measured = min(new.requests, old.requests) >= LATENCY_REQUESTS
    if refresh.max_p95_ratio and measured and new_p95 is not None and old_p95 is not None:
        slower = new_p95 > old_p95 * refresh.max_p95_ratio and new_p95 - old_p95 > LATENCY_RISE
        if slower and _surely_slower(new, old, percentile):
            reason = (
                f"p95 of the new launch template is {_ms(new_p95)}, of the old one {_ms(old_p95)}: "
                f"{refresh.max_p95_ratio:g} times that is allowed"
            )
            return Verdict(True, True, reason, inputs)
    if requests < ENOUGH_REQUESTS:
        return Verdict(False, False, f"too few requests to judge by: {shares}", inputs)
    reason = f"no worse than allowed: {shares}"
    if new_p95 is not None and old_p95 is not None:
        reason += f"; p95 {_ms(new_p95)} and {_ms(old_p95)}"
    return Verdict(False, True, reason, inputs)


def _counts(figures: Figures) -> tuple[int, int]:
    """Requests and failures; an error before a request was counted is a request too."""
    return max(figures.requests, figures.failed), figures.failed


def _share(failed: int, requests: int) -> float:
    return failed / requests if requests else 0.0


def _upper(failed: int, requests: int) -> float:
    """The most that the true share of failures may well be: Wilson's bound, one-sided 95 %.

    So a small sample of the old template counts for little. Without any it is 0: nothing is known
    in its favour, and what the new one is allowed is the rise alone.
    """
    if not requests:
        return 0.0
    share, square = failed / requests, _Z_95**2
    middle = share + square / (2 * requests)
    spread = _Z_95 * sqrt(share * (1 - share) / requests + square / (4 * requests**2))
    return min((middle + spread) / (1 + square / requests), 1.0)


def _chance(failed: int, requests: int, share: float) -> float:
    """How likely so many failures or more are where the true share is `share`: binomial, exact.

    1.0 where they are no more than one would expect.
    """
    if share <= 0:
        return 0.0
    if failed <= share * requests:
        return 1.0
    ways = lgamma(requests + 1) - lgamma(failed + 1) - lgamma(requests - failed + 1)
    term = exp(ways + failed * log(share) + (requests - failed) * log1p(-share))
    total = 0.0
    # The terms fall from here on: past the expected number.
    for count in range(failed, requests + 1):
        total += term
        if term <= total * 1e-9:
            break
        term *= (requests - count) / (count + 1) * share / (1 - share)
    return total


def _surely_slower(new: Figures, old: Figures, percentile: Percentile) -> bool:
    """Whether the new p95 is over the old one even if both lie at the wrong end of what they may be.

    Whatever the latencies' distribution: the number of requests faster than the true p95 is binomial,
    so the true p95 lies between percentiles of the sample around it. Where five of a hundred requests
    are slow ones by their nature, p95 alone would jump up and down between the two kinds.
    """
    low = percentile(new.histogram, 0.95 - _Z_95 * sqrt(0.95 * 0.05 / new.requests))
    high = percentile(old.histogram, min(0.95 + _Z_95 * sqrt(0.95 * 0.05 / old.requests), 1.0))
    return low is not None and high is not None and low > high


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
