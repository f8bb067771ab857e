"""TOML and flags to a Configuration and back; every error at once, with its key path."""

from __future__ import annotations

import contextlib
import re
from typing import Any

import pytest
from hypothesis import HealthCheck as Hypothesis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastlb.config import Loaded, Overrides, load, to_toml
from fastlb.config.overrides import SETTING_CLASSES
from fastlb.config.values import from_flag, from_toml
from fastlb.config.write import inline
from fastlb.config.write_values import format_bytes, format_duration, to_flag_text, to_toml_value
from fastlb.errors import ConfigError
from fastlb.model.address import Address
from fastlb.model.configuration import Configuration
from fastlb.model.health_check import HealthCheck
from fastlb.model.listener import (
    FixedResponse,
    Forward,
    Header,
    Listener,
    QueryPair,
    Redirect,
    Rule,
    WeightedGroup,
)
from fastlb.model.settings import Setting, declared, default_of
from fastlb.model.target_group import Target
from tests.support.configurations import configurations, problems_of

WHOLE = """
workers = 2
drain_timeout = "10s"

[[listeners]]
address = "http://0.0.0.0:8080"
default = { forward = "web" }
trusted_proxies = ["10.0.0.0/8", "::1"]
[[listeners.rules]]
priority = 10
path = ["/api/*"]
header = [{ name = "User-Agent", values = ["*Mobile*"] }]
query = ["a=b", "any", { key = "k", value = "x=y" }]
source_ip = ["192.0.2.1"]
forward = [{ group = "api", weight = 9 }, { group = "api-canary" }]
[[listeners.rules]]
priority = 20
host = ["old.example.com"]
redirect = { host = "example.com", port = 443, protocol = "HTTPS", status = 301 }
[[listeners.rules]]
priority = 30
method = ["TRACE"]
fixed_response = { status = 405, body = "no\\n" }
[[listeners]]
address = "tcp://:5000"
default = { forward = "admin" }

[target_groups.web]
algorithm = "round_robin"
targets = ["127.0.0.1:9001", { address = "unix:/run/app.sock", weight = 2 }, "[::1]:9009,backup"]
health_check = { path = "/health", interval = "500ms", matcher = "200-299,404", port = 81 }
[target_groups.api]
targets = ["localhost:9002,weight=2"]
health_check = false
[target_groups.api-canary]
targets = [":9003"]
[target_groups.admin]
targets = ["127.0.0.1:9004"]
"""
AUTO_SCALING = """
auto_scaling_group = "app"
[auto_scaling_groups.app]
launch_template = { command = ["app", "{socket}"] }
"""


def test_the_whole_of_it() -> None:
    loaded = load(WHOLE)
    configuration = loaded.configuration
    assert loaded.warnings == ()
    assert (configuration.workers, configuration.drain_timeout) == (2, 10.0)
    web, tcp = configuration.listeners
    assert web.address == Address("0.0.0.0", 8080)
    assert web.trusted_proxies == ("10.0.0.0/8", "::1/128")
    assert tcp == Listener(
        protocol="tcp",
        address=Address("0.0.0.0", 5000),
        default=Forward((WeightedGroup("admin"),)),
    )
    assert web.rules == (
        Rule(
            priority=10,
            action=Forward((WeightedGroup("api", 9), WeightedGroup("api-canary", 1))),
            path=("/api/*",),
            header=(Header("User-Agent", ("*Mobile*",)),),
            query=(QueryPair("a", "b"), QueryPair(None, "any"), QueryPair("k", "x=y")),
            source_ip=("192.0.2.1/32",),
        ),
        Rule(
            priority=20,
            action=Redirect(host="example.com", port="443", protocol="https", status=301),
            host=("old.example.com",),
        ),
        Rule(priority=30, action=FixedResponse(status=405, body="no\n"), method=("TRACE",)),
    )
    groups = {group.name: group for group in configuration.target_groups}
    assert groups["web"].targets == (
        Target(Address("127.0.0.1", 9001)),
        Target(Address(path="/run/app.sock"), weight=2),
        Target(Address("::1", 9009), backup=True),
    )
    assert groups["web"].health_check == HealthCheck(
        path="/health", interval=0.5, matcher=((200, 299), (404, 404)), port=81
    )
    assert groups["api"].health_check == HealthCheck(enabled=False)
    assert groups["api"].targets == (Target(Address("localhost", 9002), weight=2),)
    assert groups["api-canary"].targets == (Target(Address("127.0.0.1", 9003)),)


LISTENER = '[[listeners]]\naddress = "http://:80"\ndefault = { forward = "web" }\n'
WEB = '[target_groups.web]\ntargets = ["127.0.0.1:1"]\n'


def rule(text: str) -> str:
    return f"{LISTENER}[[listeners.rules]]\n{text}\n{WEB}"


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("workers = 1.5", "workers: expected a whole number from 0 to 64, got 1.5"),
        ("workers = true", "workers: expected a whole number from 0 to 64, got true"),
        ("worker = 1", 'worker: is not a setting; did you mean "workers"?'),
        ('name = "../x"', "name: expected a name of"),
        (
            "drain_timeout = 30",
            "drain_timeout: expected a duration such as 500ms, 2s or 1m, got 30",
        ),
        ('drain_timeout = "30"', 'as 500ms, 2s or 1m, got "30"'),
        ("listeners = 1", "listeners: expected a list such as [[listeners]] tables, got 1"),
        ("target_groups = 1", "target_groups: expected [target_groups.NAME] tables, got 1"),
        ("", "listeners: there is none: add --listen http://127.0.0.1:8080"),
        (
            'listeners = ["x"]',
            'listeners[0]: expected a table with an address and a default, got "x"',
        ),
        ("[[listeners]]", "listeners[0].address: is missing: expected http://"),
        ("[[listeners]]", 'listeners[0].default: is missing: expected { forward = "web" }'),
        ('[[listeners]]\naddress = "ftp://:1"', "expected http:// or tcp://"),
        ('[[listeners]]\naddress = "https://:1"', "address: fastlb does not end TLS; use http://"),
        (
            '[[listeners]]\naddress = "http://127.0.0.1"',
            'a port too, such as http://127.0.0.1:8080, got "http://127.0.0.1"',
        ),
        ('[[listeners]]\naddress = "http://[::1]"', "a port too, such as http://[::1]:8080"),
        (
            '[[listeners]]\naddress = "http://127.0.0.1:80/foo"',
            "address: an address has no path: expected http://127.0.0.1:80, got",
        ),
        ('[[listeners]]\naddress = "a:80"', '; did you mean "http://a:80"?'),
        ('[[listeners]]\naddress = "http://unix:/x"', "only a target can be a unix socket"),
        ('[[listeners]]\naddress = "http://1.2.3.256:1"', "expected an IPv4 address such as"),
        ('[[listeners]]\naddress = "http://a:99999"', "expected a port from 0 to 65535"),
        (LISTENER, 'listeners[0].default.forward: there is no target group "web"'),
        (
            LISTENER + "[target_groups.wbe]\ntargets = []",
            'there is no target group "web"; did you mean "wbe"?',
        ),
        (LISTENER + LISTENER, "listeners[1].address: 0.0.0.0:80 is already the address of"),
        (
            LISTENER + LISTENER.replace("http://", "tcp://127.0.0.1"),
            "listeners[1].address: 127.0.0.1:80 overlaps 0.0.0.0:80 of listeners[0]",
        ),
        ("idle_timeout = 1", "idle_timeout: is not a setting here; it is a key of [[listeners]]"),
        ("retries = 1", "it is a key of [target_groups.NAME]"),
        ('health_path = "/"', "it is path in [target_groups.NAME.health_check]"),
        (
            WEB + 'path = "/"',
            "target_groups.web.path: is not a setting here; it is a key of "
            "[target_groups.NAME.health_check] or [[listeners.rules]]",
        ),
        (
            LISTENER + 'access_log = "-"',
            "listeners[0].access_log: is not a setting here; "
            "it is a key of the top of the file, before the first [table]",
        ),
        (WEB + WEB, "fastlb.toml: line 3, column 19: Cannot declare [target_groups.web] twice"),
        (LISTENER + 'idle_timeout = "1ms"', "expected a duration of at least 50ms, got"),
        (LISTENER + 'max_header_bytes = "2MiB"', "expected a size from 512B to 1MiB, got"),
        (LISTENER + 'max_header_bytes = "2MX"', "expected a size such as 4096, 64KiB or 1MB"),
        (
            LISTENER + 'trusted_proxies = ["10.0.0.1/8"]',
            "trusted_proxies[0]: expected a network such as 10.0.0.0/8 or",
        ),
        (
            rule('priority = "x"\npath = ["/"]\nforward = "web"'),
            'listeners[0].rules[0].priority: expected a whole number from 1 to 50000, got "x"',
        ),
        (rule('path = ["/"]\nforward = "web"'), "listeners[0].rules[0].priority: is missing"),
        (rule('priority = 1\nforward = "web"'), "listeners[0].rules[0]: expected a condition"),
        (rule('priority = 1\npath = ["/"]'), "listeners[0].rules[0]: expected an action"),
        (
            rule('priority = 1\npath = "/"\nforward = "web"'),
            'listeners[0].rules[0].path: expected a list such as ["/api/*"], got "/"',
        ),
        (
            rule('priority = 1\npath = ["x"]\nforward = "web"'),
            "rules[0].path[0]: expected a path that begins with / or a wildcard",
        ),
        (
            rule('priority = 1\nhost = ["a:80"]\nforward = "web"'),
            "rules[0].host[0]: expected a host without a port",
        ),
        (
            rule('priority = 1\nmethod = ["get"]\nforward = "web"'),
            'rules[0].method[0]: expected an HTTP method in capitals, got "get"; did you mean "GET"?',
        ),
        (
            rule('priority = 1\nheader = [{ name = "a b", values = [] }]\nforward = "web"'),
            "rules[0].header[0].name: expected the name of a header field",
        ),
        (
            rule('priority = 1\nquery = [{ key = "a" }]\nforward = "web"'),
            "rules[0].query[0].value: is missing",
        ),
        (
            rule('priority = 1\npath = ["/"]\nforward = [{ group = "web", weight = 0 }]'),
            "rules[0].forward: expected a weight above 0",
        ),
        (
            rule('priority = 1\npath = ["/"]\nforward = [{ group = "web", weight = 1000 }]'),
            "rules[0].forward[0].weight: expected a whole number from 0 to 999, got 1000",
        ),
        (
            rule('priority = 1\npath = ["/"]\nforward = [{ group = "web" }, { group = "web" }]'),
            'rules[0].forward[1].group: "web" is already listed',
        ),
        (
            rule('priority = 1\npath = ["/"]\nforward = "web"\nredirect = { port = 1 }'),
            "rules[0]: expected one action, got forward and redirect",
        ),
        (
            rule('priority = 1\npath = ["/"]\nredirect = { query = "x=1", host = "#{host}" }'),
            "rules[0].redirect: expected a protocol, host, port or path other than",
        ),
        (
            rule('priority = 1\npath = ["/"]\nredirect = { host = "a:1" }'),
            "the port has a key of its own, port",
        ),
        (
            rule('priority = 1\npath = ["/"]\nredirect = { path = "/#{pth}" }'),
            'got #{pth}; did you mean "#{path}"?',
        ),
        (
            rule('priority = 1\npath = ["/"]\nredirect = { path = "/?a" }'),
            "the query has a key of its own, query",
        ),
        (
            rule('priority = 1\npath = ["/"]\nredirect = { port = 1, status = 200 }'),
            "redirect.status: expected one of 301, 302, 303, 307, 308, got 200",
        ),
        (
            rule('priority = 1\npath = ["/"]\nfixed_response = { status = 302 }'),
            "fixed_response.status: expected a status from 200 to 299 or 400 to 599, got 302",
        ),
        (
            rule('priority = 1\npath = ["/"]\nfixed_response = { content_type = "a\\r\\nb: c" }'),
            "fixed_response.content_type: expected a media type",
        ),
        (
            f"{LISTENER}rules = [\n"
            '{ priority = 1, path = ["/"], forward = "web" },\n'
            '{ priority = 1, path = ["/"], forward = "web" }]\n' + WEB,
            "listeners[0].rules[1].priority: 1 is already that of listeners[0].rules[0]",
        ),
        (
            '[[listeners]]\naddress = "tcp://:1"\ndefault = { fixed_response = {} }',
            "listeners[0].default: a tcp listener sees no requests: expected forward",
        ),
        (
            LISTENER.replace("http", "tcp")
            + 'rules = [{ priority = 1, path = ["/"], forward = "web" }]\n'
            + WEB,
            "listeners[0].rules: a tcp listener sees no requests",
        ),
        (WEB + "health_check = 3", 'expected { path = "/health" } or false, got 3'),
        (
            WEB + "health_check = { interval = 2 }",
            "target_groups.web.health_check.interval: "
            "expected a duration such as 500ms, 2s or 1m, got 2",
        ),
        (WEB + 'health_check = { path = "x" }', "health_check.path: expected a path such as"),
        (
            WEB + 'health_check = { path = "/\\r\\nx" }',
            "health_check.path: expected one line of text",
        ),
        (WEB + "health_check = { matcher = 200 }", 'got 200; put it in quotes: "200"'),
        (WEB + 'health_check = { matcher = "2xx" }', "expected numbers from 100 to 599 such as"),
        (WEB + 'algorithm = "least"', "expected one of least_outstanding_requests, round_robin"),
        ('[target_groups."a/b"]', 'target_groups."a/b": expected a name of'),
        (
            '[target_groups.web]\ntargets = ["127.0.0.1:1", "127.0.0.1:1,weight=2"]',
            "target_groups.web.targets[1]: 127.0.0.1:1 is already target_groups.web.targets[0]",
        ),
        ('[target_groups.web]\ntargets = ["a:1,wieght=2"]', 'did you mean "weight"?'),
        ('[target_groups.web]\ntargets = ["a:1,weight=-2"]', "from 0 to 999"),
        ('[target_groups.web]\ntargets = ["a:0"]', "expected a port from 1 to 65535"),
        ('[target_groups.web]\ntargets = ["http://a:1"]', "without http://"),
        ('[target_groups.web]\ntargets = ["unix:///app.sock"]', "unix:/path with one slash"),
        ('[target_groups.web]\ntargets = ["unix:app.sock"]', "expected unix:/absolute/path"),
        ('[target_groups.web]\ntargets = [{ address = "a:1", backup = 1 }]', "true or false"),
        ("workers = 1\n\n= 2", "fastlb.toml: line 3, column 1: Invalid statement"),
        ('name = "x\n', "fastlb.toml: line 1, column 10: a text is not closed with its quote"),
        ("workers = 1\nworkers = 2\n", "line 2, column 12: this key has a value already"),
        ("workers = 1\nname = 'x\n", "line 3, column 1, where the file ends: Expected"),
        ("a = " + "[" * 5000, "fastlb.toml: tables or arrays are nested too deeply"),
        ("a = " + "9" * 5000, "fastlb.toml: "),
    ],
)
def test_what_is_wrong_is_said_with_its_path(toml: str, expected: str) -> None:
    problems = problems_of(toml)
    assert any(expected in problem for problem in problems), problems


def test_every_problem_is_reported_at_once_and_none_follows_from_another() -> None:
    toml = """
    workers = "x"
    [[listeners]]
    address = "nowhere"
    default = { forward = "web", redirect = { port = 0 } }
    [[listeners]]
    address = "http://"
    default = 1
    [[listeners.rules]]
    [target_groups.web]
    targets = ["a", "b", 1]
    """
    paths = [problem.partition(": ")[0] for problem in problems_of(toml)]
    assert sorted(paths) == [
        "listeners[0].address",
        "listeners[0].default",
        "listeners[0].default.redirect.port",
        "listeners[1].address",
        "listeners[1].default",
        "listeners[1].rules[0]",
        "listeners[1].rules[0]",
        "listeners[1].rules[0].priority",
        "target_groups.web.targets[0]",
        "target_groups.web.targets[1]",
        "target_groups.web.targets[2]",
        "workers",
    ]


def test_each_wrong_entry_of_a_list_is_told_with_its_index() -> None:
    toml = rule(
        'priority = 1\nforward = "web"\npath = ["/ok", "/a b", "x", 3]\nhost = ["a", "b:1"]\n'
        'method = ["get"]\nsource_ip = ["::1", "no"]\nheader = [{ name = "X", values = [1] }]'
    )
    problems = problems_of(toml)
    assert [problem.partition(": ")[0].partition("rules[0].")[2] for problem in problems] == [
        *("host[1]", "path[1]", "path[2]", "path[3]"),
        *("method[0]", "header[0].values[0]", "source_ip[1]"),
    ]
    assert problems[1].endswith('no path has " " in it; did you mean "%20"?')


def test_listeners_as_a_table_are_told_once() -> None:
    problems = problems_of('[listeners]\naddress = "http://:80"')
    assert problems == ["listeners: expected a list such as [[listeners]] tables, got a table"]


@pytest.mark.parametrize(
    ("listen", "target", "same"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "localhost:80", True),
        ("localhost:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.9:80", True),
        ("0.0.0.0:80", "0.0.0.0:80", True),
        ("0.0.0.0:80", "localhost:80", True),
        ("0.0.0.0:80", "[::ffff:127.0.0.1]:80", True),
        ("[::]:80", "[::1]:80", True),
        ("[::]:80", "localhost:80", True),
        ("app:80", "App:80", True),
        ("0.0.0.0:80", "192.0.2.1:80", False),
        ("0.0.0.0:80", "[::1]:80", False),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.2:80", "127.0.0.1:80", False),
    ],
)
def test_a_target_is_none_of_the_listeners(listen: str, target: str, same: bool) -> None:
    overrides = flags(f"http://{listen}", target=(target,))
    if same:
        (problem,) = problems_of("", overrides)
        assert problem.startswith(f"--target {target}: ")
        assert f"is the address of --listen http://{listen}: expected an app's" in problem
        toml = f'listeners = [{{ address = "http://{listen}", default = {{ forward = "web" }} }}]\n'
        (problem,) = problems_of(toml + WEB.replace("127.0.0.1:1", target))
        assert problem.startswith("target_groups.web.targets[0]: ")
    else:
        assert load(overrides=overrides).warnings == ()


def test_flags_about_requests_do_nothing_for_tcp_alone() -> None:
    (warning,) = load(
        overrides=flags("tcp://:80", target=("a:1",), header_timeout="1s", retries="1")
    ).warnings
    assert warning.startswith("--header-timeout: does nothing: every listener is tcp://")


def test_what_is_strange_but_works_is_a_warning() -> None:
    loaded = load(LISTENER + "[target_groups.web]\n[target_groups.spare]\n")
    assert [line.partition(":")[0] for line in loaded.warnings] == [
        "target_groups.web",
        "target_groups.spare",
    ]
    assert "no listener forwards to it" in loaded.warnings[1]


def flags(*listen: str, target: tuple[str, ...] = (), **named: str) -> Overrides:
    settings = {f"--{name.replace('_', '-')}": text for name, text in named.items()}
    return Overrides(listen, target, settings)


def test_flags_alone() -> None:
    loaded = load(
        overrides=flags(
            "http://127.0.0.1:8080",
            "tcp://[::1]:5432",
            target=("127.0.0.1:9001", "unix:/a.sock,weight=2", "127.0.0.1:9009,backup"),
            workers="3",
            health_path="/health",
            health_check="off",
            trusted_proxies="10.0.0.0/8, ::1",
            max_body_bytes="1MB",
        )
    )
    configuration = loaded.configuration
    assert [str(one.address) for one in configuration.listeners] == ["127.0.0.1:8080", "[::1]:5432"]
    assert all(one.max_body_bytes == 1000_000 for one in configuration.listeners)
    assert configuration.listeners[0].trusted_proxies == ("10.0.0.0/8", "::1/128")
    (group,) = configuration.target_groups
    assert group.name == "default"
    assert [target.weight for target in group.targets] == [1, 2, 1]
    assert group.targets[2].backup
    assert group.health_check == HealthCheck(enabled=False, path="/health")
    assert configuration.workers == 3


def test_flags_override_the_file_everywhere() -> None:
    loaded = load(WHOLE, flags(idle_timeout="5s", retries="0", health_interval="9s", workers="1"))
    configuration = loaded.configuration
    assert {one.idle_timeout for one in configuration.listeners} == {5.0}
    assert {one.retries for one in configuration.target_groups} == {0}
    assert {one.health_check.interval for one in configuration.target_groups} == {9.0}
    assert configuration.workers == 1
    assert len(configuration.listeners[0].rules) == 3


def test_listen_and_target_replace_those_of_the_file() -> None:
    toml = LISTENER + WEB
    configuration = load(toml, flags("http://:81", target=("127.0.0.1:2",))).configuration
    assert [one.address.port for one in configuration.listeners] == [81]
    assert configuration.listeners[0].default == Forward((WeightedGroup("web"),))
    assert [str(one.address) for one in configuration.target_groups[0].targets] == ["127.0.0.1:2"]
    several = WEB + '[target_groups.default]\ntargets = ["127.0.0.1:3"]\n'
    configuration = load(several, flags("http://:81")).configuration
    assert configuration.listeners[0].default == Forward((WeightedGroup("default"),))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (flags("http://:80"), "--listen: there is nothing to forward to: add --target HOST:PORT"),
        (flags("ftp://:80"), '--listen ftp://:80: expected http:// or tcp://, got "ftp://:80"'),
        (flags("http://:80", "http://:80/"), "--listen http://:80/: 0.0.0.0:80 is already the"),
        (flags(target=("x",)), "--target x: expected HOST:PORT or unix:/path"),
        (flags(target=("a:1", "A:1")), "--target A:1: A:1 is already --target a:1"),
        (flags(health_interval="2"), "--health-interval: expected a duration such as 500ms"),
        (flags(workers="many"), '--workers: expected a whole number from 0 to 64, got "many"'),
        (flags(name="a/b"), "--name: expected a name of"),
        (flags(health_path="health"), "--health-path: expected a path such as /health"),
    ],
)
def test_a_wrong_flag_is_called_by_its_name(overrides: Overrides, expected: str) -> None:
    problems = problems_of("", overrides)
    assert any(expected in problem for problem in problems), problems


def test_flags_that_could_mean_several_groups() -> None:
    toml = WEB + WEB.replace("web", "api")
    problems = problems_of(toml, flags("http://:80", target=("a:1",)))
    assert len(problems) == 2
    assert all("expected one target group, or one named default" in one for one in problems)


def test_an_unknown_flag_is_a_mistake_of_the_program() -> None:
    with pytest.raises(KeyError):
        load(LISTENER + WEB, flags(no_such="1"))


DECLARED = [
    pytest.param(setting, default_of(item), id=f"{cls.__name__}.{item.name}")
    for cls in SETTING_CLASSES
    for item, setting in declared(cls)
]


@pytest.mark.parametrize(("setting", "default"), DECLARED)
def test_every_default_can_be_said_in_the_file_and_by_its_flag(
    setting: Setting, default: Any
) -> None:
    assert from_toml(setting, to_toml_value(setting, default)) == default
    if setting.flag is not None and default != ():
        assert from_flag(setting, to_flag_text(setting, default)) == default


@settings(deadline=None)
@given(st.floats(0, 1e9))
@example(0.07)
@example(1e-7)
def test_durations_are_written_exactly(seconds: float) -> None:
    setting = Setting("duration", "", "", most=1e9)
    assert from_toml(setting, format_duration(seconds)) == seconds


@settings(deadline=None)
@given(st.integers(0, 2**53))
def test_sizes_are_written_exactly(size: int) -> None:
    assert from_toml(Setting("bytes", "", ""), format_bytes(size)) == size


# The round trip


@settings(max_examples=20, deadline=None, suppress_health_check=list(Hypothesis))
@given(configurations())
def test_the_effective_configuration_reads_back_as_the_same(configuration: Configuration) -> None:
    assert load(to_toml(configuration)).configuration == configuration


def test_the_effective_configuration_names_every_setting() -> None:
    text = to_toml(load(WHOLE + AUTO_SCALING).configuration)
    for cls in SETTING_CLASSES:
        for item, _ in declared(cls):
            assert re.search(rf"^{item.name} = ", text, re.MULTILINE), item.name
    assert isinstance(load(text), Loaded)


KEYS = [
    *("listeners", "target_groups", "address", "default", "rules", "forward", "redirect"),
    *("targets", "web", "fixed_response", "header", "query", "priority", "path", "group", "weight"),
    *("auto_scaling_groups", "launch_template", "command", "shell", "env", "policies", "type"),
    *("metric", "steps", "add", "set", "from", "above", "cron", "time_zone", "min", "max"),
]


def mixed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tables = st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    return st.lists(inner, max_size=3) | tables


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.booleans() | st.integers() | st.text(max_size=5), mixed, max_leaves=12))
def test_no_document_is_an_accident(document: Any) -> None:
    tables = document if isinstance(document, dict) else {"listeners": document}
    text = "\n".join(f"{key} = {inline(value)}" for key, value in tables.items())
    with contextlib.suppress(ConfigError):
        load(text)
