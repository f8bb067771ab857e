"""How a setting is declared: once, on the field of the model that it sets.

The flag, the TOML key, `--help`, `fastlb check --print` and the tables of the README are all derived
from these declarations. Knows no parser and no command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal

Kind = Literal[
    "text",
    "texts",
    "count",
    "number",
    "bytes",
    "duration",
    "switch",
    "choice",
    "choices",
    "ranges",
    "percents",
    "networks",
    "path",
    "address",
    "environment",
]
"""How a value is written: `duration` is seconds in the model and `500ms`, `2s`, `1m` in a file;
`bytes` is a number in the model and `64KiB` in a file; `ranges` are inclusive pairs, `200-399,404`;
`number` may have a fraction; `address` is an Address in the model and `HOST:PORT` or `unix:/path` in a
file; `percents` is a list of growing whole numbers up to 100; `environment`
is a table of texts in a file and pairs in the model."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is declared of one setting besides its name, type and default."""

    kind: Kind
    help: str
    why: str
    flag: str | None = None
    short: str | None = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    optional: bool = False


def setting(
    default: Any,
    kind: Kind,
    help: str,
    *,
    why: str,
    flag: str | None = None,
    short: str | None = None,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    optional: bool = False,
) -> Any:
    """Declare a dataclass field that a user may set.

    `why` is the reason for the default. `least` and `most` are inclusive bounds in the model's unit.
    `optional` settings may be None (written `off` or left out).
    """
    declared = Setting(kind, help, why, flag, short, choices, least, most, optional)
    return field(default=default, metadata={"setting": declared})


def declared(cls: type) -> Iterator[tuple[Field[Any], Setting]]:
    """The settings of one model class, in the order of their declaration."""
    for item in fields(cls):
        found = item.metadata.get("setting")
        if found is not None:
            yield item, found


def default_of(item: Field[Any]) -> Any:
    """The default of a field that `setting` declared."""
    if item.default is MISSING:
        raise TypeError(f"{item.name} has no default")
    return item.default
