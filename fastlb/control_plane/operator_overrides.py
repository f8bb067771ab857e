"""What operators said of targets, kept in a file of the run-time folder, on top of the configuration.

The file is written whole and renamed, so that a supervisor that takes over finds one or the other
state. Knows no registry: what a target's override means is the registry's affair, and whoever makes
or changes the registry asks `take` for the groups' targets and `of` for each target's override.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from fastlb.errors import FastlbError
from fastlb.model.address import Address, parse_address
from fastlb.model.plain import from_plain, to_plain
from fastlb.model.target_group import Target, TargetGroup
from fastlb.model.target_override import (
    NOTHING,
    Key,
    Override,
    applied,
    key_of,
    nobody_left,
    pruned,
)

log = logging.getLogger("fastlb.targets")

FILE = "overrides.json"
VERSION = 1

Resolve = Callable[[Address, str], Address]
"""From the address and the group's name; raises FastlbError where a name cannot be resolved."""


class OperatorOverrides:
    """The overrides by group and address. What cannot be read is set aside, and said loudly."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._overrides: dict[Key, Override] = {}
        self._configured: dict[str, TargetGroup] = {}
        self._read()

    def of(self, group: str, target: Target) -> Override:
        return self._overrides.get(key_of(group, target), NOTHING)

    def at(self, key: Key) -> Override:
        return self._overrides.get(key, NOTHING)

    def removed(self, group: str) -> list[tuple[str, Override]]:
        """The configured targets of a group that were removed, by their addresses."""
        return [
            (address, one)
            for (name, address), one in self._overrides.items()
            if name == group and one.removed is not None
        ]

    def configured(self, group: str, address: str) -> Target | None:
        """What the configuration says of a target, removed or not."""
        known = self._configured.get(group)
        targets = known.targets if known is not None else ()
        return next((one for one in targets if str(one.address) == address), None)

    @property
    def groups(self) -> Collection[str]:
        """The names of the configured groups."""
        return self._configured.keys()

    def check(self, group: TargetGroup) -> None:
        """Raise FastlbError where `group`, were it configured so, had nobody because of what was said."""
        taken = nobody_left(group, self._overrides)
        if taken:
            raise FastlbError(
                f"target_groups.{group.name}.targets: nobody would be left, because of what operators "
                f"said: {', '.join(taken)}. Nothing was changed; have one back first, by `fastlb "
                "undrain`, `enable`, `weight --reset` or `target add`"
            )

    def take(self, groups: Iterable[TargetGroup], resolve: Resolve) -> tuple[TargetGroup, ...]:
        """These groups are configured from now on: with the targets that operators added and without
        those that they removed. What is said of targets that are named no more is dropped."""
        self._configured = {group.name: group for group in groups}
        kept, dropped = pruned(self._configured.values(), self._overrides)
        added = {}
        for key, one in list(kept.items()):
            if one.added is None:
                continue
            target = Target(parse_address(key[1]), one.added.weight, one.added.backup)
            trouble = self._why_not(key[0], target, resolve, kept)
            if trouble:
                del kept[key]
                dropped.append(f"target {key[1]} of group {key[0]} is added no more: {trouble}")
            else:
                added[key] = target
        for line in dropped:
            log.warning("%s", line)
        if kept != self._overrides:
            self._overrides = kept
            self.save()
        return applied(self._configured.values(), kept, added)

    def _why_not(
        self, group: str, target: Target, resolve: Resolve, kept: Mapping[Key, Override]
    ) -> str:
        """Why a target that was added once cannot be beside what is configured now."""
        try:
            address = resolve(target.address, group)
        except FastlbError as error:
            return str(error)
        for one in self._configured[group].targets:
            if kept.get(key_of(group, one), NOTHING).removed is not None:
                continue
            try:
                if resolve(one.address, group) == address:
                    return f"it is configured as {one.address}"
            except FastlbError:
                continue  # the registry says so, or whoever checks a new configuration
        return ""

    def set(self, key: Key, override: Override) -> str:
        """Say this of a target from now on. What to tell where it could not be kept in the file."""
        if override == NOTHING:
            self._overrides.pop(key, None)
        else:
            self._overrides[key] = override
        return self.save()

    def left(self, group: str, target: Target) -> None:
        """It is registered no more: what was said of it ends, but for its removal."""
        key = key_of(group, target)
        override = self.at(key)
        left = Override(removed=override.removed)
        if override != left:
            gone = ", ".join(what for what, _, _ in override.said() if what != "removed")
            log.info('target %s of group %s has left: "%s" is dropped', key[1], group, gone)
            self.set(key, left)

    def keep(self, registered: Collection[Key]) -> None:
        """At a start, when all that are to be adopted are: drop what is about nobody."""
        for key, override in list(self._overrides.items()):
            if key not in registered and override.removed is None:
                gone = ", ".join(what for what, _, _ in override.said())
                log.warning(
                    'target %s of group %s is there no more: "%s" is dropped', key[1], key[0], gone
                )
                self.set(key, NOTHING)

    def save(self) -> str:
        """Write the file, or remove it where there is nothing to say; what to tell where that failed."""
        try:
            if self._overrides:
                self._write()
            else:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            why = f"{self._file} cannot be written: {error.strerror or error}"
            log.error("what operators said of targets ends with this supervisor: %s", why)
            return f"it will not outlive this supervisor: {why}"
        return ""

    def forget(self) -> None:
        """After a clean end the next start begins with the configuration."""
        self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        targets = [
            {"group": group, "address": address, "override": to_plain(override)}
            for (group, address), override in self._overrides.items()
        ]
        new = self._file.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600), "w") as stream:
            json.dump({"version": VERSION, "targets": targets}, stream, indent=1)
        os.replace(new, self._file)

    def _read(self) -> None:
        try:
            text = self._file.read_text()
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            self._set_aside(str(error))
            return
        try:
            self._overrides = _parse(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._set_aside(repr(error))
            return
        for (group, address), override in self._overrides.items():
            said = ", ".join(what for what, _, _ in override.said())
            log.info('target %s of group %s is still "%s"', address, group, said)

    def _set_aside(self, why: str) -> None:
        aside = self._file.with_suffix(".unreadable")
        try:
            os.replace(self._file, aside)
        except OSError as error:
            why += f"; it cannot be set aside as {aside}: {error.strerror}"
        log.error(
            "what operators said of targets is lost, drains and weights too: %s cannot be read (%s); "
            "it is kept as %s: say it anew",
            self._file,
            why,
            aside,
        )


def _parse(text: str) -> dict[Key, Override]:
    document = json.loads(text)
    if document["version"] != VERSION:
        raise ValueError(f"expected version {VERSION}, got {document['version']!r}")
    found = {}
    for one in document["targets"]:
        parse_address(one["address"])
        key = (str(one["group"]), str(one["address"]))
        found[key] = from_plain(Override, one["override"])
    return found
