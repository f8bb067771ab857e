"""Which of the eligible targets gets a request. Filters first, then chooses: an algorithm never sees a
target that it must not choose. Knows no connection and no request.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from random import random
from typing import Protocol, TypeVar

from fastlb.model.target_group import OUT_OF_USE, Algorithm, TargetState

LONGEST_CYCLE = 4096
"""Longest precomputed round-robin cycle; weights that need more are scaled down to it."""

MOST_STEPS = 200_000
"""Steps of nginx's algorithm, some 20 ms, that a change of the eligible targets may cost a worker."""

SCANNED = 32
"""Targets that one least-outstanding choice looks at; a larger group is looked at in turns."""


class Choosable(Protocol):
    """What an algorithm may know of a target."""

    index: int
    key: str
    weight: int
    backup: bool
    state: TargetState
    suspect: bool
    doubted: bool

    def load(self) -> int:
        """Requests in flight, over all workers."""


T = TypeVar("T", bound=Choosable)


def eligible(targets: Sequence[T]) -> tuple[list[T], bool]:
    """The targets to choose from, and whether that is failing open.

    Healthy primaries; else healthy backups; else, failing open, all that are not out of use (leaving,
    drained or disabled by an operator, unused): a wrong verdict about all of them must not be an outage
    (AWS does the same). A `doubted` target is one that this worker alone saw fail, until the supervisor
    has said more.
    """
    weighty = [t for t in targets if t.weight > 0 and t.state not in OUT_OF_USE]
    good = [t for t in weighty if t.state == "healthy" and not t.suspect and not t.doubted]
    primaries = [t for t in good if not t.backup]
    if primaries or good:
        return primaries or good, False
    # A suspect is asked before those that are known to be dead.
    suspects = [t for t in weighty if t.state == "healthy" and not t.doubted]
    return suspects or weighty, True


Chooser = Callable[[str], T]
"""Chooses for a client address, which only source_ip_hash looks at."""


def chooser(algorithm: Algorithm, targets: Sequence[T], turn: int) -> Callable[[str], T]:
    """A function that chooses among `targets`, which are eligible and at least one.

    `turn` tells workers apart, so that their cycles don't run in step.
    """
    if len(targets) == 1:
        only = targets[0]
        return lambda _client: only
    if algorithm == "round_robin":
        return _round_robin(targets, turn)
    if algorithm == "weighted_random":
        return _weighted_random(targets)
    if algorithm == "source_ip_hash":
        return _source_ip_hash(targets)
    return _least_outstanding(targets, turn)


def smooth_cycle(weights: Sequence[int]) -> list[int]:
    """One whole cycle of nginx's smooth weighted round robin, as positions in `weights`.

    Each position occurs as often as its weight (divided by all weights' greatest common divisor), and
    the occurrences are spread: [5, 1, 1] gives 0 0 1 0 2 0 0.
    """
    divisor = math.gcd(*weights)
    parts = [weight // divisor for weight in weights]
    total = sum(parts)
    if total > LONGEST_CYCLE:
        parts = [max(1, round(part * LONGEST_CYCLE / total)) for part in parts]
        total = sum(parts)
    if total * len(parts) > MOST_STEPS:
        # As evenly spread, and in order of size and not of its square: each occurrence has its time.
        times = [((turn + 0.5) / part, at) for at, part in enumerate(parts) for turn in range(part)]
        return [at for _, at in sorted(times)]
    current = [0] * len(parts)
    cycle = []
    for _ in range(total):
        best = 0
        for position, part in enumerate(parts):
            current[position] += part
            if current[position] > current[best]:
                best = position
        current[best] -= total
        cycle.append(best)
    return cycle


def _round_robin(targets: Sequence[T], turn: int) -> Callable[[str], T]:
    cycle = [targets[position] for position in smooth_cycle([t.weight for t in targets])]
    length = len(cycle)
    at = turn % length - 1

    def choose(_client: str) -> T:
        nonlocal at
        at += 1
        if at >= length:
            at = 0
        return cycle[at]

    return choose


def _weighted_random(targets: Sequence[T]) -> Callable[[str], T]:
    sums = list(accumulate(t.weight for t in targets))
    total = sums[-1]

    def choose(_client: str) -> T:
        return targets[bisect_right(sums, random() * total)]

    return choose


def _least_outstanding(targets: Sequence[T], turn: int) -> Callable[[str], T]:
    # Smooth order, so that heavy targets are not next to themselves; ties go to the next in turn, so
    # that idle targets share the work as well.
    count = len(targets)
    equal = len({t.weight for t in targets}) == 1
    twice = [*targets, *targets]
    look = min(count, SCANNED)
    at = turn % count

    def choose_equal(_client: str) -> T:
        nonlocal at
        at += 1
        if at >= count:
            at = 0
        best = twice[at]
        least = best.load()
        if least:
            for target in twice[at + 1 : at + look]:
                load = target.load()
                if load < least:
                    best, least = target, load
                    if not load:
                        break
            if best is not twice[at]:
                # On from the chosen, or whoever stands after a busy target would get its turns too.
                at = targets.index(best)
        return best

    if equal:
        return choose_equal
    cycle = [targets[position] for position in smooth_cycle([t.weight for t in targets])]
    length = len(cycle)
    start = at

    def choose(_client: str) -> T:
        # Idle targets are alike, whatever their weights (so has HAProxy's leastconn): the cycle gives
        # each its share of single requests, which would all go to the heaviest otherwise.
        nonlocal at, start
        at = (at + 1) % length
        best = cycle[at]
        load = best.load()
        if not load:
            return best
        least = (load + 1) / best.weight
        for target in twice[start : start + look]:
            load = target.load()
            if not load:
                best = target
                break
            share = (load + 1) / target.weight
            if share < least:
                best, least = target, share
        start = (targets.index(best) + 1) % count
        return best

    return choose


def _source_ip_hash(targets: Sequence[T]) -> Callable[[str], T]:
    seen: dict[str, T] = {}

    def choose(client: str) -> T:
        found = seen.get(client)
        if found is None:
            if len(seen) >= 10000:
                seen.clear()
            found = seen[client] = max(targets, key=lambda t: rendezvous(client, t.key, t.weight))
        return found

    return choose


def rendezvous(client: str, target: str, weight: int) -> float:
    """The weighted rendezvous score: when a target goes, only its own clients move."""
    digest = blake2b(f"{client}|{target}".encode(), digest_size=8).digest()
    share = ((int.from_bytes(digest) >> 12) + 0.5) / 2**52  # 52 bits: never rounded to 0 or 1
    return -weight / math.log(share)
