"""What it means for a group when one of its targets gets no new requests any more. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fastlb.control_plane.registered_target import RegisteredTarget
from fastlb.control_plane.wording import count_of


@dataclass(frozen=True, slots=True)
class Impact:
    """What the group comes to; `outage` where that is worse than now, so that one has to insist."""

    said: str = ""
    outage: bool = False


NO_IMPACT = Impact()


def impact_of_losing(target: RegisteredTarget, members: Collection[RegisteredTarget]) -> Impact:
    """`members` are the targets of its group, itself included or not."""
    if not target.active:
        return NO_IMPACT  # it gets nothing as it is
    others = [one for one in members if one is not target and one.active]
    group = target.group.name
    if not others:
        if target.group.auto_scaling_group is not None:
            return Impact(f"requests to group {group} are held until an instance is there", True)
        return Impact(f"nobody is left in group {group}: each request to it is answered 503", True)
    if not any(one.eligible for one in others):
        left = count_of(len(others), "target")
        are = "is" if len(others) == 1 else "are"
        said = f"group {group} fails open to the {left} left, which {are} not healthy"
        return Impact(said, target.eligible)
    if target.target.backup or any(one.eligible and not one.target.backup for one in others):
        return NO_IMPACT
    return Impact(f"the backup targets of group {group} take its requests")
