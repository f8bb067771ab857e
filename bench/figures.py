"""Statistics of a run: medians and ranges, fastlb's ratio to the best peer, what a difference costs.

Pure. Ratios are taken within each round, where both met the same machine, and then their median.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.measure import DISTURBED, Cell
from bench.proxies import BEFORE, NO_PROXY
from bench.proxies import FASTLB as FASTLB_PROXY
from bench.workloads import PEERS, Goal, Workload

FASTLB = FASTLB_PROXY.name
SATURATED = 0.9
"""A proxy that used less of its cores than this was not what limited the requests/s."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """A quotient of two contestants in the same rounds; `over` is the one below the line."""

    spread: Spread
    over: str


@dataclass(slots=True)
class Result:
    """What was found of one workload: cells by contestant, one a round; contestants that failed with
    the reason; contestants that were left out with the reason."""

    workload: Workload
    cells: dict[str, list[Cell]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what came of it; `ratio` is None where it could not be measured. `load_bound` where no
    contestant used its cores up, so that requests/s say nothing about the proxies."""

    goal: Goal
    ratio: Ratio | None
    holds: bool
    load_bound: bool = False


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def figure(cells: Sequence[Cell], name: str) -> Spread | None:
    """None where no round has it."""
    values = [one[name] for one in cells if name in one]
    return spread(values) if values else None


def quotient(above: Sequence[Cell], below: Sequence[Cell], name: str) -> Spread | None:
    """Of a figure, round by round."""
    pairs = [
        one[name] / other[name]
        for one, other in zip(above, below, strict=False)
        if name in one and other.get(name)
    ]
    return spread(pairs) if pairs else None


def ratio_to_best(
    cells: Mapping[str, Sequence[Cell]], name: str, peers: Sequence[str], higher_is_better: bool
) -> Ratio | None:
    """fastlb's figure over that of the peer whose median is best; None where one of them is missing."""
    medians = {
        peer: found.median
        for peer in peers
        if peer in cells and (found := figure(cells[peer], name)) is not None
    }
    if not medians or FASTLB not in cells:
        return None
    best = (max if higher_is_better else min)(medians, key=lambda peer: medians[peer])
    found = quotient(cells[FASTLB], cells[best], name)
    return Ratio(found, best) if found else None


def rate_ratio(result: Result) -> Ratio | None:
    """requests/s over those of the best peer, or of the fastlb of before."""
    return ratio_to_best(result.cells, "rate", _peers(result), True)


def cpu_ratio(result: Result) -> Ratio | None:
    """CPU a request over that of the best peer; below 1 is better."""
    return ratio_to_best(result.cells, "cpu", _peers(result), False)


def cost(result: Result, name: str = "cpu") -> Ratio | None:
    """A figure over that of the workload's base setup."""
    base = result.workload.base_title
    if base not in result.cells or FASTLB not in result.cells:
        return None
    found = quotient(result.cells[FASTLB], result.cells[base], name)
    return Ratio(found, base) if found else None


def added(result: Result, contestant: str, name: str) -> float | None:
    """Latency beyond that of "no proxy", µs: a difference of medians."""
    here = figure(result.cells.get(contestant, ()), name)
    direct = figure(result.cells.get(NO_PROXY, ()), name)
    return here.median - direct.median if here and direct else None


def load_bound(result: Result) -> bool:
    """Whether the client or the target was the limit for every peer: their requests/s are a lower bound."""
    shares = [
        found.median
        for peer in _peers(result)
        if peer in result.cells and (found := figure(result.cells[peer], "share")) is not None
    ]
    return bool(shares) and max(shares) < SATURATED


def disturbed(result: Result) -> int:
    """Cells during which other processes were in the way, at every try."""
    return sum(
        one.get("others", 0.0) >= DISTURBED for cells in result.cells.values() for one in cells
    )


def verdict(result: Result) -> Verdict | None:
    """None where the workload has no goal."""
    goal = result.workload.goal
    if goal is None:
        return None
    ratio: Ratio | None
    match goal.kind:
        case "rate":
            ratio = rate_ratio(result)
        case "cost":
            ratio = cost(result)
        case "idle_bytes":
            found = figure(result.cells.get(FASTLB, ()), "idle_bytes")
            ratio = Ratio(found, "") if found else None
    if ratio is None:
        return Verdict(goal, None, False)
    value = round(ratio.spread.median, 2 if goal.kind != "idle_bytes" else 0)
    holds = value >= goal.bound if goal.kind == "rate" else value <= goal.bound
    return Verdict(goal, ratio, holds, goal.kind == "rate" and load_bound(result))


def _peers(result: Result) -> tuple[str, ...]:
    if BEFORE in result.cells:
        return (BEFORE,)
    goal = result.workload.goal
    return goal.peers if goal else PEERS


def as_plain(result: Result) -> dict[str, Any]:
    """For JSON: the cells as they are, and the ratios made of them."""
    ratios = {
        name: {"median": ratio.spread.median, "low": ratio.spread.low, "high": ratio.spread.high}
        | ({"over": ratio.over} if ratio.over else {})
        for name, ratio in (
            ("rate", rate_ratio(result)),
            ("cpu", cpu_ratio(result)),
            ("cost", cost(result)),
        )
        if ratio is not None
    }
    return {
        "workload": result.workload.name,
        "title": result.workload.title,
        "unit": result.workload.unit,
        "cells": result.cells,
        "ratios": ratios,
        "failures": result.failures,
        "skipped": result.skipped,
    }
