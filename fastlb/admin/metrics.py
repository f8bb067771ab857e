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
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fastlb.admin.reading import Counts, Reading

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


Row = tuple[Sequence[str], float | None]
"""Values of the labels, and the value; None where it is not known, and left out."""


def _gauge(name: str, about: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


def _counter(name: str, about: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    family = CounterMetricFamily(name, about, labels=labels)
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


def _one(value: float | None) -> list[Row]:
    return [((), value)]


def _instance(reading: Reading) -> Iterator[Metric]:
    build: Any = InfoMetricFamily("fastlb_build", "What runs")
    build.add_metric(
        [], {"version": reading.version, "python": platform.python_version(), "name": reading.name}
    )
    yield build
    yield _gauge("fastlb_draining", "1 while the instance stops", (), _one(reading.draining))
    yield _counter(
        "fastlb_retries", "Requests sent to another target", (), _one(reading.totals.retries)
    )
    yield _counter(
        "fastlb_connections_rejected",
        "Client connections over max_connections",
        (),
        _one(reading.rejected),
    )
    yield _counter(
        "fastlb_access_log_dropped_lines",
        "Lines of the access log that were lost, since its file did not take them in time",
        (),
        _one(reading.log_dropped),
    )
    yield _counter(
        "process_cpu_seconds",
        "CPU time of the supervisor",
        (),
        _one(reading.cpu_seconds),
    )
    yield _gauge("process_resident_memory_bytes", "Memory of the supervisor", (), _one(reading.rss))
    yield _gauge(
        "process_start_time_seconds",
        "When the supervisor was started, since 1970",
        (),
        _one(reading.started),
    )
    yield _gauge("process_open_fds", "Of the supervisor", (), _one(reading.open_files))
    yield _gauge("process_max_fds", "Of the supervisor", (), _one(reading.most_open_files))


def _listeners(reading: Reading) -> Iterator[Metric]:
    listeners = reading.listeners
    yield _counter(
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

    def rows(value: Callable[[Counts], float | None]) -> Iterator[Row]:
        return (((one.key,), value(one.counts)) for one in listeners)

    label = ("listener",)
    yield _counter(
        "fastlb_errors",
        "Error answers that fastlb made itself, and connections that it had to cut",
        label,
        rows(lambda one: one.errors),
    )
    yield _gauge(
        "fastlb_connections", "Open client connections", label, rows(lambda one: one.connections)
    )
    yield _counter(
        "fastlb_connections_accepted", "Client connections", label, rows(lambda one: one.accepted)
    )
    yield _counter("fastlb_received_bytes", "From clients", label, rows(lambda one: one.bytes_in))
    yield _counter("fastlb_sent_bytes", "To clients", label, rows(lambda one: one.bytes_out))


def _groups(reading: Reading, buckets: Buckets) -> Iterator[Metric]:
    groups = reading.groups
    label = ("group",)

    def rows(value: Callable[[Counts], float | None]) -> Iterator[Row]:
        return (((one.name,), value(one.counts)) for one in groups)

    durations = HistogramMetricFamily(
        "fastlb_request_duration_seconds",
        "From the request's begin at a target to the end of its answer; of TCP, to the accept",
        labels=label,
    )
    for one in groups:
        durations.add_metric(
            (one.name,),
            buckets=cumulative(buckets(one.counts.histogram or 0)),
            sum_value=(one.counts.latency_us or 0) / 1e6,
        )
    yield durations
    yield _counter(
        "fastlb_group_requests",
        "Requests and TCP connections given to targets, each try for itself",
        label,
        rows(lambda one: one.requests),
    )
    yield _counter(
        "fastlb_group_target_errors",
        "Refused, reset, timed out, malformed or cut answers of targets",
        label,
        rows(lambda one: one.errors),
    )
    yield _counter(
        "fastlb_group_server_errors",
        "Answers of targets with a status of 5xx",
        label,
        rows(lambda one: one.status_5xx),
    )
    yield _counter(
        "fastlb_group_queued_requests",
        "Requests that had been held until a target was there",
        label,
        rows(lambda one: one.queued),
    )
    yield _counter(
        "fastlb_group_queue_wait_seconds",
        "The sum of their waits",
        label,
        rows(lambda one: (one.queue_wait_us or 0) / 1e6),
    )
    yield _gauge(
        "fastlb_group_requests_in_flight",
        "Requests and TCP connections that targets have now",
        label,
        rows(lambda one: one.in_flight),
    )
    yield _gauge(
        "fastlb_group_held_requests",
        "Requests that wait for a target; not known of each of several groups that can hold",
        label,
        (((one.name,), one.held) for one in groups),
    )
    yield _gauge(
        "fastlb_group_healthy_targets",
        "Targets that get requests while the group does not fail open",
        label,
        (((one.name,), one.healthy) for one in groups),
    )
    yield _gauge(
        "fastlb_group_fail_open",
        "1 where all targets get requests, since none is healthy",
        label,
        (((one.name,), one.fail_open) for one in groups),
    )
    states = {(group.name, state): 0 for group in groups for state in STATES}
    for target in reading.targets:
        if (target.group, target.state) in states:
            states[target.group, target.state] += 1
    yield _gauge(
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
    label = ("group", "target")

    def rows(value: Callable[[Counts], float | None]) -> Iterator[Row]:
        return ((name, value(one.counts)) for name, one in targets)

    yield _gauge(
        "fastlb_target_up",
        "1 where the target is healthy and not suspect",
        label,
        ((name, one.state == "healthy" and not one.suspect) for name, one in targets),
    )
    yield _gauge(
        "fastlb_target_weight",
        "Its share among the group's",
        label,
        ((name, one.weight) for name, one in targets),
    )
    yield _counter(
        "fastlb_target_requests",
        "Requests and TCP connections given to the target",
        label,
        rows(lambda one: one.requests),
    )
    yield _counter(
        "fastlb_target_errors",
        "Refused, reset, timed out, malformed or cut answers",
        label,
        rows(lambda one: one.errors),
    )
    yield _counter(
        "fastlb_target_server_errors",
        "Answers with a status of 5xx",
        label,
        rows(lambda one: one.status_5xx),
    )
    yield _gauge(
        "fastlb_target_requests_in_flight",
        "Requests and TCP connections that it has now",
        label,
        rows(lambda one: one.in_flight),
    )
    yield _gauge(
        "fastlb_target_connections",
        "Open connections to it, pooled ones included",
        label,
        rows(lambda one: one.connections),
    )
    yield _counter(
        "fastlb_target_received_bytes", "From the target", label, rows(lambda one: one.bytes_in)
    )
    yield _counter(
        "fastlb_target_sent_bytes", "To the target", label, rows(lambda one: one.bytes_out)
    )


def _auto_scaling(reading: Reading) -> Iterator[Metric]:
    groups = reading.auto_scaling
    label = ("group",)
    for name, about, key in (
        ("desired_capacity", "Instances that there should be", "desired"),
        ("min_size", "Least instances, as of now", "min"),
        ("max_size", "Most instances, as of now", "max"),
    ):
        yield _gauge(
            f"fastlb_autoscaling_{name}",
            about,
            label,
            (((one["name"],), one[key]) for one in groups),
        )
    yield _gauge(
        "fastlb_autoscaling_instances",
        "Instances by state",
        ("group", "state"),
        (((one["name"], state), one[state]) for one in groups for state in INSTANCE_STATES),
    )
    for name, about, key in (
        ("value", "Mean over the instances in service, in the metric's own unit", "value"),
        ("target", "What a policy holds it against", "target"),
    ):
        yield _gauge(
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
        yield _gauge(
            f"fastlb_autoscaling_{name}",
            about,
            label,
            (((one["name"],), bool(one[key])) for one in groups),
        )


def _workers(reading: Reading) -> Iterator[Metric]:
    workers = [((str(one.index),), one) for one in reading.workers]
    label = ("worker",)
    yield _gauge(
        "fastlb_worker_up",
        "1 where the worker accepts",
        label,
        ((name, one.state == "running") for name, one in workers),
    )
    yield _counter(
        "fastlb_worker_restarts",
        "Times that it died and was replaced",
        label,
        ((name, one.restarts) for name, one in workers),
    )
    yield _counter(
        "fastlb_worker_requests",
        "Requests that were read and understood; those that were refused before are answers only",
        label,
        ((name, one.counts.requests) for name, one in workers),
    )
    yield _gauge(
        "fastlb_worker_connections",
        "Open client connections",
        label,
        ((name, one.counts.connections) for name, one in workers),
    )
    yield _counter(
        "fastlb_worker_cpu_seconds",
        "CPU time of the process that it is now",
        label,
        ((name, one.cpu_seconds) for name, one in workers),
    )
    yield _gauge(
        "fastlb_worker_resident_memory_bytes",
        "Its memory",
        label,
        ((name, one.rss) for name, one in workers),
    )
    yield _gauge(
        "fastlb_worker_held_requests",
        "Requests that wait for an instance",
        label,
        ((name, one.held) for name, one in workers),
    )
    yield _counter(
        "fastlb_worker_accept_pauses",
        "Times that accepting stopped for want of file descriptors, of the process that it is now",
        label,
        ((name, one.accept_pauses) for name, one in workers),
    )
