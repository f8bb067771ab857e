"""What flags say, and what it makes of what the file says. Pure.

A setting's flag holds in every table that has the setting; `--listen`, `--target` and the command
after `--` replace parts of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fastlb.config.read_auto_scaling import COMMAND_PATH, Draft, with_command
from fastlb.config.read_groups import (
    NOWHERE,
    PlacedGroup,
    PlacedListener,
    Protocol,
    listener_address,
    target_from_text,
)
from fastlb.config.table import check_setting
from fastlb.config.values import from_flag
from fastlb.model.address import Address
from fastlb.model.admin import Admin
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.instance_refresh import InstanceRefresh
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.listener import Forward, Listener, WeightedGroup
from fastlb.model.settings import declared
from fastlb.model.target_group import Target, TargetGroup

AUTO_SCALING_CLASSES: tuple[type, ...] = (AutoScalingGroup, LaunchTemplate, InstanceRefresh)
SETTING_CLASSES: tuple[type, ...] = (
    *(Configuration, Listener, TargetGroup, HealthCheck, Admin),
    *AUTO_SCALING_CLASSES,
)
DEFAULT_GROUP = "default"
"""The group of `--target`, `--listen` and of a command where no file names another."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What flags said, as their text; `settings` by flag, `--idle-timeout` and so on; `command` is
    what stands after `--`, and `scale` what each `--scale` says."""

    listen: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    scale: tuple[str, ...] = ()


def override_targets(
    groups: list[PlacedGroup], texts: tuple[str, ...], problems: list[str]
) -> list[PlacedGroup]:
    """`--target` replaces the targets of the only group, or of the group `default`."""
    if not texts:
        return groups
    paths = tuple(f"--target {text}" for text in texts)
    targets = tuple(
        _or_note(path, target_from_text, text, Target(NOWHERE), problems)
        for path, text in zip(paths, texts, strict=True)
    )
    if not groups:
        return [PlacedGroup("--target", TargetGroup(name=DEFAULT_GROUP, targets=targets), paths)]
    name = flag_group([one.group.name for one in groups])
    if name is None:
        known = ", ".join(one.group.name for one in groups)
        problems.append(
            f"--target: expected one target group, or one named {DEFAULT_GROUP}; there are {known}"
        )
    return [
        PlacedGroup(one.path, replace(one.group, targets=targets), paths)
        if one.group.name == name
        else one
        for one in groups
    ]


def listeners_of_flags(
    texts: tuple[str, ...], groups: list[PlacedGroup], problems: list[str]
) -> list[PlacedListener]:
    """`--listen` replaces the listeners; they forward to the only group, or to `default`."""
    name = flag_group([one.group.name for one in groups])
    if name is None:
        known = ", ".join(one.group.name for one in groups)
        problems.append(
            f"--listen: expected one target group, or one named {DEFAULT_GROUP}; there are {known}"
            if groups
            else "--listen: there is nothing to forward to: add --target HOST:PORT, or the app's "
            "command after --"
        )
    action = Forward((WeightedGroup(name),) if name is not None else ())
    stand_in: tuple[Protocol, Address] = ("http", NOWHERE)
    placed = []
    for text in texts:
        path = f"--listen {text}"
        protocol, address = _or_note(path, listener_address, text, stand_in, problems)
        placed.append(
            PlacedListener(path, Listener(protocol=protocol, address=address, default=action))
        )
    return placed


def override_command(
    drafts: list[Draft], groups: list[PlacedGroup], command: tuple[str, ...], problems: list[str]
) -> tuple[list[Draft], list[PlacedGroup]]:
    """The command after `--` replaces that of the only auto scaling group. Where there is none, it
    makes one, of the only target group or of `default`."""
    if len(drafts) > 1:
        known = ", ".join(one.name for one in drafts)
        problems.append(f"{COMMAND_PATH}: expected one auto scaling group; there are {known}")
        return drafts, groups
    if drafts:
        return [with_command(drafts[0], command, problems)], groups
    name = flag_group([one.group.name for one in groups]) if groups else DEFAULT_GROUP
    if name is None:
        known = ", ".join(one.group.name for one in groups)
        problems.append(
            f"{COMMAND_PATH}: expected one target group, or one named {DEFAULT_GROUP}, or an auto "
            f"scaling group that the command is of; there are {known}"
        )
    placed = groups or [PlacedGroup(COMMAND_PATH, TargetGroup(name=DEFAULT_GROUP), ())]
    users = [
        replace(one, group=replace(one.group, auto_scaling_group=DEFAULT_GROUP))
        if one.group.name == name and one.group.auto_scaling_group is None
        else one
        for one in placed
    ]
    return [with_command(Draft(COMMAND_PATH, DEFAULT_GROUP), command, problems)], users


def settings_of_flags(texts: Mapping[str, str], problems: list[str]) -> dict[type, dict[str, Any]]:
    chosen: dict[type, dict[str, Any]] = {cls: {} for cls in SETTING_CLASSES}
    unknown = set(texts)
    for cls in SETTING_CLASSES:
        for item, setting in declared(cls):
            if setting.flag is None or setting.flag not in texts:
                continue
            unknown.discard(setting.flag)
            try:
                value = from_flag(setting, texts[setting.flag])
                check_setting(cls, item.name, value)
                chosen[cls][item.name] = value
            except ValueError as error:
                problems.append(f"{setting.flag}: {error}")
    if unknown:
        raise KeyError(f"no setting has the flag {', '.join(sorted(unknown))}")
    return chosen


def flags_without_group(overrides: Overrides) -> Iterator[str]:
    given = [
        setting.flag
        for cls in AUTO_SCALING_CLASSES
        for _, setting in declared(cls)
        if setting.flag is not None and setting.flag in overrides.settings
    ]
    for flag in [*given, *(["--scale"] if overrides.scale else [])]:
        yield (
            f"{flag}: there is no auto scaling group: add the app's command after --, or "
            "[auto_scaling_groups.NAME] to the file"
        )


def flag_group(names: list[str]) -> str | None:
    """The target group that flags without a group's name are about: the only one, or `default`."""
    if len(names) == 1:
        return names[0]
    return DEFAULT_GROUP if DEFAULT_GROUP in names else None


def _or_note(
    path: str, read: Callable[[str], T], text: str, otherwise: T, problems: list[str]
) -> T:
    try:
        return read(text)
    except ValueError as error:
        problems.append(f"{path}: {error}")
        return otherwise
