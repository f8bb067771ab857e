"""A cron expression in a time zone: is it one, and when does it come up? Pure but for tzdata.

Five fields as in Debian's cron: minute, hour, day of month, month, day of week, with names, lists,
ranges and steps, and `L`, `LW` and `MON#2`. Where the clock is put forward, what falls into the gap
comes up at its end; where it is put back, a fixed time comes up once, at the first passing, and one
that repeats (`*` in the minute or the hour) at both.
"""

from __future__ import annotations

import difflib
import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

FIELDS = 5
EXAMPLE = "0 8 * * 1-5"
_LONGEST_SHIFT = timedelta(hours=3)
"""More than any clock is put back nowadays."""


def check_schedule(cron: str, time_zone: str) -> None:
    """Raises ValueError with what was expected and what was there."""
    zone = _zone(time_zone)
    expected = f"expected a cron expression of five fields such as {json.dumps(EXAMPLE)}"
    if len(cron.split()) != FIELDS:
        raise ValueError(f"{expected}, got {_shown(cron)}")
    try:
        CronSim(cron, datetime(2000, 1, 1, tzinfo=zone))
    except CronSimError as error:
        raise ValueError(f"{expected}, got {_shown(cron)}: {str(error).lower()}") from None


def next_time(cron: str, time_zone: str, after: datetime) -> datetime | None:
    """When it first comes up after `after`, in UTC; None where it does not within 50 years.

    `after` is aware. Raises ValueError as `check_schedule` does.
    """
    check_schedule(cron, time_zone)
    start = after.astimezone(_zone(time_zone))
    # Times of day are walked without their fold: what comes up may lie before the start.
    found = (one.astimezone(UTC) for one in CronSim(cron, start))
    return next((one for one in found if one > after), None)


def last_time(cron: str, time_zone: str, before: datetime) -> datetime | None:
    """When it last came up until `before`, itself included, in UTC; None as of `next_time`."""
    check_schedule(cron, time_zone)
    # From so much later that a time on the first passing of a repeated hour is not stepped over.
    # The microsecond lets the walk begin with its start.
    start = (before.astimezone(UTC) + _LONGEST_SHIFT).replace(microsecond=1)
    walk = CronSim(cron, start.astimezone(_zone(time_zone)), reverse=True)
    found = (one.astimezone(UTC) for one in walk)
    return next((one for one in found if one <= before), None)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise ValueError(
            f'expected a time zone such as "Europe/Berlin", got {_shown(name)}{_hint(name)}'
        ) from None


def _hint(name: str) -> str:
    """`; did you mean "Europe/Berlin"?` where a zone or its town is near, else nothing."""
    known = {}
    for zone in sorted(available_timezones(), reverse=True):
        known[zone.casefold()] = zone
        known.setdefault(zone.rpartition("/")[2].casefold(), zone)
    near = difflib.get_close_matches(name[:60].casefold().replace(" ", "_"), known, n=1, cutoff=0.6)
    return f"; did you mean {json.dumps(known[near[0]])}?" if near else ""


def _shown(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else f"{text[:57]}...", ensure_ascii=False)
