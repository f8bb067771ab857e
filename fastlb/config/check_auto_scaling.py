"""What no single key can say of auto scaling groups: bounds, commands, who uses which. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from fastlb.config.read_auto_scaling import PlacedAutoScalingGroup, word_path
from fastlb.config.read_groups import PlacedGroup
from fastlb.config.read_policies import MOST_INSTANCES, PlacedPolicy
from fastlb.config.table import child
from fastlb.config.values import COMMAND_EXAMPLE, did_you_mean, got
from fastlb.model.scaling_policy import Scheduled, SimpleScaling, StepScaling

_PORT_VARIABLE = re.compile(r"\$(PORT\b|\{PORT\b)")
PLACEHOLDERS = ("socket", "port", "instance")
_IN_BRACES = re.compile(r"(?<!\$)\{([A-Za-z_-]+)\}")
"""What may be meant as a placeholder; `${PORT}` is a shell's own."""


def check_auto_scaling(
    scaled: Sequence[PlacedAutoScalingGroup], groups: Sequence[PlacedGroup], *, unread: bool
) -> tuple[list[str], list[str]]:
    """Problems and warnings, each beginning with its key path or flag. `unread` says that there are
    auto scaling groups that could not be read, so that one that is missing may be among them."""
    problems = [
        *([] if unread else _uses(scaled, groups)),
        *(line for one in scaled for line in _bounds(one)),
        *(line for one in scaled for line in _schedules(one)),
        *(line for one in scaled for line in _command(one)),
        *(line for one in scaled for line in _placeholders(one)),
    ]
    return problems, [*_warnings(scaled, groups)]


def _uses(scaled: Sequence[PlacedAutoScalingGroup], groups: Sequence[PlacedGroup]) -> Iterator[str]:
    known = [one.group.name for one in scaled]
    users: dict[str, str] = {}
    for one in groups:
        name = one.group.auto_scaling_group
        if name is None:
            continue
        path = child(one.path, "auto_scaling_group")
        if name not in known:
            yield f"{path}: there is no auto scaling group {got(name)}{did_you_mean(name, known)}"
        elif name in users:
            yield (
                f"{path}: {got(name)} is already that of {users[name]}: expected one target group "
                "for each auto scaling group"
            )
        users.setdefault(name, one.path)


def _bounds(one: PlacedAutoScalingGroup) -> Iterator[str]:
    least, most = _known_bounds(one)
    known = [bound for bound in (least, most) if bound is not None]
    desired = one.group.desired
    if least is not None and most is not None and most < least:
        if "min" in one.flags and "max" not in one.flags:
            yield f"{one.at('min')}: expected at most max, {most}, got {least}"
        else:
            yield f"{one.at('max')}: expected at least min, {least}, got {most}"
    if desired is None:
        return
    # Where the bounds are crossed, only what neither of them allows is wrong of itself.
    if least is not None and desired < min(known):
        yield f"{one.at('desired')}: expected at least min, {least}, got {desired}"
    elif most is not None and desired > max(known):
        hint = "" if one.has_max else "; set max too"
        yield f"{one.at('desired')}: expected at most max, {most}, got {desired}{hint}"


def _known_bounds(one: PlacedAutoScalingGroup) -> tuple[int | None, int | None]:
    """The group's min and max, None for one that was not read or follows from such a one."""
    least = None if "min" in one.unread else one.group.min
    known = one.has_max or least is not None
    return least, one.group.max if known and "max" not in one.unread else None


def _schedules(one: PlacedAutoScalingGroup) -> Iterator[str]:
    """A schedule may rely on what another one sets: only what none of them allows is wrong."""
    schedules = [
        (placed, placed.policy) for placed in one.policies if isinstance(placed.policy, Scheduled)
    ]
    lowest, highest = _known_bounds(one)
    if "policies" in one.unread:
        lowest = highest = None  # those that could not be read may set them
    mins = [lowest or 0, *(each.min for _, each in schedules if each.min is not None)]
    maxs = [highest or MOST_INSTANCES, *(each.max for _, each in schedules if each.max is not None)]
    for placed, schedule in schedules:
        least = min(mins) if schedule.min is None else schedule.min
        most = max(maxs) if schedule.max is None else schedule.max
        if most < least:
            yield from _crossed(placed, schedule, least, most)
        elif schedule.desired is not None and not least <= schedule.desired <= most:
            path = child(placed.path, "desired")
            yield f"{path}: expected {least} to {most}, got {schedule.desired}"


def _crossed(placed: PlacedPolicy, schedule: Scheduled, least: int, most: int) -> Iterator[str]:
    if schedule.max is None:
        yield f"{child(placed.path, 'min')}: expected at most the group's max, {most}, got {least}"
    else:
        whose = "the group's min" if schedule.min is None else "min"
        yield f"{child(placed.path, 'max')}: expected at least {whose}, {least}, got {most}"


def _command(one: PlacedAutoScalingGroup) -> Iterator[str]:
    template = one.group.launch_template
    if not template.command:
        if not one.command_is_wrong:
            yield f"{one.command_path}: is missing: expected a list such as {COMMAND_EXAMPLE}"
        return
    if _mentions(one, "{socket}") and _mentions(one, "{port}"):
        yield (
            f"{one.command_path}: expected {{socket}} or {{port}}, got both: an instance listens on "
            "a unix socket or on a port"
        )


def _placeholders(one: PlacedAutoScalingGroup) -> Iterator[str]:
    """Those that are misspelt: the app would get them as they are, and listen nowhere."""
    template = one.group.launch_template
    paths = [
        one.command_path if template.shell else word_path(one.command_path, n)
        for n in range(len(template.command))
    ]
    placed = [*zip(paths, template.command, strict=True)]
    env = child(one.at("launch_template"), "env")
    placed += [(child(env, name), value) for name, value in template.env]
    for path, text in placed:
        for word in _IN_BRACES.findall(text):
            if meant := meant_placeholder(word):
                yield f"{path}: there is no placeholder {{{word}}}; did you mean {{{meant}}}?"


def meant_placeholder(word: str) -> str:
    """The placeholder of which `word` is a slip of the keys; "" for one and for other words.

    Strict, since other braces are the app's own: `{host}`, `{sport}`, `{report}` are none.
    """
    if word in PLACEHOLDERS:
        return ""
    lower = word.lower()
    for known in PLACEHOLDERS:
        if (
            sorted(lower) == sorted(known)
            or (len(lower) >= 4 and known.startswith(lower))
            or (lower[0] == known[0] and SequenceMatcher(None, lower, known).ratio() > 0.8)
        ):
            return known
    return ""


def _mentions(one: PlacedAutoScalingGroup, placeholder: str) -> bool:
    template = one.group.launch_template
    texts = (*template.command, *(value for _, value in template.env))
    return any(placeholder in text for text in texts)


def _warnings(
    scaled: Sequence[PlacedAutoScalingGroup], groups: Sequence[PlacedGroup]
) -> Iterator[str]:
    used = {one.group.auto_scaling_group for one in groups}
    for one in scaled:
        name, template = one.group.name, one.group.launch_template
        if name not in used:
            yield (
                f"{one.path}: no target group uses it, so that its instances get no traffic; write "
                f"auto_scaling_group = {got(name)} in one"
            )
        if not (_mentions(one, "{socket}") or _mentions(one, "{port}")) and not (
            template.shell and any(map(_PORT_VARIABLE.search, template.command))
        ):
            yield (
                f"{one.command_path}: says neither {{socket}} nor {{port}}: the app must listen on "
                "the port that the environment variable PORT names"
            )
        yield from _without_effect(one)


def _without_effect(one: PlacedAutoScalingGroup) -> Iterator[str]:
    dynamic = [placed for placed in one.policies if not isinstance(placed.policy, Scheduled)]
    if dynamic and len(dynamic) == len(one.policies) and one.group.min == one.group.max:
        yield (
            f"{dynamic[0].path}: does nothing, since min and max are {one.group.max}: "
            "set a larger max"
        )
    for placed in dynamic:
        policy = placed.policy
        if (
            isinstance(policy, StepScaling | SimpleScaling)
            and policy.min_adjustment_magnitude
            and policy.adjustment_type != "percent_change_in_capacity"
        ):
            path = child(placed.path, "min_adjustment_magnitude")
            yield f"{path}: does nothing: it is for add_percent"


def zero_after_without_effect(
    scaled: Sequence[PlacedAutoScalingGroup], flags: Mapping[str, str]
) -> Iterator[str]:
    """Where no group may ever have none, also by a schedule, nobody waits for its last to be idle."""
    mins = [one.group.min for one in scaled]
    mins += [
        policy.min
        for one in scaled
        for policy in one.group.policies
        if isinstance(policy, Scheduled) and policy.min is not None
    ]
    if "--zero-after" in flags and 0 not in mins:
        yield (
            f"--zero-after: does nothing, since min is {min(mins)}: it stops the last instance of a "
            "group with min 0; set --min 0"
        )
