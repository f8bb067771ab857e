"""To which target groups somebody forwards: only those are watched. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from fastlb.model.configuration import Configuration
from fastlb.model.listener import Forward, Listener


def forwarded_to(listeners: Iterable[Listener]) -> frozenset[str]:
    """The target groups to which one of the listeners forwards."""
    actions = [
        action
        for listener in listeners
        for action in (listener.default, *(rule.action for rule in listener.rules))
    ]
    return frozenset(
        one.group for action in actions if isinstance(action, Forward) for one in action.groups
    )


def used_groups(configuration: Configuration) -> frozenset[str]:
    """The target groups to which some listener forwards."""
    return forwarded_to(configuration.listeners)
