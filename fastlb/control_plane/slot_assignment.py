"""Which worker accepts from which slot. Pure: no process, no socket, no clock.

A slot is one SO_REUSEPORT socket of each listener. The kernel spreads new connections over the
slots by a hash and does not know whether anybody reads them; so every slot must have a living
worker at every moment, and a worker that holds more connections than its share lends its slot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

CLEARLY_LOWER = 0.95
"""Of the asker's connections: below it a slot moves. Under the 1.1 × mean that is promised, and far
enough from 1 that two workers of the same load do not throw a slot to and fro."""

LEAST_DIFFERENCE = 4
"""Connections; smaller differences are chance and pass by themselves."""
RELIEF_BURST = 50
RELIEF_A_SECOND = 10.0
"""A burst of new connections is evened out at once. In the long run slots move seldom: each move is a
publication that all workers read, and the counts of short connections differ at every look."""


class ReliefBudget:
    """Lets `RELIEF_BURST` slots move for relief at once, and `RELIEF_A_SECOND` in the long run."""

    def __init__(self, now: float) -> None:
        self._left = float(RELIEF_BURST)
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more may move."""
        self._left = min(self._left + (now - self._at) * RELIEF_A_SECOND, RELIEF_BURST)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        """Nothing moved after all."""
        self._left += 1


class Relief(NamedTuple):
    """`asker` holds too many connections and wants another worker to accept from `slot`."""

    asker: int
    slot: int


def home_of(slot: int, workers: Sequence[int]) -> int:
    """The worker to which a slot belongs. After a takeover, or where workers were retired, there may be
    more slots than workers."""
    return workers[slot % len(workers)]


def assign_slots(
    slots: int,
    workers: Sequence[int],
    connections: Mapping[int, int],
    current: Sequence[int],
    relief: Collection[Relief] = (),
) -> tuple[int, ...]:
    """The worker of each slot.

    `workers` are the indexes of those that there should be, dead or alive. `connections` holds the
    living ones that accept, with their counts; `current` is the assignment in force, shorter at the
    start. With nobody alive each slot goes to its home, where the connections wait in its queue.
    """
    homes = [home_of(slot, workers) for slot in range(slots)]
    if not connections:
        return tuple(homes)
    mean = sum(connections.values()) / len(connections)
    held = dict.fromkeys(connections, 0)
    result: list[int | None] = [None] * slots
    for slot in range(slots):
        holder = current[slot] if slot < len(current) else homes[slot]
        if holder in connections and not _returns(homes[slot], holder, connections, mean):
            result[slot] = holder
            held[holder] += 1
    for slot in range(slots):
        if result[slot] is None:
            home = homes[slot]
            borrowed = slot < len(current) and current[slot] in connections
            # A borrower that is over itself gives back; but not to one that is over as well.
            welcome = home in connections and not (borrowed and connections[home] > mean)
            chosen = home if welcome else _least(connections, held)
            result[slot] = chosen
            held[chosen] += 1
    final = [holder for holder in result if holder is not None]
    for asker, slot in relief:
        if slot < slots and final[slot] == asker and asker in connections:
            least = _least(connections, held)
            clearly = connections[asker] * CLEARLY_LOWER
            if connections[least] < min(clearly, connections[asker] - LEAST_DIFFERENCE):
                final[slot] = least
                held[asker] -= 1
                held[least] += 1
    return tuple(final)


def _returns(home: int, holder: int, connections: Mapping[int, int], mean: float) -> bool:
    """Whether a lent slot leaves its borrower: its home has room, or the borrower has none."""
    if holder == home:
        return False
    if connections[holder] > mean and connections[holder] > min(connections.values()) + 1:
        return True
    return home in connections and connections[home] <= mean


def _least(connections: Mapping[int, int], held: Mapping[int, int]) -> int:
    """The least loaded worker; of equals the one with the fewest slots."""
    return min(connections, key=lambda worker: (connections[worker], held[worker], worker))
