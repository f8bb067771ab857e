"""Bytes that an Instance printed, cut into lines, and a line as it can be shown.

Pure: knows neither files nor logs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST_LINE = 64 * 1024
"""Bytes of a line without an end after which it is cut."""


def cut_lines(data: bytes, most: int) -> tuple[list[bytes], int]:
    """The first `most` whole lines, without their ends, and how many bytes they take.

    A line longer than MOST_LINE is cut into pieces, none of which is empty, and between characters of
    utf-8.
    """
    lines: list[bytes] = []
    start = 0
    while len(lines) < most:
        end = data.find(b"\n", start, start + MOST_LINE + 1)
        if end >= 0:
            lines.append(data[start:end])
            start = end + 1
        elif len(data) - start > MOST_LINE:
            end = start + MOST_LINE
            for _ in range(3):  # a character has three continuation bytes at most
                if data[end] & 0xC0 != 0x80:
                    break
                end -= 1
            lines.append(data[start:end])
            start = end
        else:
            break
    return lines, start


def groups_of(lines: Sequence[bytes], least: int) -> list[Sequence[bytes]]:
    """The lines in groups of a little more than `least` bytes."""
    groups: list[Sequence[bytes]] = []
    start = size = 0
    for number, line in enumerate(lines, 1):
        size += len(line) + 1
        if size >= least or number == len(lines):
            groups.append(lines[start:number])
            start, size = number, 0
    return groups


# Control characters but the tab, and those that turn the direction of writing: an Instance must
# not steer the terminal of whoever reads the log.
_STEERING = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def shown(line: bytes) -> str:
    """The line as text that is safe to show; what is not utf-8 or would steer is escaped."""
    text = line.removesuffix(b"\r").decode("utf-8", "backslashreplace")
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)
