"""Cron expressions in time zones, clocks that are put forward and back, and the bounds in force."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb.auto_scaling.schedule import Bounds, Occurrence, bounds_at, due
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.scaling_policy import Scheduled, TargetTracking
from fastlb.model.schedule import check_schedule, last_time, next_time

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# -- is it one?


@pytest.mark.parametrize(
    "cron",
    [
        "0 8 * * 1-5",
        "*/15 8-18 * * MON-FRI",
        "0,30 0 1,15 jan,jul *",
        "59 23 L * *",
        "0 0 * * MON#1",
        "0\t0 29 2 *",
    ],
)
def test_expressions(cron: str) -> None:
    check_schedule(cron, BERLIN)


@pytest.mark.parametrize(
    ("cron", "why"),
    [
        ("", ""),
        ("@daily", ""),
        ("0 8 * *", ""),
        ("0 0 8 * * 1-5", ""),  # seconds
        ("60 8 * * *", ": bad minute"),
        ("0 24 * * *", ": bad hour"),
        ("0 8 0 * *", ": bad day-of-month"),
        ("0 8 31 2 *", ": bad day-of-month"),  # never
        ("0 8 * 13 *", ": bad month"),
        ("0 8 * * 8", ": bad day-of-week"),
        ("0 8 * * funday", ": bad day-of-week"),
        ("*/0 8 * * *", ": bad minute"),
        ("5-1 8 * * *", ": bad minute"),
        ("\N{SUPERSCRIPT TWO} 8 * * *", ": bad minute"),
    ],
)
def test_what_is_none_is_said(cron: str, why: str) -> None:
    with pytest.raises(ValueError, match="five fields") as caught:
        check_schedule(cron, "UTC")
    assert str(caught.value) == (
        f'expected a cron expression of five fields such as "0 8 * * 1-5", got "{cron}"{why}'.replace(
            "\t", "\\t"
        )
    )


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("Berlin", '; did you mean "Europe/Berlin"?'),
        ("europe/berlin", '; did you mean "Europe/Berlin"?'),
        ("Europe/Berln", '; did you mean "Europe/Berlin"?'),
        ("New York", '; did you mean "America/New_York"?'),
        ("../UTC", '; did you mean "UTC"?'),
        ("Middle-earth", ""),
        ("", ""),
        ("/etc/localtime", None),
        ("America", None),
        ("a\0b", None),
    ],
)
def test_unknown_zones_come_with_a_near_one(zone: str, hint: str | None) -> None:
    with pytest.raises(ValueError, match="time zone") as caught:
        check_schedule("0 8 * * *", zone)
    if hint is not None:
        assert str(caught.value) == (
            f'expected a time zone such as "Europe/Berlin", got "{zone}"{hint}'
        )


def refusal(cron: str, zone: str) -> str:
    try:
        check_schedule(cron, zone)
    except ValueError as error:
        return str(error)
    return ""


@settings(max_examples=40)  # each unknown zone is looked for among all
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_one_or_is_refused(cron: str, zone: str) -> None:
    for said in (refusal(cron, "UTC"), refusal("0 8 * * *", zone)):
        assert not said or said.startswith("expected a ")


# -- when?


@pytest.mark.parametrize(
    ("cron", "zone", "now", "last", "next_one"),
    [
        ("0 8 * * *", "UTC", "2026-05-05 07:59:59", "2026-05-04 08:00", "2026-05-05 08:00"),
        ("0 8 * * *", "UTC", "2026-05-05 08:00", "2026-05-05 08:00", "2026-05-06 08:00"),
        ("0 8 * * *", "UTC", "2026-05-05 08:00:00.5", "2026-05-05 08:00", "2026-05-06 08:00"),
        ("0 8 * * 1-5", "UTC", "2026-05-09 12:00", "2026-05-08 08:00", "2026-05-11 08:00"),
        ("0 8 * * *", BERLIN, "2026-01-05 12:00", "2026-01-05 07:00", "2026-01-06 07:00"),
        ("0 8 * * *", BERLIN, "2026-07-05 12:00", "2026-07-05 06:00", "2026-07-06 06:00"),
        ("0 0 29 2 *", "UTC", "2026-05-05 00:00", "2024-02-29 00:00", "2028-02-29 00:00"),
        ("0 8 13 * 5", "UTC", "2026-05-05 00:00", "2026-05-01 08:00", "2026-05-08 08:00"),
        # 29 March 2026, 01:00 UTC: 02:00 becomes 03:00. What falls into the gap is at its end.
        ("30 2 * * *", BERLIN, "2026-03-29 00:59", "2026-03-28 01:30", "2026-03-29 01:00"),
        ("30 2 * * *", BERLIN, "2026-03-29 01:00", "2026-03-29 01:00", "2026-03-30 00:30"),
        ("30 2 * * *", BERLIN, "2026-03-29 01:20", "2026-03-29 01:00", "2026-03-30 00:30"),
        # 25 October 2026, 01:00 UTC: 03:00 becomes 02:00. A fixed time comes up once,
        ("30 2 * * *", BERLIN, "2026-10-25 00:29", "2026-10-24 00:30", "2026-10-25 00:30"),
        ("30 2 * * *", BERLIN, "2026-10-25 00:50", "2026-10-25 00:30", "2026-10-26 01:30"),
        ("30 2 * * *", BERLIN, "2026-10-25 01:10", "2026-10-25 00:30", "2026-10-26 01:30"),
        ("30 2 * * *", BERLIN, "2026-10-25 01:40", "2026-10-25 00:30", "2026-10-26 01:30"),
        # one that repeats at both passings.
        ("*/30 * * * *", BERLIN, "2026-10-25 00:40", "2026-10-25 00:30", "2026-10-25 01:00"),
        ("*/30 * * * *", BERLIN, "2026-10-25 01:10", "2026-10-25 01:00", "2026-10-25 01:30"),
    ],
)
def test_times(cron: str, zone: str, now: str, last: str, next_one: str) -> None:
    assert last_time(cron, zone, utc(now)) == utc(last)
    assert next_time(cron, zone, utc(now)) == utc(next_one)


def test_times_are_utc_whatever_zone_was_asked_in() -> None:
    asked = datetime(2026, 5, 5, 12, 0, tzinfo=ZoneInfo("Asia/Tokyo"))
    for found in (next_time("0 8 * * *", BERLIN, asked), last_time("0 8 * * *", BERLIN, asked)):
        assert found is not None
        assert found.tzinfo is UTC


def test_what_hardly_ever_comes_up_and_what_never_does() -> None:
    now = utc("2050-01-01 00:00")
    fifth_monday_of_february = "0 0 * 2 MON#5"
    assert next_time(fifth_monday_of_february, "UTC", now) == utc("2072-02-29 00:00")
    assert last_time(fifth_monday_of_february, "UTC", now) == utc("2044-02-29 00:00")
    first_of_february_and_fifth_sunday = "0 0 */30 2 SUN#5"
    assert next_time(first_of_february_and_fifth_sunday, "UTC", now) is None
    assert last_time(first_of_february_and_fifth_sunday, "UTC", now) is None


def test_a_wrong_schedule_raises_here_too() -> None:
    for ask in (next_time, last_time):
        with pytest.raises(ValueError, match="five fields"):
            ask("@daily", "UTC", utc("2026-05-05 00:00"))


crons = st.sampled_from(
    [
        "30 2 * * *",
        "0 2,3 * * *",
        "*/20 * * * *",
        "15 1-3 * * *",
        "0 0 * * *",
        "45 1 * * 0",
        "0 * * * *",
    ]
)
zones = st.sampled_from(
    ["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Santiago"]
)
moments = st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))


@given(crons, zones, moments)
def test_last_and_next_enclose_a_moment_and_agree(cron: str, zone: str, now: datetime) -> None:
    last, following = last_time(cron, zone, now), next_time(cron, zone, now)
    assert last is not None
    assert following is not None
    assert last <= now < following
    assert next_time(cron, zone, last) == following
    assert last_time(cron, zone, following) == following
    assert last_time(cron, zone, following - timedelta(microseconds=1)) == last


@pytest.mark.parametrize(
    ("zone", "begin"),
    [
        (BERLIN, "2026-03-27 00:00"),
        (BERLIN, "2026-10-23 00:00"),
        ("Australia/Lord_Howe", "2026-04-02 00:00"),  # by half an hour
        ("Australia/Lord_Howe", "2026-10-01 00:00"),
        ("Africa/Cairo", "2026-04-22 00:00"),  # at midnight
        ("Africa/Cairo", "2026-10-27 00:00"),
    ],
)
@pytest.mark.parametrize("cron", ["30 2 * * *", "10 0 * * *", "0,30 0-3 * * *", "*/10 0-3 * * *"])
def test_a_walk_through_a_change_of_the_clock_is_the_same_both_ways(
    cron: str, zone: str, begin: str
) -> None:
    start = utc(begin)
    end = start + timedelta(days=5)
    first, last = (moment.astimezone(ZoneInfo(zone)) for moment in (start, end))
    assert first.utcoffset() != last.utcoffset()
    forth, back = [], []
    one = next_time(cron, zone, start)
    while one is not None and one <= end:
        forth.append(one)
        one = next_time(cron, zone, one)
    one = last_time(cron, zone, end)
    while one is not None and one > start:
        back.append(one)
        one = last_time(cron, zone, one - timedelta(microseconds=1))
    assert forth == back[::-1]


# -- the bounds in force

DAY = Scheduled(cron="0 8 * * 1-5", time_zone=BERLIN, min=4, max=10, desired=6)
NIGHT = Scheduled(cron="0 20 * * 1-5", time_zone=BERLIN, min=1)


def group_of(*policies: Scheduled | TargetTracking, **settings: int) -> AutoScalingGroup:
    return AutoScalingGroup(name="web", policies=policies, **{"min": 2, "max": 8, **settings})


def test_without_schedules_the_bounds_are_the_groups_own() -> None:
    bounds = bounds_at(group_of(TargetTracking(metric="cpu", target=60.0)), utc("2026-05-05 09:00"))
    assert bounds == Bounds(2, 8, None, "min 2 of the group; max 8 of the group")
    assert bounds_at(group_of(desired=5), utc("2026-05-05 09:00")).desired == 5
    assert bounds_at(group_of(desired=12), utc("2026-05-05 09:00")).desired == 8


def test_what_a_schedule_sets_holds_until_another_one_sets_it() -> None:
    group = group_of(DAY, NIGHT)
    bounds = bounds_at(group, utc("2026-05-05 12:00"))
    assert (bounds.least, bounds.most, bounds.desired) == (4, 10, 6)
    assert bounds.cause == (
        'min 4 of the schedule "0 8 * * 1-5" (Europe/Berlin) since 2026-05-05 06:00Z; '
        'max 10 of the schedule "0 8 * * 1-5" (Europe/Berlin) since 2026-05-05 06:00Z'
    )
    bounds = bounds_at(group, utc("2026-05-05 22:00"))
    assert (bounds.least, bounds.most, bounds.desired) == (1, 10, None)
    assert bounds.cause == (
        'min 1 of the schedule "0 20 * * 1-5" (Europe/Berlin) since 2026-05-05 18:00Z; '
        'max 10 of the schedule "0 8 * * 1-5" (Europe/Berlin) since 2026-05-05 06:00Z'
    )
    # Over the weekend what Friday evening set.
    assert bounds_at(group, utc("2026-05-10 12:00")).least == 1
    assert bounds_at(group, utc("2026-05-05 06:00")).least == 4
    assert bounds_at(group, utc("2026-05-05 05:59:59")).least == 1


def test_of_two_at_once_the_later_in_the_configuration_holds() -> None:
    first = Scheduled(cron="0 8 * * *", min=3)
    second = Scheduled(cron="0 8 * * *", min=5)
    assert bounds_at(group_of(first, second), utc("2026-05-05 09:00")).least == 5
    assert bounds_at(group_of(second, first), utc("2026-05-05 09:00")).least == 3


def test_where_min_is_over_max_the_max_holds() -> None:
    bounds = bounds_at(group_of(Scheduled(cron="0 8 * * *", min=9)), utc("2026-05-05 09:00"))
    assert (bounds.least, bounds.most) == (8, 8)
    assert bounds.cause.endswith("; min is over max, so 8 holds for both")
    bounds = bounds_at(group_of(Scheduled(cron="0 8 * * *", max=1)), utc("2026-05-05 09:00"))
    assert (bounds.least, bounds.most) == (1, 1)


def test_what_came_up() -> None:
    group = group_of(NIGHT, DAY, TargetTracking(metric="cpu", target=60.0))
    morning, evening = utc("2026-05-05 06:00"), utc("2026-05-05 18:00")
    second = timedelta(seconds=1)
    assert due(group, morning - second, morning) == [Occurrence(morning, DAY)]
    assert due(group, morning, evening - second) == []
    assert due(group, morning - second, evening) == [
        Occurrence(morning, DAY),
        Occurrence(evening, NIGHT),
    ]


def test_after_months_of_sleep_only_the_last_ones_count() -> None:
    every_minute = Scheduled(cron="* * * * *", desired=3)
    group = group_of(every_minute, DAY)
    until = utc("2026-05-05 12:00:30")
    assert due(group, utc("2020-01-01 00:00"), until) == [
        Occurrence(utc("2026-05-05 06:00"), DAY),
        Occurrence(utc("2026-05-05 12:00"), every_minute),
    ]
