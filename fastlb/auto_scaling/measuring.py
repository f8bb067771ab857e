"""From counters and processes to datapoints: one value of each metric a period, for the policies.

An Instance counts once it is in service and warmed. What is not known is missing, and never taken
for high or low. Knows no policy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.scaling_policy import Datapoint
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.scaling_policy import METRICS, Metric

Usages = Mapping[int, tuple[float | None, int]]
"""By the pid of an Instance: percent of one core (None at the first look), resident bytes."""


@dataclass(slots=True)
class _Seen:
    """One Instance's counts as of the last datapoint, and what was sampled since."""

    at: float
    requests: int
    queue_wait: float
    in_flight_sum: int = 0
    samples: int = 0


class Measures:
    """The windows of one group."""

    def __init__(self, settings: AutoScalingGroup) -> None:
        most = max(settings.datapoints_out, settings.datapoints_in)
        self.windows: dict[Metric, deque[Datapoint]] = {
            metric: deque(maxlen=most) for metric in METRICS
        }
        self._seen: dict[str, _Seen] = {}

    def keep(self, settings: AutoScalingGroup) -> None:
        """Other settings, the same past."""
        most = max(settings.datapoints_out, settings.datapoints_in)
        self.windows = {
            metric: deque(window, maxlen=most) for metric, window in self.windows.items()
        }

    def forget(self) -> None:
        """Begin all windows anew."""
        for window in self.windows.values():
            window.clear()

    def latest(self, metric: Metric) -> float | None:
        window = self.windows[metric]
        return window[-1].value if window else None

    def sample(self, instances: Iterable[Instance]) -> None:
        """Between two datapoints, some times: what is in flight at the moment of a datapoint alone
        says little of its period."""
        for one in instances:
            if one.target is None:
                continue
            one.in_flight = one.target.counts().in_flight
            seen = self._seen.get(one.id)
            if seen is not None:
                seen.in_flight_sum += one.in_flight
                seen.samples += 1

    def datapoint(
        self,
        instances: Iterable[Instance],
        usages: Usages,
        warmed: Callable[[Instance], bool],
        now: float,
    ) -> None:
        """The end of a period: a value of each metric."""
        values: dict[Metric, list[float | None]] = {metric: [] for metric in METRICS}
        waited, given = 0.0, 0
        kept: dict[str, _Seen] = {}
        for one in instances:
            usage = usages.get(one.pid)
            one.cpu, one.rss = usage if usage is not None else (None, None)
            if one.target is None or one.state != "in_service":
                continue
            counts = one.target.counts()
            seen = self._seen.get(one.id)
            kept[one.id] = _Seen(now, counts.requests, counts.queue_wait)
            requests = in_flight = None
            if seen is not None and now > seen.at:
                requests = (counts.requests - seen.requests) * 60 / (now - seen.at)
                in_flight = seen.in_flight_sum / seen.samples if seen.samples else counts.in_flight
            one.requests_a_minute = requests
            if not warmed(one):
                continue
            values["cpu"].append(one.cpu)
            values["rss"].append(one.rss)
            values["requests"].append(requests)
            values["in_flight"].append(in_flight)
            if seen is not None:
                waited += counts.queue_wait - seen.queue_wait
                given += counts.requests - seen.requests
            values["queue_wait"].append(None if seen is None else 0.0)
        self._seen = kept
        for metric, found in values.items():
            known = [value for value in found if value is not None]
            value = sum(known) / len(known) if known else None
            if metric == "queue_wait" and value is not None:
                value = waited / given if given else 0.0
            point = Datapoint(now, value, complete=len(known) == len(found) and bool(found))
            self.windows[metric].append(point)
