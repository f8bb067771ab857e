"""Which target an operator means: by its address, by a part that only one has, by an instance's id.

Pure: those that could be meant go in.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class Named:
    """One target, or an instance of an auto scaling group that may be none at the moment."""

    group: str
    """The target group."""
    address: str
    """As `fastlb status` shows it."""
    spelled: str
    """As the configuration has it, where that is a name."""
    instance: str = ""
    """The id of the instance that listens there."""

    def __str__(self) -> str:
        return f"{self.instance or self.address} of group {self.group}"

    def is_called(self, word: str) -> bool:
        return word in (self.address, self.spelled, self.instance)

    def may_be_called(self, word: str) -> bool:
        """By the port, with or without its colon; by a socket's path, or the last name of it."""
        path = self.address.removeprefix("unix:")
        if path != self.address:
            return word in (path, path.rpartition("/")[2])
        return word.removeprefix(":") == self.address.rpartition(":")[2]


def find(word: str, known: Sequence[Named]) -> Named:
    """The one that is meant. Raises ValueError where none is, or more than one."""
    found = [one for one in known if one.is_called(word)] or [
        one for one in known if one.may_be_called(word)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f'there is no target "{word}"{_instead(word, known)}')
    if len({one.address for one in found}) == 1:
        groups = ", ".join(one.group for one in found)
        raise ValueError(
            f"target {found[0].address} is in several groups: say which with --group ({groups})"
        )
    raise ValueError(f'"{word}" may be {_listed(found, " or ")}: say more of it')


def _instead(word: str, known: Sequence[Named]) -> str:
    if not known:
        return ": there is none"
    names = {name: one for one in known for name in (one.instance, one.address) if name}
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.8)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; there {'is' if len(known) == 1 else 'are'} {_listed(known, ', ')}"


def _listed(these: Sequence[Named], between: str) -> str:
    more = f"{between}{len(these) - MOST_LISTED} more" if len(these) > MOST_LISTED else ""
    return between.join(str(one) for one in these[:MOST_LISTED]) + more
