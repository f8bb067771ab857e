r"""The wire files: how they are written, and what they say must happen.

A file is TOML between two lines of `+++`, then the bytes: as text in Latin-1, where a line break of
the file means nothing, `\r \n \t \0 \\ \xHH` mean the byte, and `\{70000*text}` means the text so
often. `a|b` in a status means that both are right.

Requests:  `answers`        statuses of all final answers, in order; `cut` is an end without one
           `closed`         whether fastlb ends the connection after them (left out: either)
           `fin`            the client half-closes after its bytes
           `methods`        of the requests that are answered, where one is not GET-like
           `seen`           whole requests that the target got; without it, the answers of 200
           `forwarded`      what their bytes hold; `not_forwarded` what they do not, in any case
           `body`           of the first of them
Responses: `status`, `body`, `interim`, `trailers`, `no_trailers`, `has`, `has_not`, `once`
                            what the client gets; 502 always with Proxy-Status
           `cut`            the client gets 502, or an answer that is visibly incomplete
           `method`, `version`  of the client's request
           `end`            what the target does after its bytes: keep (open), close, reset
           `idle`           the bytes come while nothing is asked
           `reused`         whether the target's connection serves another request (left out: either)
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).parent
ESCAPE = re.compile(r"\\(?:\{(\d+)\*([^}]*)\}|x([0-9a-fA-F]{2})|([rnt0\\]))", re.DOTALL)
LETTERS = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}


@dataclass(frozen=True, kw_only=True)
class RequestCase:
    name: str
    data: bytes
    answers: list[int | str]
    why: str = ""
    closed: bool | None = None
    fin: bool = False
    methods: list[str] = field(default_factory=list)
    seen: int | None = None
    forwarded: list[str] = field(default_factory=list)
    not_forwarded: list[str] = field(default_factory=list)
    body: str | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class ResponseCase:
    name: str
    data: bytes
    why: str = ""
    status: int | str | None = None
    body: str | None = None
    interim: list[int] | None = None
    trailers: list[str] = field(default_factory=list)
    no_trailers: list[str] = field(default_factory=list)
    has: list[str] = field(default_factory=list)
    has_not: list[str] = field(default_factory=list)
    once: list[str] = field(default_factory=list)
    cut: bool = False
    method: str = "GET"
    version: str = "1.1"
    end: str = "keep"
    idle: bool = False
    reused: bool | None = None

    def __str__(self) -> str:
        return self.name


Case = TypeVar("Case", RequestCase, ResponseCase)


def unescape(text: str) -> bytes:
    """The bytes that a file's text means."""

    def one(found: re.Match[str]) -> str:
        count, repeated, code, letter = found.groups()
        if count:
            return unescape(repeated).decode("latin-1") * int(count)
        return chr(int(code, 16)) if code else LETTERS[letter]

    plain = text.replace("\n", "")
    left = ESCAPE.sub("", plain)
    if "\\" in left:
        raise ValueError(f"an escape that means nothing: {left[left.index(chr(92)) :][:20]!r}")
    return ESCAPE.sub(one, plain).encode("latin-1")


def one_of(allowed: int | str) -> set[str]:
    return set(str(allowed).split("|"))


def read_case(cls: type[Case], path: Path, root: Path) -> Case:
    """The case of one file. Raises ValueError with the file's name where it is not well-formed."""
    text = path.read_text(encoding="latin-1")
    name = str(path.relative_to(root).with_suffix(""))
    try:
        empty, front, body = text.split("+++\n", 2)
        if empty:
            raise ValueError("begins with something else than +++")
        settings: dict[str, Any] = tomllib.loads(front)
        unknown = settings.keys() - {item.name for item in fields(cls)}
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}")
        return cls(name=name, data=unescape(body), **settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def request_cases() -> list[RequestCase]:
    root = HERE / "requests"
    return [read_case(RequestCase, path, root) for path in sorted(root.rglob("*.http"))]


def response_cases() -> list[ResponseCase]:
    root = HERE / "responses"
    return [read_case(ResponseCase, path, root) for path in sorted(root.rglob("*.http"))]
