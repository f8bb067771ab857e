"""Amounts of a Metric: `60`, `"500/min"`, `"300MiB"`, `"50ms"` to the metric's unit, and back.

Knows the units of metrics; not what a policy does with an amount.
"""

from __future__ import annotations

import re

from fastlb.config.values import from_toml, read_number, size_meant, wrong
from fastlb.config.write_values import format_bytes, format_duration, plain_number
from fastlb.model.scaling_policy import Metric
from fastlb.model.settings import Setting

EXAMPLES: dict[Metric, str] = {
    "cpu": "a percentage of one core such as 60",
    "requests": 'requests a minute such as 500, or "500/min" or "20/s"',
    "in_flight": "a number of requests such as 10",
    "rss": 'a size such as "300MiB"',
    "queue_wait": 'a duration such as "50ms"',
}
_UNITS: dict[Metric, dict[str, int]] = {
    "cpu": {"": 1, "%": 1},
    "requests": {"": 1, "/min": 1, "/s": 60},
    "in_flight": {"": 1},
}
"""Of the metrics that are plain numbers: the unit as it is written, and what it comes to."""
_SIZE = Setting("bytes", "", "")
_DURATION = Setting("duration", "", "")
_NUMBER = re.compile(r"(\d{1,12}(?:\.\d{1,12})?) ?([^\d ]*)", re.ASCII)


def read_amount(metric: Metric, raw: object) -> float:
    """An amount of 0 or more, from a file or a flag's text, in the metric's unit."""
    try:
        if metric == "rss":
            return float(from_toml(_SIZE, raw))
        if metric == "queue_wait":
            return float(from_toml(_DURATION, raw))
        return _number(metric, raw)
    except ValueError:
        hint = size_meant(raw) if metric == "rss" else ""
        raise ValueError(f"{wrong(EXAMPLES[metric], raw)}{hint}") from None


def _number(metric: Metric, raw: object) -> float:
    scale = 1
    if isinstance(raw, str) and (found := _NUMBER.fullmatch(raw)) and found[2] in _UNITS[metric]:
        scale, raw = _UNITS[metric][found[2]], float(found[1])
    value = read_number(raw, EXAMPLES[metric]) * scale
    if value < 0:
        raise wrong(EXAMPLES[metric], raw)
    return value


def read_target(metric: Metric, raw: object) -> float:
    """What a metric is to be kept near: an amount above 0."""
    amount = read_amount(metric, raw)
    if not amount:
        raise wrong("more than 0", raw)
    return amount


def read_difference(metric: Metric, raw: object) -> float:
    """An amount that may be below 0: `-20`, `"-50ms"`."""
    if isinstance(raw, str) and raw.startswith("-"):
        return -read_amount(metric, raw[1:])
    if isinstance(raw, int | float) and not isinstance(raw, bool) and raw < 0:
        return -read_amount(metric, -raw)
    return read_amount(metric, raw)


def write_amount(metric: Metric, amount: float) -> object:
    """What stands in a file for an amount or a difference: reading it gives the same float."""
    if metric == "rss":
        text = format_bytes(round(abs(amount)))
    elif metric == "queue_wait":
        text = format_duration(abs(amount))
    else:
        return plain_number(amount)
    return f"-{text}" if amount < 0 else text
