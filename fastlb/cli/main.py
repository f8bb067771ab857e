"""`fastlb COMMAND`: finds the command, runs it, turns what it raises into a message and a status.

A command's module is imported when the command is asked for, so that `fastlb --help` is quick and
each process holds only what it needs.
"""

from __future__ import annotations

import argparse
import importlib
import keyword
import os
import sys
from collections.abc import Callable
from typing import Any

from fastlb import __version__
from fastlb.cli.usage import CommandParser, near, with_negative_values
from fastlb.errors import FastlbError

SECTIONS = {
    "to run an instance": {
        "run": "balance HTTP and TCP over health-checked targets until stopped",
        "check": "say every error of a configuration; --print shows all defaults",
        "reload": "let an instance read its configuration anew, and deploy it",
        "upgrade": "let this release take over from a running one, without loss",
        "demo": "try it out on http://127.0.0.1:8080, in front of demo workers",
    },
    "to see what it does": {
        "status": "show listeners, targets, auto scaling groups and workers",
        "top": "watch it live, drain targets and scale groups by keys",
        "activity": "show what auto scaling groups did, with cause and outcome",
        "logs": "show what fastlb and the instances log, or the access log",
        "why": "show decisions of scaling, health and routing, with their figures",
    },
    "for one target": {
        "drain": "give it no new requests and let it finish those that it has",
        "undrain": "give a drained one requests again",
        "disable": "give it neither requests nor health checks",
        "enable": "check a disabled one again, and give it requests once it passes",
        "weight": "set how much of its group's requests it gets",
        "target": "add one to a group or remove it, whatever is configured",
    },
    "for an auto scaling group": {
        "scale": "set how many instances a group should have",
        "refresh": "replace a group's instances by new ones, or cancel or undo that",
        "suspend": "let a group launch, terminate or scale no more",
        "resume": "let it do again what was suspended",
    },
    "for one instance of a group": {
        "protect": "protect it from scale-in and refresh, or no more",
        "standby": "take it out of service and keep it running",
        "return": "bring it back from standby",
        "terminate": "end it, drained first",
    },
    "to learn about it": {
        "help": "show a topic, such as configuration, upgrade or systemd",
        "completion": "print what lets bash, zsh or fish complete commands and flags",
    },
}
COMMANDS = {name: help for section in SECTIONS.values() for name, help in section.items()}
WITH_APP_COMMAND = ("run", "check")
"""Those that take the app's own command after `--`."""
EPILOG = """\
fastlb run --listen http://127.0.0.1:8080 --target 127.0.0.1:9001 --target 127.0.0.1:9002
fastlb run --listen http://127.0.0.1:8080 --min 2 --max 8 -- uvicorn app:app --uds {socket}
fastlb run --config fastlb.toml
fastlb scale 4 --wait

fastlb COMMAND --help shows the flags of one, fastlb help the topics.
Exit status: 0 after a clean stop, 1 for a failure at run time, 2 for usage or configuration.
"""


def run(argv: list[str]) -> int:
    """Run the command line `argv` (without the program's name); returns the exit status."""
    try:
        parser = _parser(argv)
        if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
            parser.error(f'there is no command "{argv[0]}"{near(argv[0], COMMANDS)}')
        words, app_command = _split_at_dashes(argv)
        if app_command is not None and words[:1] and words[0] not in WITH_APP_COMMAND:
            parser.error(f"{words[0]} takes no command after --; fastlb run -- COMMAND does")
        if app_command == []:
            parser.error(
                "expected the app's command after --, such as -- uvicorn app:app --uds {socket}"
            )
        arguments = parser.parse_args(with_negative_values(words))
        arguments.app_command = tuple(app_command or ())
        arguments.words = tuple(argv[1:])
        command: Callable[[argparse.Namespace], int] = arguments.command
        status = command(arguments)
        sys.stdout.flush()
        return status
    except SystemExit as leaving:  # argparse: after --help, --version and usage errors
        return leaving.code if isinstance(leaving.code, int) else 1
    except FastlbError as error:
        for line in str(error).splitlines():
            print(f"fastlb: {line}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # Whoever read our output has seen enough (`fastlb status | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _split_at_dashes(argv: list[str]) -> tuple[list[str], list[str] | None]:
    """What stands before a bare `--` and after it; None where there is no `--`. Done here, since
    argparse would take the words after it for ours."""
    if "--" not in argv:
        return argv, None
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    """With the flags of the one command that `argv` asks for."""
    return _parser_with(tuple(argv[:1]), "--" not in argv)


def parser_of_all() -> argparse.ArgumentParser:
    """With the flags of every command."""
    return _parser_with(tuple(COMMANDS), refuse_app_command=False)


def _parser_with(wanted: tuple[str, ...], refuse_app_command: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastlb",
        usage="fastlb [-h] [--version] COMMAND ...",
        description=_description(),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastlb {__version__}")
    commands = parser.add_subparsers(
        prog="fastlb",
        metavar="COMMAND",
        required=True,
        help=argparse.SUPPRESS,  # argparse would list them without their sections
        parser_class=CommandParser,
    )
    for name, help in COMMANDS.items():
        # argparse would list them a second time; whoever asks for all wants to know what each is.
        shown: dict[str, Any] = {"help": help} if len(wanted) > 1 else {}
        command = commands.add_parser(
            name,
            **shown,
            description=help[0].upper() + help[1:] + ".",
            formatter_class=_formatter,
            allow_abbrev=False,
        )
        if name in wanted:
            named = f"{name}_" if keyword.iskeyword(name) else name
            command.takes_app_command = name in WITH_APP_COMMAND and refuse_app_command
            module = importlib.import_module(f"fastlb.cli.{named}")
            module.add_arguments(command)
            command.set_defaults(command=getattr(module, named))
    return parser


def _description() -> str:
    """The commands in their sections."""
    width = max(map(len, COMMANDS))
    lines = ["A TCP/HTTP load balancer with auto scaling for one Linux host."]
    for title, section in SECTIONS.items():
        lines += ["", f"{title}:", *(f"  {name:{width}}  {help}" for name, help in section.items())]
    return "\n".join(lines)


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30)
