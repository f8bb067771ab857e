"""The bench's statistics: medians, ratios round by round, goals; and the guard's bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import bounds
from bench.bounds import Bounds
from bench.figures import (
    Result,
    Spread,
    added,
    as_plain,
    cost,
    cpu_ratio,
    disturbed,
    figure,
    load_bound,
    quotient,
    rate_ratio,
    spread,
    verdict,
)
from bench.loads import Hold, Outcome
from bench.measure import CpuTimes, cell
from bench.processes import BenchError
from bench.workloads import QUICK, WORKLOADS, Goal, Workload

GET = next(one for one in WORKLOADS if one.name == "get")
RULES = next(one for one in WORKLOADS if one.name == "rules-100")
MEMORY = next(one for one in WORKLOADS if one.name == "idle-memory")
positive = st.floats(min_value=0.01, max_value=1e6)


def result(workload: Workload = GET, **rates: list[float]) -> Result:
    """Cells with these requests/s; each request costs what keeps one core busy."""
    return Result(
        workload,
        {
            name.replace("_", " "): [
                {"rate": rate, "cpu": 1e6 / rate, "share": 1.0, "p50": 64e6 / rate} for rate in row
            ]
            for name, row in rates.items()
        },
    )


def test_a_spread_is_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert figure([{"rate": 5.0}, {}], "rate") == Spread(5.0, 5.0, 5.0)
    assert figure([{}], "rate") is None


def test_a_ratio_is_taken_within_each_round() -> None:
    """A machine that is half as fast in the second round changes no ratio."""
    found = rate_ratio(result(fastlb=[90.0, 45.0], nginx=[100.0, 50.0], haproxy=[80.0, 40.0]))
    assert found is not None
    assert found.over == "nginx"
    assert found.spread == Spread(0.9, 0.9, 0.9)


@given(rates=st.lists(positive, min_size=1, max_size=9), factor=positive)
def test_a_ratio_is_the_factor_whatever_the_rounds_were(rates: list[float], factor: float) -> None:
    found = quotient(
        [{"rate": one * factor} for one in rates], [{"rate": one} for one in rates], "rate"
    )
    assert found is not None
    assert found.low == pytest.approx(factor)
    assert found.high == pytest.approx(factor)


def test_the_best_peer_has_most_requests_or_least_cpu() -> None:
    cells = result(fastlb=[100.0], nginx=[110.0], haproxy=[120.0]).cells
    cells["nginx"][0]["cpu"] = 5000.0
    found = Result(GET, cells)
    rate, cpu = rate_ratio(found), cpu_ratio(found)
    assert rate is not None
    assert cpu is not None
    assert (rate.over, cpu.over) == ("haproxy", "nginx")
    assert cpu.spread.median == pytest.approx(2.0)


def test_no_proxy_is_no_peer_and_a_missing_contestant_has_no_ratio() -> None:
    assert rate_ratio(result(fastlb=[1.0], no_proxy=[2.0])) is None
    assert rate_ratio(result(nginx=[1.0])) is None


def test_a_goal_may_be_against_one_peer_alone() -> None:
    alone = replace(GET, goal=Goal("rate", 1.0, peers=("nginx",)))
    found = verdict(result(alone, fastlb=[100.0], nginx=[100.0], haproxy=[200.0]))
    assert found is not None
    assert found.holds


@pytest.mark.parametrize(("rate", "holds"), [(100.0, True), (99.6, True), (99.0, False)])
def test_a_rate_goal_holds_at_its_bound_to_two_digits(rate: float, holds: bool) -> None:
    found = verdict(result(fastlb=[rate], nginx=[100.0]))
    assert found is not None
    assert found.holds is holds


def test_a_cost_is_over_the_workloads_own_base() -> None:
    cells = {
        "fastlb": [{"cpu": 10.4}, {"cpu": 20.8}],
        RULES.base_title: [{"cpu": 10.0}, {"cpu": 20.0}],
        "nginx": [{"cpu": 1.0}, {"cpu": 1.0}],
    }
    found = cost(Result(RULES, cells))
    assert found is not None
    assert found.spread.median == pytest.approx(1.04)
    judged = verdict(Result(RULES, cells))
    assert judged is not None
    assert not judged.holds


def test_memory_goal_and_a_goal_that_was_not_measured() -> None:
    found = verdict(Result(MEMORY, {"fastlb": [{"idle_bytes": 1500.0}]}))
    assert found is not None
    assert found.holds
    missing = verdict(Result(MEMORY))
    assert missing is not None
    assert missing.ratio is None
    assert not missing.holds
    assert verdict(Result(replace(GET, goal=None))) is None


def test_latency_added_is_a_difference_of_medians() -> None:
    found = result(fastlb=[1e6], no_proxy=[2e6])
    assert added(found, "fastlb", "p50") == pytest.approx(32.0)
    assert added(result(fastlb=[1e6]), "fastlb", "p50") is None


def test_where_no_peer_used_its_core_up_the_load_was_the_limit() -> None:
    found = result(fastlb=[1.0], nginx=[1.0], haproxy=[1.0])
    assert not load_bound(found)
    for name in ("nginx", "haproxy"):
        found.cells[name][0]["share"] = 0.6
    assert load_bound(found)


def test_a_cell_is_per_request_and_per_core() -> None:
    spent = CpuTimes(user=0.4, system=0.6, first=0.1, machine=2.0, others=0.5)
    found = cell(Outcome(100_000, 2.0, 10.0, 20.0, 30.0), spent, rss=1 << 20, cores=2)
    assert found["rate"] == pytest.approx(50_000)
    assert (found["user"], found["system"], found["cpu"]) == pytest.approx((4.0, 6.0, 10.0))
    assert found["first"] == pytest.approx(1.0)
    assert found["busy"] == pytest.approx(20.0)
    assert found["share"] == pytest.approx(0.25)
    assert found["p999"] == 30.0
    assert found["others"] == pytest.approx(0.25)


def test_cells_that_others_disturbed_are_counted() -> None:
    found = result(fastlb=[1.0, 2.0])
    assert disturbed(found) == 0
    found.cells["fastlb"][1]["others"] = 0.5
    assert disturbed(found) == 1


def test_no_proxy_has_no_cpu_and_bulk_no_latency() -> None:
    found = cell(Outcome(10, 1.0), CpuTimes(0.0, 0.0, 0.0, 1.0, -0.01), rss=0, cores=1)
    assert found == {"rate": 10.0, "busy": 100_000.0, "others": 0.0}


def test_plain_holds_cells_and_ratios() -> None:
    plain = as_plain(result(fastlb=[50.0], nginx=[100.0]))
    assert plain["workload"] == "get"
    assert plain["ratios"]["rate"] == {"median": 0.5, "low": 0.5, "high": 0.5, "over": "nginx"}
    assert plain["cells"]["nginx"][0]["rate"] == 100.0


BOUNDS = Bounds(tolerance=0.1, rate={"get": 0.8}, cpu={"get": 1.25})


@pytest.mark.parametrize(
    ("rate", "lines"),
    [(100.0, 0), (80.0, 0), (73.0, 0), (71.0, 2)],
)
def test_the_guard_speaks_beyond_bound_and_tolerance(rate: float, lines: int) -> None:
    found = bounds.worse([result(fastlb=[rate], nginx=[100.0])], BOUNDS)
    assert len(found) == lines
    if found:
        assert "get: requests/s ratio to nginx is 0.71; the bound is 0.80" in found[0]


def test_the_guard_says_nothing_of_what_was_not_measured() -> None:
    assert bounds.worse([Result(GET), result(RULES, fastlb=[1.0], nginx=[9.0])], BOUNDS) == []


def test_the_projects_own_bounds_are_of_quick_workloads() -> None:
    found = bounds.load()
    assert set(found.rate) <= set(QUICK)
    assert set(found.cpu) <= set(QUICK)
    assert 0 < found.tolerance < 1


@pytest.mark.parametrize("text", ["tolerance = 1", "tolerance = 'x'\n[rate]\n[cpu]", "="])
def test_bad_bounds_name_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bounds.toml"
    path.write_text(text)
    with pytest.raises(BenchError, match=r"bounds\.toml needs tolerance"):
        bounds.load(path)


def test_names_of_workloads_are_unique_and_bases_have_titles() -> None:
    names = [one.name for one in WORKLOADS]
    assert len(set(names)) == len(names)
    assert set(QUICK) < set(names)
    for one in WORKLOADS:
        assert bool(one.base) == bool(one.base_title)
        assert one.fresh == isinstance(one.load, Hold)
