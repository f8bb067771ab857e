"""One value of each kind of setting, from the model to what a file or a flag says.

Knows the kinds and their spelling; not which settings there are. Reading it gives the same value.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from fastlb.model.settings import Setting

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
OFF = "off"


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
        case "networks" | "texts" | "choices" | "percents":
            return list(value)
        case "address":
            return str(value)
        case "environment":
            return dict(value)
        case "number":
            return plain_number(value)
        case _:
            return value


def plain_number(value: float) -> int | float:
    """60 and not 60.0, where that is the same."""
    return int(value) if value == int(value) else value


def to_flag_text(declared: Setting, value: Any) -> str:
    """What a person reads and types for a value."""
    plain = to_toml_value(declared, value)
    if isinstance(plain, bool):
        return "on" if plain else "off"
    if isinstance(plain, list):
        return ",".join(plain) or "none"
    return str(plain)


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
