"""Who is registered, at which column of the counters, and in which state, for the target table.

Every change of a target's state passes through here, is logged with its reason and reported by one
call of `changed`. Knows no probe and no worker; when to publish is the supervisor's affair.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from fastlb.control_plane.eligibility import Eligibility
from fastlb.control_plane.faults import Faults
from fastlb.control_plane.name_resolution import Resolved, doubles, first_of, resolve
from fastlb.control_plane.registered_target import RegisteredTarget, rescale
from fastlb.errors import FastlbError
from fastlb.model.address import Address
from fastlb.model.target_group import Target, TargetGroup
from fastlb.model.target_health import Observation, TargetHealth, Transition
from fastlb.model.target_override import NOTHING, Override
from fastlb.target_table.counters import TARGETS, Counters
from fastlb.target_table.layout import TargetEntry

log = logging.getLogger("fastlb.health")


def tell_nobody(kind: str, subject: str, what: str, cause: str) -> None:
    pass


def _says_nothing(group: str, target: Target) -> Override:
    return NOTHING


class TargetRegistry:
    """All registered targets. Raises FastlbError for a target whose name cannot be resolved.

    What an operator said of a target is a layer of its own: `override_of` is asked whenever one is
    registered, and what is configured can change under it. `find` is where a target of a group is.
    """

    def __init__(
        self,
        groups: Iterable[TargetGroup],
        used_groups: Collection[str],
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        override_of: Callable[[str, Target], Override] = _says_nothing,
        find: Callable[[Address, str], Address] = resolve,
    ) -> None:
        self._groups = {group.name: group for group in groups}
        self._used_groups = frozenset(used_groups)
        self._changed = changed
        self._clock = clock
        self._override_of = override_of
        self._targets: dict[int, RegisteredTarget] = {}
        self._members: dict[str, dict[int, RegisteredTarget]] = {name: {} for name in self._groups}
        self._at: dict[tuple[str, Address], RegisteredTarget] = {}
        self._unreleased: dict[int, TargetEntry] = {}
        self._released: list[int] = []
        self._eligible = Eligibility(self._groups)
        self._configured: dict[tuple[str, Address], RegisteredTarget] = {}
        """What stands in the configuration, by group and address as written there."""
        self.membership = 0
        """Grows whenever a target comes, drains or goes."""
        self.told: Callable[[str, str, str, str], None] = tell_nobody
        """Told of each decision: its kind, whom it is about, what, and why."""
        self.left: Callable[[str, Target], None] = lambda group, target: None
        """Told of each target that is registered no more, and at once not anew."""
        self.released: Callable[[TargetEntry], None] = lambda entry: None
        """Told of each target whose column of the counters is about to be zeroed."""
        for group in self._groups.values():
            for target in group.targets:
                found = find(target.address, group.name)
                self._configured[group.name, target.address] = self._add(group, target, found)
            rescale(self._members[group.name].values())

    def __iter__(self) -> Iterator[RegisteredTarget]:
        return iter(self._targets.values())

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def columns(self) -> int:
        """The columns of the counters that may be in use, those of deregistered targets included."""
        return len(self._targets) + len(self._unreleased) + len(self._released)

    def by_index(self, index: int) -> RegisteredTarget | None:
        return self._targets.get(index)

    def members(self, group: str) -> list[RegisteredTarget]:
        """The targets of a group, those included that leave."""
        return list(self._members.get(group, {}).values())

    def entries(self) -> tuple[TargetEntry, ...]:
        """What the table says of the targets."""
        return tuple([target.entry for target in self._targets.values()])

    def leaving(self) -> tuple[TargetEntry, ...]:
        """Those that are deregistered and whose columns some worker may write still."""
        return tuple(self._unreleased.values())

    def eligible(self, group: str) -> int:
        """How many targets of the group are healthy and not suspect, backups included."""
        return self._eligible[group]

    def fail_open(self, group: str) -> bool:
        """Whether the workers use all targets of this group, since none is eligible."""
        return not self._eligible[group] and any(t.active for t in self._members[group].values())

    def end(self) -> None:
        """No worker is left: targets go one after the other, and which group fails open is no news."""
        self._eligible.end()

    def register(
        self, group: str, target: Target, resolved: Address | None = None
    ) -> RegisteredTarget:
        """Add a target; it gets requests after its first passed check. `resolved` is its address where
        a name was looked up already."""
        added = self._add(self._groups[group], target, resolved)
        rescale(self._members[group].values())
        log.info("%s registered", added)
        self.told("routing", str(added.address), "registered", f"in group {group}")
        self._changed()
        return added

    def set_share(self, index: int, share: float) -> None:
        """Give the target `share` (over 0, up to 1) of what its weight would get."""
        target = self._targets[index]
        target.share = share
        target.touch()
        rescale(self._members[target.group.name].values())
        self._changed()

    def say(self, index: int, override: Override, what: str, cause: str) -> None:
        """An operator says this of the target from now on; `what` changed by it, and why."""
        target = self._targets[index]
        self._override(target, override)
        log.info("%s: %s: %s", target, what, cause)
        self.told("routing", str(target.address), what, cause)
        self._note_fail_open(target.group.name)
        self._changed()

    def ask_anew(self) -> None:
        """What is said of targets may have changed with what is configured."""
        for target in self._targets.values():
            override = self._override_of(target.group.name, target.target)
            if not target.draining and override != target.override:
                self._override(target, override)
        self._changed()

    def _override(self, target: RegisteredTarget, override: Override) -> None:
        eligible = target.eligible
        target.put_under(override, self._clock())
        rescale(self._members[target.group.name].values())
        self._eligible.add(target.group.name, target.eligible - eligible)
        self.membership += 1

    def drain(self, index: int) -> None:
        """Let the target leave: no new requests; those that it has go on."""
        target = self._targets[index]
        if target.draining:
            return
        self._set_draining(target)
        log.info("%s is draining", target)
        self.told("routing", str(target.address), "draining", f"in group {target.group.name}")
        self._note_fail_open(target.group.name)
        self._changed()

    def deregister(self, index: int) -> None:
        """Take the target out of the table. Its index is not given away before `release`."""
        target = self._targets[index]
        if not target.draining:
            self._set_draining(target)
        del self._targets[index], self._members[target.group.name][index]
        if self._at.get((target.group.name, target.address)) is target:
            del self._at[target.group.name, target.address]
            self.left(target.group.name, target.target)
        self._unreleased[index] = target.entry
        self.membership += 1
        rescale(self._members[target.group.name].values())
        log.info("%s deregistered", target)
        self.told("routing", str(target.address), "deregistered", f"of group {target.group.name}")
        self._note_fail_open(target.group.name)
        self._changed()

    def release(self, index: int, counters: Counters, rows: int) -> None:
        """No worker writes the column of a deregistered target any more: zero and reuse it."""
        self.released(self._unreleased.pop(index))
        counters.clear_target(index, rows)
        heapq.heappush(self._released, index)

    def check(self, groups: Iterable[TargetGroup], resolved: Resolved) -> None:
        """Raise FastlbError where `reconfigure` could not register all targets of `groups`, with a line
        for each reason. Names that are not `resolved` are taken for addresses."""
        faults = Faults()
        new = 0
        for group in groups:
            where = {}
            for target in group.targets:
                known = self._stays(group.name, target, resolved)
                address = known.address if known is not None else first_of(target, resolved)
                where[target] = address
                at = self._at.get((group.name, address))
                new += known is None and (at is None or at.draining)
            for line in doubles(group, where.__getitem__):
                faults.note(line)
        if len(self._targets) + len(self._unreleased) + new > TARGETS:
            faults.note(
                f"target_groups: no room for {new} more targets: at most {TARGETS} at once, those "
                "included that still drain"
            )
        faults.refuse()

    def reconfigure(
        self, groups: Iterable[TargetGroup], used_groups: Collection[str], resolved: Resolved
    ) -> list[RegisteredTarget]:
        """Take over groups and their targets as they are configured now, after `check`.

        Those that stay keep index, health and counters. Returns those that are configured no more:
        they are still registered, and somebody is to take them out. What was registered by others
        (Instances, an operator's targets) is left alone; what an operator said of a configured
        target, its weight or that it drains, belongs on top of this, after each call: only what
        changed in the configuration is written to a target here.
        """
        now = self._clock()
        named = {group.name: group for group in groups}
        for name in self._groups.keys() - named.keys():
            if not self._members[name]:
                del self._groups[name], self._members[name]
                self._eligible.forget(name)
        self._groups |= named
        self._used_groups = frozenset(used_groups)
        for name, group in named.items():
            for member in self._members.setdefault(name, {}).values():
                member.renew(group, name in self._used_groups, now)
        before, self._configured = self._configured, {}
        for name, group in named.items():
            for target in group.targets:
                known = self._stays(name, target, resolved, before)
                if known is None:
                    known = self._take_up(group, target, first_of(target, resolved))
                elif known.target != target:
                    known.target = target
                    known.touch()
                self._configured[name, target.address] = known
        for name, members in self._members.items():
            self._eligible.recount(name, members.values())
            rescale(self._members[name].values())
        self.membership += 1
        self._changed()
        kept = {known.index for known in self._configured.values()}
        return [
            known
            for known in before.values()
            if known.index not in kept and self._targets.get(known.index) is known
        ]

    def _stays(
        self,
        group: str,
        target: Target,
        resolved: Resolved,
        configured: Mapping[tuple[str, Address], RegisteredTarget] | None = None,
    ) -> RegisteredTarget | None:
        """The registration of a target that was configured before; none where its name is that of
        another address by now."""
        before = self._configured if configured is None else configured
        known = before.get((group, target.address))
        if known is None or known.address not in resolved.get(target.address, (known.address,)):
            return None
        return known

    def _take_up(self, group: TargetGroup, target: Target, address: Address) -> RegisteredTarget:
        """Register a target, or go on with one that is there under another name."""
        at = self._at.get((group.name, address))
        if at is not None and not at.draining:
            at.target = target
            at.touch()
            return at
        added = self._add(group, target, address)
        log.info("%s registered", added)
        self.told("routing", str(address), "registered", f"in group {group.name}")
        return added

    def seed(self, known: Mapping[tuple[str, str], tuple[str, int]]) -> None:
        """Take over the (state, epoch) of what another supervisor watched, by (group, address)."""
        now = self._clock()
        for target in self._targets.values():
            found = known.get((target.group.name, str(target.address)))
            if found is not None:
                self._eligible.add(target.group.name, -target.eligible)
                check = target.group.health_check
                target.health = TargetHealth.taken_over(check, found[0], found[1], now)
                self._eligible.add(target.group.name, target.eligible)
                target.touch()
        self.membership += 1
        self._changed()

    def observe(self, target: RegisteredTarget, seen: Observation) -> Transition | None:
        """Take in what was seen of a target; a Transition is logged and reported."""
        if not target.watched:
            return None
        eligible = target.eligible
        transition = target.health.observe(seen, self._clock())
        if transition is None:
            return None
        target.touch()
        self._eligible.add(target.group.name, target.eligible - eligible)
        failed = transition.new == "unhealthy" and transition.old != "unhealthy"
        worse = failed or (eligible and not target.eligible)
        level = logging.WARNING if worse else logging.INFO
        log.log(level, "%s: %s", target, _said(transition))
        self.told("health", str(target.address), *_states_and_reason(transition))
        self._note_fail_open(target.group.name, fell_ill=eligible)
        self._changed()
        target.changed()
        return transition

    def _add(
        self, group: TargetGroup, target: Target, resolved: Address | None = None
    ) -> RegisteredTarget:
        """`resolved` is where its name was found to be."""
        address = resolved or resolve(target.address, group.name)
        known = self._at.get((group.name, address))
        if known is not None and not known.draining:
            raise FastlbError(f"target {address} is registered twice in group {group.name}")
        index = (
            heapq.heappop(self._released)
            if self._released
            else len(self._targets) + len(self._unreleased)
        )
        if index >= TARGETS:
            raise FastlbError(
                f"group {group.name}: no room for target {address}: at most {TARGETS} at once"
            )
        health = TargetHealth.new(group.health_check, self._clock())
        used = group.name in self._used_groups
        override = self._override_of(group.name, target)
        added = RegisteredTarget(index, group, target, address, health, used, override)
        self._targets[index] = self._members[group.name][index] = added
        self._at[group.name, address] = added
        self._eligible.add(group.name, added.eligible)
        self.membership += 1
        return added

    def _set_draining(self, target: RegisteredTarget) -> None:
        self._eligible.add(target.group.name, -target.eligible)
        target.draining = True
        target.touch()
        self.membership += 1

    def _note_fail_open(self, group: str, *, fell_ill: bool = False) -> None:
        """Tell where the group begins or ends to fail open."""
        members = self._members[group].values()
        news = self._eligible.news(group, members, fell_ill=fell_ill)
        if news is not None:
            self.told("routing", group, *news)


def _said(transition: Transition) -> str:
    return ": ".join(_states_and_reason(transition))


def _states_and_reason(transition: Transition) -> tuple[str, str]:
    """Its states where these change, else the suspicion that came or went."""
    if transition.old != transition.new:
        return f"{transition.old} -> {transition.new}", transition.reason
    return "suspect" if transition.suspect else "no longer suspect", transition.reason
