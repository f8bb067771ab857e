"""The guard against regressions: the ratios of a quick run against bounds kept in bounds.toml.

Pure but for `load`. Not a test of the suite: times depend on the machine.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Ratio, Result, cpu_ratio, rate_ratio
from bench.processes import BenchError

FILE = Path(__file__).parent / "bounds.toml"


@dataclass(frozen=True, slots=True)
class Bounds:
    """By workload: the least ratio of requests/s, the greatest of CPU; `tolerance` is a share of them."""

    tolerance: float
    rate: dict[str, float]
    cpu: dict[str, float]


def load(path: Path = FILE) -> Bounds:
    """Raises BenchError where the file is not as it should be."""
    try:
        found = tomllib.loads(path.read_text())
        return Bounds(
            float(found["tolerance"]),
            {name: float(value) for name, value in found["rate"].items()},
            {name: float(value) for name, value in found["cpu"].items()},
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BenchError(
            f"{path} needs tolerance, [rate] and [cpu] as numbers: {error!r}"
        ) from None


def worse(results: Sequence[Result], bounds: Bounds) -> list[str]:
    """A line for each ratio that is worse than its bound by more than the tolerance."""
    lines = []
    for result in results:
        name = result.workload.name
        least, most = bounds.rate.get(name), bounds.cpu.get(name)
        rate, cpu = rate_ratio(result), cpu_ratio(result)
        if least is not None and rate and rate.spread.median < least * (1 - bounds.tolerance):
            lines.append(_line(name, "requests/s", rate, least, bounds.tolerance))
        if most is not None and cpu and cpu.spread.median > most * (1 + bounds.tolerance):
            lines.append(_line(name, "CPU", cpu, most, bounds.tolerance))
    return lines


def _line(name: str, what: str, ratio: Ratio, bound: float, tolerance: float) -> str:
    return (
        f"{name}: {what} ratio to {ratio.over} is {ratio.spread.median:.2f}; "
        f"the bound is {bound:.2f}, the tolerance {tolerance:.0%}"
    )
