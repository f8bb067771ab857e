"""What differs between two configurations: nothing is missed, and nothing secret is shown."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from fastlb.config.differences import applied, diff, differences, tree_of
from fastlb.model.address import Address
from fastlb.model.auto_scaling import AutoScalingGroup, LaunchTemplate
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
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
