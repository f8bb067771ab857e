"""`fastlb top` without a terminal: frames of any size, sorting, what keys do."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.cli.top import SORTS
from fastlb.cli.top_header import Sight, Trail, sparkline
from fastlb.cli.top_keys import Pressed, Request, begin, keys_of, press
from fastlb.cli.top_tables import SORT_KEYS, TARGETS, VIEWS, sorted_rows
from fastlb.cli.top_view import frame, plain_frame
from tests.support.stand_in_admin import World

OVERVIEW: dict[str, Any] = World().overview()
TRAIL = Trail((1.0, 5.0, 3.0), (0.0, 0.0, 1.0), (9.0, 12.0, 11.0))
GROUPS, LISTENERS, TARGET_VIEW, INSTANCES, WORKERS = range(5)


def shown(sight: Sight, width: int = 80, height: int = 24, overview: Any = OVERVIEW) -> str:
    return "\n".join(one.plain for one in frame(overview, TRAIL, sight, width, height))


def after(keys: str | list[str], sight: Sight, overview: Any = OVERVIEW) -> Pressed:
    """What one key after the other makes; a text is typed."""
    pressed = Pressed(sight)
    for key in keys_of(keys.encode()) if isinstance(keys, str) else keys:
        pressed = press(key, pressed.sight, pressed.waiting, overview)
    return pressed


# -- frames


@given(
    view=st.integers(0, 4),
    width=st.integers(1, 220),
    height=st.integers(1, 80),
    help=st.booleans(),
    question=st.sampled_from(["", "Drain it?" * 30]),
    ascii=st.booleans(),
)
def test_a_frame_fits_any_terminal(
    view: int, width: int, height: int, help: bool, question: str, ascii: bool
) -> None:
    sight = Sight(view=view, help=help, question=question)
    lines = frame(OVERVIEW, TRAIL, sight, width, height, ascii)
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)
    assert all("\n" not in line.plain for line in lines)
    assert not ascii or all(line.plain.isascii() for line in lines)


@pytest.mark.parametrize("view", range(5))
def test_80_by_24_has_what_matters_whole(view: int) -> None:
    text = shown(begin(view))
    totals = OVERVIEW["totals"]
    assert f"{totals['requests_per_s']:.0f} req/s" in text
    for word in ("2xx", "3xx", "4xx", "5xx", "p50", "p95", "p99", "in flight", "connections 64"):
        assert word in text
    assert "unhealthy: GET /health: connection refused, 3 in a row" in text
    assert text.count("q quit") == 1
    heads = [column.head for column in VIEWS[view].columns if not column.wide]
    assert all(f"{head}" in text for head in heads)
    for row in VIEWS[view].rows(OVERVIEW):
        cells = [column.cell(row).strip() for column in VIEWS[view].columns if not column.wide]
        assert all(cell in text for cell in cells)


def test_a_group_says_what_its_scaling_does() -> None:
    text = shown(begin(GROUPS))
    assert "web  auto scaling: 3 desired (2-8), 3 in service" in text
    assert "% of 60 %" in text
    assert "last decision: " in text


def test_the_selected_target_says_why() -> None:
    text = shown(begin(TARGET_VIEW))
    assert "> 10.0.0.2:9000" in text  # the worst comes first
    assert "unhealthy for 53 s: GET /health: connection refused, 3 in a row" in text


def test_a_wide_terminal_has_the_reasons_in_the_table() -> None:
    text = shown(begin(TARGET_VIEW), 160, 40)
    assert "REASON" in text
    assert "check passed" in text
    assert "REASON" not in shown(begin(TARGET_VIEW), 80, 40)


def test_what_others_said_steers_no_terminal() -> None:
    overview = copy.deepcopy(OVERVIEW)
    overview["name"] = "a\x1b[2Jb"
    for one in overview["targets"]:
        one["reason"] = "\x1b]0;owned\x07\nnext"
    for view in range(5):
        assert "\x1b" not in shown(begin(view), 160, 40, overview)
    assert "\x1b" not in "".join(one.plain for one in plain_frame(overview, TRAIL, None))


def test_many_targets_are_paged_around_the_selected_one() -> None:
    overview = World(1000).overview()
    sight = after(["end"], begin(TARGET_VIEW, "name"), overview).sight
    text = shown(sight, overview=overview)
    assert " of 1003" in text
    assert "> " in text
    assert "i-" in text.split("> ")[1][:4]


def test_nothing_is_shown_as_nothing() -> None:
    empty = copy.deepcopy(OVERVIEW)
    for key in ("groups", "targets", "instances", "auto_scaling", "listeners", "workers"):
        empty[key] = []
    for view in VIEWS:
        assert f"no {view.title.lower()}" in shown(begin(VIEWS.index(view)), overview=empty)
    assert "none" in "\n".join(one.plain for one in plain_frame(empty, TRAIL, None))


def test_what_is_not_known_yet_is_a_dash() -> None:
    young = copy.deepcopy(OVERVIEW)
    for one in (young["totals"], *young["groups"], *young["targets"]):
        one.update(p50_s=None, p95_s=None, p99_s=None, retries_per_s=None)
    young["host"] |= {"cpu_percent": None, "memory_percent": None}
    young["auto_scaling"][0] |= {"last_decision": None}
    young["auto_scaling"][0]["policies"][0] |= {"value": None}
    assert "p50 -" in shown(begin(GROUPS), overview=young)
    assert "cpu ? of 60 %" in shown(begin(GROUPS), overview=young)


def test_all_that_is_lost_says_since_when() -> None:
    text = shown(Sight(lost="the socket is gone"))
    assert "LOST" in text
    assert "no connection, trying again: the socket is gone" in text


@given(st.lists(st.floats(0, 1e9), max_size=80), st.integers(1, 70), st.booleans())
def test_a_sparkline_has_its_width(values: list[float], width: int, ascii: bool) -> None:
    assert len(sparkline(values, width, ascii)) == width
    assert sparkline(values, width, True).isascii()


def test_a_sparkline_shows_even_a_little_error() -> None:
    assert sparkline([0, 0.01, 1000], 3) == " ▁█"


# -- order


def test_the_sort_keys_of_the_flag_are_columns() -> None:
    assert set(SORTS) <= set(SORT_KEYS)


def test_targets_are_sorted_as_numbers_are() -> None:
    rows = sorted_rows(VIEWS[TARGETS], World(12).overview(), "name", False)
    assert [row["address"] for row in rows][8:11] == [
        "10.0.0.9:9000",
        "10.0.0.10:9000",
        "10.0.0.11:9000",
    ]


@pytest.mark.parametrize("backwards", [False, True])
def test_what_is_not_known_is_last_either_way(backwards: bool) -> None:
    overview = copy.deepcopy(OVERVIEW)
    overview["targets"][0]["p99_s"] = None
    rows = sorted_rows(VIEWS[TARGETS], overview, "p99", backwards)
    assert rows[-1]["p99_s"] is None
    known = [row["p99_s"] for row in rows[:-1]]
    assert known == sorted(known, reverse=not backwards)


# -- keys


def test_bytes_become_keys() -> None:
    assert list(keys_of(b"j\x1b[A\x1bOB\x1b[5~\x1b[Z\tq")) == [
        *("down", "up", "down", "page up", "back tab", "tab", "q"),
    ]
    assert list(keys_of(b"\x1b")) == ["escape"]
    assert list(keys_of(b"\x1b[200~")) == []


@given(st.binary(max_size=40))
def test_any_bytes_are_survived(data: bytes) -> None:
    pressed = Pressed(begin())
    for key in keys_of(data):
        pressed = press(key, pressed.sight, pressed.waiting, OVERVIEW)
    shown(pressed.sight)


def test_tab_and_numbers_turn_the_view() -> None:
    assert after(["tab", "tab"], begin()).sight.view == TARGET_VIEW
    assert after(["back tab"], begin()).sight.view == WORKERS
    assert after("4", begin()).sight.view == INSTANCES


def test_a_drain_is_asked_first() -> None:
    pressed = after("jd", begin(TARGET_VIEW))
    assert pressed.send is None
    assert "Drain 10.0.0.6:9000?" in shown(pressed.sight)
    yes = press("y", pressed.sight, pressed.waiting, OVERVIEW)
    assert yes.send is not None
    assert yes.send.path == "targets/drain"
    assert yes.send.body == {"target": "10.0.0.6:9000", "group": "api"}
    assert yes.waiting is None
    no = press("n", pressed.sight, pressed.waiting, OVERVIEW)
    assert (no.send, no.waiting) == (None, None)


def test_what_was_asked_about_is_what_is_done() -> None:
    """Rows move while a question stands."""
    pressed = after("d", begin(TARGET_VIEW))
    moved = copy.deepcopy(OVERVIEW)
    moved["targets"].reverse()
    moved["targets"][0]["state"] = "unhealthy"
    yes = press("y", pressed.sight, pressed.waiting, moved)
    assert yes.send is not None
    assert yes.send.body["target"] == "10.0.0.2:9000"


def test_undrain_of_a_disabled_target_enables_it() -> None:
    world = World()
    world.overrides["10.0.0.3:9000"] = "disabled"
    overview = world.overview()
    sight = Sight(TARGET_VIEW, "state", selected="api/10.0.0.3:9000")
    pressed = after("uy", sight, overview)
    assert pressed.send is not None
    assert pressed.send.path == "targets/enable"


def test_an_instance_is_drained_by_its_standby() -> None:
    pressed = after("dy", begin(INSTANCES))
    assert pressed.send is not None
    assert pressed.send.path.endswith("/standby")


def test_an_instance_in_standby_stays_among_the_targets_and_is_brought_back_from_there() -> None:
    overview = World().overview()
    target = next(one for one in overview["targets"] if one["instance"])
    id, address, group = target["instance"], target["address"], target["group"]
    instance = next(one for one in overview["instances"] if one["id"] == id)
    sight = replace(begin(TARGET_VIEW), selected=f"{group}/{address}")
    # It drains: it is a target still.
    instance["state"], target["state"] = "standby", "draining"
    assert len(VIEWS[TARGET_VIEW].rows(overview)) == len(overview["targets"])
    assert re.search(rf"> {id} +draining", shown(sight, overview=overview))
    # Nothing is in flight any more: it is none.
    overview["targets"].remove(target)
    for width in (80, 200):
        text = shown(sight, width, overview=overview)
        assert re.search(rf"> {id} +standby +{group}", text)
        assert "standby: drained and kept running: u brings it back" in text
    assert id in "\n".join(line.plain for line in plain_frame(overview, TRAIL, 120))
    pressed = after("uy", sight, overview)
    assert pressed.send is not None
    assert pressed.send.path == "targets/undrain"
    assert pressed.send.body == {"target": address, "group": group}


@pytest.mark.parametrize(
    ("keys", "desired"), [("+y", 4), ("++y", 5), ("-y", 2), ("+++-y", 5), ("++++++++y", 8)]
)
def test_scaling_adds_up_until_it_is_answered(keys: str, desired: int) -> None:
    sight = Sight(GROUPS, "name", selected="web")
    pressed = after(keys, sight)
    assert pressed.send == Request(
        "auto-scaling-groups/web/scale",
        {"desired": desired},
        f"Scale web from 3 to {desired}? (+ and - change it)",
    )


def test_there_and_back_is_no_change() -> None:
    pressed = after("+-", Sight(GROUPS, "name", selected="web"))
    assert (pressed.waiting, pressed.send) == (None, None)


def test_at_the_bounds_it_says_so() -> None:
    overview = copy.deepcopy(OVERVIEW)
    overview["auto_scaling"][0]["desired"] = 8
    pressed = after("+", Sight(GROUPS, "name", selected="web"), overview)
    assert pressed.waiting is None
    assert "from 2 to 8 instances" in pressed.sight.said


def test_where_nothing_can_be_done_it_says_what_to_select() -> None:
    assert "select a target" in after("d", begin(WORKERS)).sight.said
    assert "select a group" in after("+", begin(WORKERS)).sight.said
    assert "select a group" in after("+", Sight(GROUPS, "name", selected="api")).sight.said


def test_the_selected_row_stays_when_the_order_changes() -> None:
    sight = after("j", begin(TARGET_VIEW, "requests")).sight
    selected = sight.selected
    assert selected
    turned = after("r", sight).sight
    name = next(
        one["instance"] or one["address"]
        for one in OVERVIEW["targets"]
        if selected.endswith(one["address"])
    )
    assert f"> {name}" in shown(turned)


def test_q_quits_but_not_out_of_a_question() -> None:
    assert after("q", begin()).quit
    pressed = after("d", begin(TARGET_VIEW))
    no = press("q", pressed.sight, pressed.waiting, OVERVIEW)
    assert not no.quit
    assert no.waiting is None
