"""How metrics and numbers of Instances are said in the reasons of decisions. Decides nothing."""

from __future__ import annotations

from fastlb.model.scaling_policy import Metric


def figure(metric: Metric, value: float) -> str:
    """A metric's value for a person: `93.1`, `512/min`, `300 MiB`, `35 ms`."""
    match metric:
        case "requests":
            return f"{_number(value)}/min"
        case "rss":
            return f"{_number(value / 1048576)} MiB"
        case "queue_wait":
            return f"{_number(value * 1000)} ms"
        case "cpu" | "in_flight":
            return _number(value)


def instances(count: int) -> str:
    """`1 instance`, `2 instances`."""
    return "1 instance" if count == 1 else f"{count} instances"


def for_datapoints(count: int, needed: int | None = None) -> str:
    """` for 3 datapoints`, or ` for 2 of 3 datapoints` where more are needed; a blank comes first."""
    if needed is None:
        return f" for {count} datapoint{'' if count == 1 else 's'}"
    return f" for {count} of {needed} datapoint{'' if needed == 1 else 's'}"


def _number(value: float) -> str:
    """Up to four figures, never with an exponent."""
    return f"{value:.0f}" if value >= 1000 else f"{round(value, 3):.4g}"
