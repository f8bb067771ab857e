"""`fastlb run`: an instance, until it is stopped."""

from __future__ import annotations

import argparse
import signal
import sys

from fastlb.cli.flags import add_configuration_flags, config_path, configuration_of, overrides_of
from fastlb.config import Loaded
from fastlb.config.differences import differences
from fastlb.config.overridden import overridden
from fastlb.errors import ConfigError

WHAT_TO_TYPE = [
    "run: there is nothing to listen on; type for example",
    "  fastlb run --listen http://127.0.0.1:8080 --target 127.0.0.1:9001 --target 127.0.0.1:9002",
    "  fastlb run --listen http://127.0.0.1:8080 -- uvicorn app:app --uds {socket}",
    "  fastlb run --config fastlb.toml",
    "or `fastlb demo` to see it work",
]
WITHOUT_LISTEN = (
    "run: there is nothing to listen on; add --listen http://127.0.0.1:8080, or --config FILE, "
    "before the --"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "fastlb run [--config FILE] [--listen URL ...] [--target ADDRESS ...] [FLAGS] "
        "[-- COMMAND ...]"
    )
    parser.add_argument(
        "--takeover",
        action="store_true",
        help="take over from the living instance of this name without losing a request, instead of "
        "refusing to start beside it; starts as ever where none lives (`fastlb help upgrade`)",
    )
    add_configuration_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    # Before the supervisor has its handlers these would end the process: they wait for those.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1})
    if not arguments.config and not arguments.listen:
        raise ConfigError([WITHOUT_LISTEN] if arguments.app_command else WHAT_TO_TYPE)
    loaded = configuration_of(arguments)
    for warning in loaded.warnings:
        print(f"fastlb: warning: {warning}", file=sys.stderr)

    # Not before the configuration is known to be right: a wrong one should be told at once.
    from fastlb.cli.worker_entry import worker_main
    from fastlb.control_plane.reload import Given, Source
    from fastlb.control_plane.supervisor import run_supervisor

    overrides = overrides_of(arguments)

    def given(loaded: Loaded) -> Given:
        return Given(loaded.configuration, loaded.of_file)

    source = Source(
        at_start=given(loaded),
        load=lambda: given(configuration_of(arguments)),
        differences=differences,
        overridden=lambda old, new: overridden(old, new, overrides),
        path=config_path(arguments),
    )
    return run_supervisor(
        loaded.configuration,
        worker_main,
        source,
        takes_over=arguments.takeover,
        arguments=arguments.words,
    )
