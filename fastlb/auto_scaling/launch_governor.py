"""When a group may launch again after launches that failed. Pure: the clock is handed in.

Knows versions of a launch template and moments; not what a failure was, nor what the group does with
a version in quarantine.
"""

from __future__ import annotations

from collections import deque

LONG_LIFE = 30.0
"""An Instance that was in service for so many seconds shows that its version works; one that ends
by itself before that counts as a failed launch."""
QUARANTINE_AFTER = 5
"""Failures in a row."""
FIRST_DELAY = 0.5
LONGEST_DELAY = 60.0
LONGEST_ALONE = 5.0
"""Where nobody else serves: requests are held meanwhile, and not for a minute."""
_MOST_REMEMBERED = 1000


class LaunchGovernor:
    """The failures in a row of each launch template version of one group; times are monotonic seconds.

    After the first failure the next launch is at once, since one may be bad luck; then after 0.5,
    1, 2, 4 ... 60 s.
    """

    def __init__(self) -> None:
        self._failures: dict[int, deque[float]] = {}

    def failed(self, version: int, now: float, launched_at: float) -> None:
        """A launch never came into service, or its Instance crashed within LONG_LIFE of that.

        Those that were launched before the last failure was known are one with it: what several
        do in the same moment says no more than what one does.
        """
        failures = self._failures.setdefault(version, deque(maxlen=_MOST_REMEMBERED))
        if failures and launched_at < failures[-1]:
            return
        failures.append(now)

    def lived(self, version: int, now: float) -> None:
        """An Instance has been in service for LONG_LIFE.

        What failed before it came into service is forgotten; what has failed since then is newer
        evidence and stays. Otherwise one that came up before the port, the disk or the database
        went would free the version from quarantine while every other launch of it fails.
        """
        failures = self._failures.get(version)
        while failures and failures[0] <= now - LONG_LIFE:
            failures.popleft()
        if not failures:
            self.release(version)

    def may_launch_at(self, version: int, *, alone: bool = False) -> float:
        """The moment from which a launch is allowed; 0.0 is at once. `alone`: nobody serves."""
        failures = self._failures.get(version)
        if not failures or len(failures) == 1:
            return 0.0
        longest = LONGEST_ALONE if alone else LONGEST_DELAY
        return failures[-1] + min(FIRST_DELAY * 2.0 ** min(len(failures) - 2, 16), longest)

    def failures(self, version: int) -> int:
        """In a row; no more than 1000 are counted."""
        return len(self._failures.get(version, ()))

    def quarantined(self, version: int) -> bool:
        """Whether the version has failed so often that it is not to be tried for its own sake."""
        return self.failures(version) >= QUARANTINE_AFTER

    def release(self, version: int) -> None:
        """Forget its failures: somebody wants it tried again, or the version is gone."""
        self._failures.pop(version, None)
