"""What each metric of /metrics is: its name, its meaning, and how it is read from one thing of a Reading.

One table a kind of thing. Knows prometheus-client's families, and nothing of how they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from fastlb.admin.reading import (
    GroupReading,
    ListenerReading,
    Reading,
    TargetReading,
    WorkerReading,
)

One = TypeVar("One")
Row = tuple[Sequence[str], float | None]
"""Values of the labels, and the value; None where it is not known, and left out."""


def gauge(name: str, about: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    return _filled(GaugeMetricFamily(name, about, labels=labels), rows)


def counter(name: str, about: str, labels: Sequence[str], rows: Iterable[Row]) -> Metric:
    return _filled(CounterMetricFamily(name, about, labels=labels), rows)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, rows: Iterable[Row]
) -> GaugeMetricFamily | CounterMetricFamily:
    for values, value in rows:
        if value is not None:
            family.add_metric(values, value)
    return family


@dataclass(frozen=True, slots=True)
class Figure(Generic[One]):
    """A family with one value for each thing of a kind. `make` is `gauge` or `counter`."""

    make: Callable[[str, str, Sequence[str], Iterable[Row]], Metric]
    name: str
    about: str
    value: Callable[[One], float | None]


def each(
    figures: Iterable[Figure[One]],
    labels: Sequence[str],
    things: Sequence[tuple[Sequence[str], One]],
) -> Iterator[Metric]:
    """The families; `things` are all of a kind, with the values of their labels."""
    for one in figures:
        yield one.make(
            one.name, one.about, labels, ((name, one.value(thing)) for name, thing in things)
        )


INSTANCE: tuple[Figure[Reading], ...] = (
    Figure(gauge, "fastlb_draining", "1 while the instance stops", lambda one: one.draining),
    Figure(
        counter,
        "fastlb_retries",
        "Requests sent to another target",
        lambda one: one.totals.retries,
    ),
    Figure(
        counter,
        "fastlb_connections_rejected",
        "Client connections over max_connections",
        lambda one: one.rejected,
    ),
    Figure(
        counter,
        "fastlb_access_log_dropped_lines",
        "Lines of the access log that were lost, since its file did not take them in time",
        lambda one: one.log_dropped,
    ),
    Figure(
        counter,
        "process_cpu_seconds",
        "CPU time of the supervisor",
        lambda one: one.cpu_seconds,
    ),
    Figure(
        gauge,
        "process_resident_memory_bytes",
        "Memory of the supervisor",
        lambda one: one.rss,
    ),
    Figure(
        gauge,
        "process_start_time_seconds",
        "When the supervisor was started, since 1970",
        lambda one: one.started,
    ),
    Figure(gauge, "process_open_fds", "Of the supervisor", lambda one: one.open_files),
    Figure(gauge, "process_max_fds", "Of the supervisor", lambda one: one.most_open_files),
)
LISTENER: tuple[Figure[ListenerReading], ...] = (
    Figure(
        counter,
        "fastlb_errors",
        "Error answers that fastlb made itself, and connections that it had to cut",
        lambda one: one.counts.errors,
    ),
    Figure(
        gauge,
        "fastlb_connections",
        "Open client connections",
        lambda one: one.counts.connections,
    ),
    Figure(
        counter,
        "fastlb_connections_accepted",
        "Client connections",
        lambda one: one.counts.accepted,
    ),
    Figure(counter, "fastlb_received_bytes", "From clients", lambda one: one.counts.bytes_in),
    Figure(counter, "fastlb_sent_bytes", "To clients", lambda one: one.counts.bytes_out),
)
GROUP: tuple[Figure[GroupReading], ...] = (
    Figure(
        counter,
        "fastlb_group_requests",
        "Requests and TCP connections given to targets, each try for itself",
        lambda one: one.counts.requests,
    ),
    Figure(
        counter,
        "fastlb_group_target_errors",
        "Refused, reset, timed out, malformed or cut answers of targets",
        lambda one: one.counts.errors,
    ),
    Figure(
        counter,
        "fastlb_group_server_errors",
        "Answers of targets with a status of 5xx",
        lambda one: one.counts.status_5xx,
    ),
    Figure(
        counter,
        "fastlb_group_queued_requests",
        "Requests that had been held until a target was there",
        lambda one: one.counts.queued,
    ),
    Figure(
        counter,
        "fastlb_group_queue_wait_seconds",
        "The sum of their waits",
        lambda one: (one.counts.queue_wait_us or 0) / 1e6,
    ),
    Figure(
        gauge,
        "fastlb_group_requests_in_flight",
        "Requests and TCP connections that targets have now",
        lambda one: one.counts.in_flight,
    ),
    Figure(
        gauge,
        "fastlb_group_held_requests",
        "Requests that wait for a target; not known of each of several groups that can hold",
        lambda one: one.held,
    ),
    Figure(
        gauge,
        "fastlb_group_healthy_targets",
        "Targets that get requests while the group does not fail open",
        lambda one: one.healthy,
    ),
    Figure(
        gauge,
        "fastlb_group_fail_open",
        "1 where all targets get requests, since none is healthy",
        lambda one: one.fail_open,
    ),
)
TARGET: tuple[Figure[TargetReading], ...] = (
    Figure(
        gauge,
        "fastlb_target_up",
        "1 where the target is healthy and not suspect",
        lambda one: one.state == "healthy" and not one.suspect,
    ),
    Figure(gauge, "fastlb_target_weight", "Its share among the group's", lambda one: one.weight),
    Figure(
        counter,
        "fastlb_target_requests",
        "Requests and TCP connections given to the target",
        lambda one: one.counts.requests,
    ),
    Figure(
        counter,
        "fastlb_target_errors",
        "Refused, reset, timed out, malformed or cut answers",
        lambda one: one.counts.errors,
    ),
    Figure(
        counter,
        "fastlb_target_server_errors",
        "Answers with a status of 5xx",
        lambda one: one.counts.status_5xx,
    ),
    Figure(
        gauge,
        "fastlb_target_requests_in_flight",
        "Requests and TCP connections that it has now",
        lambda one: one.counts.in_flight,
    ),
    Figure(
        gauge,
        "fastlb_target_connections",
        "Open connections to it, pooled ones included",
        lambda one: one.counts.connections,
    ),
    Figure(
        counter,
        "fastlb_target_received_bytes",
        "From the target",
        lambda one: one.counts.bytes_in,
    ),
    Figure(counter, "fastlb_target_sent_bytes", "To the target", lambda one: one.counts.bytes_out),
)
WORKER: tuple[Figure[WorkerReading], ...] = (
    Figure(
        gauge,
        "fastlb_worker_up",
        "1 where the worker accepts",
        lambda one: one.state == "running",
    ),
    Figure(
        counter,
        "fastlb_worker_restarts",
        "Times that it died and was replaced",
        lambda one: one.restarts,
    ),
    Figure(
        counter,
        "fastlb_worker_requests",
        "Requests that were read and understood; those that were refused before are answers only",
        lambda one: one.counts.requests,
    ),
    Figure(
        gauge,
        "fastlb_worker_connections",
        "Open client connections",
        lambda one: one.counts.connections,
    ),
    Figure(
        counter,
        "fastlb_worker_cpu_seconds",
        "CPU time of the process that it is now",
        lambda one: one.cpu_seconds,
    ),
    Figure(gauge, "fastlb_worker_resident_memory_bytes", "Its memory", lambda one: one.rss),
    Figure(
        gauge,
        "fastlb_worker_held_requests",
        "Requests that wait for an instance",
        lambda one: one.held,
    ),
    Figure(
        counter,
        "fastlb_worker_accept_pauses",
        "Times that accepting stopped for want of file descriptors, of the process that it is now",
        lambda one: one.accept_pauses,
    ),
)
