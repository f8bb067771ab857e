"""Auto scaling groups, from TOML and flags to the model.

In two steps, since what a setting is depends on what was said elsewhere: `read_auto_scaling_group`
reads what the file says into a draft, flags change drafts, and `finish` fills in the profile's
figures and the defaults. What groups have in common is `check_auto_scaling`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastlb.config.read_policies import (
    KEYS,
    POLICY_EXAMPLE,
    PlacedPolicy,
    policy_from_text,
    read_policy,
)
from fastlb.config.table import NAME, NAME_EXPECTED, Table, check_setting, child
from fastlb.config.values import COMMAND_EXAMPLE, WrongItems, from_toml, wrong
from fastlb.model.auto_scaling import PROFILES, AutoScalingGroup
from fastlb.model.instance_refresh import REFRESH_PROFILES, InstanceRefresh
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.scaling_policy import DEFAULT_POLICIES
from fastlb.model.settings import declared, default_of

COMMAND_PATH = "the command after --"
_DEFAULTS = {item.name: default_of(item) for item, _ in declared(AutoScalingGroup)}
_COMMAND = next(setting for item, setting in declared(LaunchTemplate) if item.name == "command")


@dataclass(frozen=True, slots=True)
class Draft:
    """What was said of an auto scaling group, by field; None where nothing was."""

    path: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    launch_template: Mapping[str, Any] = field(default_factory=dict)
    refresh: Mapping[str, Any] = field(default_factory=dict)
    policies: tuple[PlacedPolicy, ...] | None = None
    command_path: str = ""
    command_is_wrong: bool = False
    """Whether why there is no command is noted already."""
    unread: frozenset[str] = frozenset()
    """The keys that are there and could not be read, `policies` where one may have been a schedule:
    nothing else that is said may follow from them."""


@dataclass(frozen=True, slots=True)
class PlacedAutoScalingGroup:
    """An auto scaling group, and where the user wrote it and what is checked of it later.

    `flags` are those fields of AutoScalingGroup that a flag set, with the flag."""

    path: str
    group: AutoScalingGroup
    policies: tuple[PlacedPolicy, ...]
    command_path: str
    command_is_wrong: bool
    flags: Mapping[str, str]
    has_max: bool
    unread: frozenset[str]
    """The fields whose value is not known, since what was said of them is wrong."""

    def at(self, name: str) -> str:
        """The path of a field of the group."""
        return self.flags.get(name) or child(self.path, name)


def read_auto_scaling_group(name: str, raw: Any, problems: list[str]) -> Draft:
    table = Table(raw, child("auto_scaling_groups", name), problems, "a table")
    if not NAME.fullmatch(name):
        table.note(table.path, wrong(NAME_EXPECTED, name))
    path = table.at("launch_template")
    template, command_is_wrong = _launch_template(table)
    policies = None
    unread: set[str] = set()
    if table.has("policies"):
        read = [
            (item, read_policy(Table(item, place, problems, f"a table such as {POLICY_EXAMPLE}")))
            for place, item in table.items("policies", f"[{POLICY_EXAMPLE}]")
        ]
        policies = tuple(one for _, one in read if one is not None)
        if any(one is None and _may_be_scheduled(item) for item, one in read):
            unread.add("policies")
    refresh: dict[str, Any] = {}
    if table.has("refresh"):
        inner = Table(
            table.values["refresh"], table.at("refresh"), problems, "{ min_healthy = 100 }"
        )
        refresh = inner.settings(InstanceRefresh)
        inner.close()
    settings = table.settings(AutoScalingGroup)
    unread |= {item.name for item, _ in declared(AutoScalingGroup) if item.name in table.values}
    unread -= settings.keys()
    table.close()
    return Draft(
        path=table.path,
        name=name,
        settings=settings,
        launch_template=template,
        refresh=refresh,
        policies=policies,
        command_path=child(path, "command"),
        command_is_wrong=command_is_wrong or not table.is_table,
        unread=frozenset(unread),
    )


def _may_be_scheduled(raw: object) -> bool:
    """Whether a policy that could not be read may have set bounds."""
    others = [kind for kind in KEYS if kind != "scheduled"]
    return not (isinstance(raw, dict) and raw.get("type") in others)


def _launch_template(group: Table) -> tuple[dict[str, Any], bool]:
    """What it says, and whether a command is missing in it for a reason that is noted."""
    if not group.has("launch_template"):
        return {}, False
    raw = group.values["launch_template"]
    if isinstance(raw, dict) and raw.get("shell") is True and isinstance(raw.get("command"), str):
        raw = raw | {"command": [raw["command"]]}  # where it is one text anyway, the list may go
    example = f"{{ command = {COMMAND_EXAMPLE} }}"
    table = Table(raw, group.at("launch_template"), group.problems, example)
    found = table.settings(LaunchTemplate)
    table.close()
    command = found.get("command", ())
    if found.get("shell") and len(command) > 1:
        table.note(
            table.at("command"),
            f"expected one text, since shell = true, got {len(command)}: leave out shell, or write "
            "one line as you would type it",
        )
    return found, "command" not in found and (table.has("command") or not table.is_table)


def with_command(draft: Draft, command: tuple[str, ...], problems: list[str]) -> Draft:
    """The draft with the command that stands after `--`. No shell: another one has split it."""
    template = {**draft.launch_template, "shell": False}
    before = len(problems)
    try:
        template["command"] = from_toml(_COMMAND, list(command))
        check_setting(LaunchTemplate, "command", template["command"])
    except WrongItems as error:
        for n, message in error.found:
            problems.append(f"{word_path(COMMAND_PATH, int(n))}: {message}")
    except ValueError as error:
        problems.append(f"{COMMAND_PATH}: {error}")
    return replace(
        draft,
        launch_template=template,
        command_path=COMMAND_PATH,
        command_is_wrong=len(problems) > before,
    )


def word_path(command_path: str, n: int) -> str:
    """Where a word of the command stands: an item of the file's list, or one of those after `--`."""
    if command_path == COMMAND_PATH:
        return f"{COMMAND_PATH}, word {n + 1}"
    return f"{command_path}[{n}]"


def policies_of_flags(texts: tuple[str, ...], problems: list[str]) -> tuple[PlacedPolicy, ...]:
    """What `--scale` says, each a target tracking policy."""
    placed: dict[str, PlacedPolicy] = {}
    for text in texts:
        path = f"--scale {text}"
        try:
            policy = policy_from_text(text)
        except ValueError as error:
            problems.append(f"{path}: {error}")
            continue
        if policy.metric in placed:
            problems.append(f"{path}: {policy.metric} is already {placed[policy.metric].path}")
        placed[policy.metric] = PlacedPolicy(path, policy)
    return tuple(placed.values())


def finish(
    draft: Draft, chosen: Mapping[type, Mapping[str, Any]], flags: Mapping[str, str]
) -> PlacedAutoScalingGroup:
    """The draft as a group. `chosen` is what flags set, by class and field; `flags` the flag of each
    field of AutoScalingGroup that one set."""
    said = {**draft.settings, **chosen[AutoScalingGroup]}
    profile = said.get("profile", _DEFAULTS["profile"])
    settings = {**_DEFAULTS, **PROFILES[profile], **said}
    if "max" not in said:
        settings["max"] = max(settings["min"], _DEFAULTS["max"])
    policies = draft.policies
    if policies is None:
        grows = settings["max"] > settings["min"]
        policies = tuple(PlacedPolicy(draft.path, one) for one in DEFAULT_POLICIES if grows)
    group = AutoScalingGroup(
        name=draft.name,
        launch_template=LaunchTemplate(**{**draft.launch_template, **chosen[LaunchTemplate]}),
        policies=tuple(one.policy for one in policies),
        refresh=InstanceRefresh(
            **{**REFRESH_PROFILES[profile], **draft.refresh, **chosen[InstanceRefresh]}
        ),
        **settings,
    )
    return PlacedAutoScalingGroup(
        path=draft.path,
        group=group,
        policies=policies,
        command_path=draft.command_path,
        command_is_wrong=draft.command_is_wrong,
        flags=flags,
        has_max="max" in said,
        unread=frozenset((draft.unread | flags.keys()) - chosen[AutoScalingGroup].keys()),
    )
