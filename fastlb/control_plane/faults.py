"""All that stands against a start or a change, found before anything is changed, and said at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastlb.errors import FastlbError


class Faults:
    """What was found so far, in its order. Empty where nothing was."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """What is raised inside ends the block, and is no reason not to look at the rest."""
        try:
            yield
        except FastlbError as error:
            self.note(str(error))

    def note(self, text: str) -> None:
        if text not in self._lines:
            self._lines.append(text)

    def refuse(self) -> None:
        """Raise FastlbError with all of them, a line each, if there are any."""
        if self._lines:
            raise FastlbError("\n".join(self._lines))
