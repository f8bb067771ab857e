"""Text for a terminal of 80 columns or more, or for a pipe: tables, wrapped lines, amounts.

Knows nothing of what is shown. A `width` of None is a pipe, where a line may be as long as it likes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from fastlb.cli.wording import clean

INDENT = "  "
SHORTEST_REASON = 24


class Screen:
    """Where lines go: a terminal, with styles and a width, or a pipe, with neither."""

    def __init__(self, out: TextIO) -> None:
        self._console = _Console(file=out, highlight=False)
        self.width = self._console.width if self._console.is_terminal else None

    def show(self, lines: Iterable[Text]) -> None:
        """Write them at once: whoever reads a pipe waits for them."""
        for line in lines:
            self._console.print(line, soft_wrap=True)
        self._console.file.flush()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would leave with status 1; that nobody reads on is no failure."""
        raise


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Sequence[int],
    styles: Mapping[str, str],
) -> list[Text]:
    """The heads and one line a row; columns as wide as their widest cell.

    `right` are the columns that are set to the right; `styles` are of cells.
    """
    cleaned = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in [heads, *cleaned]) for n in range(len(heads))]

    def line(cells: Sequence[str], style: str | None = None) -> Text:
        made = Text()
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            made.append(INDENT)
            padded = cell.rjust(width) if n in right else cell.ljust(width)
            made.append(padded, style or styles.get(cell))
        made.rstrip()
        return made

    return [line(heads, "dim"), *(line(row) for row in cleaned)]


def wrapped(text: str, width: int | None, indent: str = INDENT, style: str = "") -> list[Text]:
    """One text on lines that fit, each behind `indent`; nothing in it may steer the terminal."""
    text = clean(text)
    if width is None:
        return [Text(indent + text, style)]
    room = max(width - len(indent), SHORTEST_REASON)
    return [Text(indent + part, style) for part in textwrap.wrap(text, room)]


def latency(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1e3:.2f}ms"
    return f"{seconds * 1e3:.0f}ms" if seconds < 1 else f"{seconds:.1f}s"


def size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f}{unit}" if unit == "B" or number >= 100 else f"{number:.1f}{unit}"


def span(seconds: float) -> str:
    """The two largest units of a time, as a person says it."""
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m")]
    said = [f"{number} {unit}" for number, unit in [*parts, (whole % 60, "s")]]
    first = next((n for n, (number, _) in enumerate(parts) if number), 3)
    return " ".join(said[first : first + 2])


def age(seconds: float) -> str:
    """A time in one unit, four characters or less up to 999 days: `99s`, `59m`, `47h`, `12d`."""
    for unit, length, most in (("s", 1, 100), ("m", 60, 100), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{int(seconds / length)}{unit}"
    return f"{int(seconds / 86400)}d"
