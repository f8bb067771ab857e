"""What can be asked of an instance over the Admin API: one declared list, from which the routes, the
checks of what comes in and the OpenAPI document are made.

Each Operation is a command of the control socket, which answers it. Knows neither HTTP nor a command's
meaning. A new command is one entry here.
"""

from __future__ import annotations

from dataclasses import replace

from fastlb.admin.operation import Operation, Parameter
from fastlb.model.auto_scaling import SUSPENDABLE

LONGEST_WAIT = 20
"""Seconds that the commands let one request wait."""

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
_WAIT = Parameter("wait", "number", "seconds to wait for it", least=0, most=LONGEST_WAIT)
_HISTORY = (
    Parameter("limit", "integer", "the newest ones, so many at most", least=1, key="last"),
    Parameter("after", "integer", "only those with a greater number", least=0),
    _WAIT,
)
_TARGET = Parameter("target", "string", "its address, or the instance's id", required=True)
_TARGET_GROUP = Parameter("group", "string", "target group, where several have such a target")
_ADDRESS = replace(_TARGET, about="its address")
_ITS_GROUP = replace(_TARGET_GROUP, about="target group", required=True)
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
        parameters=(_WAIT,),
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
            replace(
                _FORCE, about="start also where the configured template was rolled back before"
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
            _ITS_GROUP,
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
            _ADDRESS,
            _ITS_GROUP,
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
            _ADDRESS,
            _ITS_GROUP,
            _WAIT,
        ),
    ),
    Operation(
        "reopen_logs", "POST", "/logs/reopen", "Let every worker open the access log anew", "run"
    ),
    Operation(
        "reload",
        "POST",
        "/reload",
        "Read the configuration anew and take over what differs",
        "run",
        parameters=(Parameter("dry_run", "boolean", "only say what would change"),),
    ),
)
"""Those whose command an instance has are served."""
