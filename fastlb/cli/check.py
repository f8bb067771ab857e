"""`fastlb check`: is the configuration right, and what does it come to?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from fastlb.auto_scaling.instance import why_not_startable
from fastlb.cli.flags import add_configuration_flags, config_path, configuration_of
from fastlb.cli.wording import counted
from fastlb.config import to_toml
from fastlb.errors import ConfigError
from fastlb.model.configuration import Configuration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "fastlb check [--config FILE] [--print [--show-env]] [FLAGS OF fastlb run] [-- COMMAND ...]"
    )
    parser.add_argument(
        "--print",
        action="store_true",
        help="write the effective configuration, defaults included, as TOML to standard output",
    )
    parser.add_argument(
        "--show-env",
        action="store_true",
        help="with --print, show the values of environment variables, which are hidden otherwise",
    )
    add_configuration_flags(parser)


def check(arguments: argparse.Namespace) -> int:
    path = config_path(arguments)
    source = f"{path}: " if path else ""
    try:
        loaded = configuration_of(arguments)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        print(f"{source}{counted(len(error.problems), 'error')}", file=sys.stderr)
        return error.exit_status
    for warning in (*loaded.warnings, *not_here(loaded.configuration)):
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.print:
        print(to_toml(loaded.configuration, show_env=arguments.show_env), end="")
    else:
        print(f"{source}ok: {summary(loaded.configuration)}")
    return 0


def not_here(configuration: Configuration) -> Iterator[str]:
    """What launch templates need and this host has not; where it will run may be another."""
    for group in configuration.auto_scaling_groups:
        trouble = why_not_startable(group.launch_template)
        if trouble:
            yield f"auto_scaling_groups.{group.name}.launch_template: {trouble}"


def summary(configuration: Configuration) -> str:
    listeners, groups = configuration.listeners, configuration.target_groups
    scaled = configuration.auto_scaling_groups
    return ", ".join(
        [
            counted(len(listeners), "listener"),
            counted(sum(len(one.rules) for one in listeners), "rule"),
            counted(len(groups), "target group"),
            counted(sum(len(one.targets) for one in groups), "target"),
            *([counted(len(scaled), "auto scaling group")] if scaled else []),
        ]
    )
