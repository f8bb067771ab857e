"""Room on the host: who is let in, why not all, and how often it is looked at."""

from __future__ import annotations

import pytest

from fastlb.auto_scaling.headroom import FRESH, MIB, Headroom
from fastlb.auto_scaling.usage import Host


def headroom(cpu: float | None, available: int) -> Headroom:
    made = Headroom(lambda: Host(cpu, available * MIB))
    made.look(0.0)
    return made


@pytest.mark.parametrize(
    ("cpu", "available", "rss", "cpu_limit", "fits", "why"),
    [
        (50.0, 1000, 100, 90.0, 4, ""),
        (89.9, 1000, 100, 90.0, 4, ""),
        (90.0, 1000, 100, 90.0, 4, ""),
        (91.0, 1000, 100, 90.0, 0, "the host's CPU is saturated: 91 % of all cores, the limit is"),
        (99.0, 1000, 100, None, 4, ""),  # a replacement
        (None, 1000, 100, 90.0, 4, ""),  # the first look
        (50.0, 700, 100, 90.0, 4, ""),
        (50.0, 699, 100, 90.0, 3, "memory would run out: 699 MiB are available, 300 MiB are kept"),
        (50.0, 300, 100, 90.0, 0, "memory would run out"),
        (50.0, 100, 100, 90.0, 0, "memory would run out"),
        (50.0, 100, 0, 90.0, 4, ""),  # nobody knows yet what one takes
    ],
)
def test_how_many_of_four_fit(
    cpu: float | None, available: int, rss: int, cpu_limit: float | None, fits: int, why: str
) -> None:
    found, said = headroom(cpu, available).fitting(
        4, rss * MIB, cpu_limit=cpu_limit, reserve=300 * MIB
    )
    assert found == fits
    assert said.startswith(why)
    assert bool(said) == bool(why)


def test_nothing_is_refused_before_the_first_look() -> None:
    unseen = Headroom(lambda: Host(100.0, 0))
    assert unseen.fitting(4, MIB, cpu_limit=90.0, reserve=0) == (4, "")


def test_several_groups_share_a_look() -> None:
    looks = []
    shared = Headroom(lambda: looks.append(1) or Host(1.0, 1))  # type: ignore[func-returns-value]
    for now in (0.0, 0.1, FRESH - 0.01, FRESH, FRESH + 0.5, 2 * FRESH):
        shared.look(now)
    assert len(looks) == 3
    assert shared.host == Host(1.0, 1)


def test_the_real_host_has_some_room() -> None:
    real = Headroom()
    real.look(0.0)
    assert real.host is not None
    assert real.host.memory_available > 0
