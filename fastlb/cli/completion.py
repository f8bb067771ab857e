"""`fastlb completion SHELL`: what lets a shell complete commands, flags and their values.

Made from the same parser that reads them, so that it knows what the installed release knows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from fastlb.cli.asking import others
from fastlb.cli.flags import settings_with_flags
from fastlb.cli.usage import Word
from fastlb.control_plane.run_dir import run_dir_path
from fastlb.help import ORDER
from fastlb.model.auto_scaling import SUSPENDABLE

SHELLS = ("bash", "zsh", "fish")
NAMES = "names"
"""Not a shell: prints the instances that run, for the scripts."""
ABOUT = """\
For this shell:            eval "$(fastlb completion bash)"
for all of them, bash:     fastlb completion bash > ~/.local/share/bash-completion/completions/fastlb
zsh:                       fastlb completion zsh > ~/.zfunc/_fastlb    (a folder of $fpath)
fish:                      fastlb completion fish > ~/.config/fish/completions/fastlb.fish
"""
PREAMBLE = {
    "bash": """\
_fastlb_names() {
  compgen -W "$(fastlb completion names 2>/dev/null)" -- "$1"
}
""",
    "zsh": """\
_fastlb_names() {
  compadd -- ${(f)"$(fastlb completion names 2>/dev/null)"}
}
""",
}
RUNNING = {
    "bash": "_fastlb_names",
    "zsh": "_fastlb_names",
    "fish": "(fastlb completion names 2>/dev/null)",
}
"""How each shell asks for the instances that run."""
WORDS: dict[str, tuple[Sequence[str], ...]] = {
    "completion": (SHELLS,),
    "help": (ORDER,),
    "logs": (("reopen",),),
    "target": (("add", "remove"),),
    # A group may stand before it, where there is more than one.
    "suspend": (SUSPENDABLE, SUSPENDABLE),
    "resume": (SUSPENDABLE, SUSPENDABLE),
}
"""What may stand without a flag, word by word, where that is known beforehand."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "fastlb completion bash|zsh|fish"
    parser.epilog = ABOUT
    parser.take(Word("shell", "SHELL", "bash, zsh or fish", read=_shell))  # type: ignore[attr-defined]


def _shell(text: str) -> str:
    if text not in (*SHELLS, NAMES):
        raise ValueError(f'expected {", ".join(SHELLS[:-1])} or {SHELLS[-1]}, got "{text}"')
    return text


def completion(arguments: argparse.Namespace) -> int:
    if arguments.shell == NAMES:
        print("\n".join(others(run_dir_path("default"))))
        return 0
    sys.stdout.write(script(arguments.shell))
    return 0


def script(shell: str) -> str:
    """The script for one of SHELLS."""
    import shtab

    from fastlb.cli.main import parser_of_all

    parser = parser_of_all()
    for action in _actions(parser):
        _say_values(action, shtab.FILE)
    text: str = shtab.complete(parser, shell=shell, preamble=PREAMBLE.get(shell, ""))
    return text


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Of the parser and of all of its commands."""
    found = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            action.help = "command"  # what is not shown in --help would not be completed
            for name, command in action.choices.items():
                for n, words in enumerate(WORDS.get(name, ())):
                    command.add_argument(f"word {n}", choices=words, help="one of these")
                found += command._actions
    return found


def _say_values(action: Any, file: Any) -> None:
    """What may stand after a flag: argparse is not told, because fastlb reads values itself."""
    flags = {flag: setting for _, _, setting, flag in settings_with_flags()}
    for option in action.option_strings:
        setting = flags.get(option)
        if option == "--config" or (setting is not None and setting.kind == "path"):
            action.complete = file
        elif setting is not None and setting.choices and action.nargs != 0:
            action.choices = setting.choices
        elif option == "--name":
            action.complete = RUNNING
