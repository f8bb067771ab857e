"""Rules of a Listener: wildcards, conditions, order; weights of groups; where a Redirect leads."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlb.model.address import Address
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
from fastlb.model.matching import Router, choose_group, redirect_location, wildcard_regex


@dataclass
class Request:
    host: str = "example.com"
    path: str = "/"
    method: str = "GET"
    query: str = ""
    source_ip: str = "192.0.2.1"
    headers: dict[str, list[str]] = field(default_factory=dict)

    def header(self, name: str) -> list[str]:
        assert name == name.lower()
        return self.headers.get(name, [])


DEFAULT = Forward((WeightedGroup("default"),))


def listener(*rules: Rule) -> Listener:
    return Listener(protocol="http", address=Address("::", 80), default=DEFAULT, rules=rules)


def answer(status: int) -> FixedResponse:
    return FixedResponse(status=status)


def holds(request: Request, **conditions: object) -> bool:
    rule = Rule(priority=7, action=answer(200), **conditions)  # type: ignore[arg-type]
    outcome = Router(listener(rule)).match(request)
    assert outcome in ((7, answer(200)), (0, DEFAULT))
    return outcome[0] == 7


def test_without_rules_everything_goes_to_the_default() -> None:
    router = Router(listener())
    assert router.is_trivial
    assert router.match(Request()) == (0, DEFAULT)
    assert not Router(listener(Rule(priority=1, action=DEFAULT, path=("/",)))).is_trivial


def test_the_lowest_priority_that_matches_acts() -> None:
    rules = [
        Rule(priority=30, action=answer(230), path=("/a*",)),
        Rule(priority=10, action=answer(210), path=("/a/b",)),
        Rule(priority=20, action=answer(220), path=("/a/*",), method=("POST",)),
    ]
    router = Router(listener(*rules))
    assert router.match(Request(path="/a/b"))[0] == 10
    assert router.match(Request(path="/a/c", method="POST"))[0] == 20
    assert router.match(Request(path="/a/c"))[0] == 30
    assert router.match(Request(path="/b"))[0] == 0


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/img/*", "/img/a/b.png", True),
        ("/img/*", "/img/", True),
        ("/img/*", "/img", False),
        ("/IMG/*", "/img/a", False),
        ("/?/x", "/a/x", True),
        ("/?/x", "//x", False),
        ("*.png", "/a/b.png", True),
        ("*.png", "/a/b.png2", False),
        ("/a*b*c", "/abc", True),
        ("/a*b*c", "/a-c-b", False),
        ("/a*aa", "/aa", False),
        ("/a*aa", "/aaa", True),
        ("*", "", True),
        ("/**", "/x", True),
        ("/a.c", "/abc", False),
        (r"/a\*", "/a*", True),
        (r"/a\*", "/ab", False),
        (r"/a\?*", "/a?b", True),
        ("/new\nline*", "/new\nline", True),
        ("/a*?b", "/a\nb", True),
    ],
)
def test_paths(pattern: str, path: str, expected: bool) -> None:
    assert holds(Request(path=path), path=(pattern,)) is expected


def test_hosts_match_whatever_the_case_of_the_pattern() -> None:
    request = Request(host="api.example.com")
    assert holds(request, host=("API.Example.com",))
    assert holds(request, host=("*.EXAMPLE.com",))
    assert holds(request, host=("???.example.*",))
    assert not holds(request, host=("example.com",))
    assert holds(request, host=("other.org", "api.*"))


def test_methods_are_exact() -> None:
    assert holds(Request(method="PUT"), method=("POST", "PUT"))
    assert not holds(Request(method="put"), method=("PUT",))


def test_headers() -> None:
    request = Request(headers={"user-agent": ["Mozilla/5.0 (X11)"], "accept": ["a", "b"]})
    assert holds(request, header=(Header("User-Agent", ("*mozilla*", "x")),))
    assert holds(request, header=(Header("Accept", ("B",)),))
    assert not holds(request, header=(Header("Accept", ("c",)),))
    assert not holds(request, header=(Header("Cookie", ("*",)),))
    both = (Header("user-agent", ("*x11*",)), Header("accept", ("c",)))
    assert not holds(request, header=both)


def test_queries() -> None:
    request = Request(query="a=1&Name=J%C3%B6rg+M%26M&flag&empty=")
    assert holds(request, query=(QueryPair("a", "1"),))
    assert not holds(request, query=(QueryPair("a", "2"),))
    assert holds(request, query=(QueryPair("a", "2"), QueryPair(None, "1")))
    assert holds(request, query=(QueryPair("name", "jörg m&m"),))
    assert holds(request, query=(QueryPair("n*", "?örg*"),))
    assert holds(request, query=(QueryPair("flag", ""),))
    assert holds(request, query=(QueryPair("empty", ""),))
    assert not holds(Request(), query=(QueryPair(None, "*"),))


def test_source_addresses() -> None:
    assert holds(Request(source_ip="10.1.2.3"), source_ip=("10.0.0.0/8",))
    assert not holds(Request(source_ip="11.1.2.3"), source_ip=("10.0.0.0/8", "::/0"))
    assert holds(Request(source_ip="::ffff:10.1.2.3"), source_ip=("10.0.0.0/8",))
    assert holds(Request(source_ip="10.1.2.3"), source_ip=("::ffff:10.0.0.0/104",))
    assert holds(Request(source_ip="fe80::1%eth0"), source_ip=("fe80::/10",))
    assert not holds(Request(source_ip=""), source_ip=("0.0.0.0/0", "::/0"))


def test_all_conditions_must_hold() -> None:
    conditions: dict[str, object] = {
        "host": ("h",),
        "path": ("/p",),
        "method": ("GET",),
        "header": (Header("x", ("1",)),),
        "query": (QueryPair("q", "1"),),
        "source_ip": ("192.0.2.0/24",),
    }
    request = Request(host="h", path="/p", query="q=1", headers={"x": ["1"]})
    assert holds(request, **conditions)
    for wrong in (
        replace(request, host="i"),
        replace(request, path="/q"),
        replace(request, method="POST"),
        replace(request, headers={}),
        replace(request, query=""),
        replace(request, source_ip="192.0.3.1"),
    ):
        assert not holds(wrong, **conditions)


def test_only_what_rules_ask_for_is_read() -> None:
    class Lazy:
        path = "/x"

        def __getattr__(self, name: str) -> str:
            raise AssertionError(f"{name} was read")

        def header(self, name: str) -> list[str]:
            raise AssertionError("header was read")

    router = Router(listener(Rule(priority=1, action=answer(200), path=("/y",), query=())))
    assert router.match(Lazy())[0] == 0  # type: ignore[arg-type]


patterns = st.text(alphabet="ab*?.\n", max_size=8)
texts = st.text(alphabet="ab.\n", max_size=10)


@settings(deadline=None)
@given(patterns, texts)
def test_wildcards_are_those_of_fnmatch(pattern: str, text: str) -> None:
    found = re.compile(wildcard_regex(pattern), re.DOTALL).match(text)
    assert (found is not None) is fnmatchcase(text, pattern)


paths = st.lists(patterns, max_size=3).map(tuple)


@settings(deadline=None)
@given(
    st.lists(st.tuples(paths, paths), max_size=8),
    st.lists(st.tuples(texts, texts), min_size=1, max_size=5),
)
def test_the_index_finds_what_asking_each_rule_in_turn_finds(
    rules: list[tuple[tuple[str, ...], tuple[str, ...]]], requests: list[tuple[str, str]]
) -> None:
    numbered = [
        Rule(priority=n, action=answer(200), host=host, path=path)
        for n, (host, path) in enumerate(rules, 1)
    ]
    router = Router(listener(*reversed(numbered)))

    def any_of(patterns: tuple[str, ...], text: str) -> bool:
        return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)

    for host, path in requests:
        expected = next(
            (r.priority for r in numbered if any_of(r.host, host) and any_of(r.path, path)), 0
        )
        assert router.match(Request(host=host, path=path))[0] == expected


def test_no_pattern_makes_a_long_text_slow() -> None:
    request = Request(path="/" + "a" * 50_000)
    began = time.process_time()
    assert not holds(request, path=("/" + "*a" * 40 + "*b",))
    assert not holds(request, path=("/" + "*a?" * 40 + "b",))
    assert time.process_time() - began < 1


def test_memory_of_hosts_is_bounded() -> None:
    router = Router(listener(Rule(priority=1, action=answer(200), host=("x*",))))
    for n in range(5000):
        assert router.match(Request(host=f"x{n}"))[0] == 1
        assert router.match(Request(host=f"y{n}"))[0] == 0
    memo = router._host._memo
    assert memo is not None
    assert len(memo) <= 1024


def shares(*weights: int) -> Forward:
    return Forward(tuple(WeightedGroup(f"g{n}", weight) for n, weight in enumerate(weights)))


def test_groups_by_weight() -> None:
    randomness = random.Random(1)
    forward = shares(9, 0, 1)
    got = Counter(choose_group(forward, randomness.random()) for _ in range(20_000))
    assert set(got) == {"g0", "g2"}
    assert got["g0"] / 20_000 == pytest.approx(0.9, abs=0.01)
    assert choose_group(shares(0, 5), 0.0) == "g1"


def test_no_weight_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="above 0"):
        choose_group(shares(0, 0), 0.5)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 999), min_size=2, max_size=6).filter(any),
    st.floats(0, 1, exclude_max=True),
)
def test_a_group_without_weight_gets_nothing(weights: list[int], point: float) -> None:
    chosen = choose_group(shares(*weights), point)
    assert weights[int(chosen[1:])] > 0


def location(redirect: Redirect, **request: object) -> str:
    facts: dict[str, object] = {
        "protocol": "http",
        "host": "example.com",
        "port": 8080,
        "path": "/a/b",
        "query": "x=1",
    }
    return redirect_location(redirect, **(facts | request))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("redirect", "request_", "expected"),
    [
        (Redirect(host="new.org"), {}, "http://new.org:8080/a/b?x=1"),
        (Redirect(host="new.org"), {"port": 80}, "http://new.org/a/b?x=1"),
        (Redirect(protocol="https"), {"port": 80}, "https://example.com:80/a/b?x=1"),
        (Redirect(protocol="https", port="443"), {}, "https://example.com/a/b?x=1"),
        (Redirect(protocol="HTTPS", port="8443"), {}, "https://example.com:8443/a/b?x=1"),
        (Redirect(path="/v2/#{path}"), {"query": ""}, "http://example.com:8080/v2/a/b"),
        (Redirect(path="/new", query=""), {}, "http://example.com:8080/new"),
        (Redirect(query="#{query}&from=#{host}"), {}, ":8080/a/b?x=1&from=example.com"),
        (Redirect(host="www.#{host}"), {"path": "/"}, "http://www.example.com:8080/?x=1"),
        (Redirect(port="81"), {"host": "::1"}, "http://[::1]:81/a/b?x=1"),
        (Redirect(port="81"), {"host": "[::1]"}, "http://[::1]:81/a/b?x=1"),
        (Redirect(path="/x y/ö"), {"query": ""}, "/x%20y/%C3%B6"),
        # What a request holds is never a template, a host or a new line.
        (Redirect(port="81"), {"path": "/#{host}", "query": ""}, ":81/%23%7Bhost%7D"),
        (Redirect(port="81"), {"host": "evil.org/x?", "query": ""}, "//evil.org%2Fx%3F:81/a/b"),
        (Redirect(port="81"), {"host": "", "path": "//evil.org"}, "/evil.org?x=1"),
        (Redirect(port="81"), {"host": "", "path": "/\\evil.org"}, "/%5Cevil.org?x=1"),
        (Redirect(port="81"), {"query": "a\r\nSet-Cookie: b"}, "?a%0D%0ASet-Cookie:%20b"),
        (Redirect(port="81"), {"path": "/\xc3\xa9", "query": ""}, ":81/%C3%A9"),
    ],
)
def test_where_a_redirect_leads(
    redirect: Redirect, request_: dict[str, object], expected: str
) -> None:
    result = location(redirect, **request_)
    assert result == expected if expected.startswith(("http", "/evil")) else expected in result


anything = st.text(max_size=20)


@settings(deadline=None)
@given(anything, anything, anything, st.sampled_from([Redirect(), Redirect(host="", path="/")]))
def test_a_location_is_printable_ascii_and_its_host_is_the_request_s(
    host: str, path: str, query: str, redirect: Redirect
) -> None:
    result = location(redirect, host=host, path="/" + path, query=query)
    assert re.fullmatch(r"[\x21-\x7e]+", result)
    if host and redirect.host:
        assert result.startswith("http://")
        authority = result.removeprefix("http://").partition("/")[0]
        assert authority.endswith(":8080")
        assert not set(authority) & set("?#@\\")
    else:
        assert re.match(r"/(?![/\\])", result)
