"""What can be asked of an instance over the Admin API: one declared list, from which the routes, the
checks of what comes in and the OpenAPI document are made.

Each Operation is a command of the control socket, which answers it. Knows neither HTTP nor a command's
meaning. A new command is one entry here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fastlb.model.auto_scaling import SUSPENDABLE

Kind = Literal["string", "integer", "number", "amount", "boolean", "strings"]
_EXPECTED: dict[Kind, str] = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "amount": "a number, or a text such as 50%",
    "boolean": "true or false",
    "strings": "a list of texts",
}
LONGEST_WAIT = 20


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


_GROUP = {"group": "group"}
_INSTANCE = {"instance": "instance"}
_OF_GROUP = "/auto-scaling-groups/{group}"
_OF_INSTANCE = "/instances/{instance}"
_PROCESSES = Parameter(
    "processes",
    "strings",
    "the suspendable parts of a group",
    choices=SUSPENDABLE,
)
_HISTORY = (
    Parameter("limit", "integer", "the newest ones, so many at most", least=1, key="last"),
    Parameter("after", "integer", "only those with a greater number", least=0),
    Parameter("wait", "number", "seconds to wait for one", least=0, most=LONGEST_WAIT),
)
_TARGET = Parameter("target", "string", "its address, or the instance's id", required=True)
_TARGET_GROUP = Parameter("group", "string", "target group, where several have such a target")
_REASON = Parameter("reason", "string", "why, for whoever looks later")
_FORCE = Parameter(
    "force", "boolean", "also where the group is left without a target that can serve"
)
_OUT = (_TARGET, _TARGET_GROUP, _REASON, _FORCE)
_BACK = (_TARGET, _TARGET_GROUP, _REASON)

OPERATIONS: tuple[Operation, ...] = (
    Operation("status", "GET", "/status", "What `fastlb status` shows", "see"),
    Operation(
        "activity",
        "GET",
        "/activity",
        "What auto scaling did, the oldest first",
        "see",
        parameters=(*_HISTORY, Parameter("group", "string", "of this auto scaling group alone")),
    ),
    Operation(
        "why",
        "GET",
        "/decisions",
        "What was decided of health, routing and scaling, and why, the oldest first",
        "see",
        parameters=_HISTORY,
    ),
    Operation(
        "settled",
        "GET",
        f"{_OF_GROUP}/settled",
        "Whether the group is what it should be, and what it still does",
        "auto scaling",
        in_path=_GROUP,
        parameters=(
            Parameter("wait", "number", "seconds to wait for it", least=0, most=LONGEST_WAIT),
        ),
    ),
    Operation(
        "scale",
        "POST",
        f"{_OF_GROUP}/scale",
        "Set the desired capacity",
        "auto scaling",
        in_path=_GROUP,
        parameters=(
            Parameter("desired", "integer", "instances, from min to max", required=True, least=0),
        ),
    ),
    Operation(
        "refresh",
        "POST",
        f"{_OF_GROUP}/refresh",
        "Replace all instances by new ones; cancel that or roll it back",
        "auto scaling",
        in_path=_GROUP,
        parameters=(
            Parameter(
                "action", "string", "start if left out", choices=("start", "cancel", "rollback")
            ),
        ),
    ),
    Operation(
        "suspend",
        "POST",
        f"{_OF_GROUP}/suspend",
        "Let the group leave some of what it does by itself",
        "auto scaling",
        in_path=_GROUP,
        parameters=(replace(_PROCESSES, required=True),),
        each=("processes", "process"),
    ),
    Operation(
        "resume",
        "POST",
        f"{_OF_GROUP}/resume",
        "Let the group do it again; everything where nothing is named",
        "auto scaling",
        in_path=_GROUP,
        parameters=(_PROCESSES,),
        each=("processes", "process"),
    ),
    Operation(
        "protect",
        "POST",
        f"{_OF_INSTANCE}/protect",
        "Protect an instance from scale-in, or no more",
        "instances",
        in_path=_INSTANCE,
        parameters=(Parameter("on", "boolean", "true if left out"),),
    ),
    Operation(
        "standby",
        "POST",
        f"{_OF_INSTANCE}/standby",
        "Take an instance out of service and keep it running",
        "instances",
        in_path=_INSTANCE,
        parameters=(Parameter("replace", "boolean", "launch another one in its place"),),
    ),
    Operation(
        "return",
        "POST",
        f"{_OF_INSTANCE}/return",
        "Bring an instance back into service",
        "instances",
        in_path=_INSTANCE,
    ),
    Operation(
        "terminate",
        "POST",
        f"{_OF_INSTANCE}/terminate",
        "Drain and end an instance",
        "instances",
        in_path=_INSTANCE,
        parameters=(Parameter("decrement", "boolean", "and launch none in its place"),),
    ),
    Operation(
        "drain",
        "POST",
        "/targets/drain",
        "Send a target nothing new and let it finish what it has; its checks go on",
        "targets",
        parameters=_OUT,
    ),
    Operation(
        "undrain",
        "POST",
        "/targets/undrain",
        "Send a drained target requests again",
        "targets",
        parameters=_BACK,
    ),
    Operation(
        "disable",
        "POST",
        "/targets/disable",
        "Send a target nothing new, and check it no more",
        "targets",
        parameters=_OUT,
    ),
    Operation(
        "enable",
        "POST",
        "/targets/enable",
        "Check a disabled target and send it requests again",
        "targets",
        parameters=_BACK,
    ),
    Operation(
        "weight",
        "POST",
        "/targets/weight",
        "Give a target another weight",
        "targets",
        parameters=(
            *_OUT,
            Parameter("weight", "amount", "0 to 999, or percent of the configured one: 50%"),
            Parameter("reset", "boolean", "the configured one again"),
        ),
    ),
    Operation(
        "target_add",
        "POST",
        "/targets/add",
        "Register a target",
        "targets",
        parameters=(
            replace(_TARGET, about="HOST:PORT or unix:/path"),
            replace(_TARGET_GROUP, about="target group", required=True),
            Parameter("weight", "amount", "0 to 999; 1 if left out"),
            Parameter("backup", "boolean", "asked only while no other is eligible"),
            _REASON,
        ),
    ),
    Operation(
        "target_remove",
        "POST",
        "/targets/remove",
        "Drain a target and take it out",
        "targets",
        parameters=(
            replace(_TARGET, about="its address"),
            replace(_TARGET_GROUP, about="target group", required=True),
            _REASON,
            _FORCE,
        ),
    ),
    Operation(
        "target_idle",
        "GET",
        "/targets/idle",
        "Whether nothing is in flight any more at a target that gets nothing new",
        "targets",
        parameters=(
            replace(_TARGET, about="its address"),
            replace(_TARGET_GROUP, about="target group", required=True),
            Parameter("wait", "number", "seconds to wait for it", least=0, most=LONGEST_WAIT),
        ),
    ),
    Operation(
        "reload", "POST", "/reload", "Read the configuration anew and take over what differs", "run"
    ),
)
"""Those whose command an instance has are served."""
