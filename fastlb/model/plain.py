"""Frozen model values to plain lists and dicts and back, for the table between the processes.

Works from the dataclasses' own type hints, so that a new field needs no second declaration here.
Knows no wire format.
"""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def to_plain(value: Any) -> Any:
    """Dataclasses become dicts that name their class under `is`, tuples become lists; the rest stays."""
    if is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Any] = {"is": type(value).__name__}
        for item in fields(value):
            plain[item.name] = to_plain(getattr(value, item.name))
        return plain
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(hint: Any, plain: Any) -> Any:
    """The value of type `hint` that `to_plain` made `plain` of. Raises ValueError on another shape."""
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(plain, dict) or plain.get("is") != hint.__name__:
            raise ValueError(f"expected a {hint.__name__}, got {plain!r}")
        hints = _hints(hint)
        return hint(**{name: from_plain(hints[name], plain[name]) for name in hints})
    origin = get_origin(hint)
    if origin is tuple:
        inner = get_args(hint)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(from_plain(inner[0], item) for item in plain)
        return tuple(from_plain(one, item) for one, item in zip(inner, plain, strict=True))
    if origin in (Union, types.UnionType):
        for one in get_args(hint):
            if _fits(one, plain):
                return from_plain(one, plain)
        raise ValueError(f"expected {hint}, got {plain!r}")
    if origin is Literal or isinstance(plain, hint) or (hint is float and isinstance(plain, int)):
        return plain
    raise ValueError(f"expected {hint}, got {plain!r}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(hint: Any, plain: Any) -> bool:
    if hint is type(None):
        return plain is None
    if is_dataclass(hint) and isinstance(hint, type):
        return isinstance(plain, dict) and plain.get("is") == hint.__name__
    return plain is not None and not isinstance(plain, dict)
