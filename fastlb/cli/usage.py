"""Wrong usage of a command, told with that command's own usage and a guess at what was meant.

Also the words that a command takes without a flag: argparse hands them out wrongly where one may be
left out and flags stand between them.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

POSITIONALS = dict.fromkeys(("status", "reload"), "--name")
"""Of commands that take no word: the flag that one was probably meant for."""
HELP_WIDTH = 80
MEANT = (
    (re.compile(r".*\.toml"), "--config"),
    (re.compile(r"[a-z]+://.*"), "--listen"),
    (re.compile(r"unix:.*|[^/]*:\d+(,.*)?"), "--target"),
)
"""What such a word looks like, and the flag that it was meant for where the command has it."""
_PROGRAM = re.compile(r"[A-Za-z_./~].*")
_PLAIN_WORD = re.compile(r"[\w@%+=:,./{}-]+")
"""What a shell passes on as it is; braces without a comma too."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word that a command takes; `read` raises ValueError with a sentence for another one."""

    dest: str
    shown: str
    help: str
    optional: bool = False
    read: Callable[[str], object] = str


class CommandParser(argparse.ArgumentParser):
    """The parser of one command: what it does not know it refuses itself.

    argparse hands such words up to the parser of `fastlb`, which knows no command's flags.
    """

    takes_app_command = False
    """Whether the app's own command may stand after `--`, and no `--` was given."""
    _words: tuple[Word, ...] = ()

    def take(self, *words: Word) -> None:
        """Let the command have these words, in this order and wherever flags stand."""
        self._words = words
        width = max(len(word.shown) for word in words)
        lines = [
            textwrap.fill(
                word.help,
                HELP_WIDTH,
                initial_indent=f"  {word.shown:{width}}  ",
                subsequent_indent=" " * (width + 4),
            )
            for word in words
        ]
        self.description = "\n".join([f"{self.description or ''}\n", *lines])

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self.takes_app_command:
            self._refuse_command_without_dashes(list(args or ()))
        known, unknown = super().parse_known_args(args, namespace)
        flags = [word for word in unknown if re.match(r"-(?!\d)", word)]
        if flags or (unknown and not self._words):
            self.error(self._refusal(unknown, flags))
        try:
            values = assign(self._words, unknown)
        except ValueError as error:
            self.error(str(error))
        for name, value in values.items():
            setattr(known, name, value)
        return known, []

    def error(self, message: str) -> Any:
        super().error(f"{message}\n{self.prog} --help shows all of them")

    def _refusal(self, unknown: list[str], flags: list[str]) -> str:
        """Of what is unknown the flags, since a word after one is its value; else the words."""
        if flags:
            names = [word.partition("=")[0] for word in flags]
            known = [name for name in self._option_string_actions if name.startswith("--")]
            return "; ".join(f"there is no flag {name}{near(name, known)}" for name in names)
        meant = [POSITIONALS.get(self.prog.rpartition(" ")[2], "")]
        meant += [flag for shape, flag in MEANT if shape.fullmatch(unknown[0])]
        flag = next((one for one in meant if one in self._option_string_actions), None)
        use = f"; use {flag} {unknown[0]}" if flag else ""
        return f'expected a flag, got "{unknown[0]}"{use}'

    def _refuse_command_without_dashes(self, args: list[str]) -> None:
        """Before argparse looks for flags in it: it would refuse the app's, or take them for ours."""
        at = self._first_word(args)
        if at is None or any(shape.fullmatch(args[at]) for shape, _ in MEANT):
            return
        if _PROGRAM.fullmatch(args[at]):
            line = shell_line([*self.prog.split(), *args[:at], "--", *args[at:]])
            self.error(
                f"the app's command stands after --, the flags of fastlb before that:\n  {line}"
            )

    def _first_word(self, args: list[str]) -> int | None:
        """Where a word stands that is no flag of this command and no flag's value; None behind a flag
        that there is not, whose value it may be."""
        at = 0
        while at < len(args):
            word = args[at]
            if not word.startswith("-"):
                return at
            action = self._option_string_actions.get(word)
            if action is not None:
                at += 1 if action.nargs == 0 else 2
            elif word.partition("=")[0] in self._option_string_actions or (
                not word.startswith("--") and word[:2] in self._option_string_actions
            ):
                at += 1
            else:
                return None
        return None


def shell_line(words: Iterable[str]) -> str:
    """As one types it; `{socket}` without quotes, which it needs in no shell."""
    return " ".join(word if _PLAIN_WORD.fullmatch(word) else shlex.quote(word) for word in words)


def assign(words: Sequence[Word], given: Sequence[str]) -> dict[str, object]:
    """What each of `words` is, None where it was left out. Raises ValueError with a sentence.

    From the last to the first: an optional one gets what is left over and makes sense.
    """
    rest = list(given)
    values: dict[str, object] = {}
    for at, word in reversed(list(enumerate(words))):
        values[word.dest] = None
        before = words[:at]
        if not rest or (word.optional and len(rest) <= sum(not one.optional for one in before)):
            if not word.optional:
                raise ValueError(f"expected {word.shown}: {word.help}")
            continue
        try:
            values[word.dest] = word.read(rest[-1])
        except ValueError:
            if word.optional and len(rest) <= len(before):
                continue
            raise
        rest.pop()
    if rest:
        shape = " ".join(f"[{word.shown}]" if word.optional else word.shown for word in words)
        raise ValueError(f"expected {shape}, got {len(given)} words: {' '.join(given)}")
    return values


def near(word: str, known: Iterable[str]) -> str:
    """`; did you mean --workers?`, or nothing where nothing is near."""
    listed = list(known)
    begun = [one for one in listed if one.startswith(word)] if len(word) > 3 else []
    found = difflib.get_close_matches(word, listed, n=1, cutoff=0.6) or begun[:1]
    return f"; did you mean {found[0]}?" if found else ""


def with_negative_values(argv: list[str]) -> list[str]:
    """`--idle-timeout -1s` as `--idle-timeout=-1s`: argparse would take -1s for a flag and say no
    more than that a value is missing."""
    joined: list[str] = []
    for word in argv:
        before = joined[-1] if joined else ""
        if re.match(r"-\.?\d", word) and re.fullmatch(r"--[a-z-]+|-[a-z]", before):
            joined[-1] = f"{before}={word}" if before.startswith("--") else before + word
        else:
            joined.append(word)
    return joined
