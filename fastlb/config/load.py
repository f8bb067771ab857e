"""A TOML document and what flags said, together, to a checked Configuration.

Flags override the file: one of a Listener's settings in every listener, one of a TargetGroup's or a
HealthCheck's in every target group, and so on.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastlb.config.check import check
from fastlb.config.check_auto_scaling import check_auto_scaling, zero_after_without_effect
from fastlb.config.overrides import (
    Overrides,
    flags_without_group,
    listeners_of_flags,
    override_command,
    override_targets,
    settings_of_flags,
)
from fastlb.config.read_auto_scaling import (
    Draft,
    PlacedAutoScalingGroup,
    finish,
    policies_of_flags,
    read_auto_scaling_group,
)
from fastlb.config.read_groups import (
    PlacedGroup,
    read_group,
    read_listener,
)
from fastlb.config.read_policies import PlacedPolicy
from fastlb.config.syntax import syntax_error
from fastlb.config.table import Table
from fastlb.errors import ConfigError
from fastlb.model.admin import Admin
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.instance_refresh import InstanceRefresh
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.listener import Listener
from fastlb.model.settings import declared
from fastlb.model.target_group import TargetGroup

HTTP_ONLY = (
    *("--header-timeout", "--max-header-bytes", "--max-body-bytes", "--trusted-proxies"),
    *("--response-timeout", "--access-log"),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A Configuration without errors; `warnings` are lines about what will not do as it seems.

    `of_file` is what the file alone says, unchecked as a whole: with flags it need not be complete."""

    configuration: Configuration
    warnings: tuple[str, ...]
    of_file: Configuration


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
    groups_of_file = _groups(top)
    groups = override_targets(groups_of_file, overrides.target, problems)
    drafts_of_file, drafts_unread = _drafts(top)
    drafts = drafts_of_file
    if overrides.command and not drafts_unread:
        drafts, groups = override_command(drafts, groups, overrides.command, problems)
    listeners_of_file = [
        read_listener(Table(raw, path, problems, "a table with an address and a default"))
        for path, raw in top.items("listeners", "[[listeners]] tables")
    ]
    listeners = listeners_of_file
    if overrides.listen:
        listeners = listeners_of_flags(overrides.listen, groups, problems)
    settings = top.settings(Configuration)
    admin = _admin(top)
    top.close()

    chosen = settings_of_flags(overrides.settings, problems)
    if not drafts and not drafts_unread:
        problems.extend(flags_without_group(overrides))
    policies = policies_of_flags(overrides.scale, problems) if overrides.scale else None
    scaled = _scaled(drafts, chosen, overrides.settings, policies)
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
    of_file = Configuration(
        listeners=tuple(one.listener for one in listeners_of_file),
        target_groups=tuple(one.group for one in groups_of_file),
        auto_scaling_groups=tuple(_of_file(one, chosen, policies) for one in drafts_of_file),
        admin=admin,
        **settings,
    )
    return Loaded(configuration, (*warnings, *more_warnings, *without_effect), of_file)


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


def _scaled(
    drafts: list[Draft],
    chosen: dict[type, dict[str, Any]],
    settings: Mapping[str, str],
    policies: tuple[PlacedPolicy, ...] | None,
) -> list[PlacedAutoScalingGroup]:
    if policies is not None:
        drafts = [replace(one, policies=policies) for one in drafts]
    flags = {
        item.name: setting.flag
        for item, setting in declared(AutoScalingGroup)
        if setting.flag is not None and setting.flag in settings
    }
    return [finish(one, chosen, flags) for one in drafts]


def _of_file(
    draft: Draft, chosen: dict[type, dict[str, Any]], policies: tuple[PlacedPolicy, ...] | None
) -> AutoScalingGroup:
    """What the file says wins; what it does not say is as the flags have it, and not as it would
    follow from other keys of the file."""
    said: tuple[tuple[type, Mapping[str, Any]], ...] = (
        (AutoScalingGroup, draft.settings),
        (LaunchTemplate, draft.launch_template),
        (InstanceRefresh, draft.refresh),
    )
    left = {
        cls: {name: value for name, value in chosen[cls].items() if name not in keys}
        for cls, keys in said
    }
    if draft.policies is None:
        draft = replace(draft, policies=policies)
    return finish(draft, left, {}).group
