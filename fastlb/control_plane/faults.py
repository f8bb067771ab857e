"""All that stands against a start or a change, found before anything is changed, and said at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastlb.errors import FastlbError


class Faults:
    """What was found so far, in its order. Empty where nothing was."""

    def __init__(self) -> None:
        self._found: list[FastlbError] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """What is raised inside ends the block, and is no reason not to look at the rest."""
        try:
            yield
        except FastlbError as error:
            self._found.append(error)

    def note(self, text: str) -> None:
        self._found.append(FastlbError(text))

    def refuse(self) -> None:
        """Raise it, if it is one; of several a FastlbError with a line for each, and the cause of the
        first that has one."""
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            lines = dict.fromkeys(map(str, self._found))
            cause = next((one.__cause__ for one in self._found if one.__cause__), None)
            raise FastlbError("\n".join(lines)) from cause
