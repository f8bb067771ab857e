"""/metrics: one Reading as Prometheus or OpenMetrics text, by prometheus-client.

All workers in one scrape. Labels are names of the configuration, targets' addresses and numbers of
workers: nothing that a client could make up. Every counter only grows while the instance lives.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fastlb.admin.metric_figures import (
    GROUP,
    INSTANCE,
    LISTENER,
    TARGET,
    WORKER,
    counter,
    each,
    gauge,
)
from fastlb.admin.reading import Reading

BOUNDS = tuple(2**power / 1e6 for power in range(8, 26))
"""Upper bounds of the durations' buckets in seconds, 256 µs to 33.6 s: each is one of our finer buckets'
bounds too, so that what is under it is counted and not estimated."""

Buckets = Callable[[int], Sequence[tuple[float, int]]]
"""`Source.buckets`."""

STATES = ("initial", "healthy", "unhealthy", "draining", "disabled", "unused")
INSTANCE_STATES = ("pending", "in_service", "standby", "draining")
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


def render(reading: Reading, buckets: Buckets, accept: str) -> tuple[bytes, str]:
    """The text and its Content-Type, by what the scraper's Accept asks for. Takes a while for a
    thousand targets: to be called in a thread."""
    encode, content_type = choose_encoder(accept)
    return encode(_Families(reading, buckets)), content_type


class _Families(Collector):
    def __init__(self, reading: Reading, buckets: Buckets) -> None:
        self._reading = reading
        self._buckets = buckets

    def collect(self) -> Iterable[Metric]:
        reading = self._reading
        yield from _instance(reading)
        yield from _listeners(reading)
        yield from _groups(reading, self._buckets)
        yield from _targets(reading)
        yield from _auto_scaling(reading)
        yield from _workers(reading)


def _instance(reading: Reading) -> Iterator[Metric]:
    build: Any = InfoMetricFamily("fastlb_build", "What runs")
    build.add_metric(
        [], {"version": reading.version, "python": platform.python_version(), "name": reading.name}
    )
    yield build
    yield from each(INSTANCE, (), [((), reading)])


def _listeners(reading: Reading) -> Iterator[Metric]:
    listeners = reading.listeners
    yield counter(
        "fastlb_requests",
        "Requests that were answered, by the first digit of the status",
        ("listener", "code"),
        (
            ((one.key, code), count)
            for one in listeners
            if one.protocol == "http" and one.counts.statuses is not None
            for code, count in zip(STATUS_CLASSES, one.counts.statuses, strict=True)
        ),
    )

    yield from each(LISTENER, ("listener",), [((one.key,), one) for one in listeners])


def _groups(reading: Reading, buckets: Buckets) -> Iterator[Metric]:
    groups = reading.groups
    durations = HistogramMetricFamily(
        "fastlb_request_duration_seconds",
        "From the request's begin at a target to the end of its answer; of TCP, to the accept",
        labels=("group",),
    )
    for one in groups:
        durations.add_metric(
            (one.name,),
            buckets=cumulative(buckets(one.counts.histogram or 0)),
            sum_value=(one.counts.latency_us or 0) / 1e6,
        )
    yield durations
    yield from each(GROUP, ("group",), [((one.name,), one) for one in groups])
    states = {(group.name, state): 0 for group in groups for state in STATES}
    for target in reading.targets:
        if (target.group, target.state) in states:
            states[target.group, target.state] += 1
    yield gauge(
        "fastlb_group_targets", "Registered targets by state", ("group", "state"), states.items()
    )


def cumulative(buckets: Sequence[tuple[float, int]]) -> list[tuple[str, float]]:
    """Prometheus' buckets of ours: upper bounds as texts, and how many lie under each."""
    found: list[tuple[str, float]] = []
    under = 0
    rest = iter(buckets)
    bound, count = next(rest, (float("inf"), 0))
    for le in BOUNDS:
        while bound <= le:
            under += count
            bound, count = next(rest, (float("inf"), 0))
        found.append((repr(le), under))
    total = sum(count for _, count in buckets)
    return [*found, ("+Inf", total)]


def _targets(reading: Reading) -> Iterator[Metric]:
    targets = [((one.group, one.address), one) for one in reading.targets]
    yield from each(TARGET, ("group", "target"), targets)


def _auto_scaling(reading: Reading) -> Iterator[Metric]:
    groups = reading.auto_scaling
    label = ("group",)
    for name, about, key in (
        ("desired_capacity", "Instances that there should be", "desired"),
        ("min_size", "Least instances, as of now", "min"),
        ("max_size", "Most instances, as of now", "max"),
    ):
        yield gauge(
            f"fastlb_autoscaling_{name}",
            about,
            label,
            (((one["name"],), one[key]) for one in groups),
        )
    yield gauge(
        "fastlb_autoscaling_instances",
        "Instances by state",
        ("group", "state"),
        (((one["name"], state), one[state]) for one in groups for state in INSTANCE_STATES),
    )
    for name, about, key in (
        ("value", "Mean over the instances in service, in the metric's own unit", "value"),
        ("target", "What a policy holds it against", "target"),
    ):
        yield gauge(
            f"fastlb_autoscaling_metric_{name}",
            about,
            ("group", "metric"),
            {
                (one["name"], metric["metric"]): metric[key]
                for one in groups
                for metric in one["metrics"]
            }.items(),
        )
    for name, about, key in (
        ("launch_blocked", "1 where no instance can be launched", "blocked"),
        ("scale_out_refused", "1 where the host has no room for what the policies want", "refused"),
        ("template_quarantined", "1 where the template's instances do not come up", "quarantined"),
        ("refresh_in_progress", "1 while instances are being replaced", "refresh"),
        ("suspended", "1 where something of it is suspended", "suspended"),
    ):
        yield gauge(
            f"fastlb_autoscaling_{name}",
            about,
            label,
            (((one["name"],), bool(one[key])) for one in groups),
        )


def _workers(reading: Reading) -> Iterator[Metric]:
    workers = [((str(one.index),), one) for one in reading.workers]
    yield from each(WORKER, ("worker",), workers)
