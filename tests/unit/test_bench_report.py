"""The bench's tables, and the shares of a profile."""

from __future__ import annotations

import pytest

from bench.figures import Result
from bench.flame_graph import shares
from bench.locust_run import HEAD, Found, kind_rows, read_stats, total_row
from bench.report import (
    LOAD_BOUND,
    SUMMARY_HEAD,
    as_markdown_table,
    as_table,
    markdown,
    number,
    remarks,
    summary_rows,
    verdict_text,
    workload_rows,
)
from bench.workloads import WORKLOADS

BY_NAME = {one.name: one for one in WORKLOADS}


def cell(rate: float, cpu: float, first: float = 0.0) -> dict[str, float]:
    return {
        "rate": rate,
        "busy": 2 * cpu,
        "user": cpu / 2,
        "system": cpu / 2,
        "cpu": cpu,
        "first": first,
        "share": rate * cpu / 1e6,
        "rss": 50 << 20,
        "p50": 1000.0,
        "p99": 2000.0,
        "p999": 3000.0,
    }


GET = Result(
    BY_NAME["get"],
    cells={
        "fastlb": [cell(50_000, 20.0, 0.1), cell(48_000, 20.8, 0.1), cell(49_000, 20.4, 0.1)],
        "nginx": [cell(80_000, 12.0), cell(82_000, 12.1), cell(81_000, 12.2)],
        "haproxy": [cell(78_000, 12.5, 12.5)],
        "no proxy": [{"rate": 200_000.0, "busy": 10.0, "p50": 300.0, "p99": 400.0, "p999": 500.0}],
    },
    skipped={"caddy": "caddy is not installed (Debian: caddy)"},
)
MEMORY = Result(
    BY_NAME["idle-memory"],
    cells={
        "fastlb": [{"rss": 1e8, "idle_bytes": 2275.0}],
        "nginx": [{"rss": 2e7, "idle_bytes": 518.0}],
    },
    failures={"haproxy": "round 1: the client could not begin: refused"},
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (-512.0, "-512"),
        (0, "0.00"),
    ],
)
def test_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_row_a_contestant_with_what_it_has() -> None:
    rows = workload_rows(GET)
    head = rows[0]
    by_name = {row[0]: dict(zip(head, row, strict=True)) for row in rows[1:]}
    assert by_name["fastlb"]["requests/s"] == "49,000 (48,000 – 50,000)"
    assert by_name["fastlb"]["first"] == "0.10"
    assert by_name["fastlb"]["added"] == "700"
    assert by_name["fastlb"]["used"] == "100%"
    assert by_name["fastlb"]["RSS MiB"] == "50.0"
    assert by_name["haproxy"]["first"] == "–", "one process has no others"
    assert by_name["no proxy"]["CPU µs"] == "–"
    assert by_name["no proxy"]["added"] == "–"


def test_memory_has_a_table_of_its_own() -> None:
    assert workload_rows(MEMORY)[0] == ["", "bytes a connection", "RSS MiB"]


def test_the_summary_names_the_best_peer_the_ratio_and_the_goal() -> None:
    head, get, memory = summary_rows([GET, MEMORY])
    assert head == SUMMARY_HEAD
    assert get[:3] == ["minimal GET", "49,000", "nginx 81,000"]
    assert get[3] == "0.60 (0.59 – 0.62)"
    assert get[-1] == "≥ 1.00 short"
    assert memory[1:3] == ["2,275 B", "nginx 518 B"]
    assert memory[-1] == "≤ 1536 short"


def test_a_failed_cell_is_said_and_a_goal_without_figures_too() -> None:
    assert remarks(MEMORY) == ["FAILED: haproxy: round 1: the client could not begin: refused"]
    assert verdict_text(Result(BY_NAME["get"])) == "≥ 1.00 not measured"
    assert verdict_text(Result(BY_NAME["app"])) == ""


def test_idle_peers_are_remarked() -> None:
    idle = Result(BY_NAME["get"], {"fastlb": [cell(1000, 20.0)], "nginx": [cell(1000, 10.0)]})
    assert remarks(idle) == [f"* {LOAD_BOUND}"]
    assert summary_rows([idle])[1][3].endswith(" *")


def test_tables_are_aligned_and_markdown_is_complete() -> None:
    rows = [["", "a"], ["µs – x", "1"], ["y", "1,000"]]
    assert as_table(rows) == "            a\nµs – x      1\ny       1,000"
    assert as_markdown_table(rows).splitlines()[1] == "| --- | ---: |"
    text = markdown([GET, MEMORY], {"machine": "2 cores"}, ["rate.svg"])
    assert "- machine: 2 cores" in text
    assert "- skipped: caddy is not installed (Debian: caddy)" in text
    assert "![rate.svg](rate.svg)" in text
    assert "## minimal GET" in text
    assert "- FAILED: haproxy" in text


def test_shares_of_folded_stacks() -> None:
    folded = [
        "main (a.py:1);read (x/b.py:2) 30",
        "main (a.py:3);read (x/b.py:9) 10",
        "main (a.py:1) 60",
        "",
    ]
    assert shares(folded) == [("main (a.py)", 0.6, 1.0), ("read (b.py)", 0.4, 0.4)]


def test_a_recursive_function_is_counted_once_a_sample() -> None:
    assert shares(["f (a.py:1);f (a.py:2) 4"]) == [("f (a.py)", 1.0, 1.0)]


STATS = """Type,Name,Request Count,Failure Count,Requests/s,50%,95%,99%
GET,minimal GET,80,0,40.0,5,8,9
,Aggregated,100,1,50.0,6,8,10
"""


def test_locusts_figures_beside_the_proxys_cpu() -> None:
    found = Found(read_stats(STATS.splitlines()), cpu=0.02)
    row = dict(zip(HEAD, total_row("nginx", found), strict=True))
    assert row["requests"] == "100"
    assert row["failed"] == "1"
    assert row["proxy CPU µs"] == "200"
    assert row["used"] == "1%"
    assert total_row("no proxy", found)[-2:] == ["–", "–"]
    assert kind_rows({"nginx": found}) == [["", "nginx"], ["minimal GET", "40.0 · 5 ms"]]
