"""What old and new Instances did while a refresh runs: counted since it began, the gone ones too."""

from __future__ import annotations

from fastlb.auto_scaling.instance import Instance
from fastlb.auto_scaling.judgement import Figures
from fastlb.auto_scaling.refresh import Refresh
from fastlb.auto_scaling.refresh_run import RefreshRun, figures_of
from fastlb.auto_scaling.targets import TargetCounts
from fastlb.history import History
from fastlb.model.instance_refresh import InstanceRefresh
from fastlb.target_table.counters import percentile
from tests.support.scaling_fakes import instance, target_of

GIVEN = InstanceRefresh()


def run_of(*old: str, source: int = 1, target: int = 2) -> RefreshRun:
    refresh = Refresh(source=source, target=target, began=0.0, old=old)
    entry = History().add("activity", "web", "instance refresh to v2", "asked for")
    return RefreshRun(refresh, entry, lambda histogram, share: percentile(list(histogram), share))


def counted(run: RefreshRun, *instances: Instance) -> tuple[tuple[int, int], tuple[int, int]]:
    """(requests, failed) of the new ones and of the old ones, as the verdict names them."""
    run.step(instances, GIVEN, settled=0, desired=2, failures=0, now=0.0)
    assert run.verdict is not None
    new, old = run.verdict.inputs["new"], run.verdict.inputs["old"]
    return (new["requests"], new["failed"]), (old["requests"], old["failed"])


def test_a_request_in_flight_is_no_answer_yet() -> None:
    counts = TargetCounts(3, 10, 2, (1, 7), 0, 0.0)
    assert figures_of(counts) == Figures(7, 2, (1, 7))


def test_old_ones_count_since_it_began_and_new_ones_from_the_first_request() -> None:
    old, new, other = instance("a"), instance("b", version=2), instance("c", version=7)
    target_of(old).count(requests=100, failed=10)
    target_of(other).count(requests=1000, failed=1000)
    run = run_of("a")
    run.begin([old, new, other])
    assert counted(run, old, new, other) == ((0, 0), (0, 0))
    target_of(old).count(requests=130, failed=11)
    target_of(new).count(requests=20, failed=5)
    assert counted(run, old, new, other) == ((20, 5), (30, 1))


def test_who_left_is_counted_once_and_for_all() -> None:
    old, new = instance("a"), instance("b", version=2)
    target_of(old).count(requests=100)
    run = run_of("a")
    run.begin([old])
    target_of(old).count(requests=150)
    target_of(new).count(requests=9, failed=3)
    for one in (old, new):
        run.see_leaving(one)
        one.target = None
    assert counted(run, old, new) == ((9, 3), (50, 0))
    run.see_leaving(old)
    assert counted(run) == ((9, 3), (50, 0))


def test_of_the_same_version_the_old_ones_are_known_by_their_names() -> None:
    old, new = instance("a"), instance("b")
    run = run_of("a", source=1, target=1)
    run.begin([old, new])
    target_of(old).count(requests=5)
    target_of(new).count(requests=7)
    assert counted(run, old, new) == ((7, 0), (5, 0))


def test_one_without_a_target_counts_nothing() -> None:
    run = run_of("a")
    run.begin([instance("a", "pending")])
    assert counted(run, instance("a", "pending"), instance("b", "pending", version=2)) == (
        (0, 0),
        (0, 0),
    )


def test_counters_that_began_anew_make_nothing_negative() -> None:
    old = instance("a")
    target_of(old).count(requests=100, failed=50)
    run = run_of("a")
    run.begin([old])
    target_of(old).count(requests=10, failed=1)
    assert counted(run, old) == ((0, 0), (0, 0))


def test_only_who_is_capacity_is_an_old_one_that_is_left() -> None:
    run = run_of("a", "b", "c", "d")
    instances = [
        instance("a"),
        instance("b", "pending"),
        instance("c", "standby"),
        instance("d", "terminating"),
        instance("e"),
    ]
    step = run.step(instances, GIVEN, settled=1, desired=2, failures=0, now=0.0)
    assert step.doomed == {"a", "b"}
