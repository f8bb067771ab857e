"""A new Instance's share of the traffic grows over a while, so that cold caches meet little of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastlb.auto_scaling.instance import Instance

STEPS = 16
"""Each step is a publication that all workers read."""


def begin(instance: Instance, others: Sequence[Instance], seconds: float) -> None:
    """For one that has just come into service beside `others`, which are.

    As AWS does it: nobody slows down alone, nor do those that were started together.
    """
    # One that returns from standby has a new target, whose share is the whole one.
    instance.share, instance.slow_start = 1.0, 0.0
    before = [
        one.in_service_at for one in others if not one.slow_start and one.in_service_at is not None
    ]
    if not seconds or not before or instance.launched_at <= min(before):
        return
    instance.slow_start = seconds
    _set(instance, 1 / STEPS)


def advance(instances: Iterable[Instance], now: float) -> None:
    """Let the shares grow."""
    for one in instances:
        if not one.slow_start or one.in_service_at is None:
            continue
        grown = min((now - one.in_service_at) / one.slow_start, 1.0)
        if grown >= 1:
            one.slow_start = 0.0
        _set(one, max(int(grown * STEPS), 1) / STEPS)


def _set(one: Instance, share: float) -> None:
    if one.share != share and one.target is not None:
        one.share = share
        one.target.set_share(share)
