"""One value of each kind of setting, from TOML or a flag to the model and back.

Knows the kinds and their spelling; not which settings there are, nor where in a file one stands. A
wrong value raises ValueError with what was expected and what was there.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from decimal import Decimal
from ipaddress import ip_network
from typing import Any

from fastlb.model.settings import Setting

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
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
OFF = "off"
NETWORKS_EXAMPLE = '["10.0.0.0/8", "::1"]'
_LONGEST = 365 * 86400.0
_MOST = {"count": 2**31 - 1, "bytes": 2**53, "duration": _LONGEST}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d+)?) ?(ms|s|m|h|d)", re.ASCII)
_BYTES = re.compile(r"(\d{1,18}(?:\.\d{1,18})?) ?([KMG]i?B|B|)", re.ASCII | re.IGNORECASE)
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def from_toml(declared: Setting, raw: object) -> Any:
    """The model's value of what stands in a TOML file."""
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


def to_toml_value(declared: Setting, value: Any) -> object:
    """What stands in a TOML file for the model's value: reading it gives the same value again."""
    if value is None:
        return OFF
    match declared.kind:
        case "duration":
            return format_duration(value)
        case "bytes":
            return format_bytes(value)
        case "ranges":
            return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in value)
        case "networks":
            return list(value)
        case _:
            return value


def to_flag_text(declared: Setting, value: Any) -> str:
    """What a person reads and types for a value."""
    plain = to_toml_value(declared, value)
    if isinstance(plain, bool):
        return "on" if plain else "off"
    if isinstance(plain, list):
        return ",".join(plain) or "none"
    return str(plain)


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


def format_duration(seconds: float) -> str:
    """In the largest unit that takes a whole number; exact: reading it gives the same float."""
    for unit in ("d", "h", "m", "s", "ms"):
        number = round(seconds / UNITS[unit])
        if (number or unit == "s") and number * UNITS[unit] == seconds:
            return f"{number}{unit}"
    return f"{Decimal(repr(seconds)):f}s"


def format_bytes(size: int) -> str:
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


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


def _text(declared: Setting, raw: object) -> str:
    return read_text(raw)


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
        raise wrong("a size such as 4096, 64KiB or 1MB", raw)
    _within(declared, size, raw, "a size", lambda bound: format_bytes(int(bound)))
    return int(size)


def _duration(declared: Setting, raw: object) -> float:
    found = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        raise ValueError(str(wrong("a duration such as 500ms, 2s or 1m", raw)) + _quoted(raw, "s"))
    seconds = float(found[1]) * UNITS[found[2]]
    _within(declared, seconds, raw, "a duration", format_duration)
    return seconds


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
    if not isinstance(raw, list):
        raise wrong(f"a list such as {NETWORKS_EXAMPLE}", raw)
    return tuple(read_network(item) for item in raw)


_READERS = {
    "text": _text,
    "path": _text,
    "count": _count,
    "bytes": _bytes,
    "duration": _duration,
    "switch": _switch,
    "choice": _choice,
    "ranges": _ranges,
    "networks": _networks,
}
