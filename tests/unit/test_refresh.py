"""An instance refresh step by step: what may go, where it waits, when it ends and how."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.auto_scaling.judgement import Verdict
from fastlb.auto_scaling.refresh import Refresh, Sight, Step, advance
from fastlb.model.instance_refresh import InstanceRefresh

OLD = ("a", "b", "c", "d")
ROLLING = Refresh(source=1, target=2, began=0.0, old=OLD)
BACK = replace(ROLLING, source=2, target=1, phase="going_back", reason="worse")
GIVEN = InstanceRefresh(bake_time=30.0, checkpoint_delay=60.0)
SIGHT = Sight(now=100.0, old=OLD, settled=0, desired=4, failures=0, verdict=None)
BAD = Verdict(True, True, "9 of 10 failed", {})
GOOD = Verdict(False, True, "no worse", {})


def test_the_first_new_one_comes_alone_until_it_has_shown_itself() -> None:
    same, step = advance(ROLLING, GIVEN, SIGHT)
    assert same == ROLLING
    assert step == Step(doomed=frozenset(OLD), careful=True)
    _, step = advance(ROLLING, GIVEN, replace(SIGHT, settled=1))
    assert step == Step(doomed=frozenset(OLD))


def test_after_the_last_old_one_the_new_ones_are_watched_for_the_bake_time() -> None:
    gone = replace(SIGHT, old=(), settled=4, verdict=GOOD)
    baking, step = advance(ROLLING, GIVEN, gone)
    assert (baking.phase, baking.until, step) == ("baking", 130.0, Step())
    assert advance(baking, GIVEN, replace(gone, now=129.9)) == (baking, Step())
    _, step = advance(baking, GIVEN, replace(gone, now=130.0))
    assert step == Step(outcome="done", reason="no worse")
    _, step = advance(baking, GIVEN, replace(gone, now=130.0, verdict=None))
    assert step == Step(outcome="done")


def test_nothing_is_watched_while_no_new_one_is_there() -> None:
    # With min_healthy 0 the old ones are gone before, and after a crash as well.
    gone = replace(SIGHT, old=(), settled=0)
    assert advance(ROLLING, GIVEN, gone) == (ROLLING, Step())
    assert advance(ROLLING, GIVEN, replace(gone, failures=2))[1].outcome == "back"
    assert advance(ROLLING, GIVEN, replace(gone, settled=1))[0].phase == "baking"


def test_an_empty_group_has_nobody_to_wait_for() -> None:
    empty = replace(ROLLING, old=())
    baking, _ = advance(empty, GIVEN, replace(SIGHT, old=(), desired=0))
    assert baking.phase == "baking"
    # One that was stopped for being idle meanwhile as well.
    assert advance(ROLLING, GIVEN, replace(SIGHT, old=(), desired=0))[0].phase == "baking"
    _, step = advance(baking, GIVEN, replace(SIGHT, old=(), desired=0, now=130.0))
    assert step.outcome == "done"


@pytest.mark.parametrize("phase", ["rolling", "waiting", "baking"])
@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"failures": 2}, "2 launches in a row of version 2 failed"),
        ({"verdict": BAD}, "9 of 10 failed"),
        ({"failures": 1}, None),
        ({"verdict": GOOD}, None),
    ],
)
def test_trouble_turns_it_round_in_every_phase_unless_that_is_off(
    phase: str, trouble: dict[str, object], reason: str | None
) -> None:
    refresh = replace(ROLLING, phase=phase, until=200.0)  # type: ignore[arg-type]
    sight = replace(SIGHT, **trouble)  # type: ignore[arg-type]
    step = advance(refresh, GIVEN, sight)[1]
    if reason is None:
        assert step.outcome == ""
    else:
        assert step == Step(outcome="back", reason=reason)
    assert advance(refresh, replace(GIVEN, auto_rollback=False), sight)[1].outcome == ""


def test_one_failed_launch_is_said_as_one() -> None:
    strict = replace(GIVEN, failed_launches=1)
    step = advance(ROLLING, strict, replace(SIGHT, failures=1))[1]
    assert step.reason == "1 launch of version 2 failed"


def test_the_way_back_is_judged_by_nobody_and_ends_with_the_last_bad_one() -> None:
    sight = replace(SIGHT, failures=9, settled=0)
    assert advance(BACK, GIVEN, sight) == (BACK, Step(doomed=frozenset(OLD)))
    step = advance(BACK, GIVEN, replace(sight, old=()))[1]
    assert step == Step(outcome="done", reason="rolled back: worse")


def test_it_waits_at_a_checkpoint_and_goes_on_after_the_delay() -> None:
    given = replace(GIVEN, checkpoints=(50,))
    assert advance(ROLLING, given, SIGHT)[1].doomed == {"a", "b"}
    assert advance(ROLLING, given, replace(SIGHT, old=("b", "c", "d")))[1].doomed == {"b"}
    half = replace(SIGHT, old=("c", "d"), settled=2)
    waiting, step = advance(ROLLING, given, half)
    assert (waiting.phase, waiting.until, step) == ("waiting", 160.0, Step())
    assert advance(waiting, given, replace(half, now=159.0)) == (waiting, Step())
    rolling, step = advance(waiting, given, replace(half, now=160.0))
    assert (rolling.phase, rolling.checkpoint, step.doomed) == ("rolling", 1, {"c", "d"})


def test_checkpoints_that_are_passed_together_cost_one_wait() -> None:
    given = replace(GIVEN, checkpoints=(10, 20, 25, 75))
    three = replace(SIGHT, old=("b", "c", "d"), settled=1)
    waiting, _ = advance(ROLLING, given, three)
    rolling, step = advance(waiting, given, replace(three, now=160.0))
    assert (rolling.phase, rolling.checkpoint, step.doomed) == ("rolling", 3, {"b", "c"})


def test_old_ones_that_vanish_in_a_wait_end_it() -> None:
    waiting = replace(ROLLING, phase="waiting", until=1e9)
    assert advance(waiting, GIVEN, replace(SIGHT, old=(), settled=4))[0].phase == "baking"


checkpoints = st.lists(st.integers(1, 100), unique=True, max_size=6).map(
    lambda found: tuple(sorted(found))
)


@given(st.integers(0, 12), checkpoints, st.data())
def test_it_comes_to_its_end_whatever_vanishes_and_each_wait_has_its_reason(
    count: int, points: tuple[int, ...], data: st.DataObject
) -> None:
    old = tuple(f"i{number}" for number in range(count))
    given = replace(GIVEN, checkpoints=points)
    refresh = replace(ROLLING, old=old)
    left, now, waits = list(old), 0.0, 0
    for _ in range(200):
        sight = replace(SIGHT, now=now, old=tuple(left), settled=count - len(left), desired=count)
        before = refresh.phase
        refresh, step = advance(refresh, given, sight)
        if step.outcome:
            break
        waits += refresh.phase == "waiting" != before
        assert step.doomed <= set(left)
        if step.doomed:
            replaced = count - len(left)
            limits = [-(-count * percent // 100) for percent in points] + [count]
            allowed = limits[refresh.checkpoint]
            assert replaced + len(step.doomed) <= allowed
            left.remove(min(step.doomed, key=left.index))
        elif left and data.draw(st.booleans()):
            left.pop()
        now += 20.0
    assert step.outcome == "done"
    assert not left
    assert waits <= len(points)


@given(
    st.builds(
        Refresh,
        source=st.integers(1, 9),
        target=st.integers(1, 9),
        began=st.floats(0, 1e9),
        old=st.lists(st.text(), max_size=3).map(tuple),
        phase=st.sampled_from(["rolling", "waiting", "baking", "going_back"]),
        checkpoint=st.integers(0, 9),
        until=st.floats(0, 1e9),
        reason=st.text(),
    )
)
def test_a_successor_goes_on_from_its_json(refresh: Refresh) -> None:
    assert Refresh.from_plain(json.loads(json.dumps(refresh.plain()))) == refresh


@pytest.mark.parametrize(
    "plain", [{}, {"old": None}, {"old": []}, {**ROLLING.plain(), "new": 1}, ["old"], None]
)
def test_another_shape_is_refused(plain: object) -> None:
    with pytest.raises((TypeError, KeyError)):
        Refresh.from_plain(plain)  # type: ignore[arg-type]
