"""The delays after failed launches, quarantine, and what makes a group forget them."""

from __future__ import annotations

from fastlb.auto_scaling.launch_governor import LONG_LIFE, QUARANTINE_AFTER, LaunchGovernor


def test_at_once_then_longer_and_longer() -> None:
    governor = LaunchGovernor()
    assert governor.may_launch_at(1) == 0.0
    delays = []
    now = 100.0
    for _ in range(11):
        governor.failed(1, now, now)
        delays.append(max(governor.may_launch_at(1) - now, 0.0))
        now += 100.0
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_thousands_of_failures_cost_nothing_and_wait_no_longer() -> None:
    governor = LaunchGovernor()
    for now in range(3000):
        governor.failed(1, float(now), float(now))
    assert governor.may_launch_at(1) == 2999.0 + 60.0
    assert governor.failures(1) == 1000


def test_quarantine_after_five_in_a_row() -> None:
    governor = LaunchGovernor()
    seen = []
    for n in range(6):
        seen.append(governor.quarantined(1))
        governor.failed(1, float(n), float(n))
    assert seen == [False] * QUARANTINE_AFTER + [True]


def test_versions_do_not_share_their_failures() -> None:
    governor = LaunchGovernor()
    for n in range(5):
        governor.failed(1, float(n), float(n))
    assert (governor.failures(1), governor.failures(2)) == (5, 0)
    assert not governor.quarantined(2)
    assert governor.may_launch_at(2) == 0.0
    governor.lived(2, 100.0)
    assert governor.quarantined(1)


def test_one_that_lives_ends_the_row() -> None:
    governor = LaunchGovernor()
    for n in range(5):
        governor.failed(1, float(n), float(n))
    governor.lived(1, 4.0 + LONG_LIFE)
    assert governor.failures(1) == 0
    assert not governor.quarantined(1)
    assert governor.may_launch_at(1) == 0.0


def test_failures_since_the_living_one_came_into_service_stay() -> None:
    # One Instance has the port, all others fail on it: it does not speak for them.
    governor = LaunchGovernor()
    governor.failed(1, 10.0, 10.0)
    came_into_service = 11.0
    for n in range(5):
        governor.failed(1, came_into_service + 1.0 + n, came_into_service + 1.0 + n)
    governor.lived(1, came_into_service + LONG_LIFE)
    assert governor.failures(1) == 5
    assert governor.quarantined(1)
    assert governor.may_launch_at(1) == came_into_service + 5.0 + 4.0


def test_release_forgets_everything() -> None:
    governor = LaunchGovernor()
    for n in range(5):
        governor.failed(1, float(n), float(n))
    governor.release(1)
    governor.release(2)
    assert governor.failures(1) == 0
    assert governor.may_launch_at(1) == 0.0
