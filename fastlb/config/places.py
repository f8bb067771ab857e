"""Where each key of the file belongs, for one that stands elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from fastlb.model.admin import Admin
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.instance_refresh import InstanceRefresh
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.listener import Listener
from fastlb.model.settings import declared
from fastlb.model.target_group import TargetGroup

TOP = "the top of the file, before the first [table]"
ADMIN = "[admin]"
LISTENERS = "[[listeners]]"
RULES = "[[listeners.rules]]"
GROUPS = "[target_groups.NAME]"
HEALTH_CHECKS = "[target_groups.NAME.health_check]"
AUTO_SCALING_GROUPS = "[auto_scaling_groups.NAME]"
LAUNCH_TEMPLATES = "[auto_scaling_groups.NAME.launch_template]"
REFRESHES = "[auto_scaling_groups.NAME.refresh]"
POLICIES = "[[auto_scaling_groups.NAME.policies]]"

_SETTINGS: tuple[tuple[str, type], ...] = (
    (TOP, Configuration),
    (ADMIN, Admin),
    (LISTENERS, Listener),
    (GROUPS, TargetGroup),
    (HEALTH_CHECKS, HealthCheck),
    (AUTO_SCALING_GROUPS, AutoScalingGroup),
    (LAUNCH_TEMPLATES, LaunchTemplate),
    (REFRESHES, InstanceRefresh),
)
_TABLES = {
    TOP: ("listeners", "target_groups", "auto_scaling_groups", "admin"),
    LISTENERS: ("default", "rules"),
    RULES: ("priority", "path", "method", "header", "query", "source_ip"),
    GROUPS: ("targets", "health_check", "auto_scaling_group"),
    AUTO_SCALING_GROUPS: ("launch_template", "policies", "refresh"),
    # Not those that are more likely another key misspelt, such as `target` for `targets`.
    POLICIES: (
        "metric",
        "disable_scale_in",
        "steps",
        "min_adjustment_magnitude",
        "cron",
        "time_zone",
    ),
}


def right_place(key: str) -> str:
    """`it is a key of [[listeners]]` for a key of the file or a flag's name; "" for others."""
    places = [place for name, place in _keys() if name == key]
    if places:
        return f"it is a key of {' or '.join(dict.fromkeys(places))}"
    return next((f"it is {name} in {place}" for flag, name, place in _flags() if flag == key), "")


def _keys() -> Iterator[tuple[str, str]]:
    for place, cls in _SETTINGS:
        for item, _ in declared(cls):
            yield item.name, place
    for place, names in _TABLES.items():
        for name in names:
            yield name, place


def _flags() -> Iterator[tuple[str, str, str]]:
    """A flag's name as a key would be written, the key that it sets, and where that stands."""
    for place, cls in _SETTINGS:
        for item, setting in declared(cls):
            if setting.flag is not None:
                yield setting.flag.removeprefix("--").replace("-", "_"), item.name, place
