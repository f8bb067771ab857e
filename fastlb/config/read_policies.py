"""ScalingPolicies, from TOML or the text of `--scale` to the model.

Knows one policy at a time; what policies and their group's bounds must have in common is
`check_auto_scaling`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

from fastlb.config.amounts import (
    EXAMPLES,
    read_amount,
    read_difference,
    read_target,
    write_amount,
)
from fastlb.config.table import Table
from fastlb.config.values import did_you_mean, from_toml, read_choice, read_count, read_text, wrong
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.scaling_policy import (
    METRICS,
    AdjustmentType,
    Comparison,
    Metric,
    ScalingPolicy,
    Scheduled,
    SimpleScaling,
    Step,
    StepScaling,
    TargetTracking,
)
from fastlb.model.schedule import check_schedule
from fastlb.model.settings import Setting, declared

SCALE_EXAMPLE = "METRIC=TARGET such as cpu=60 or requests=500/min"
POLICY_EXAMPLE = '{ type = "target_tracking", metric = "cpu", target = 60 }'
STEP_EXAMPLE = "{ from = 0, to = 300, add = 1 }"
ADJUSTMENTS: dict[str, AdjustmentType] = {
    "add": "change_in_capacity",
    "set": "exact_capacity",
    "add_percent": "percent_change_in_capacity",
}
"""The key that says by how much, and the kind of adjustment that it is."""
KEYS: dict[str, tuple[str, ...]] = {
    "target_tracking": ("metric", "target", "disable_scale_in"),
    "step": ("metric", "above", "below", "steps", "min_adjustment_magnitude"),
    "simple": (
        *("metric", "above", "below", *ADJUSTMENTS),
        *("min_adjustment_magnitude", "cooldown"),
    ),
    "scheduled": ("cron", "time_zone", "min", "max", "desired"),
}
"""The keys of each type of policy beside `type`."""
_BOUNDS = ("min", "max", "desired")
MOST_INSTANCES = 1000
_MOST_PERCENT = 10000
_SWITCH = Setting("switch", "", "")
_GROUP_SETTINGS = {item.name: setting for item, setting in declared(AutoScalingGroup)}


@dataclass(frozen=True, slots=True)
class PlacedPolicy:
    """A policy, and where the user wrote it."""

    path: str
    policy: ScalingPolicy


def policy_from_text(text: str) -> TargetTracking:
    """`METRIC=TARGET`, as `--scale` is written."""
    name, equals, target = text.partition("=")
    if not equals or not target:
        raise wrong(SCALE_EXAMPLE, text)
    metric = _metric(name)
    return TargetTracking(metric=metric, target=read_target(metric, target))


def read_policy(table: Table) -> PlacedPolicy | None:
    """None for one that cannot be made; why is noted."""
    kind = table.need("type", lambda raw: read_choice(raw, KEYS), "", f"one of {', '.join(KEYS)}")
    if not kind:
        return None
    _note_keys_of_other_types(table, kind)
    before = len(table.problems)
    policy = _READERS[kind](table)
    table.close()
    return None if len(table.problems) > before else PlacedPolicy(table.path, policy)


def _note_keys_of_other_types(table: Table, kind: str) -> None:
    for key in table.values:
        others = [other for other, keys in KEYS.items() if key in keys]
        if others and kind not in others and table.has(key):
            said = f"is not a setting of a {kind} policy, but of {' and '.join(others)}"
            table.note(table.at(key), said)


def _target_tracking(table: Table) -> ScalingPolicy:
    metric = _metric_of(table)
    target = table.need("target", _of(metric, read_target), 1.0, _example(metric))
    return TargetTracking(
        metric=metric or "cpu",
        target=target,
        disable_scale_in=table.take(
            "disable_scale_in", lambda raw: bool(from_toml(_SWITCH, raw)), False
        ),
    )


def _step(table: Table) -> ScalingPolicy:
    metric = _metric_of(table)
    comparison, threshold = _threshold(table, metric)
    steps, adjustment_type = _steps(table, metric)
    problem = steps_problem(metric, comparison, steps) if metric and steps else ""
    if problem:
        table.note(table.at("steps"), problem)
    return StepScaling(
        metric=metric or "cpu",
        comparison=comparison,
        threshold=threshold,
        steps=steps,
        adjustment_type=adjustment_type,
        min_adjustment_magnitude=_magnitude(table),
    )


def _simple(table: Table) -> ScalingPolicy:
    metric = _metric_of(table)
    comparison, threshold = _threshold(table, metric)
    key, adjustment = _adjustment(table)
    cooldown = _GROUP_SETTINGS["cooldown"]
    return SimpleScaling(
        metric=metric or "cpu",
        comparison=comparison,
        threshold=threshold,
        adjustment=adjustment,
        adjustment_type=ADJUSTMENTS[key],
        min_adjustment_magnitude=_magnitude(table),
        cooldown=table.take("cooldown", lambda raw: float(from_toml(cooldown, raw)), None),
    )


def _scheduled(table: Table) -> ScalingPolicy:
    example = '"0 8 * * 1-5": minute, hour, day, month, weekday'
    cron = table.need("cron", _cron, "", example)
    zone = table.take("time_zone", read_text, "UTC")
    if cron and zone != "UTC":
        try:
            check_schedule(cron, zone)
        except ValueError as error:
            table.note(table.at("time_zone"), error)
    bounds = {name: table.take(name, _bound(name), None) for name in _BOUNDS}
    if not any(name in table.values for name in _BOUNDS):
        table.note(table.path, "expected at least one of min, max and desired")
    return Scheduled(cron=cron, time_zone=zone, **bounds)


def _cron(raw: object) -> str:
    text = read_text(raw)
    check_schedule(text, "UTC")
    return text


def _bound(name: str) -> Callable[[object], int]:
    setting = _GROUP_SETTINGS[name]
    return lambda raw: read_count(raw, int(setting.least or 0), int(setting.most or 0))


def _metric(raw: object) -> Metric:
    for metric in METRICS:
        if raw == metric:
            return metric
    hint = did_you_mean(raw, METRICS) if isinstance(raw, str) else ""
    raise ValueError(f"{wrong('one of ' + ', '.join(METRICS), raw)}{hint}")


def _metric_of(table: Table) -> Metric | None:
    """None where it is missing or wrong, which is noted; no amount can be read without it."""
    return table.need("metric", _metric, None, f"one of {', '.join(METRICS)}")


def _of(
    metric: Metric | None, read: Callable[[Metric, object], float]
) -> Callable[[object], float]:
    return lambda raw: read(metric, raw) if metric else 1.0


def _example(metric: Metric | None) -> str:
    return EXAMPLES[metric] if metric else "an amount of the metric"


def _threshold(table: Table, metric: Metric | None) -> tuple[Comparison, float]:
    given: list[Comparison] = [one for one in get_args(Comparison) if table.has(one)]
    if len(given) != 1:
        said = "got both" if given else f"for example above = {_threshold_example(metric)}"
        table.note(table.path, f"expected either above or below, {said}")
        return "above", 0.0
    (comparison,) = given
    return comparison, table.take(comparison, _of(metric, read_amount), 0.0)


def _threshold_example(metric: Metric | None) -> str:
    examples = {"requests": '"600/min"', "rss": '"300MiB"', "queue_wait": '"50ms"'}
    return examples.get(metric or "", "60")


def _adjustment(table: Table) -> tuple[str, int]:
    """The one key of ADJUSTMENTS that the table has, and its number."""
    given = [key for key in ADJUSTMENTS if table.has(key)]
    if len(given) != 1:
        if table.is_table:
            said = f"got {' and '.join(given)}" if given else "for example add = 1"
            table.note(table.path, f"expected one of {', '.join(ADJUSTMENTS)}, {said}")
        return "add", 0
    (key,) = given
    least, most = {
        "add": (-MOST_INSTANCES, MOST_INSTANCES),
        "set": (0, MOST_INSTANCES),
        "add_percent": (-100, _MOST_PERCENT),
    }[key]
    return key, table.take(key, lambda raw: read_count(raw, least, most), 0)


def _magnitude(table: Table) -> int:
    return table.take("min_adjustment_magnitude", lambda raw: read_count(raw, 0, MOST_INSTANCES), 0)


def _steps(table: Table, metric: Metric | None) -> tuple[tuple[Step, ...], AdjustmentType]:
    """In the order of their ranges; none where one of them could not be read."""
    example = f"[{STEP_EXAMPLE}, {{ from = 300, add = 2 }}]"
    table.need("steps", lambda raw: raw, None, example)
    before = len(table.problems)
    steps, keys = [], []
    for path, raw in table.items("steps", example):
        one = Table(raw, path, table.problems, STEP_EXAMPLE)
        lower = one.take("from", _of(metric, read_difference), None)
        upper = one.take("to", _of(metric, read_difference), None)
        key, adjustment = _adjustment(one)
        one.close()
        steps.append(Step(adjustment, lower, upper))
        keys.append(key)
    if len(table.problems) > before or metric is None:
        return (), "change_in_capacity"
    if len(set(keys)) > 1:
        said = " and ".join(dict.fromkeys(keys))
        table.note(table.at("steps"), f"expected the same key in every step, got {said}")
        return (), "change_in_capacity"
    if not steps and "steps" in table.values:
        table.note(table.at("steps"), f"expected one step at least such as {STEP_EXAMPLE}")
        return (), "change_in_capacity"
    ordered = sorted(steps, key=lambda one: float("-inf") if one.lower is None else one.lower)
    return tuple(ordered), ADJUSTMENTS[keys[0]] if keys else "change_in_capacity"


def steps_problem(metric: Metric, comparison: Comparison, steps: tuple[Step, ...]) -> str:
    """What is wrong with steps in the order of their ranges, or "".

    They must follow each other without gap and overlap, and reach as far as the metric can go past
    the threshold: up from it without end for `above`, down from it for `below`.
    """

    def show(amount: float) -> str:
        return str(write_amount(metric, amount))

    def span(step: Step) -> str:
        bounds = (("from", step.lower), ("to", step.upper))
        return " ".join(f"{key} {show(bound)}" for key, bound in bounds if bound is not None)

    for one in steps:
        if one.lower is not None and one.upper is not None and one.lower >= one.upper:
            return f"expected `from` below `to`, got {span(one)}"
    for before, after in pairwise(steps):
        if before.upper is None or after.lower is None or after.lower < before.upper:
            return f"two steps overlap: {span(before) or 'all'} and {span(after) or 'all'}"
        if after.lower > before.upper:
            return f"no step is there from {show(before.upper)} to {show(after.lower)}"
    first, last = steps[0].lower, steps[-1].upper
    if comparison == "above":
        if last is not None:
            return f"no step is there from {show(last)} on; leave out `to` in the last one"
        if first is not None and first > 0:
            return f"no step is there from 0, which is the threshold, to {show(first)}"
        return ""
    if first is not None:
        return f"no step is there below {show(first)}; leave out `from` in the lowest one"
    if last is not None and last < 0:
        return f"no step is there from {show(last)} to 0, which is the threshold"
    return ""


_READERS: dict[str, Callable[[Table], ScalingPolicy]] = {
    "target_tracking": _target_tracking,
    "step": _step,
    "simple": _simple,
    "scheduled": _scheduled,
}
