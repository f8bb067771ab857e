"""The series of the last hour: bounded, in order, and honest about what nobody saw."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastlb.admin.series import COARSE_POINTS, FINE_POINTS, KEYS, SCALING_KEYS, Series

POINT = (1.0, 0.0, 0.0, 2.0, 3.0, 4.0, 5, 6)


def point(requests: float) -> tuple[float, ...]:
    return (requests, *POINT[1:])


def fill(series: Series, seconds: range, scope: str = "all") -> None:
    """A point a second, whose requests are the number of the second."""
    for second in seconds:
        over = series.begin(second)
        if over is not None:
            series.fold(over, {scope: (7.0, 8.0, 9.0)})
        series.add(scope, point(second))


def requests(series: Series, span: str, scope: str = "all") -> list[float | None]:
    answer = series.answer(scope, span)
    assert answer is not None
    found: list[float | None] = answer["series"]["requests"]
    return found


def test_the_newest_point_is_the_last() -> None:
    series = Series()
    fill(series, range(1000, 1005))
    answer = series.answer("all", "5m")
    assert answer is not None
    assert (answer["step"], answer["end"]) == (1, 1004)
    assert requests(series, "5m") == [1000, 1001, 1002, 1003, 1004]
    assert set(answer["series"]) == set(KEYS)
    assert series.answer("nobody", "5m") is None


def test_the_rings_are_bounded_and_the_oldest_go() -> None:
    series = Series()
    fill(series, range(5000, 5000 + 4000))
    assert requests(series, "5m") == list(range(8700, 9000))
    coarse = requests(series, "1h")
    assert len(coarse) == COARSE_POINTS
    assert coarse[-1] == sum(range(8980, 8990)) / 10
    answer = series.answer("all", "1h")
    assert answer is not None
    assert (answer["step"], answer["end"]) == (10, 8990)
    assert answer["series"]["p95_s"][-1] == 8.0
    assert answer["series"]["in_flight"][-1] == 5.0


def test_what_nobody_saw_is_not_known() -> None:
    series = Series()
    fill(series, range(1000, 1003))
    fill(series, range(1006, 1008))
    assert requests(series, "5m") == [1000, 1001, 1002, None, None, None, 1006, 1007]
    fill(series, range(1040, 1061))
    coarse = requests(series, "1h")
    assert coarse == [1003.2, None, None, None, 1044.5, 1054.5]


def test_a_clock_that_goes_back_adds_points_all_the_same() -> None:
    series = Series()
    fill(series, range(1000, 1003))
    fill(series, range(900, 902))
    assert requests(series, "5m") == [1000, 1001, 1002, 900, 901]


def test_a_scope_that_goes_leaves_no_old_points_behind() -> None:
    series = Series()
    for second in range(2000, 2000 + FINE_POINTS + 5):
        series.begin(second)
        series.add("all", point(second))
        if second < 2003:
            series.add("target:web/a", point(second))
    assert set(requests(series, "5m", "target:web/a")) == {None}
    for second in range(3000, 3000 + 10 * COARSE_POINTS + 700, 100):
        series.begin(second)
        series.add("all", point(second))
    series.forget()
    assert series.answer("target:web/a", "5m") is None
    assert series.answer("all", "5m") is not None


def test_a_groups_series_hold_its_auto_scaling() -> None:
    series = Series()
    series.begin(1000)
    series.add("group:web", POINT)
    series.add("scaling:group:web", (3, 2, None), SCALING_KEYS)
    answer = series.answer("group:web", "5m")
    assert answer is not None
    assert answer["series"]["desired"] == [3]
    assert answer["series"]["in_service"] == [2]
    assert answer["series"]["metric"] == [None]


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60))
def test_any_sequence_of_seconds_keeps_its_order(steps: list[int]) -> None:
    series = Series()
    second = 10_000
    expected: dict[int, float] = {}
    for step in steps:
        second += max(step, 1)
        over = series.begin(second)
        if over is not None:
            series.fold(over, {})
        series.add("all", point(second))
        expected[second] = second
    found = requests(series, "5m")
    assert len(found) <= FINE_POINTS
    first = second - len(found) + 1
    assert found == [expected.get(one) for one in range(first, second + 1)]
    assert len(requests(series, "1h")) <= COARSE_POINTS
