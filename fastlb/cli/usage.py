"""Wrong usage of a command, told with that command's own usage and a guess at what was meant."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

POSITIONALS = {"run": "--config", "check": "--config", "status": "--name"}
"""The flag that a word without one was probably meant for."""


class CommandParser(argparse.ArgumentParser):
    """The parser of one command: what it does not know it refuses itself.

    argparse hands such words up to the parser of `fastlb`, which knows no command's flags.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._refusal(unknown))
        return known, unknown

    def error(self, message: str) -> Any:
        super().error(f"{message}\n{self.prog} --help shows all of them")

    def _refusal(self, unknown: list[str]) -> str:
        """Of what is unknown the flags, since a word after one is its value; else the words."""
        flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        if flags:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            return "; ".join(f"there is no flag {flag}{near(flag, known)}" for flag in flags)
        flag = POSITIONALS.get(self.prog.rpartition(" ")[2])
        use = f"; use {flag} {unknown[0]}" if flag else ""
        return f'expected a flag, got "{unknown[0]}"{use}'


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
