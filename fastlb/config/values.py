"""One value of each kind of setting, from TOML or a flag to the model; back is `write_values`.

Knows the kinds and their spelling; not which settings there are, nor where in a file one stands. A
wrong value raises ValueError with what was expected and what was there.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterable
from decimal import Decimal
from ipaddress import ip_network
from typing import Any, TypeVar

from fastlb.config.write_values import OFF, UNITS, format_bytes, format_duration, plain_number
from fastlb.model.address import Address, parse_address
from fastlb.model.settings import Kind, Setting

T = TypeVar("T")

SIZES = {
    "": 1,
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KIB": 1024,
    "MIB": 1024**2,
    "GIB": 1024**3,
}
NETWORKS_EXAMPLE = '["10.0.0.0/8", "::1"]'
COMMAND_EXAMPLE = '["uvicorn", "app:app", "--uds", "{socket}"]'
_LONGEST = 365 * 86400.0
_MOST = {"count": 2**31 - 1, "number": 2**53, "bytes": 2**53, "duration": _LONGEST}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d+)?) ?(ms|s|m|h|d)", re.ASCII)
_BYTES = re.compile(r"(\d{1,18}(?:\.\d{1,18})?) ?([KMG]i?B|B|)", re.ASCII | re.IGNORECASE)
_HALF_A_UNIT = re.compile(r"(\d{1,18}(?:\.\d{1,18})?) ?([KMG])(i?)", re.ASCII | re.IGNORECASE)
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NOT_FOR_EXEC = re.compile(r"[\x00\ud800-\udfff]")
_VARIABLE = re.compile(r"[!-<>-~]+")


class WrongItems(ValueError):
    """What is wrong with single items of a list or table: each one's index or key, and a message."""

    def __init__(self, found: list[tuple[int | str, str]]) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.found = found


def from_toml(declared: Setting, raw: object) -> Any:
    """The model's value of what stands in a TOML file. Raises WrongItems where only items are wrong."""
    if declared.optional and raw == OFF:
        return None
    return _READERS[declared.kind](declared, raw)


def from_flag(declared: Setting, text: str) -> Any:
    """The model's value of a flag's text: the same spelling, but numbers and lists come as text."""
    raw: object = text
    if declared.kind == "count" and re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        raw = int(text)
    elif declared.kind == "switch" and text in ("on", "off"):
        raw = text == "on"
    elif declared.kind == "networks":
        raw = [part.strip() for part in text.split(",") if part.strip()]
    return from_toml(declared, raw)


def got(raw: object) -> str:
    """A value as it stood in the file, short enough for a message."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, str):
        shown = raw if len(raw) <= 60 else raw[:57] + "..."
        return json.dumps(shown, ensure_ascii=False)
    if isinstance(raw, list):
        return "a list"
    return "a table" if isinstance(raw, dict) else str(raw)


def wrong(expected: str, raw: object) -> ValueError:
    return ValueError(f"expected {expected}, got {got(raw)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "web"?` where something known is near, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def read_text(raw: object, expected: str = "one line of text") -> str:
    if not isinstance(raw, str) or not raw or _CONTROL.search(raw):
        raise wrong(expected, raw)
    return raw


def read_count(raw: object, least: int, most: int | None = None) -> int:
    if (
        not isinstance(raw, int)
        or isinstance(raw, bool)
        or raw < least
        or raw > (_MOST["count"] if most is None else most)
    ):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise wrong(f"a whole number {bounds}", raw)
    return raw


def read_choice(raw: object, choices: Iterable[str]) -> str:
    listed = list(choices)
    if raw not in listed:
        hint = did_you_mean(raw, listed) if isinstance(raw, str) else ""
        raise ValueError(str(wrong(f"one of {', '.join(listed)}", raw)) + hint)
    return str(raw)


def read_network(raw: object) -> str:
    """A CIDR, or one address, as the standard library writes it."""
    try:
        return str(ip_network(read_text(raw)))
    except ValueError:
        pass
    try:
        near = f'; did you mean "{ip_network(str(raw), strict=False)}"?' if "/" in str(raw) else ""
    except ValueError:
        near = ""
    raise ValueError(str(wrong("a network such as 10.0.0.0/8 or ::1", raw)) + near)


def read_number(raw: object, expected: str) -> float:
    """A finite number, with or without a fraction; whole ones no larger than a float holds exactly."""
    if not isinstance(raw, int | float) or isinstance(raw, bool) or not abs(raw) <= 2**53:
        raise wrong(expected, raw)
    return float(raw)


def read_argument(raw: object) -> str:
    """One word of a command: any text that a program can be given."""
    if not isinstance(raw, str):
        raise ValueError(f"{wrong('text', raw)}{_quoted(raw)}")
    if _NOT_FOR_EXEC.search(raw):
        raise wrong("UTF-8 text without NUL", raw)
    return raw


def _text(declared: Setting, raw: object) -> str:
    return read_text(raw)


def _address(declared: Setting, raw: object) -> Address:
    return parse_address(read_text(raw, "HOST:PORT or unix:/path"))


def _count(declared: Setting, raw: object) -> int:
    most = None if declared.most is None else int(declared.most)
    return read_count(raw, int(declared.least or 0), most)


def _bytes(declared: Setting, raw: object) -> int:
    size: float | None = None
    if isinstance(raw, int) and not isinstance(raw, bool):
        size = raw
    elif isinstance(raw, str) and (found := _BYTES.fullmatch(raw)):
        exact = Decimal(found[1]) * SIZES[found[2].upper()]
        size = int(exact) if exact == int(exact) else None
    if size is None:
        expected = "a size such as 4096, 64KiB or 1MB"
        raise ValueError(f"{wrong(expected, raw)}{size_meant(raw)}")
    _within(declared, size, raw, "a size", lambda bound: format_bytes(int(bound)))
    return int(size)


def size_meant(raw: object) -> str:
    """A hint for `512M`: whether that is a decimal or a binary unit is for the user to say."""
    found = _HALF_A_UNIT.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        return ""
    number, unit = found[1], found[2].upper()
    decimal = "" if found[3] else f"{number}{unit}B or "
    return f"; did you mean {decimal}{number}{unit}iB?"


def _duration(declared: Setting, raw: object) -> float:
    found = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        raise ValueError(str(wrong("a duration such as 500ms, 2s or 1m", raw)) + _quoted(raw, "s"))
    seconds = float(found[1]) * UNITS[found[2]]
    _within(declared, seconds, raw, "a duration", format_duration)
    return seconds


def _number(declared: Setting, raw: object) -> float:
    value = read_number(raw, "a number")
    _within(declared, value, raw, "a number", lambda bound: str(plain_number(bound)))
    return value


def _within(declared: Setting, value: float, raw: object, what: str, show: Any) -> None:
    least = declared.least or 0
    most = _MOST[declared.kind] if declared.most is None else declared.most
    if value < least and declared.most is None:
        raise wrong(f"{what} of at least {show(float(least))}", raw)
    if value < least or value > most:
        raise wrong(f"{what} from {show(float(least))} to {show(float(most))}", raw)


def _quoted(raw: object, unit: str = "") -> str:
    """A hint for a number where a text belongs."""
    if not isinstance(raw, int | float) or isinstance(raw, bool) or raw < 0:
        return ""
    with_unit = " with its unit" if unit else ""
    return f'; put it in quotes{with_unit}: "{raw}{unit}"'


def _switch(declared: Setting, raw: object) -> bool:
    if not isinstance(raw, bool):
        raise wrong("true or false", raw)
    return raw


def _choice(declared: Setting, raw: object) -> str:
    return read_choice(raw, declared.choices)


def _ranges(declared: Setting, raw: object) -> tuple[tuple[int, int], ...]:
    least, most = int(declared.least or 0), int(declared.most or _MOST["count"])
    expected = f"numbers from {least} to {most} such as 200-399,404"
    if not isinstance(raw, str):
        raise ValueError(str(wrong(expected, raw)) + _quoted(raw))
    ranges = []
    for part in raw.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise wrong(expected, raw)
        first = int(found[1])
        last = int(found[2] or first)
        if not least <= first <= last <= most:
            raise wrong(expected, raw)
        ranges.append((first, last))
    return tuple(ranges)


def _networks(declared: Setting, raw: object) -> tuple[str, ...]:
    return _items(raw, NETWORKS_EXAMPLE, read_network)


def _texts(declared: Setting, raw: object) -> tuple[str, ...]:
    if isinstance(raw, str):
        raise ValueError(f"{wrong('a list', raw)}{_as_list(raw)}")
    return _items(raw, COMMAND_EXAMPLE, read_argument)


def _as_list(command: str) -> str:
    """A hint for a command in one text: the list to write, where a shell would see one."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    listed = ", ".join(json.dumps(word, ensure_ascii=False) for word in words)
    return f"; write [{listed}]" if words else ""


def _choices(declared: Setting, raw: object) -> tuple[str, ...]:
    example = f'["{declared.choices[0]}"]'
    chosen = _items(raw, example, lambda item: read_choice(item, declared.choices))
    if not chosen:
        raise ValueError(f"expected one at least of {', '.join(declared.choices)}, got none")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"expected each one once, got {', '.join(chosen)}")
    return chosen


def _percents(declared: Setting, raw: object) -> tuple[int, ...]:
    listed = _items(raw, "[25, 50]", lambda item: read_count(item, 1, 100))
    for before, after in itertools.pairwise(listed):
        if after <= before:
            raise ValueError(f"expected growing percentages, got {after} after {before}")
    return listed


def _items(raw: object, example: str, read: Callable[[object], T]) -> tuple[T, ...]:
    if not isinstance(raw, list):
        raise wrong(f"a list such as {example}", raw)
    found: list[T] = []
    problems: list[tuple[int | str, str]] = []
    for n, item in enumerate(raw):
        try:
            found.append(read(item))
        except ValueError as error:
            problems.append((n, str(error)))
    if problems:
        raise WrongItems(problems)
    return tuple(found)


def _environment(declared: Setting, raw: object) -> tuple[tuple[str, str], ...]:
    """Sorted by name, since the order says nothing. No message shows a value: it may be a secret."""
    if not isinstance(raw, dict):
        raise ValueError('expected a table such as { MODE = "prod" }')
    problems: list[tuple[int | str, str]] = []
    for name, value in raw.items():
        if not _VARIABLE.fullmatch(name):
            problems.append((name, "expected a name of ASCII characters, without spaces and ="))
        elif not isinstance(value, str):
            problems.append((name, "expected text; put the value in quotes"))
        elif _NOT_FOR_EXEC.search(value):
            problems.append((name, "expected text without NUL"))
    if problems:
        raise WrongItems(problems)
    return tuple(sorted(raw.items()))


_READERS: dict[Kind, Callable[[Setting, object], Any]] = {
    "text": _text,
    "path": _text,
    "address": _address,
    "count": _count,
    "bytes": _bytes,
    "duration": _duration,
    "switch": _switch,
    "choice": _choice,
    "ranges": _ranges,
    "networks": _networks,
    "texts": _texts,
    "number": _number,
    "choices": _choices,
    "percents": _percents,
    "environment": _environment,
}
