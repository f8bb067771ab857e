"""A refresh under way in a group: the counts of old and new Instances, and their comparison.

Gathers what the pure `refresh` and `judgement` decide from. Launches and ends nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.judgement import Figures, Verdict, judge
from fastlb.auto_scaling.refresh import Refresh, Sight, Step, advance
from fastlb.auto_scaling.targets import TargetCounts
from fastlb.history import Entry
from fastlb.model.instance_refresh import InstanceRefresh

Percentile = Callable[[Sequence[int], float], float | None]


class RefreshRun:
    """The state of one refresh, and what its Instances did since it began."""

    def __init__(self, refresh: Refresh, entry: Entry, percentile: Percentile) -> None:
        self.refresh = refresh
        self.entry = entry
        self.verdict: Verdict | None = None
        self._percentile = percentile
        self._base: dict[str, Figures] = {}
        """Of old ones, as it began."""
        self._left_old = Figures()
        self._left_new = Figures()

    def begin(self, instances: Iterable[Instance]) -> None:
        """From now on it counts what the old ones do."""
        for one in instances:
            if one.target is not None and one.id in self.refresh.old:
                self._base[one.id] = figures_of(one.target.counts())

    def see_leaving(self, one: Instance) -> None:
        """Its counts are to be had for the last time."""
        if one.target is None:
            return
        if one.id in self.refresh.old:
            self._left_old = self._left_old.plus(self._since_begin(one))
        elif one.version == self.refresh.target:
            self._left_new = self._left_new.plus(figures_of(one.target.counts()))

    def step(
        self,
        instances: Sequence[Instance],
        given: InstanceRefresh,
        *,
        settled: int,
        desired: int,
        failures: int,
        now: float,
    ) -> Step:
        """Advance; `instances` are those that live, in the order in which old ones should go. Who is
        protected is left as it is."""
        old = tuple(
            one.id
            for one in instances
            if one.id in self.refresh.old
            and one.state in ("pending", "in_service")
            and not one.protected
        )
        if self.refresh.phase != "going_back":
            self.verdict = judge(*self._figures(instances), given, self._percentile)
        sight = Sight(now, old, settled, desired, failures, self.verdict)
        self.refresh, step = advance(self.refresh, given, sight)
        return step

    def _figures(self, instances: Iterable[Instance]) -> tuple[Figures, Figures]:
        """(of the new ones, of the old ones)."""
        new, old = self._left_new, self._left_old
        for one in instances:
            if one.target is None:
                continue
            if one.id in self.refresh.old:
                old = old.plus(self._since_begin(one))
            elif one.version == self.refresh.target:
                new = new.plus(figures_of(one.target.counts()))
        return new, old

    def _since_begin(self, one: Instance) -> Figures:
        assert one.target is not None
        now = figures_of(one.target.counts())
        base = self._base.get(one.id)
        return now if base is None else now.minus(base)


def figures_of(counts: TargetCounts) -> Figures:
    return Figures(counts.requests - counts.in_flight, counts.failed, counts.histogram)
