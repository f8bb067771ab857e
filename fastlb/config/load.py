"""A TOML document and what flags said, together, to a checked Configuration.

Flags override the file: one of a Listener's settings in every listener, one of a TargetGroup's or a
HealthCheck's in every target group, and so on.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fastlb.config.check import check
from fastlb.config.check_auto_scaling import check_auto_scaling, zero_after_without_effect
from fastlb.config.read_auto_scaling import (
    COMMAND_PATH,
    Draft,
    PlacedAutoScalingGroup,
    finish,
    policies_of_flags,
    read_auto_scaling_group,
    with_command,
)
from fastlb.config.read_groups import (
    NOWHERE,
    PlacedGroup,
    PlacedListener,
    Protocol,
    listener_address,
    read_group,
    read_listener,
    target_from_text,
)
from fastlb.config.syntax import syntax_error
from fastlb.config.table import Table, check_setting
from fastlb.config.values import from_flag
from fastlb.errors import ConfigError
from fastlb.model.address import Address
from fastlb.model.admin import Admin
from fastlb.model.auto_scaling import AutoScalingGroup, InstanceRefresh, LaunchTemplate
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
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

HTTP_ONLY = (
    *("--header-timeout", "--max-header-bytes", "--max-body-bytes", "--trusted-proxies"),
    *("--response-timeout", "--access-log"),
)

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


@dataclass(frozen=True, slots=True)
class Loaded:
    """A Configuration without errors; `warnings` are lines about what will not do as it seems."""

    configuration: Configuration
    warnings: tuple[str, ...]


def load(toml: str = "", overrides: Overrides | None = None, source: str = "") -> Loaded:
    """Read the document and the flags. Raises ConfigError with every problem that there is.

    `source` is the name of the file, for a syntax error, which has a line and no key path.
    """
    overrides = overrides or Overrides()
    problems: list[str] = []
    try:
        document = tomllib.loads(toml)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{source or 'TOML'}: {syntax_error(toml, error)}"]) from None

    top = Table(document, "", problems, "a table")
    groups = _override_targets(_groups(top), overrides.target, problems)
    drafts, drafts_unread = _drafts(top)
    if overrides.command and not drafts_unread:
        drafts, groups = _override_command(drafts, groups, overrides.command, problems)
    listeners = [
        read_listener(Table(raw, path, problems, "a table with an address and a default"))
        for path, raw in top.items("listeners", "[[listeners]] tables")
    ]
    if overrides.listen:
        listeners = _listeners_of_flags(overrides.listen, groups, problems)
    settings = top.settings(Configuration)
    admin = _admin(top)
    top.close()

    chosen = _settings_of_flags(overrides.settings, problems)
    if not drafts and not drafts_unread:
        problems.extend(_flags_without_group(overrides))
    scaled = _scaled(drafts, chosen, overrides, problems)
    configuration = Configuration(
        listeners=tuple(replace(one.listener, **chosen[Listener]) for one in listeners),
        target_groups=tuple(
            replace(
                one.group,
                health_check=replace(one.group.health_check, **chosen[HealthCheck]),
                **chosen[TargetGroup],
            )
            for one in groups
        ),
        auto_scaling_groups=tuple(one.group for one in scaled),
        admin=replace(admin, **chosen[Admin]),
        **(settings | chosen[Configuration]),
    )
    unread = not listeners and "listeners" in top.values and top.values["listeners"] != []
    found, warnings = check(listeners, groups, listeners_unread=unread)
    problems.extend(found)
    found, more_warnings = check_auto_scaling(scaled, groups, unread=drafts_unread)
    problems.extend(found)
    if problems:
        raise ConfigError(problems)
    flags = overrides.settings
    more_warnings = [*more_warnings, *zero_after_without_effect(scaled, flags)]
    without_effect = _without_effect(configuration, flags)
    return Loaded(configuration, (*warnings, *more_warnings, *without_effect))


def _without_effect(configuration: Configuration, flags: Mapping[str, str]) -> Iterator[str]:
    if any(one.protocol == "http" for one in configuration.listeners):
        return
    for flag in flags:
        if flag in HTTP_ONLY:
            yield f"{flag}: does nothing: every listener is tcp://, and this is about HTTP requests"


def _groups(top: Table) -> list[PlacedGroup]:
    if not top.has("target_groups"):
        return []
    table = Table(
        top.values["target_groups"], "target_groups", top.problems, "[target_groups.NAME] tables"
    )
    return [read_group(name, raw, top.problems) for name, raw in table.values.items()]


def _admin(top: Table) -> Admin:
    if not top.has("admin"):
        return Admin()
    example = '{ address = "127.0.0.1:9900" }'
    table = Table(top.values["admin"], "admin", top.problems, example)
    admin = Admin(**table.settings(Admin))
    table.close()
    return admin


def _drafts(top: Table) -> tuple[list[Draft], bool]:
    """What the file says of auto scaling groups, and whether it says it unreadably."""
    if not top.has("auto_scaling_groups"):
        return [], False
    table = Table(
        top.values["auto_scaling_groups"],
        "auto_scaling_groups",
        top.problems,
        "[auto_scaling_groups.NAME] tables",
    )
    drafts = [
        read_auto_scaling_group(name, raw, top.problems) for name, raw in table.values.items()
    ]
    return drafts, not table.is_table


def _override_command(
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
    name = _flag_group(groups) if groups else DEFAULT_GROUP
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


def _scaled(
    drafts: list[Draft],
    chosen: dict[type, dict[str, Any]],
    overrides: Overrides,
    problems: list[str],
) -> list[PlacedAutoScalingGroup]:
    if overrides.scale:
        policies = policies_of_flags(overrides.scale, problems)
        drafts = [replace(one, policies=policies) for one in drafts]
    flags = {
        item.name: setting.flag
        for item, setting in declared(AutoScalingGroup)
        if setting.flag is not None and setting.flag in overrides.settings
    }
    return [finish(one, chosen, flags) for one in drafts]


def _flags_without_group(overrides: Overrides) -> Iterator[str]:
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


def _override_targets(
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
    name = _flag_group(groups)
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


def _listeners_of_flags(
    texts: tuple[str, ...], groups: list[PlacedGroup], problems: list[str]
) -> list[PlacedListener]:
    """`--listen` replaces the listeners; they forward to the only group, or to `default`."""
    name = _flag_group(groups)
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


def _flag_group(groups: list[PlacedGroup]) -> str | None:
    names = [one.group.name for one in groups]
    if len(names) == 1:
        return names[0]
    return DEFAULT_GROUP if DEFAULT_GROUP in names else None


def _settings_of_flags(texts: Mapping[str, str], problems: list[str]) -> dict[type, dict[str, Any]]:
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


def _or_note(
    path: str, read: Callable[[str], T], text: str, otherwise: T, problems: list[str]
) -> T:
    try:
        return read(text)
    except ValueError as error:
        problems.append(f"{path}: {error}")
        return otherwise
