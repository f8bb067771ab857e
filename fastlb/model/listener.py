"""Listener, Rule, Condition, Action: which request goes where. Pure; knows no Target and no socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastlb.model.address import Address
from fastlb.model.settings import setting


@dataclass(frozen=True, slots=True)
class WeightedGroup:
    """A share of a Forward: `weight` of the sum of all weights; 0 gets nothing."""

    group: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the request to one of the groups, by their weights."""

    groups: tuple[WeightedGroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Answer with a Location; `#{protocol} #{host} #{port} #{path} #{query}` stand for the request's own."""

    status: int = 302
    protocol: str = "#{protocol}"
    host: str = "#{host}"
    port: str = "#{port}"
    path: str = "/#{path}"
    query: str = "#{query}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedResponse:
    """Answer by itself."""

    status: int = 503
    body: str = ""
    content_type: str = "text/plain"


Action = Forward | Redirect | FixedResponse


@dataclass(frozen=True, slots=True)
class Header:
    """One header Condition: any of the `values` (with `*` and `?`) of the field `name`."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueryPair:
    """One query Condition: `key` None means any key has the value."""

    key: str | None
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """All given conditions must hold, any of the values of one; the first matching Rule acts."""

    priority: int
    action: Action
    host: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    header: tuple[Header, ...] = ()
    query: tuple[QueryPair, ...] = ()
    source_ip: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An address that clients connect to; durations in seconds."""

    protocol: Literal["http", "tcp"]
    address: Address
    default: Action
    rules: tuple[Rule, ...] = ()
    idle_timeout: float = setting(
        60.0,
        "duration",
        "longest silence of a keep-alive, upgraded or TCP connection, and of a request's body",
        why="AWS's",
        flag="--idle-timeout",
        least=0.05,
    )
    header_timeout: float = setting(
        10.0,
        "duration",
        "time for a request's head to be complete",
        why="ends slowloris; a phone on a bad line needs seconds, not a minute",
        flag="--header-timeout",
        least=0.05,
    )
    max_header_bytes: int = setting(
        65536,
        "bytes",
        "size of a request line with all its headers",
        why="AWS's 64 K",
        flag="--max-header-bytes",
        least=512,
        most=1048576,
    )
    max_headers: int = setting(
        100,
        "count",
        "header fields of one request",
        why="gunicorn's and HAProxy's",
        least=1,
        most=10000,
    )
    max_body_bytes: int | None = setting(
        None,
        "bytes",
        "size of a request's body; more is answered 413",
        why="bodies are streamed and never held, so that the app's own limit can rule",
        flag="--max-body-bytes",
        least=0,
        optional=True,
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        "networks",
        "addresses whose X-Forwarded-* headers are believed",
        why="anybody can send the header",
        flag="--trusted-proxies",
    )
    x_forwarded_for: str = setting(
        "append",
        "choice",
        "what becomes of X-Forwarded-For",
        why="AWS's",
        choices=("append", "preserve", "remove"),
    )
