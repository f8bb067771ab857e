"""What changed in the file and is not used, since the command line says otherwise. Pure.

Which flag sets which key follows from the model's declarations; the few flags that replace whole
parts of the file are named here.
"""

from __future__ import annotations

from fastlb.config.differences import diff, path_text, tree_of
from fastlb.config.overrides import Overrides, flag_group
from fastlb.config.read_auto_scaling import COMMAND_PATH
from fastlb.model.admin import Admin
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.instance_refresh import InstanceRefresh
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.listener import Listener
from fastlb.model.settings import declared
from fastlb.model.target_group import TargetGroup

Path = tuple[str, ...]

CLASSES: dict[Path, type] = {
    (): Configuration,
    ("admin",): Admin,
    ("listeners",): Listener,
    ("target_groups",): TargetGroup,
    ("target_groups", "health_check"): HealthCheck,
    ("auto_scaling_groups",): AutoScalingGroup,
    ("auto_scaling_groups", "launch_template"): LaunchTemplate,
    ("auto_scaling_groups", "refresh"): InstanceRefresh,
}
"""By the path of a table, without the names of groups and the addresses of listeners."""

NAMED = ("listeners", "target_groups", "auto_scaling_groups")
"""What there is several of, each under its name or address."""


def overridden(old: Configuration, new: Configuration, overrides: Overrides) -> list[str]:
    """A line for each key that differs between two states of the file and that a flag sets."""
    found: dict[str, None] = {}
    group = flag_group([one.name for one in new.target_groups])
    for change in diff(tree_of(old), tree_of(new)):
        path, flag = _flag_of(change.path, overrides, group)
        if flag:
            found[
                f"{path_text(path)}: is set on the command line ({flag}); "
                "the file's value is not used"
            ] = None
    return list(found)


def _flag_of(path: Path, overrides: Overrides, target_group: str | None) -> tuple[Path, str]:
    """What of the file a flag overrides there, and the flag; "" where none does."""
    match path:
        case ("listeners", *_) if overrides.listen:
            return path[:1], "--listen"
        case ("target_groups", name, "targets", *_) if overrides.target and name == target_group:
            return path[:3], "--target"
        case ("auto_scaling_groups", _, "policies", *_) if overrides.scale:
            return path[:3], "--scale"
        case ("auto_scaling_groups", _, "launch_template", "command" | "shell") if (
            overrides.command
        ):
            return path, COMMAND_PATH
    *table, key = (path[0], *path[2:]) if path[0] in NAMED else path
    cls = CLASSES.get(tuple(table))
    for item, setting in declared(cls) if cls is not None else ():
        if item.name == key and setting.flag is not None and setting.flag in overrides.settings:
            off = setting.kind == "switch" and overrides.settings[setting.flag] == "off"
            return path, setting.flag.replace("--", "--no-", 1) if off else setting.flag
    return path, ""
