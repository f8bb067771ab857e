"""How entries of the histories look, in `fastlb activity` and `fastlb why`. Pure.

An entry is a line with its time, and indented lines for its cause, its figures and its outcome.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from rich.text import Text

from fastlb.auto_scaling.metric_wording import figure
from fastlb.cli.layout import INDENT, wrapped
from fastlb.cli.wording import clean
from fastlb.model.scaling_policy import METRICS

UNDER = INDENT * 5
"""Under what was done: the width of a time and the gap behind it."""
INSTANCE_SOCKET = re.compile(r"unix:/.*/(i-[0-9a-f]{8})/[^/]+")
SHOWN_DATAPOINTS = 5
IN_UNITS = ("value", "target", "threshold")
"""Figures in the unit of the policy's metric."""
SAID_ALREADY = ("policy", "direction", "metric", "target", "threshold")
"""What of a policy's figures its name and direction say."""
OUTCOME_STYLES = (
    ("failed", "bold red"),
    ("rolled back", "bold red"),
    ("stopped", "bold red"),
    ("done; rolled back", "bold red"),
    ("refused", "bold yellow"),
    ("in service", "green"),
    ("done", "green"),
)


def activity(entry: Mapping[str, Any], width: int | None, today: date) -> list[Text]:
    """Time, group, what, cause with its figures, outcome; and what an app printed last, as it is."""
    lines = _head(entry["at"], (entry["subject"], entry["what"]), today, width)
    lines += wrapped(_cause(entry), width, UNDER)
    return lines + _outcome(entry["outcome"], width)


def end_of(entry: Mapping[str, Any], width: int | None, today: date) -> list[Text]:
    """An activity that was shown before it had ended."""
    at = entry["ended"] or entry["at"]
    lines = _head(at, (entry["subject"], entry["what"]), today, width)
    return lines + _outcome(entry["outcome"], width)


def decision(entry: Mapping[str, Any], width: int | None, today: date) -> list[Text]:
    """Time, kind, subject, what, cause; each policy with its figures on a line of its own."""
    names = (entry["kind"], _subject(entry["subject"]), entry["what"])
    lines = _head(entry["at"], names, today, width)
    lines += wrapped(entry["cause"], width, UNDER)
    inputs = dict(entry["inputs"])
    policies = inputs.pop("policies", ())
    for policy in policies:
        lines += wrapped(policy_figures(policy), width, UNDER, style="dim")
    if policies and inputs.get("desired") == policies[0].get("desired"):
        del inputs["desired"]  # as it was
    if inputs:
        lines += wrapped(figures(inputs), width, UNDER, style="dim")
    return lines


def _head(at: float, names: Sequence[str], today: date, width: int | None) -> list[Text]:
    """A first line that has room for it is the usual case; what is longer goes on under it."""
    text = f"{time_of(at, today)}{INDENT}{INDENT.join(names)}"
    first, *more = wrapped(text, width, "")
    first.stylize("bold", len(first.plain) - len(names[-1]))
    return [first, *(Text(UNDER) + line for line in more)]


def _subject(subject: str) -> str:
    """Of an instance's socket the id, which is the folder's name; what else there is says little."""
    found = INSTANCE_SOCKET.fullmatch(subject)
    return found[1] if found else subject


def time_of(at: float, today: date) -> str:
    """In local time; with its day where that is not today."""
    moment = datetime.fromtimestamp(at)
    return f"{moment:%H:%M:%S}" if moment.date() == today else f"{moment:%Y-%m-%d %H:%M:%S}"


def _cause(entry: Mapping[str, Any]) -> str:
    """Of an activity; its policies' figures are in its cause already."""
    inputs = {name: value for name, value in entry["inputs"].items() if name != "policies"}
    return f"{entry['cause']} ({figures(inputs)})" if inputs else str(entry["cause"])


def _outcome(outcome: str, width: int | None) -> list[Text]:
    if not outcome:
        return []
    said, *printed = outcome.removeprefix("; ").split("\n")
    style = next((style for start, style in OUTCOME_STYLES if said.startswith(start)), "")
    lines = wrapped(said, width, UNDER, style)
    return lines + [Text(UNDER + clean(line), "dim") for line in printed]


def policy_figures(inputs: Mapping[str, Any]) -> str:
    """`target_tracking cpu 60: out; value 93.1, needed 2, datapoints 88 91 93.1`."""
    metric = inputs.get("metric")
    shown = {name: value for name, value in inputs.items() if name not in SAID_ALREADY}
    said = f"{inputs.get('policy', '?')}: {inputs.get('direction', '?')}"
    return f"{said}; {figures(shown, metric)}" if shown else said


def figures(inputs: Mapping[str, Any], metric: Any = None) -> str:
    """Plain values in one line, those of the metric in its unit."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_figure(name, value, metric)}" for name, value in inputs.items()
    )


def _figure(name: str, value: Any, metric: Any) -> str:
    if isinstance(value, Mapping):
        return f"({figures(value, metric)})"
    if name == "datapoints" and isinstance(value, list):
        last = value[-SHOWN_DATAPOINTS:]
        before = "… " if len(value) > len(last) else ""
        return before + (" ".join(_amount(one, metric) for one in last) or "none")
    if isinstance(value, list):
        return " ".join(_amount(one, None) for one in value)
    return _amount(value, metric if name in IN_UNITS else None)


def _amount(value: Any, metric: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if metric in METRICS:
        return figure(metric, value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
