"""How auto scaling groups look in `fastlb status`, at 80 columns and in a pipe."""

from __future__ import annotations

from typing import Any

from fastlb.cli.scaling_view import render
from fastlb.cli.status_view import render as render_status

SOCKET = "unix:/run/fastlb/default/i-8945411f/app.sock"


def instance(**values: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "id": "i-8945411f",
        "pid": 4194303,
        "state": "in_service",
        "health": "healthy",
        "reason": "check passed",
        "doomed": False,
        "address": SOCKET,
        "age_s": 3725.0,
        "version": 1,
        "cpu_percent": 93.4,
        "rss_bytes": 220_000_000,
        "in_flight": 4,
        "requests_per_minute": 123456.7,
        "protected": False,
        "share": 1.0,
    }
    return plain | values


def metric(name: str, value: float | None, target: float, policy: str) -> dict[str, Any]:
    return {"metric": name, "value": value, "target": target, "policy": policy}


GROUP: dict[str, Any] = {
    "name": "web",
    "target_group": "site",
    "min": 1,
    "max": 8,
    "desired": 3,
    "in_service": 2,
    "pending": 1,
    "standby": 0,
    "draining": 1,
    "steady": False,
    "doing": "1 starting",
    "version": 2,
    "configured_version": 3,
    "quarantined": False,
    "suspended": [],
    "blocked": "",
    "refused": "",
    "cause": "desired capacity 2 -> 3: cpu 93.1 over the target of 60 for 3 datapoints",
    "metrics": [
        metric("cpu", 93.1, 60.0, "TargetTracking"),
        metric("requests", 512.0, 500.0, "TargetTracking"),
        metric("rss", 210 * 1048576.0, 300 * 1048576.0, "TargetTracking"),
        metric("queue_wait", None, 0.05, "StepScaling"),
    ],
    "last_decision": "cpu 93.1 over the target of 60: 2 instances in service need 4",
    "refresh": None,
    "instances": [instance()],
}


def shown(width: int | None, **values: Any) -> list[str]:
    return [line.plain for line in render(GROUP | values, width)]


def joined(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def test_a_group_says_what_it_should_be_and_what_it_is() -> None:
    for width in (80, None):
        lines = shown(width)
        said = joined(lines)
        assert lines[0].startswith(
            "web  auto scaling group: 3 desired (1-8), 2 in service, 1 pending, 1 draining"
        )
        assert "launch template v2 (v3 is configured) last change: desired capacity 2 -> 3" in said
        assert (
            "cpu 93 of 60 %, requests 512/min of 500/min, rss 210 MiB of 300 MiB, "
            "queue_wait ? at a threshold of 50 ms"
        ) in said
        assert "last decision: cpu 93.1 over the target of 60: 2 instances" in said


def test_it_fits_80_columns() -> None:
    instances = [
        instance(state="terminating", version=10, rss_bytes=1023.9 * 1024**2),
        instance(health="unhealthy", reason="connection refused " * 9, protected=True, share=0.25),
    ]
    refresh = {
        "what": "instance refresh to v3",
        "phase": "going_back",
        "from": 2,
        "to": 3,
        "instances": 4,
        "left": 3,
        "judgement": "too few requests to judge by",
    }
    lines = shown(80, instances=instances, refresh=refresh, blocked="x " * 60)
    assert max(map(len, lines)) <= 80
    said = joined(lines)
    assert (
        "instance refresh to v3 from v2, going back: 1 of 4 replaced; too few requests to judge by"
    ) in said


def test_what_holds_it_back_stands_out() -> None:
    lines = render(
        GROUP
        | {
            "suspended": ["launch", "scaling"],
            "blocked": "launch template v2 failed 2 times in a row, next try in 3 s",
            "quarantined": True,
            "refused": "the host is busy",
        },
        None,
    )
    styles = {line.plain.strip(): str(line.style) for line in lines}
    assert styles["suspended: launch, scaling"] == "bold yellow"
    blocked = "no launch: launch template v2 failed 2 times in a row, next try in 3 s"
    assert styles[blocked] == "bold red"
    assert styles["launch template v2 is quarantined"] == "bold red"
    assert styles["no scale-out: the host is busy"] == "bold yellow"


def test_what_the_host_has_and_what_failed_are_shown_where_they_are_told() -> None:
    host = {"cpu_percent": 96.2, "memory_available": int(11.2 * 1024**3)}
    failed = "launch i-1: ended with status 3; it printed last:\n    no database\x1b[2J\n"
    back = "v3 was rolled back: 2 launches in a row failed"
    for width in (80, None):
        lines = render(
            GROUP
            | {"host": host, "rolled_back": back, "last_failure": failed, "blocked": "v3 failed"}
            | {"launches": "launches use v2; on to v3: fastlb refresh web --force"},
            width,
        )
        said = joined([line.plain for line in lines])
        assert "queue_wait ? at a threshold of 50 ms; host: cpu 96 %, 11.2GiB free" in said
        styles = {line.plain.strip(): str(line.style) for line in lines}
        assert styles[back] == "bold red"
        launches = "launches use v2; on to v3: fastlb refresh web --force"
        assert styles[launches] == "bold yellow"
        plain = [line.plain.strip() for line in lines]
        at = plain.index("no launch: v3 failed")
        assert plain[at + 1] == "last failure: launch i-1: ended with status 3; it printed last:"
        assert plain[at + 2] == "no database?[2J"
    first = shown(80, metrics=[], host={"cpu_percent": None, "memory_available": 2**30})
    assert "  host: 1.0GiB free" in first


def test_instances_in_a_pipe_have_their_notes_on_their_lines() -> None:
    instances = [
        instance(protected=True, share=0.5),
        instance(health="unhealthy", reason="3 of 3 checks failed"),
        instance(state="pending", health="", reason="", pid=0, cpu_percent=None, rss_bytes=None),
        instance(doomed=True, reason="over max_rss: 310 of 300 MiB", requests_per_minute=None),
    ]
    lines = shown(None, instances=instances)
    heads, first, second, third, last = (line.split() for line in lines[-5:])
    assert " ".join(heads) == "ID PID STATE AGE VER CPU RSS IN-FLIGHT REQ/MIN NOTES"
    assert " ".join(first) == (
        "i-8945411f 4194303 in service 62m v1 93% 210MiB 4 123457 "
        "protected; slow start: 50% of its share"
    )
    assert second[2] == "unhealthy"
    assert second[-5:] == ["3", "of", "3", "checks", "failed"]
    assert third[1:3] == ["-", "pending"]
    assert third[-5:] == ["v1", "-", "-", "4", "123457"]
    assert " ".join(last).endswith("- to be replaced: over max_rss: 310 of 300 MiB")


def test_notes_stand_under_the_instance_on_a_terminal() -> None:
    lines = shown(80, instances=[instance(protected=True)])
    assert lines[-1] == "      protected"


def test_a_group_without_instances_and_policies() -> None:
    lines = shown(80, instances=[], metrics=[], last_decision="", in_service=0)
    assert lines[-1].strip() == "no instances"


def test_nothing_of_a_reason_steers_the_terminal() -> None:
    bad = "\x1b[2J\n"
    lines = shown(80, instances=[instance(state="pending", reason=bad)], cause=bad, blocked=bad)
    assert all(line.isprintable() for line in lines)


def target(address: str) -> dict[str, Any]:
    return {
        "address": address,
        "weight": 1,
        "backup": False,
        "state": "healthy",
        "suspect": False,
        "reason": "check passed",
        "in_flight": 0,
        "requests": 0,
        "errors": 0,
        "p50_s": None,
        "p99_s": None,
    }


def document(address: str) -> dict[str, Any]:
    totals = ("requests", "in_flight", "connections", "errors", "retries", "rejected")
    return {
        "name": "default",
        "pid": 1,
        "version": "0.1.0",
        "uptime_s": 1.0,
        "started": 0.0,
        "draining": False,
        "workers": [],
        "listeners": [],
        "target_groups": [
            {
                "name": name,
                "algorithm": "round_robin",
                "fail_open": False,
                "health_check": "off",
                "targets": targets,
            }
            for name, targets in (
                ("site", [target(address), target("127.0.0.1:9001")]),
                ("other", []),
            )
        ],
        "auto_scaling_groups": [GROUP | {"instances": [instance(address=address)]}],
        "totals": dict.fromkeys((*totals, "bytes_in", "bytes_out"), 0),
    }


def test_the_target_of_an_instance_is_called_by_its_id() -> None:
    for width in (80, None):
        lines = [line.plain for line in render_status(document(SOCKET), width)]
        rows = [line.split()[:2] for line in lines if line.startswith("  i-8945411f")]
        assert [row[0] for row in rows] == ["i-8945411f"] * 2
        assert rows[0][1] == "healthy"
        assert not any("app.sock" in line for line in lines)
        assert any("127.0.0.1:9001" in line for line in lines)
        at = next(n for n, line in enumerate(lines) if line.startswith("web  auto scaling"))
        assert at < lines.index("other"), "a group stands under its target group"
    port = "127.0.0.1:40001"
    lines = [line.plain for line in render_status(document(port), 80)]
    assert f"      {port}; check passed" in lines


def test_what_operators_said_is_shown_with_its_age_and_reason() -> None:
    said = document("127.0.0.1:1") | {"started": 1000.0, "uptime_s": 200.0}
    site, other = said["target_groups"]
    drained, weighed = site["targets"]
    drained |= {
        "state": "draining",
        "reason": "healthy: check passed",
        "overrides": [{"what": "drained", "since": 1195.0, "reason": "disk\x1b[2J"}],
    }
    weighed |= {
        "weight": 0.5,
        "overrides": [{"what": "weight 50%", "since": 1000.0, "reason": ""}],
    }
    part = {"what": "removed", "since": 1080.0, "reason": "old"}
    other["removed"] = [{"address": "127.0.0.1:7", "overrides": [part]}]
    lines = [line.plain for line in render_status(said, None)]
    assert any(
        line.endswith("drained by an operator 5s ago (disk?[2J); healthy: check passed")
        for line in lines
    )
    assert any(
        line.startswith("  127.0.0.1:9001 (weight 0.5)")
        and line.endswith("weight 50% by an operator 3m ago; check passed")
        for line in lines
    )
    assert "  without 127.0.0.1:7: removed by an operator 2m ago (old)" in lines
    assert not any("OUT OF USE" in line for line in lines)
    weighed |= {"weight": 0}
    lines = [line.plain for line in render_status(said, 80)]
    assert "site  OUT OF USE: no target gets requests" in lines
