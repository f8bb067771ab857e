"""What differs between two configurations: nothing is missed, and nothing secret is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from fastlb.config import Overrides, load
from fastlb.config.differences import applied, diff, differences, tree_of
from fastlb.config.overridden import overridden
from fastlb.model.address import Address
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.listener import FixedResponse, Forward, Listener, Rule, WeightedGroup
from fastlb.model.target_group import Target, TargetGroup
from tests.support.configurations import configurations

WEB = Forward((WeightedGroup("web"),))
ONE, TWO = (Target(Address("127.0.0.1", port)) for port in (9001, 9002))
LISTENER = Listener(protocol="http", address=Address("127.0.0.1", 80), default=WEB)
OLD = Configuration(
    listeners=(LISTENER,),
    target_groups=(TargetGroup(name="web", targets=(ONE, TWO)),),
    workers=2,
)


# An example is two configurations of some hundred settings each, and costs 40 ms: what
# fails for a kind of setting or of entry does so within a few.
@settings(max_examples=40)
@given(configurations(), configurations())
def test_the_difference_applied_to_the_old_gives_the_new(
    old: Configuration, new: Configuration
) -> None:
    before, after = tree_of(old), tree_of(new)
    changes = diff(before, after)
    assert applied(before, changes) == after
    assert len({one.path for one in changes}) == len(changes)


@settings(max_examples=40)
@given(configurations())
def test_the_order_of_lists_is_no_difference(one: Configuration) -> None:
    turned = replace(
        one,
        listeners=tuple(
            replace(listener, rules=listener.rules[::-1]) for listener in one.listeners[::-1]
        ),
        target_groups=tuple(
            replace(group, targets=group.targets[::-1]) for group in one.target_groups[::-1]
        ),
    )
    assert differences(one, turned) == []


def test_a_line_for_each_by_its_key_path() -> None:
    health = HealthCheck(interval=5.0)
    new = Configuration(
        listeners=(
            replace(
                LISTENER,
                idle_timeout=5.0,
                rules=(Rule(priority=3, action=FixedResponse(), path=("/a",)),),
            ),
            replace(LISTENER, address=Address("127.0.0.1", 81)),
        ),
        target_groups=(
            TargetGroup(name="web", targets=(replace(ONE, weight=3),), health_check=health),
            TargetGroup(name="api.v2"),
        ),
        workers=3,
    )
    here, web = 'listeners["http://127.0.0.1:80"]', "target_groups.web"
    assert differences(OLD, new) == [
        "workers: 2 -> 3",
        f'{here}.idle_timeout: "1m" -> "5s"',
        f"{here}.rules[3]: added",
        'listeners["http://127.0.0.1:81"]: added',
        f'{web}.targets["127.0.0.1:9001"].weight: 1 -> 3',
        f'{web}.targets["127.0.0.1:9002"]: removed',
        f'{web}.health_check.interval: "2s" -> "5s"',
        'target_groups."api.v2": added',
    ]
    changed = replace(
        new.listeners[0], rules=(Rule(priority=3, action=FixedResponse(body="x"), path=("/a",)),)
    )
    last = replace(new, listeners=(changed, *new.listeners[1:]))
    (line,) = differences(new, last)
    assert line.startswith(f'{here}.rules[3].fixed_response: {{ status = 503, body = "", ')


def test_the_environment_of_instances_is_not_shown() -> None:
    def scaled(secret: str) -> Configuration:
        template = LaunchTemplate(command=("app",), env=(("KEY", secret), ("PLAIN", "same")))
        group = AutoScalingGroup(name="web", launch_template=template)
        return replace(OLD, auto_scaling_groups=(group,))

    (line,) = differences(scaled("swordfish"), scaled("marlin"))
    assert line == "auto_scaling_groups.web.launch_template.env.KEY: changed"


FILE = """
workers = 2
[[listeners]]
address = "http://127.0.0.1:80"
default = { forward = "web" }
idle_timeout = "60s"
[target_groups.web]
targets = ["127.0.0.1:9001"]
[target_groups.web.health_check]
interval = "2s"
[auto_scaling_groups.app]
launch_template = { command = ["app", "{socket}"], stop_timeout = "10s" }
min = 1
[target_groups.app]
auto_scaling_group = "app"
"""


def unused(old: str, new: str, overrides: Overrides) -> list[str]:
    """What is said where the file was FILE with `old` in it, and `new` stands there instead."""
    assert old in FILE
    before, after = load(FILE, overrides), load(FILE.replace(old, new), overrides)
    assert differences(before.configuration, after.configuration) == []
    return overridden(before.of_file, after.of_file, overrides)


@pytest.mark.parametrize(
    ("old", "new", "flags", "path"),
    [
        ("workers = 2", "workers = 3", {"--workers": "4"}, "workers"),
        ("60s", "61s", {"--idle-timeout": "5s"}, 'listeners["http://127.0.0.1:80"].idle_timeout'),
        (
            'interval = "2s"',
            'interval = "2s"\nenabled = false',
            {"--health-check": "on"},
            "target_groups.web.health_check.enabled",
        ),
        (
            'stop_timeout = "10s"',
            'stop_timeout = "9s"',
            {"--stop-timeout": "5s"},
            "auto_scaling_groups.app.launch_template.stop_timeout",
        ),
    ],
)
def test_what_changed_in_the_file_and_a_flag_overrides_is_said(
    old: str, new: str, flags: dict[str, str], path: str
) -> None:
    (flag,) = flags
    assert unused(old, new, Overrides(settings=flags)) == [
        f"{path}: is set on the command line ({flag}); the file's value is not used"
    ]


def test_a_switch_that_is_off_is_named_as_it_was_typed() -> None:
    (line,) = unused(
        'interval = "2s"',
        'interval = "2s"\nenabled = false',
        Overrides(settings={"--health-check": "off"}),
    )
    assert "(--no-health-check)" in line


def test_parts_of_the_file_that_flags_replace_are_named_once() -> None:
    overrides = Overrides(listen=("http://127.0.0.1:81",), target=(), command=("other", "{port}"))
    before = FILE.replace("[target_groups.web]", "[target_groups.default]").replace(
        '"web"', '"default"'
    )
    before = before.replace("[target_groups.web.", "[target_groups.default.")
    after = before.replace("60s", "61s").replace("{socket}", "{port}").replace(":80", ":82")
    old, new = load(before, overrides), load(after, overrides)
    assert differences(old.configuration, new.configuration) == []
    assert overridden(old.of_file, new.of_file, overrides) == [
        "listeners: is set on the command line (--listen); the file's value is not used",
        "auto_scaling_groups.app.launch_template.command: is set on the command line (the command "
        "after --); the file's value is not used",
    ]


def test_targets_of_flags_are_those_of_one_group() -> None:
    overrides = Overrides(target=("127.0.0.1:9009",))
    only = "[target_groups.web]\ntargets = ['127.0.0.1:1']\n[[listeners]]\n" + (
        "address = 'http://127.0.0.1:80'\ndefault = { forward = 'web' }\n"
    )
    old, new = load(only, overrides), load(only.replace(":1'", ":2'"), overrides)
    assert overridden(old.of_file, new.of_file, overrides) == [
        "target_groups.web.targets: is set on the command line (--target); "
        "the file's value is not used"
    ]


def test_what_follows_from_other_keys_is_not_the_file_s_value() -> None:
    overrides = Overrides(settings={"--max": "8"}, scale=("cpu=50",))
    old, new = load(FILE, overrides), load(FILE.replace("min = 1", "min = 2"), overrides)
    assert overridden(old.of_file, new.of_file, overrides) == []
    (line,) = differences(old.configuration, new.configuration)
    assert line == "auto_scaling_groups.app.min: 1 -> 2"


def test_what_no_flag_sets_is_not_mentioned() -> None:
    overrides = Overrides(settings={"--max": "8"})
    old, new = load(FILE, overrides), load(FILE.replace("60s", "61s"), overrides)
    assert overridden(old.of_file, new.of_file, overrides) == []
