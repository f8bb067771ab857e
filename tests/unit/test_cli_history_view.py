"""How entries of the histories look: times, causes, figures in their units, what an app printed."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb.cli.history_view import activity, decision, end_of, figures, policy_figures

AT = datetime(2026, 3, 4, 14, 3, 7).timestamp()
TODAY = date(2026, 3, 4)
POLICY: dict[str, Any] = {
    "policy": "target_tracking cpu 60",
    "direction": "out",
    "metric": "cpu",
    "target": 60.0,
    "datapoints": [None, 88.0, 91.04, 93.1234, 90.0, 95.0],
    "desired": 1,
    "in_service": 1,
    "warming": 0,
    "value": 95.0,
    "needed": 2,
}


def entry(**values: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "number": 1,
        "at": AT,
        "kind": "activity",
        "subject": "web",
        "what": "launch i-8945411f",
        "cause": "desired capacity 1 -> 2: asked for by `fastlb scale`",
        "inputs": {"version": 3},
        "outcome": "in service after 0.52 s",
        "ended": AT + 1,
    }
    return plain | values


def test_an_activity() -> None:
    shown = [line.plain for line in activity(entry(), 80, TODAY)]
    assert shown == [
        "14:03:07  web  launch i-8945411f",
        "          desired capacity 1 -> 2: asked for by `fastlb scale` (version 3)",
        "          in service after 0.52 s",
    ]


def test_of_another_day_the_day_is_said() -> None:
    shown = activity(entry(), None, date(2026, 3, 5))
    assert shown[0].plain == "2026-03-04 14:03:07  web  launch i-8945411f"


def test_what_an_app_printed_last_stands_under_the_outcome() -> None:
    outcome = (
        "failed: ended with status 3; it printed last:\n    Traceback\x1b[2J\n      no database"
    )
    shown = [line.plain for line in activity(entry(outcome=outcome), 80, TODAY)]
    assert shown[2:] == [
        "          failed: ended with status 3; it printed last:",
        "              Traceback?[2J",
        "                no database",
    ]


def test_an_end_has_its_own_time_and_no_cause() -> None:
    shown = [line.plain for line in end_of(entry(), 80, TODAY)]
    assert shown == ["14:03:08  web  launch i-8945411f", "          in service after 0.52 s"]


def test_a_decision_shows_the_figures_of_each_policy() -> None:
    made = entry(
        kind="scaling",
        what="policies",
        cause="cpu 95 over the target of 60",
        inputs={"desired": 2, "policies": [POLICY]},
    )
    shown = [line.plain for line in decision(made, None, TODAY)]
    assert shown == [
        "14:03:07  scaling  web  policies",
        "          cpu 95 over the target of 60",
        "          target_tracking cpu 60: out; datapoints … 88 91.04 93.12 90 95, desired 1, "
        "in service 1, warming 0, value 95, needed 2",
        "          desired 2",
    ]
    same = made | {"inputs": {"desired": 1, "policies": [POLICY]}}
    assert len(decision(same, None, TODAY)) == 3


def test_an_instance_s_socket_is_called_by_its_id() -> None:
    made = entry(
        kind="health", subject="unix:/run/fastlb/t/i-8945411f/app.sock", what="initial -> healthy"
    )
    shown = decision(made, None, TODAY)
    assert shown[0].plain == "14:03:07  health  i-8945411f  initial -> healthy"


def test_figures_have_their_units() -> None:
    rss = {"policy": "p", "direction": "none", "metric": "rss", "value": 3 * 1048576.0}
    assert policy_figures(rss) == "p: none; value 3 MiB"
    assert policy_figures({"policy": "p", "direction": "missing"}) == "p: missing"
    wait = {"metric": "queue_wait", "policy": "p", "direction": "none", "datapoints": []}
    assert policy_figures(wait) == "p: none; datapoints none"
    verdict = {"new": {"requests": 120, "p95": 0.0123456}, "max_error_rise": 5.0, "ok": True}
    assert figures(verdict) == "new (requests 120, p95 0.01235), max error rise 5, ok True"


@settings(max_examples=40)
@given(st.text(), st.text(), st.text(), st.sampled_from([None, 20, 80]))
def test_nothing_in_an_entry_steers_the_terminal(
    what: str, cause: str, outcome: str, width: int | None
) -> None:
    made = entry(what=what, cause=cause, outcome=outcome, inputs={"x": what})
    for view in (activity, end_of, decision):
        for line in view(made, width, TODAY):
            assert line.plain.isprintable()
