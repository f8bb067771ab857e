"""Configurations as a user could have written them, for round trips; and what is wrong with others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from fastlb.config import Overrides, load
from fastlb.errors import ConfigError
from fastlb.model.address import Address
from fastlb.model.admin import Admin
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
from fastlb.model.settings import Setting, declared
from fastlb.model.target_group import Target, TargetGroup

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
printable = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: "\x7f" not in text
)
some_text = printable.filter(bool)
hosts = st.one_of(
    st.ip_addresses().map(str), st.sampled_from(["localhost", "app.internal", "a-b.example"])
)
tcp_addresses = st.builds(Address, hosts, st.integers(1000, 65535))
# Of other ports than the targets', lest one should be the other.
listen_addresses = st.builds(Address, hosts, st.integers(1, 999))
unix_addresses = st.from_regex(r"/[ -.0-~][ -~]{0,40}", fullmatch=True).map(
    lambda path: Address(path=path)
)
targets = st.builds(
    Target, st.one_of(tcp_addresses, unix_addresses), st.integers(0, 999), st.booleans()
)
arguments = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
variable_names = st.from_regex(r"[!-<>-~]{1,8}", fullmatch=True)
networks = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"{ip}/32"), st.just("10.0.0.0/8"), st.just("fe80::/10")
)


def values(setting: Setting) -> st.SearchStrategy[Any]:
    least = setting.least or 0
    match setting.kind:
        case "text" | "path":
            strategy: st.SearchStrategy[Any] = names.filter(lambda text: text != "off")
        case "address":
            strategy = st.one_of(tcp_addresses, unix_addresses)
        case "count" | "bytes":
            strategy = st.integers(int(least), int(setting.most or 2**31 - 1))
        case "number":
            strategy = st.floats(least, setting.most or 1e6)
        case "duration":
            strategy = st.floats(least, setting.most or 86400.0)
        case "switch":
            strategy = st.booleans()
        case "choice":
            strategy = st.sampled_from(setting.choices)
        case "ranges":
            pair = st.tuples(st.integers(100, 599), st.integers(100, 599)).map(sorted).map(tuple)
            strategy = st.lists(pair, min_size=1, max_size=3).map(tuple)
        case "networks":
            strategy = st.lists(networks, max_size=3).map(tuple)
        case "texts":
            strategy = st.lists(arguments, max_size=3).map(tuple)
        case "choices":
            chosen = st.lists(st.sampled_from(setting.choices), min_size=1, unique=True)
            strategy = chosen.map(tuple)
        case "percents":
            percents = st.lists(st.integers(1, 100), max_size=3, unique=True)
            strategy = percents.map(sorted).map(tuple)
        case "environment":
            variables = st.dictionaries(variable_names, arguments, max_size=3)
            strategy = variables.map(lambda found: tuple(sorted(found.items())))
    return st.none() | strategy if setting.optional else strategy


def settings_of(cls: type, **also: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        cls, **({item.name: values(setting) for item, setting in declared(cls)} | also)
    )


def lists(strategy: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=least, max_size=2).map(tuple)


health_checks = settings_of(
    HealthCheck, path=st.sampled_from([None, "/", "/health?x=%20"]), host=st.none() | names
).filter(lambda one: one.host != "off")


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    group_names = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    by_address = lambda target: str(target.address).lower()  # noqa: E731
    groups = tuple(
        draw(
            settings_of(
                TargetGroup,
                name=st.just(name),
                targets=st.lists(targets, max_size=3, unique_by=by_address).map(tuple),
                health_check=health_checks,
            )
        )
        for name in group_names
    )
    forwards = st.builds(
        lambda chosen, weights: Forward(
            tuple(WeightedGroup(*one) for one in zip(chosen, weights, strict=False))
        ),
        st.lists(st.sampled_from(group_names), min_size=1, unique=True),
        st.lists(st.integers(1, 999), min_size=3, max_size=3),
    )
    redirects = st.builds(
        Redirect,
        status=st.sampled_from([301, 302, 308]),
        protocol=st.sampled_from(["http", "https", "#{protocol}"]),
        host=st.sampled_from(["#{host}", "a.example", "www.#{host}", "[::1]"]),
        port=st.integers(1, 65535).map(str),
        path=printable.map(lambda text: "/" + text.replace("?", "").replace("#", "")),
        query=st.sampled_from(["", "#{query}", "a=#{path}"]),
    )
    fixed = st.builds(
        FixedResponse,
        status=st.sampled_from([200, 404, 503]),
        body=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        content_type=st.sampled_from(["text/plain", "text/html; charset=utf-8"]),
    )
    actions = st.one_of(forwards, redirects, fixed)
    rules = st.builds(
        Rule,
        priority=st.integers(1, 50000),
        action=actions,
        path=lists(st.from_regex(r"""/[!"$-~]{0,12}""", fullmatch=True), 1),
        host=lists(st.sampled_from(["*.example.com", "é.example", "[::1]"])),
        method=lists(st.sampled_from(["GET", "M-SEARCH"])),
        header=lists(st.builds(Header, st.just("X-Y"), lists(some_text, 1))),
        query=lists(st.builds(QueryPair, st.none() | some_text, printable)),
        source_ip=lists(networks),
    )
    listeners = []
    for address in draw(
        st.lists(listen_addresses, min_size=1, max_size=3, unique_by=lambda one: one.port)
    ):
        http = draw(st.booleans())
        listeners.append(
            draw(
                settings_of(
                    Listener,
                    protocol=st.just("http" if http else "tcp"),
                    address=st.just(address),
                    default=actions if http else forwards,
                    rules=st.lists(rules, max_size=3, unique_by=lambda one: one.priority).map(tuple)
                    if http
                    else st.just(()),
                )
            )
        )
    return draw(
        settings_of(
            Configuration,
            listeners=st.just(tuple(listeners)),
            target_groups=st.just(groups),
            admin=settings_of(Admin),
        )
    )


def problems_of(toml: str, overrides: Overrides | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(toml, overrides, source="fastlb.toml")
    return caught.value.problems
