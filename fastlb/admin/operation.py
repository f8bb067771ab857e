"""Operation and Parameter: how a thing that can be asked over the Admin API is declared, and how what
comes in is checked by that. Pure; which there are is in `operations`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["string", "integer", "number", "amount", "boolean", "strings"]
_EXPECTED: dict[Kind, str] = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "amount": "a number, or a text such as 50%",
    "boolean": "true or false",
    "strings": "a list of texts",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing that a request says. `key` is its name in the command's request, where it differs."""

    name: str
    kind: Kind
    about: str
    required: bool = False
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    key: str = ""

    def read(self, value: object) -> object:
        """The value. Raises ValueError with what was expected."""
        right = {
            "string": isinstance(value, str),
            "integer": isinstance(value, int) and not isinstance(value, bool),
            "number": isinstance(value, int | float) and not isinstance(value, bool),
            "amount": isinstance(value, int | str) and not isinstance(value, bool),
            "boolean": isinstance(value, bool),
            "strings": isinstance(value, list) and all(isinstance(one, str) for one in value),
        }[self.kind]
        if not right:
            raise ValueError(f"{self.name}: expected {_EXPECTED[self.kind]}, got {_shown(value)}")
        for one in value if isinstance(value, list) else [value]:
            if self.choices and one not in self.choices:
                listed = ", ".join(self.choices)
                raise ValueError(f"{self.name}: expected one of {listed}, got {_shown(one)}")
        if isinstance(value, int | float) and not (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
        ):
            bounds = f"from {self.least:g}" if self.least is not None else ""
            bounds += f" to {self.most:g}" if self.most is not None else ""
            raise ValueError(f"{self.name}: expected {bounds.strip()}, got {_shown(value)}")
        return value

    def from_query(self, text: str) -> object:
        """The same of the text in a query. Raises ValueError."""
        value: object = text
        if self.kind in ("integer", "number", "boolean"):
            try:
                value = json.loads(text)
            except ValueError:
                value = text
        elif self.kind == "strings":
            value = text.split(",")
        return self.read(value)


@dataclass(frozen=True, slots=True)
class Operation:
    """`in_path` are the parts of the path, `{group}`, as they are called in the command's request.
    `each` names a list of the body: the command is asked once for each item, under the other name."""

    command: str
    method: Literal["GET", "POST"]
    path: str
    summary: str
    tag: str
    in_path: Mapping[str, str] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    fixed: Mapping[str, object] = field(default_factory=dict)
    each: tuple[str, str] | None = None

    @property
    def id(self) -> str:
        """Of the OpenAPI document, unique."""
        return self.command.replace("-", "_")

    def requests(
        self, in_path: Mapping[str, str], given: Mapping[str, object]
    ) -> list[dict[str, Any]]:
        """What the command is asked. `given` is what the query or the body says, already of the right
        kinds for a body. Raises ValueError where it is not what the operation takes."""
        known = {one.name: one for one in self.parameters}
        unknown = [name for name in given if name not in known]
        if unknown:
            takes = f"takes {', '.join(known)}" if known else "takes nothing"
            raise ValueError(f"{unknown[0]}: is not known here; {self.path} {takes}")
        for name, parameter in known.items():
            if parameter.required and given.get(name) is None:
                raise ValueError(f"{name}: is missing: expected {_EXPECTED[parameter.kind]}")
        request: dict[str, Any] = {"command": self.command, **self.fixed}
        request |= {self.in_path[name]: value for name, value in in_path.items()}
        for name, value in given.items():
            if value is None:
                continue
            if self.method == "GET" and isinstance(value, str):
                value = known[name].from_query(value)
            else:
                value = known[name].read(value)
            request[known[name].key or name] = value
        if self.each is None:
            return [request]
        listed, single = self.each
        items = request.pop(listed, None)
        if items is None:
            return [request]
        if not items:
            raise ValueError(f"{listed}: expected one at least")
        return [{**request, single: item} for item in items]


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
