"""TargetHealth: thresholds, ejections, epochs, suspicions, the next check's time, the reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.model.health_check import HealthCheck
from fastlb.model.target_health import (
    CheckFailed,
    CheckPassed,
    CheckUnclear,
    Observation,
    RequestFailed,
    Stalled,
    StallOver,
    TargetHealth,
    TimeIsUp,
    Transition,
    ejection_time,
)

CHECK = HealthCheck(path="/health", interval=2.0, healthy_threshold=2, unhealthy_threshold=3)
TCP = replace(CHECK, path=None)
UNCHECKED = replace(CHECK, enabled=False)
REFUSED = "connection refused on :9002"


def passed(health: TargetHealth, now: float) -> Transition | None:
    return health.observe(CheckPassed(now), now)


def failed(health: TargetHealth, now: float) -> Transition | None:
    return health.observe(CheckFailed(now, REFUSED), now)


def evidence(health: TargetHealth, now: float, epoch: int | None = None) -> Transition | None:
    epoch = health.epoch if epoch is None else epoch
    return health.observe(RequestFailed(epoch, "refused", "errno 111"), now)


def healthy(check: HealthCheck = CHECK, now: float = 0.0) -> TargetHealth:
    health = TargetHealth.new(check, now)
    passed(health, now)
    assert health.state == "healthy"
    return health


def test_a_new_target_is_initial_and_needs_one_passed_check() -> None:
    health = TargetHealth.new(CHECK, 0.0)
    assert health.state == "initial"
    assert health.describe(0.0) == "not checked yet"
    change = passed(health, 1.0)
    assert str(change) == "initial -> healthy: check passed"
    assert health.epoch == 1
    assert health.describe(1.5) == "check passed, last 0.5 s ago"


def test_a_new_target_that_fails_says_so_and_still_needs_one_pass() -> None:
    health = TargetHealth.new(CHECK, 0.0)
    assert failed(health, 0.0) is None
    assert health.describe(0.4) == f"{REFUSED}, 1 of 3 checks failed, last 0.4 s ago"
    assert failed(health, 0.5) is None
    change = failed(health, 1.0)
    assert change is not None
    assert (change.old, change.new) == ("initial", "unhealthy")
    change = passed(health, 2.0)
    assert change is not None
    assert change.new == "healthy"


def test_thresholds_of_an_established_target() -> None:
    health = healthy()
    assert failed(health, 1.0) is None
    assert failed(health, 2.0) is None
    change = failed(health, 3.0)
    assert str(change) == f"healthy -> unhealthy: {REFUSED}, 3 of 3 checks failed"
    assert health.describe(3.4) == f"{REFUSED}, 3 of 3 checks failed, last 0.4 s ago"
    failed(health, 4.0)
    assert health.describe(4.0) == f"{REFUSED}, 4 of 4 checks failed, last 0.0 s ago"
    assert passed(health, 5.0) is None
    assert health.describe(5.0) == "1 of 2 checks passed, last 0.0 s ago"
    change = passed(health, 6.0)
    assert str(change) == "unhealthy -> healthy: 2 checks passed in a row"
    assert health.epoch == 2


@given(st.lists(st.sampled_from(["fail", "fail fail"]), max_size=30))
def test_flapping_below_the_threshold_never_flips(runs: list[str]) -> None:
    health = healthy()
    now = 0.0
    for run in runs:
        for _ in run.split():
            now += 1
            assert failed(health, now) is None
        now += 1
        assert passed(health, now) is None
    assert health.state == "healthy"
    assert health.epoch == 1


def test_single_passes_never_bring_an_unhealthy_target_back() -> None:
    health = healthy()
    for now in range(1, 4):
        failed(health, now)
    for now in range(4, 30, 2):
        assert passed(health, now) is None
        assert failed(health, now + 1) is None
    assert health.state == "unhealthy"


def test_unclear_checks_count_neither_way() -> None:
    health = healthy()
    failed(health, 1.0)
    failed(health, 2.0)
    assert health.observe(CheckUnclear(3.0, "no answer within 1 s, busy"), 3.0) is None
    assert health.describe(4.0) == "no answer within 1 s, busy, last 1.0 s ago"
    assert failed(health, 4.0) is not None


def test_evidence_ejects_at_once_and_one_pass_brings_back() -> None:
    health = healthy()
    change = evidence(health, 10.0)
    assert str(change) == (
        "healthy -> unhealthy: refused the connection of a request (errno 111), ejected"
    )
    assert health.next_check(10.0) == 10.0
    assert health.describe(10.2) == (
        "refused the connection of a request (errno 111) 0.2 s ago, ejected"
    )
    change = passed(health, 10.0)
    assert change is not None
    assert change.new == "healthy"
    assert health.epoch == 2


def test_a_check_that_began_before_the_failed_request_brings_nothing_back() -> None:
    health = healthy()
    evidence(health, 10.0)
    assert health.observe(CheckPassed(9.9), 10.1) is None
    assert health.state == "unhealthy"
    assert health.next_check(10.1) == 10.1


def test_ejections_in_a_row_grow_to_their_cap() -> None:
    assert [ejection_time(n) for n in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    health = healthy()
    now = 0.0
    for n in range(9):
        evidence(health, now)
        until = now + ejection_time(n)
        assert health.next_check(now) == until
        if until > now:
            assert health.observe(CheckPassed(until - 0.01), until) is None
        assert health.observe(CheckPassed(until), until + 0.1) is not None
        now = until + 0.2


def test_the_row_is_forgotten_after_30_s_of_health() -> None:
    for pause, expected in ((29.0, 0.5), (30.0, 0.0)):
        health = healthy()
        evidence(health, 0.0)
        passed(health, 0.0)
        evidence(health, pause)
        assert health.ejected_until - pause == expected


def test_many_reports_of_one_crash_are_one_ejection() -> None:
    health = healthy()
    assert evidence(health, 1.0) is not None
    for _ in range(100):
        assert evidence(health, 1.001) is None
    assert health.ejections == 1


def test_stale_evidence_is_ignored() -> None:
    health = healthy()
    evidence(health, 1.0)
    passed(health, 1.0)
    assert evidence(health, 1.1, epoch=1) is None
    assert health.state == "healthy"
    assert evidence(health, 1.2, epoch=2) is not None


def test_evidence_says_nothing_new_of_a_target_that_is_not_healthy() -> None:
    health = TargetHealth.new(CHECK, 0.0)
    assert evidence(health, 0.0) is None
    assert health.state == "initial"
    health = healthy()
    for now in range(1, 4):
        failed(health, now)
    assert evidence(health, 5.0) is None
    assert health.ejected_at is None


def test_failed_checks_of_an_ejected_target() -> None:
    health = healthy()
    evidence(health, 1.0)
    assert failed(health, 1.0) is None
    assert health.describe(1.2) == f"{REFUSED}, 1 of 1 checks failed, last 0.2 s ago"
    for now in range(2, 9):
        assert failed(health, now) is None
    assert passed(health, 9.0) is not None


def test_unchecked_targets_are_healthy_and_come_back_by_themselves() -> None:
    health = TargetHealth.new(UNCHECKED, 0.0)
    assert health.state == "healthy"
    assert health.next_check(5.0) is None
    assert health.describe(5.0) == "not checked"
    now = 5.0
    for expected in (1.0, 1.0, 1.0, 2.0, 4.0):
        change = evidence(health, now)
        assert change is not None
        assert change.reason.endswith(f"ejected for {expected:g} s")
        assert health.next_check(now) == now + expected
        assert health.observe(TimeIsUp(), now + expected - 0.01) is None
        assert "back in" in health.describe(now)
        change = health.observe(TimeIsUp(), now + expected)
        assert str(change) == "unhealthy -> healthy: its ejection time is over"
        now += expected
    assert health.epoch == 5
    assert health.observe(TimeIsUp(), now) is None


def test_a_check_has_no_say_in_a_suspicion_unless_it_is_http() -> None:
    for check, ended in ((CHECK, True), (TCP, False)):
        health = healthy(check)
        change = health.observe(Stalled(1.04, 3), 5.0)
        assert str(change) == (
            "healthy -> healthy, suspect: no byte for 1.0 s while 3 requests wait"
        )
        assert health.describe(5.5) == (
            "no byte for 1.0 s while 3 requests wait, suspect for 0.5 s"
        )
        assert health.observe(Stalled(2.0, 1), 5.1) is None
        change = passed(health, 6.0)
        assert (change is not None) is ended
        assert health.suspect is not ended
        if not ended:
            change = health.observe(StallOver("it answers again"), 6.0)
        assert change is not None
        assert (change.was_suspect, change.suspect) == (True, False)
        assert health.trusted_since == 6.0


def test_suspicions_in_a_row_double_to_their_cap_and_are_forgotten() -> None:
    health = healthy(TCP)
    now = 0.0
    for expected in (2, 4, 8, 16, 30, 30):
        health.observe(Stalled(2.0, 1), now)
        assert health.suspect_until - now == expected
        now = health.suspect_until
        health.observe(StallOver("time"), now)
        now += 29
    now += 1
    health.observe(Stalled(2.0, 1), now)
    assert health.suspect_until - now == 2


def test_coming_back_ends_a_suspicion() -> None:
    health = healthy(TCP)
    health.observe(Stalled(2.0, 1), 1.0)
    evidence(health, 2.0)
    assert health.suspect
    passed(health, 2.0)
    assert not health.suspect


def test_when_the_next_check_comes() -> None:
    health = TargetHealth.new(CHECK, 0.0)
    assert health.next_check(3.0) == 3.0
    for n in range(9):
        failed(health, 10.0 + n)
        assert health.next_check(10.0 + n) == 10.0 + n + 0.5
    failed(health, 30.0)
    assert health.next_check(30.0) == 32.0
    passed(health, 32.0)
    assert health.next_check(32.0) == 34.0
    assert health.next_check(40.0) == 40.0
    failed(health, 34.0)
    assert health.next_check(34.0) == 34.5
    failed(health, 34.5)
    failed(health, 35.0)
    assert health.state == "unhealthy"
    assert health.next_check(35.0) == 37.0
    passed(health, 37.0)
    assert health.next_check(37.0) == 37.5, "one more pass is needed: ask soon"
    passed(health, 37.5)
    health.observe(Stalled(1.0, 1), 38.0)
    assert health.next_check(38.0) == 38.0


def test_a_quick_check_is_never_slower_than_half_a_second_nor_than_a_quarter() -> None:
    for interval, expected in ((1.0, 0.25), (2.0, 0.5), (30.0, 0.5)):
        health = healthy(replace(CHECK, interval=interval))
        failed(health, 50.0)
        assert health.next_check(50.0) == 50.0 + expected


@pytest.mark.parametrize(
    ("check", "state", "expected"),
    [
        (CHECK, "healthy", "healthy"),
        (CHECK, "unhealthy", "unhealthy"),
        (CHECK, "initial", "initial"),
        (CHECK, "draining", "initial"),
        (UNCHECKED, "unhealthy", "healthy"),
        (UNCHECKED, "healthy", "healthy"),
    ],
)
def test_taken_over(check: HealthCheck, state: str, expected: str) -> None:
    health = TargetHealth.taken_over(check, state, 7, 3.0)
    assert health.state == expected
    assert health.epoch == 7
    assert health.describe(3.0)
    if expected == "unhealthy":
        assert passed(health, 4.0) is None, "it was established: the threshold holds"


steps = st.one_of(
    st.tuples(st.just("pass"), st.floats(0, 1)),
    st.tuples(st.just("fail"), st.floats(0, 1)),
    st.tuples(st.just("unclear"), st.floats(0, 1)),
    st.tuples(st.just("evidence"), st.integers(-3, 3)),
    st.tuples(st.just("stall"), st.just(0)),
    st.tuples(st.just("over"), st.just(0)),
    st.tuples(st.just("time"), st.just(0)),
    st.tuples(st.just("wait"), st.floats(0, 40)),
)


@given(st.sampled_from([CHECK, TCP, UNCHECKED]), st.lists(steps, max_size=60))
def test_what_holds_whatever_happens(check: HealthCheck, story: list[tuple[str, float]]) -> None:
    health = TargetHealth.new(check, 0.0)
    now = 0.0
    for what, value in story:
        now += 0.01
        before = replace(health)
        seen: Observation
        match what:
            case "wait":
                now += value
                continue
            case "pass":
                seen = CheckPassed(now - value)
            case "fail":
                seen = CheckFailed(now - value, REFUSED)
            case "unclear":
                seen = CheckUnclear(now - value, "busy")
            case "evidence":
                seen = RequestFailed(health.epoch + int(value), "reset", "")
            case "stall":
                seen = Stalled(1.0, 2)
            case "over":
                seen = StallOver("it answers again")
            case _:
                seen = TimeIsUp()
        change = health.observe(seen, now)
        assert health.epoch == before.epoch + (before.state != "healthy" == health.state)
        assert (change is None) == (
            (health.state, health.suspect) == (before.state, before.suspect)
        )
        if change is not None:
            assert change.reason
        if what == "evidence" and before.state == "healthy":
            assert (health.state == "healthy") == (value < 0)
        if what in ("unclear", "stall", "over"):
            assert health.state == before.state
        if health.ejected_at is not None:
            assert health.state == "unhealthy"
            assert health.ejected_until - health.ejected_at <= 30
        due = health.next_check(now)
        assert due is None or due >= now
        assert (due is None) <= (not check.enabled)
        if health.state == "unhealthy":
            assert due is not None, "nothing may stay unhealthy for ever"
        assert health.describe(now)
