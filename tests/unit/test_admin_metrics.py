"""What /metrics says is grammar, and what deploy/ asks for is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from fastlb.admin.metrics import BOUNDS, cumulative, render
from fastlb.admin.reading import (
    Counts,
    GroupReading,
    ListenerReading,
    Reading,
    TargetReading,
    WorkerReading,
)

DEPLOY = Path(__file__).parents[2] / "deploy"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def buckets(histogram: int) -> Sequence[tuple[float, int]]:
    """One in each of our bounds' own, and some above the last."""
    return [*((bound, histogram) for bound in BOUNDS), (100.0, 5 * histogram)]


def counts(**also: Any) -> Counts:
    figures: dict[str, Any] = {
        "requests": 7,
        "errors": 1,
        "bytes_in": 10,
        "bytes_out": 20,
        "connections": 3,
        "in_flight": 2,
        "status_5xx": 1,
        "histogram": 1,
        "queued": 4,
        "queue_wait_us": 2_500_000,
        "latency_us": 1_500_000,
    }
    return Counts(**(figures | also))


def reading() -> Reading:
    statuses = (0, 5, 1, 1, 0)
    scaled = {
        "name": "web",
        "target_group": "web",
        "desired": 2,
        "min": 1,
        "max": 4,
        **dict.fromkeys(("pending", "in_service", "standby", "draining"), 1),
        "metrics": [
            {"metric": "cpu", "value": 41.5, "target": 60.0, "policy": "TargetTracking"},
            {"metric": "cpu", "value": 41.5, "target": 80.0, "policy": "StepScaling"},
            {"metric": "requests", "value": None, "target": 500.0, "policy": "TargetTracking"},
        ],
        "blocked": "",
        "refused": "no memory",
        "quarantined": False,
        "refresh": None,
        "suspended": ["scaling"],
        "instances": [],
    }
    target = TargetReading(
        *("web", 'unix:/run/a"b\\c.sock', None, "healthy", False, "ok", 1.0, 1, False, None),
        counts(),
    )
    return Reading(
        at=1.0,
        time=2.0,
        name="default",
        version="1.2.3",
        pid=1,
        uptime=3.0,
        draining=False,
        host_cpu_percent=1.0,
        host_memory_percent=2.0,
        cores=2,
        cpu_seconds=1.5,
        rss=1000,
        totals=counts(retries=3),
        rejected=1,
        log_dropped=2,
        open_files=9,
        most_open_files=1024,
        started=100.0,
        listeners=[
            ListenerReading("http://a:1", "http", 0, counts(statuses=statuses, accepted=6)),
            ListenerReading("tcp://a:2", "tcp", 0, counts(statuses=(0, 0, 0, 0, 0), accepted=8)),
        ],
        groups=[
            GroupReading("web", "round_robin", False, 1, 1, 0, counts()),
            GroupReading("api", "round_robin", True, 0, 0, None, counts(histogram=0)),
        ],
        targets=[target],
        workers=[
            WorkerReading(0, 7, "running", 1, 0.5, 100, 0, 0, counts()),
            WorkerReading(1, 0, "dead", 2, None, None, 0, 0, counts()),
        ],
        auto_scaling=[scaled],
    )


@pytest.mark.parametrize("accept", ["", "text/plain", OPENMETRICS, "*/*"])
def test_the_text_is_grammar(accept: str) -> None:
    text, kind = render(reading(), buckets, accept)
    parse = openmetrics_families if accept == OPENMETRICS else text_string_to_metric_families
    families = {family.name: family for family in parse(text.decode())}
    assert kind.startswith(
        "application/openmetrics-text" if accept == OPENMETRICS else "text/plain"
    )
    for name, family in families.items():
        assert family.documentation, name
        assert re.fullmatch(r"(fastlb|process)_[a-z0-9_]+", name)
        for sample in family.samples:
            assert sample.labels.keys() <= {
                *("listener", "code", "group", "target", "worker", "state", "metric", "le"),
                *("version", "python", "name"),
            }
    (requests,) = (
        one.value
        for one in families["fastlb_requests"].samples
        if one.labels == {"listener": "http://a:1", "code": "2xx"}
    )
    assert requests == 5
    (up,) = families["fastlb_target_up"].samples
    assert (up.labels["target"], up.value) == ('unix:/run/a"b\\c.sock', 1)
    targets = {
        one.labels["metric"]: one.value
        for one in families["fastlb_autoscaling_metric_target"].samples
    }
    assert targets == {"cpu": 80, "requests": 500}


def test_promtool_has_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    text, _ = render(reading(), buckets, "")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    rules = [promtool, "check", "rules", str(DEPLOY / "prometheus/alerts.yml")]
    done = subprocess.run(rules, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_durations_are_cumulative_and_end_with_all() -> None:
    found = cumulative(buckets(2))
    assert [count for _, count in found[:-1]] == [2 * (n + 1) for n in range(len(BOUNDS))]
    assert found[-1] == ("+Inf", 2 * len(BOUNDS) + 10)
    assert [le for le, _ in found[:3]] == ["0.000256", "0.000512", "0.001024"]
    assert cumulative([])[-1] == ("+Inf", 0)


# -- what is deployed


def sample_names() -> set[str]:
    text, _ = render(reading(), buckets, "")
    return {
        one.name
        for family in text_string_to_metric_families(text.decode())
        for one in family.samples
    }


def names_in(expression: str) -> set[str]:
    """The metrics that an expression of PromQL asks for, as far as they are fastlb's or process's."""
    return set(re.findall(r"\b(?:fastlb|process)_\w+", re.sub(r'"[^"]*"', "", expression)))


def expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("expr", "definition") and isinstance(inner, str):
                yield inner
            else:
                yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    dashboard = json.loads((DEPLOY / "grafana/fastlb.json").read_text())
    known = sample_names()
    asked = list(expressions(dashboard))
    assert len(asked) > 30
    for expression in asked:
        names = names_in(expression)
        assert names, expression
        assert names <= known, (expression, names - known)
    used = set().union(*map(names_in, asked))
    for needed in ("fastlb_requests_total", "fastlb_target_up", "fastlb_autoscaling_metric_value"):
        assert needed in used


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads((DEPLOY / "grafana/fastlb.json").read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= dashboard.keys()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            references = [one["refId"] for one in panel["targets"]]
            assert len(set(references)) == len(references) > 0
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    text = json.dumps(panels)
    assert set(re.findall(r"\$(\w+)", text)) <= {*variables, "__rate_interval"}


def test_the_alerts_ask_for_metrics_that_are_there() -> None:
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
    known = sample_names()
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 8
    for rule in rules:
        names = names_in(rule["expr"])
        assert names <= known, (rule["alert"], names - known)
        assert names or "up{" in rule["expr"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]


def test_the_example_scrapes_what_is_served() -> None:
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert document["rule_files"] == ["alerts.yml"]
    (job,) = document["scrape_configs"]
    assert job["job_name"] == "fastlb"
    assert "metrics_path" not in job
