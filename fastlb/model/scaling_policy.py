"""ScalingPolicy, in its four kinds, and what they measure.

Pure: knows no counter and no clock. What the policies decide is in `auto_scaling.scaling_policy`; a
cron expression is read by `model.schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Metric = Literal["cpu", "requests", "in_flight", "rss", "queue_wait"]
METRICS: tuple[Metric, ...] = ("cpu", "requests", "in_flight", "rss", "queue_wait")
"""Means over the in-service Instances that are warmed: `cpu` in percent of one core, `requests` a
minute, `in_flight` requests, `rss` in bytes, `queue_wait` in seconds."""

AdjustmentType = Literal["change_in_capacity", "exact_capacity", "percent_change_in_capacity"]
ADJUSTMENT_TYPES: tuple[AdjustmentType, ...] = (
    "change_in_capacity",
    "exact_capacity",
    "percent_change_in_capacity",
)
Comparison = Literal["above", "below"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTracking:
    """Keep `metric` near `target` (AWS target tracking; REFERENCE §2.1)."""

    metric: Metric
    target: float
    """In the metric's unit."""
    disable_scale_in: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """From `lower` (of the metric minus the threshold) up to `upper`; None is unbounded."""

    adjustment: int
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScaling:
    """The further the metric is past the threshold, the larger the adjustment."""

    metric: Metric
    comparison: Comparison
    threshold: float
    steps: tuple[Step, ...]
    adjustment_type: AdjustmentType = "change_in_capacity"
    min_adjustment_magnitude: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleScaling:
    """One adjustment, then nothing of this policy for `cooldown` seconds."""

    metric: Metric
    comparison: Comparison
    threshold: float
    adjustment: int
    adjustment_type: AdjustmentType = "change_in_capacity"
    min_adjustment_magnitude: int = 0
    cooldown: float | None = None
    """None is the group's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """At each time of `cron`, in `time_zone`, set what is not None of the group's bounds."""

    cron: str
    time_zone: str = "UTC"
    min: int | None = None
    max: int | None = None
    desired: int | None = None


ScalingPolicy = TargetTracking | StepScaling | SimpleScaling | Scheduled

DEFAULT_POLICIES: tuple[ScalingPolicy, ...] = (TargetTracking(metric="cpu", target=60.0),)
"""Where a group may grow (max over min) and nothing says by what; `policies = []` is none."""
