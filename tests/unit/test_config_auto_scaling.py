"""Auto scaling groups in TOML and flags: what they come to, what is wrong with them, and back."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck as Hypothesis
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb.config import Overrides, load, to_toml
from fastlb.config.amounts import read_amount, read_difference, read_target, write_amount
from fastlb.config.check_auto_scaling import meant_placeholder
from fastlb.config.values import from_toml
from fastlb.config.write import inline
from fastlb.model.auto_scaling import AutoScalingGroup
from fastlb.model.configuration import Configuration
from fastlb.model.instance_refresh import InstanceRefresh
from fastlb.model.launch_template import LaunchTemplate
from fastlb.model.scaling_policy import (
    ADJUSTMENT_TYPES,
    DEFAULT_POLICIES,
    METRICS,
    Metric,
    ScalingPolicy,
    Scheduled,
    SimpleScaling,
    Step,
    StepScaling,
    TargetTracking,
)
from fastlb.model.settings import Setting
from fastlb.model.target_group import TargetGroup
from tests.support.configurations import (
    arguments,
    configurations,
    names,
    problems_of,
    settings_of,
)

LISTENER = '[[listeners]]\naddress = "http://:80"\ndefault = { forward = "web" }\n'
GROUP = '[target_groups.web]\nauto_scaling_group = "web"\n'
HEAD = LISTENER + GROUP + "[auto_scaling_groups.web]\n"
COMMAND = 'launch_template = { command = ["app", "{socket}"] }\n'

WHOLE = (
    LISTENER
    + GROUP
    + """
targets = ["127.0.0.1:9001"]
[auto_scaling_groups.web]
min = 2
max = 8
desired = 3
launch_template = { command = ["uvicorn", "app:app", "--uds", "{socket}", ""], cwd = "/srv/app", \
env = { MODE = "prod", A = "={x}\\n" }, user = "app", stop_signal = "INT", stop_timeout = "3s", \
max_rss = "512MiB", max_lifetime = "1d", nice = -5, cpus = "0-3,6", log = "/var/log/app" }
health_check_grace = "20s"
termination_policy = ["oldest_instance"]
refresh = { min_healthy = 90, max_healthy = 110, checkpoints = [25, 50], max_p95_ratio = 1.5 }
[[auto_scaling_groups.web.policies]]
type = "target_tracking"
metric = "queue_wait"
target = "50ms"
disable_scale_in = true
[[auto_scaling_groups.web.policies]]
type = "step"
metric = "requests"
above = "10/s"
steps = [{ from = 300, add = 2 }, { from = 0, to = 300, add = 1 }]
[[auto_scaling_groups.web.policies]]
type = "step"
metric = "rss"
below = "300MiB"
steps = [{ to = "-50MiB", add_percent = -20 }, { from = "-50MiB", add_percent = -10 }]
min_adjustment_magnitude = 1
[[auto_scaling_groups.web.policies]]
type = "simple"
metric = "cpu"
below = 20
set = 4
cooldown = "1m"
[[auto_scaling_groups.web.policies]]
type = "scheduled"
cron = "0 8 * * 1-5"
time_zone = "Europe/Berlin"
min = 4
"""
)


def test_the_whole_of_it() -> None:
    loaded = load(WHOLE)
    assert loaded.warnings == ()
    (group,) = loaded.configuration.target_groups
    assert (group.auto_scaling_group, len(group.targets), group.hold) == ("web", 1, None)
    assert loaded.configuration.auto_scaling_groups == (
        AutoScalingGroup(
            name="web",
            min=2,
            max=8,
            desired=3,
            health_check_grace=20.0,
            termination_policy=("oldest_instance",),
            launch_template=LaunchTemplate(
                command=("uvicorn", "app:app", "--uds", "{socket}", ""),
                cwd="/srv/app",
                env=(("A", "={x}\n"), ("MODE", "prod")),
                user="app",
                stop_signal="INT",
                stop_timeout=3.0,
                max_rss=512 * 1024**2,
                max_lifetime=86400.0,
                nice=-5,
                cpus=((0, 3), (6, 6)),
                log="/var/log/app",
            ),
            refresh=InstanceRefresh(
                min_healthy=90, max_healthy=110, checkpoints=(25, 50), max_p95_ratio=1.5
            ),
            policies=(
                TargetTracking(metric="queue_wait", target=0.05, disable_scale_in=True),
                StepScaling(
                    metric="requests",
                    comparison="above",
                    threshold=600.0,
                    steps=(Step(1, 0.0, 300.0), Step(2, 300.0)),
                ),
                StepScaling(
                    metric="rss",
                    comparison="below",
                    threshold=300.0 * 1024**2,
                    steps=(
                        Step(-20, None, -50.0 * 1024**2),
                        Step(-10, -50.0 * 1024**2),
                    ),
                    adjustment_type="percent_change_in_capacity",
                    min_adjustment_magnitude=1,
                ),
                SimpleScaling(
                    metric="cpu",
                    comparison="below",
                    threshold=20.0,
                    adjustment=4,
                    adjustment_type="exact_capacity",
                    cooldown=60.0,
                ),
                Scheduled(cron="0 8 * * 1-5", time_zone="Europe/Berlin", min=4),
            ),
        ),
    )


def scaling_of(toml: str, overrides: Overrides | None = None) -> AutoScalingGroup:
    (group,) = load(toml, overrides).configuration.auto_scaling_groups
    return group


def test_figures_of_a_profile_hold_for_what_is_not_set() -> None:
    group = scaling_of(
        HEAD + COMMAND + 'profile = "aws"\nwarmup = "7s"\nrefresh = { max_healthy = 120 }\n',
        Overrides(settings={"--slow-start": "3s"}),
    )
    assert (group.health_check_grace, group.warmup, group.slow_start) == (300.0, 7.0, 3.0)
    assert group.termination_policy == ("oldest_launch_template", "oldest_instance")
    assert (group.refresh.min_healthy, group.refresh.max_healthy) == (90, 120)
    assert not group.refresh.auto_rollback


@pytest.mark.parametrize(
    ("toml", "flags", "expected"),
    [
        ("", {}, (1, 1, ())),
        ("min = 3", {}, (3, 3, ())),
        ("min = 0", {}, (0, 1, DEFAULT_POLICIES)),
        ("max = 3", {}, (1, 3, DEFAULT_POLICIES)),
        ("max = 3\npolicies = []", {}, (1, 3, ())),
        ("min = 2", {"--max": "4"}, (2, 4, DEFAULT_POLICIES)),
        ("min = 2\nmax = 4", {"--min": "4"}, (4, 4, ())),
        ("", {"--min": "3"}, (3, 3, ())),
    ],
)
def test_bounds_and_policies_that_are_not_set(
    toml: str, flags: dict[str, str], expected: tuple[int, int, tuple[ScalingPolicy, ...]]
) -> None:
    group = scaling_of(f"{HEAD}{COMMAND}{toml}\n", Overrides(settings=flags))
    assert (group.min, group.max, group.policies) == expected


def policy(text: str) -> str:
    return f"{HEAD}max = 4\n{COMMAND}[[auto_scaling_groups.web.policies]]\n{text}\n"


def step(steps: str, threshold: str = "above = 60", metric: str = "cpu") -> str:
    return policy(f'type = "step"\nmetric = "{metric}"\n{threshold}\nsteps = [{steps}]')


def scheduled(text: str, more: str = "") -> str:
    return policy(f'type = "scheduled"\ncron = "0 8 * * *"\n{text}\n{more}')


TEMPLATE = "auto_scaling_groups.web.launch_template"
POLICY = "auto_scaling_groups.web.policies[0]"


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (
            LISTENER
            + GROUP.replace('= "web"', '= "wbe"')
            + "[auto_scaling_groups.web]\n"
            + COMMAND,
            'target_groups.web.auto_scaling_group: there is no auto scaling group "wbe"; did you '
            'mean "web"?',
        ),
        (
            GROUP + GROUP.replace("groups.web", "groups.api"),
            'target_groups.api.auto_scaling_group: there is no auto scaling group "web"',
        ),
        (
            LISTENER + GROUP.replace("groups.web", "groups.api") + HEAD[len(LISTENER) :] + COMMAND,
            'target_groups.web.auto_scaling_group: "web" is already that of target_groups.api',
        ),
        ("auto_scaling_groups = 1", "auto_scaling_groups: expected [auto_scaling_groups.NAME]"),
        ('[auto_scaling_groups."a/b"]', 'auto_scaling_groups."a/b": expected a name of'),
        (HEAD, f"{TEMPLATE}.command: is missing: expected a list such as ["),
        (HEAD + "launch_template = 1", f"{TEMPLATE}: expected {{ command = ["),
        (HEAD + "launch_template = { command = [] }", f"{TEMPLATE}.command: expected a program"),
        (HEAD + 'launch_template = { command = [" "] }', f"{TEMPLATE}.command: expected a program"),
        (
            HEAD + 'launch_template = { command = ["node", 3000] }',
            f'{TEMPLATE}.command[1]: expected text, got 3000; put it in quotes: "3000"',
        ),
        (
            HEAD + 'launch_template = { command = ["a", "\\u0000"] }',
            f"{TEMPLATE}.command[1]: expected UTF-8 text without NUL",
        ),
        (
            HEAD + """launch_template = { command = "app 'a b' {socket}" }""",
            '; write ["app", "a b", "{socket}"]',
        ),
        (HEAD + """launch_template = { command = "app '" }""", 'expected a list, got "app \'"'),
        (
            HEAD + 'launch_template = { command = ["a", "b"], shell = true }',
            f"{TEMPLATE}.command: expected one text, since shell = true, got 2",
        ),
        (
            HEAD + 'launch_template = { command = ["a", "{port}"], env = { S = "{socket}" } }',
            f"{TEMPLATE}.command: expected {{socket}} or {{port}}, got both",
        ),
        (
            HEAD + 'launch_template = { command = ["a", "{sockett}"] }',
            f"{TEMPLATE}.command[1]: there is no placeholder {{sockett}}; did you mean {{socket}}?",
        ),
        (
            HEAD + 'launch_template = { command = "a {prot}", shell = true }',
            f"{TEMPLATE}.command: there is no placeholder {{prot}}; did you mean {{port}}?",
        ),
        (
            HEAD + 'launch_template = { command = ["a"], env = { ID = "x-{instace}" } }',
            f"{TEMPLATE}.env.ID: there is no placeholder {{instace}}; did you mean {{instance}}?",
        ),
        (
            HEAD + 'launch_template = { max_rss = "512M" }',
            'max_rss: expected a size such as 4096, 64KiB or 1MB, got "512M"; '
            "did you mean 512MB or 512MiB?",
        ),
        (HEAD + 'launch_template = { max_rss = "1.5gi" }', "; did you mean 1.5GiB?"),
        (HEAD + 'launch_template = { cwd = "app" }', f"{TEMPLATE}.cwd: expected an absolute path"),
        (HEAD + 'launch_template = { log = "inherti" }', f"{TEMPLATE}.log: expected inherit, or"),
        (HEAD + "launch_template = { env = 1 }", f"{TEMPLATE}.env: expected a table such as"),
        (
            HEAD + 'launch_template = { env = { "A=" = "" } }',
            f'{TEMPLATE}.env."A=": expected a name',
        ),
        (HEAD + "launch_template = { env = { A = 1 } }", f"{TEMPLATE}.env.A: expected text; put"),
        (
            HEAD + 'launch_template = { env = { A = "\\u0000" } }',
            f"{TEMPLATE}.env.A: expected text without NUL",
        ),
        (HEAD + "launch_template = { nice = 20 }", "nice: expected a whole number from -20 to 19"),
        (HEAD + "min = -1", "auto_scaling_groups.web.min: expected a whole number from 0 to 1000"),
        (HEAD + "min = 3\nmax = 2", "auto_scaling_groups.web.max: expected at least min, 3, got 2"),
        (
            HEAD + "min = 3\ndesired = 2",
            "auto_scaling_groups.web.desired: expected at least min, 3, got 2",
        ),
        (
            HEAD + "desired = 2",
            "auto_scaling_groups.web.desired: expected at most max, 1, got 2; set max too",
        ),
        (HEAD + 'profile = "gcp"', "profile: expected one of local, aws"),
        (HEAD + 'host_cpu_limit = "9"', 'host_cpu_limit: expected a number, got "9"'),
        (HEAD + "host_cpu_limit = nan", "host_cpu_limit: expected a number, got nan"),
        (HEAD + "host_cpu_limit = 0", "host_cpu_limit: expected a number from 1 to 100, got 0"),
        (HEAD + "termination_policy = []", "termination_policy: expected one at least of oldest_"),
        (
            HEAD + 'termination_policy = ["oldest_instanc"]',
            "termination_policy[0]: expected one of oldest_launch_template, fewest_in_flight, "
            'newest_instance, oldest_instance, got "oldest_instanc"; did you mean "oldest_instance"?',
        ),
        (
            HEAD + 'termination_policy = ["oldest_instance", "oldest_instance"]',
            "termination_policy: expected each one once",
        ),
        (HEAD + "refresh = 1", "auto_scaling_groups.web.refresh: expected { min_healthy = 100 }"),
        (
            HEAD + "refresh = { checkpoints = [0] }",
            "refresh.checkpoints[0]: expected a whole number",
        ),
        (
            HEAD + "refresh = { checkpoints = [50, 50] }",
            "refresh.checkpoints: expected growing percentages, got 50 after 50",
        ),
        (
            HEAD + 'command = ["app"]',
            "command: is not a setting here; it is a key of "
            "[auto_scaling_groups.NAME.launch_template]",
        ),
        (HEAD + 'zero_after = "1m"', "it is idle_timeout in [auto_scaling_groups.NAME]"),
        (
            HEAD + "policies = 1",
            "auto_scaling_groups.web.policies: expected a list such as [{ type",
        ),
        (HEAD + "policies = [1]", f"{POLICY}: expected a table such as {{ type"),
        (policy(""), f"{POLICY}.type: is missing: expected one of target_tracking, step, simple"),
        (policy('type = "steps"'), 'got "steps"; did you mean "step"?'),
        (policy('type = "target_tracking"'), f"{POLICY}.metric: is missing: expected one of cpu"),
        (policy('type = "target_tracking"\nmetric = "cpu"'), f"{POLICY}.target: is missing"),
        (
            policy('type = "target_tracking"\nmetric = "cpu"\nabove = 3'),
            f"{POLICY}.above: is not a setting of a target_tracking policy, but of step and simple",
        ),
        (
            policy('type = "target_tracking"\nmetric = "cpu"\ntarget = "60/s"'),
            f'{POLICY}.target: expected a percentage of one core such as 60, got "60/s"',
        ),
        (
            policy('type = "target_tracking"\nmetric = "rss"\ntarget = "0MiB"'),
            f"{POLICY}.target: expected more than 0",
        ),
        (
            policy('type = "simple"\nmetric = "cpu"\nadd = 1'),
            f"{POLICY}: expected either above or below, for example above = 60",
        ),
        (
            policy('type = "simple"\nmetric = "cpu"\nabove = 1\nbelow = 1\nadd = 1'),
            f"{POLICY}: expected either above or below, got both",
        ),
        (policy('type = "simple"\nmetric = "cpu"\nabove = -1'), f"{POLICY}.above: expected a perc"),
        (
            policy('type = "simple"\nmetric = "cpu"\nabove = 1'),
            f"{POLICY}: expected one of add, set, add_percent, for example add = 1",
        ),
        (
            policy('type = "simple"\nmetric = "cpu"\nabove = 1\nadd = 1\nset = 1'),
            f"{POLICY}: expected one of add, set, add_percent, got add and set",
        ),
        (step(""), f"{POLICY}.steps: expected one step at least such as {{ from = 0"),
        (step("1"), f"{POLICY}.steps[0]: expected {{ from = 0"),
        (
            step("{ add = 1, too = 1 }"),
            f'{POLICY}.steps[0].too: is not a setting; did you mean "to"?',
        ),
        (
            step("{ to = 1, add = 1 }, { from = 1, set = 1 }"),
            f"{POLICY}.steps: expected the same key in every step, got add and set",
        ),
        (
            step("{ to = 1, add = 1 }, { from = 2, add = 1 }"),
            f"{POLICY}.steps: no step is there from 1 to 2",
        ),
        (
            step("{ from = 0, to = 3, add = 1 }, { from = 2, add = 1 }"),
            f"{POLICY}.steps: two steps overlap: from 0 to 3 and from 2",
        ),
        (step("{ add = 1 }, { from = 2, add = 1 }"), f"{POLICY}.steps: two steps overlap: all and"),
        (step("{ from = 2, to = 2, add = 1 }"), f"{POLICY}.steps: expected `from` below `to`, got"),
        (
            step("{ to = 2, add = 1 }"),
            f"{POLICY}.steps: no step is there from 2 on; leave out `to`",
        ),
        (step("{ from = 2, add = 1 }"), "no step is there from 0, which is the threshold, to 2"),
        (
            step('{ from = "-5ms", add = 1 }', 'below = "9ms"', "queue_wait"),
            f"{POLICY}.steps: no step is there below -5ms; leave out `from` in the lowest one",
        ),
        (
            step('{ to = "-4KiB", add = 1 }', 'below = "9KiB"', "rss"),
            f"{POLICY}.steps: no step is there from -4KiB to 0, which is the threshold",
        ),
        (scheduled(""), f"{POLICY}: expected at least one of min, max and desired"),
        (scheduled("min = 1001"), f"{POLICY}.min: expected a whole number from 0 to 1000"),
        (scheduled("min = 5"), f"{POLICY}.min: expected at most the group's max, 4, got 5"),
        (scheduled("max = 2\nmin = 3"), f"{POLICY}.max: expected at least min, 3, got 2"),
        (scheduled("desired = 5"), f"{POLICY}.desired: expected 1 to 4, got 5"),
        (scheduled("min = 2").replace("0 8 *", "8 *"), f"{POLICY}.cron: expected a cron"),
        (scheduled('min = 2\ntime_zone = "Mars"'), f"{POLICY}.time_zone: "),
    ],
)
def test_what_is_wrong_is_said_with_its_path(toml: str, expected: str) -> None:
    problems = problems_of(toml)
    assert any(expected in problem for problem in problems), problems


def test_every_problem_is_reported_at_once_and_none_follows_from_another() -> None:
    toml = (
        HEAD
        + """
        min = "x"
        launch_template = { command = 1, env = { A = 1, B = "" } }
        [[auto_scaling_groups.web.policies]]
        type = "target_tracking"
        metric = "cp"
        target = "x"
        [[auto_scaling_groups.web.policies]]
        type = "scheduled"
        cron = 1
        max = 0
        """
    )
    assert [problem.partition(": ")[0] for problem in problems_of(toml)] == [
        f"{TEMPLATE}.command",
        f"{TEMPLATE}.env.A",
        f"{POLICY}.metric",
        "auto_scaling_groups.web.policies[1].cron",
        "auto_scaling_groups.web.policies[1].max",
        "auto_scaling_groups.web.min",
    ]


SCHEDULE = '[[auto_scaling_groups.web.policies]]\ntype = "scheduled"\ncron = "0 8 * * *"\n'


@pytest.mark.parametrize(
    ("toml", "paths"),
    [
        ('max = "x"\ndesired = 9\n' + SCHEDULE + "min = 4\n", ["max"]),
        ('min = "x"\ndesired = 2\n' + SCHEDULE + "max = 1\n", ["min"]),
        ('min = "x"\nmax = 2\ndesired = 9\n', ["min", "desired"]),
        (
            'max = 2\n[[auto_scaling_groups.web.policies]]\ntype = "step"\n'
            + SCHEDULE
            + "min = 4\n",
            [*(f"policies[0]{one}" for one in (".metric", "", ".steps")), "policies[1].min"],
        ),
        ("max = 2\n" + SCHEDULE + 'max = "x"\n' + SCHEDULE + "min = 4\n", ["policies[0].max"]),
        (
            "min = 3\nmax = 2\ndesired = 9\nhold_timeout = 5\n" + SCHEDULE + "min = 4\n",
            ["hold_timeout", "max", "desired", "policies[0].min"],
        ),
    ],
)
def test_a_wrong_bound_hides_no_other_error_and_causes_none(toml: str, paths: list[str]) -> None:
    found = [problem.partition(": ")[0] for problem in problems_of(f"{HEAD}{COMMAND}{toml}")]
    assert found == [f"auto_scaling_groups.web.{path}" for path in paths]


def test_a_wrong_flag_for_a_bound_causes_no_other_error() -> None:
    toml = f"{HEAD}{COMMAND}desired = 4\n{SCHEDULE}min = 4\n"
    (problem,) = problems_of(toml, Overrides(settings={"--max": "x"}))
    assert problem.startswith("--max: expected a whole number")


@pytest.mark.parametrize("word", ["socket", "port", "instance", "host", "path", "id", "report"])
def test_other_braces_are_left_alone(word: str) -> None:
    assert not meant_placeholder(word)
    load(HEAD + f'launch_template = {{ command = ["a", "{{{word}}}", "${{PROT}}", "{{ prot }}"] }}')


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("sockett", "socket"),
        ("scoket", "socket"),
        ("sock", "socket"),
        ("Socket", "socket"),
        ("PORT", "port"),
        ("ports", "port"),
        ("instance_id", "instance"),
    ],
)
def test_a_placeholder_that_is_misspelt(word: str, meant: str) -> None:
    assert meant_placeholder(word) == meant


def test_no_message_shows_the_value_of_a_variable() -> None:
    for env in ("{ A = 4711 }", '{ A = "4711\\u0000" }', '"A=4711"', '{ "A B" = "4711" }'):
        assert "4711" not in " ".join(problems_of(f"{HEAD}launch_template = {{ env = {env} }}"))


def test_a_schedule_may_rely_on_another_one() -> None:
    more = '[[auto_scaling_groups.web.policies]]\ntype = "scheduled"\ncron = "0 7 * * *"\nmax = 9'
    assert load(scheduled("min = 6\ndesired = 8", more)).warnings == ()


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ('command = ["app"]', ["launch_template.command: says neither {socket} nor {port}"]),
        ('command = ["app", "{other}"]', ["launch_template.command: says neither"]),
        ('command = ["app"]\nenv = { LISTEN = "{port}" }', []),
        ('command = "exec app --port ${PORT}"\nshell = true', []),
        ('command = ["exec app -p $PORT"]\nshell = true', []),
        ('command = "exec app $PORTAL"\nshell = true', ["launch_template.command: says neither"]),
    ],
)
def test_where_an_instance_listens(toml: str, expected: list[str]) -> None:
    loaded = load(f"{HEAD}[auto_scaling_groups.web.launch_template]\n{toml}\n")
    assert len(loaded.warnings) == len(expected)
    for warning, part in zip(loaded.warnings, expected, strict=True):
        assert warning.startswith(f"auto_scaling_groups.web.{part}")


def test_what_is_strange_but_works_is_a_warning() -> None:
    simple = 'policies = [{ type = "simple", metric = "cpu", above = 1, add = 1, '
    toml = (
        f"{HEAD}{COMMAND}{simple}min_adjustment_magnitude = 1 }}]\n"
        f"[auto_scaling_groups.spare]\n{COMMAND}"
    )
    found = [warning.partition(": ") for warning in load(toml).warnings]
    assert [(path, said[:24]) for path, _, said in found] == [
        (POLICY, "does nothing, since min "),
        (f"{POLICY}.min_adjustment_magnitude", "does nothing: it is for "),
        ("auto_scaling_groups.spare", "no target group uses it,"),
    ]


def test_a_command_that_says_nowhere_to_listen() -> None:
    (warning,) = load(overrides=Overrides(LISTEN, command=("app",))).warnings
    assert warning.startswith("the command after --: says neither {socket} nor {port}: ")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("min = 2\nmax = 3\n", True),
        ("min = 0\n", False),
        ("min = 1\nmax = 2\n" + SCHEDULE + "min = 0\n", False),
    ],
)
def test_an_idle_time_where_nobody_goes_to_zero(toml: str, said: bool) -> None:
    warnings = load(HEAD + COMMAND + toml, Overrides(settings={"--zero-after": "5m"})).warnings
    assert [one.partition(", since min is 2")[0] for one in warnings] == (
        ["--zero-after: does nothing"] if said else []
    )
    assert load(HEAD + COMMAND + toml).warnings == ()


# Flags

APP = ("app", "--uds", "{socket}")
LISTEN = ("http://:80",)


def test_a_command_alone() -> None:
    loaded = load(overrides=Overrides(LISTEN, command=APP, settings={"--max": "3"}))
    assert loaded.warnings == ()
    assert loaded.configuration.target_groups == (
        TargetGroup(name="default", auto_scaling_group="default"),
    )
    assert loaded.configuration.auto_scaling_groups == (
        AutoScalingGroup(
            name="default",
            max=3,
            policies=DEFAULT_POLICIES,
            launch_template=LaunchTemplate(command=APP),
        ),
    )


def test_a_command_beside_targets() -> None:
    loaded = load(overrides=Overrides(LISTEN, ("127.0.0.1:1",), command=APP))
    (group,) = loaded.configuration.target_groups
    assert (len(group.targets), group.auto_scaling_group) == (1, "default")


def test_a_command_replaces_that_of_the_only_group() -> None:
    toml = HEAD + 'launch_template = { command = "a; b $PORT", shell = true, user = "app" }'
    template = scaling_of(toml, Overrides(command=APP)).launch_template
    assert template == LaunchTemplate(command=APP, user="app")
    assert scaling_of(HEAD, Overrides(command=APP)).launch_template.command == APP


def test_a_command_is_of_the_only_target_group() -> None:
    toml = LISTENER + '[target_groups.web]\ntargets = ["127.0.0.1:1"]\n'
    (group,) = load(toml, Overrides(command=APP)).configuration.target_groups
    assert (group.name, group.auto_scaling_group) == ("web", "default")
    several = toml + "[target_groups.default]\n"
    groups = load(several, Overrides(command=APP)).configuration.target_groups
    assert [one.auto_scaling_group for one in groups] == [None, "default"]


def test_flags_hold_for_every_group() -> None:
    toml = (
        HEAD + COMMAND + '[target_groups.b]\nauto_scaling_group = "b"\n[auto_scaling_groups.b]\n'
    ) + COMMAND
    flags = {"--max": "5", "--user": "app", "--bake-time": "1s", "--max-rss": "1GiB"}
    groups = load(toml, Overrides(settings=flags, scale=("rss=1MiB",))).configuration
    for group in groups.auto_scaling_groups:
        assert (group.max, group.launch_template.user, group.refresh.bake_time) == (5, "app", 1.0)
        assert group.policies == (TargetTracking(metric="rss", target=1024.0**2),)


SEVERAL = LISTENER + "[auto_scaling_groups.a]\n" + COMMAND + "[auto_scaling_groups.b]\n" + COMMAND


@pytest.mark.parametrize(
    ("toml", "overrides", "expected"),
    [
        ("", Overrides(LISTEN), "add --target HOST:PORT, or the app's command after --"),
        ("", Overrides(settings={"--min": "2"}), "--min: there is no auto scaling group: add the"),
        ("", Overrides(scale=("cpu=1",)), "--scale: there is no auto scaling group: add the app's"),
        ("", Overrides(command=("",)), "the command after --: expected a program and its argum"),
        (
            "",
            Overrides(command=("a", "\udcff")),
            "the command after --, word 2: expected UTF-8 text without NUL",
        ),
        (
            "",
            Overrides(command=("{socket}", "{port}")),
            "the command after --: expected {socket} or {port}, got both",
        ),
        (
            "",
            Overrides(command=("a", "--uds={scoket}")),
            "the command after --, word 2: there is no placeholder {scoket}; did you mean {socket}",
        ),
        (SEVERAL, Overrides(command=APP), "--: expected one auto scaling group; there are a, b"),
        (
            "[target_groups.a]\n[target_groups.b]\n",
            Overrides(command=APP),
            "--: expected one target group, or one named default, or an auto scaling group",
        ),
        ("", Overrides(command=APP, scale=("cpu",)), "--scale cpu: expected METRIC=TARGET such as"),
        (
            "",
            Overrides(command=APP, scale=("cp=1",)),
            "--scale cp=1: expected one of cpu, requests",
        ),
        ("", Overrides(command=APP, scale=("rss=x",)), "--scale rss=x: expected a size such as"),
        (
            "",
            Overrides(command=APP, scale=("cpu=1", "cpu=2")),
            "--scale cpu=2: cpu is already --scale cpu=1",
        ),
        (
            "",
            Overrides(command=APP, settings={"--min": "3", "--max": "2"}),
            "--max: expected at least min, 3, got 2",
        ),
        (
            HEAD + "max = 2",
            Overrides(settings={"--min": "3"}),
            "--min: expected at most max, 2, got 3",
        ),
    ],
)
def test_a_wrong_flag_is_called_by_its_name(toml: str, overrides: Overrides, expected: str) -> None:
    problems = problems_of(toml, overrides)
    assert any(expected in problem for problem in problems), problems


def test_a_wrong_command_is_told_once() -> None:
    for command in (("",), ("a", "\udcff")):
        assert len(problems_of("", Overrides(LISTEN, command=command))) == 1


def test_unreadable_groups_are_told_once() -> None:
    overrides = Overrides(command=APP, settings={"--min": "2"})
    toml = "auto_scaling_groups = 1\n" + LISTENER + GROUP
    (problem,) = problems_of(toml, overrides)
    assert problem.startswith("auto_scaling_groups: expected")


# Amounts


@pytest.mark.parametrize(
    ("metric", "raw", "expected"),
    [
        ("cpu", 60, 60.0),
        ("cpu", 0.5, 0.5),
        ("cpu", "150%", 150.0),
        ("requests", "500", 500.0),
        ("requests", "500/min", 500.0),
        ("requests", "2.5/s", 150.0),
        ("in_flight", 10, 10.0),
        ("rss", "300MiB", 300.0 * 1024**2),
        ("rss", 4096, 4096.0),
        ("queue_wait", "50ms", 0.05),
        ("cpu", True, None),
        ("cpu", -1, None),
        ("cpu", float("inf"), None),
        ("cpu", "1e3", None),
        ("in_flight", "5/s", None),
        ("requests", "5/h", None),
        ("queue_wait", 5, None),
        ("rss", "5ms", None),
    ],
)
def test_amounts(metric: Metric, raw: object, expected: float | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="expected"):
            read_amount(metric, raw)
    else:
        assert read_amount(metric, raw) == read_target(metric, raw) == expected


def test_differences() -> None:
    assert read_difference("cpu", -20) == -20.0
    assert read_difference("queue_wait", "-50ms") == -0.05
    assert read_difference("rss", "-1KiB") == -1024.0
    for raw in ("--1s", "-", -1, True):
        with pytest.raises(ValueError, match="expected a duration"):
            read_difference("queue_wait", raw)


def amounts(metric: Metric, least: float = 0.0) -> st.SearchStrategy[float]:
    if metric == "rss":
        return st.integers(int(least), 2**50).map(float)
    return st.floats(least, 1e6)


@settings(deadline=None)
@given(st.data(), st.sampled_from(METRICS), st.booleans())
def test_amounts_are_written_exactly(data: st.DataObject, metric: Metric, negative: bool) -> None:
    amount = data.draw(amounts(metric)) * (-1 if negative else 1)
    assert read_difference(metric, write_amount(metric, amount)) == amount


@settings(deadline=None)
@given(st.floats(0, 1e9))
def test_numbers_are_written_exactly(value: float) -> None:
    setting = Setting("number", "", "")
    assert from_toml(setting, value) == value


# The round trip


@st.composite
def policies(draw: st.DrawFn) -> ScalingPolicy:
    metric = draw(st.sampled_from(METRICS))
    kind = draw(st.sampled_from(["target_tracking", "step", "simple", "scheduled"]))
    if kind == "target_tracking":
        target = draw(amounts(metric, 1))
        return TargetTracking(metric=metric, target=target, disable_scale_in=draw(st.booleans()))
    if kind == "scheduled":
        zones = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"])
        cron = draw(st.sampled_from(["0 8 * * 1-5", "*/5 * * * *"]))
        return Scheduled(cron=cron, time_zone=draw(zones), min=draw(st.integers(0, 5)))
    common: dict[str, Any] = {
        "metric": metric,
        "comparison": draw(st.sampled_from(["above", "below"])),
        "threshold": draw(amounts(metric)),
        "adjustment_type": draw(st.sampled_from(ADJUSTMENT_TYPES)),
        "min_adjustment_magnitude": draw(st.integers(0, 1000)),
    }
    least = 0 if common["adjustment_type"] == "exact_capacity" else -100
    adjustments = st.integers(least, 1000)
    if kind == "simple":
        cooldown = st.none() | st.floats(0, 1e6)
        return SimpleScaling(adjustment=draw(adjustments), cooldown=draw(cooldown), **common)
    sign = 1 if common["comparison"] == "above" else -1
    found = draw(st.lists(amounts(metric), unique=True, max_size=3))
    bounds = [None, *sorted(sign * bound for bound in found), None]
    steps = [Step(draw(adjustments), lower, upper) for lower, upper in pairwise(bounds)]
    return StepScaling(steps=tuple(steps), **common)


@st.composite
def auto_scaling_groups(draw: st.DrawFn, name: str) -> AutoScalingGroup:
    least, most = sorted(draw(st.tuples(st.integers(0, 1000), st.integers(1, 1000))))
    absolute = names.map(lambda text: f"/{text}")
    shell = draw(st.booleans())
    word = arguments.filter(str.strip)
    command = st.tuples(word) if shell else st.tuples(word, arguments)
    template = draw(
        settings_of(
            LaunchTemplate,
            command=command,
            shell=st.just(shell),
            cwd=st.none() | absolute,
            log=st.just("inherit") | absolute,
        )
    )
    return draw(
        settings_of(
            AutoScalingGroup,
            name=st.just(name),
            min=st.just(least),
            max=st.just(max(most, 5)),
            desired=st.none() | st.integers(least, most),
            launch_template=st.just(template),
            refresh=settings_of(InstanceRefresh),
            policies=st.lists(policies(), max_size=3).map(tuple),
        )
    )


@st.composite
def scaled_configurations(draw: st.DrawFn) -> Configuration:
    configuration = draw(configurations())
    groups = [
        replace(group, auto_scaling_group=draw(st.none() | st.just(group.name)))
        for group in configuration.target_groups
    ]
    scaled = [draw(auto_scaling_groups(group.name)) for group in groups if group.auto_scaling_group]
    return replace(configuration, target_groups=tuple(groups), auto_scaling_groups=tuple(scaled))


@settings(max_examples=30, deadline=None, suppress_health_check=list(Hypothesis))
@given(scaled_configurations())
def test_the_effective_configuration_reads_back_as_the_same(configuration: Configuration) -> None:
    assert load(to_toml(configuration)).configuration == configuration


def test_hidden_values_are_still_a_configuration() -> None:
    text = to_toml(load(WHOLE).configuration, show_env=False)
    assert "prod" not in text
    assert scaling_of(text).launch_template.env == (("A", "***"), ("MODE", "***"))


def test_keys_that_toml_must_quote() -> None:
    assert inline({"a.b": {}, "c": {"d e": [1]}}) == '{ "a.b" = {}, c = { "d e" = [1] } }'
