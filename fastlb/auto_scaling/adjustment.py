"""The arithmetic of step and simple scaling, as AWS rounds and bounds it.

Knows numbers only; whether a policy acts, and within which bounds, is `scaling_policy`'s.
"""

from __future__ import annotations

from fastlb.model.scaling_policy import AdjustmentType, StepScaling


def adjusted(base: int, kind: AdjustmentType, adjustment: int, least_magnitude: int = 0) -> int:
    """The capacity that an adjustment makes of `base`.

    Percents are rounded as AWS does: over 1 down, 0 to 1 is 1, -1 to 0 is -1, under -1 towards zero;
    `least_magnitude` holds for them alone.
    """
    if kind == "exact_capacity":
        return adjustment
    if kind == "change_in_capacity" or not adjustment:
        return base + adjustment
    magnitude = max(abs(base * adjustment) // 100, 1, least_magnitude)
    return base + (magnitude if adjustment > 0 else -magnitude)


def step_for(policy: StepScaling, past: float) -> int | None:
    """The adjustment where the metric minus the threshold is `past`; None where no step is for that.

    A bound belongs to the step on its far side: above, the lower one does and the upper does not;
    below it is the other way round.
    """
    above = policy.comparison == "above"
    for step in policy.steps:
        lower = float("-inf") if step.lower is None else step.lower
        upper = float("inf") if step.upper is None else step.upper
        if lower <= past < upper if above else lower < past <= upper:
            return step.adjustment
    return None
