"""Where a file is no TOML, and why: the message with line and column. Pure.

Shows nothing of the file itself: what it says may be secret, and the message goes into logs.
"""

from __future__ import annotations

import re

NOT_CLOSED = "a text is not closed with its quote on this line"
PLAINER = {
    "Illegal character '\\n'": NOT_CLOSED,
    "Found invalid character '\\n'": NOT_CLOSED,
    "Cannot overwrite a value": "this key has a value already",
}
"""What tomllib says of mistakes that are often made, and what it means."""

_PLACE = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_TABLE = re.compile(r"""\(((?:'[^']*'|"[^"]*")(?:, (?:'[^']*'|"[^"]*"))*),?\)""")
_QUOTES = re.compile(r"""['"](, ['"])?""")


def syntax_error(text: str, error: Exception) -> str:
    """`line 4, column 11: Invalid value`, of what tomllib raised for this text. A few errors, as of a
    number with thousands of digits, have no place, and are said without."""
    said = str(error)
    if isinstance(error, RecursionError):
        return "tables or arrays are nested too deeply"
    found = _PLACE.search(said)
    if found is None:
        return said
    what = _tables(said[: found.start()])
    where = f"line {found['line']}, column {found['column']}"
    if not found["line"]:
        where = f"{place(text, len(text))}, where the file ends"
    return f"{where}: {PLAINER.get(what, what)}"


def not_utf8(raw: bytes, start: int) -> str:
    """The message for a byte at `start` that is no UTF-8."""
    before = raw[:start].decode("utf-8-sig", "replace")
    return f"{place(before, len(before))}: expected UTF-8, got the byte 0x{raw[start]:02x}"


def place(text: str, at: int) -> str:
    """Line and column, as editors count them: from 1, columns in characters."""
    line_start = text.rfind("\n", 0, at) + 1
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - line_start + 1}"


def _tables(said: str) -> str:
    """tomllib shows a table's name as a Python tuple."""
    return _TABLE.sub(lambda found: "[" + _QUOTES.sub(_dot, found[1]) + "]", said)


def _dot(found: re.Match[str]) -> str:
    return "." if found[1] else ""
