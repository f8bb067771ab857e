"""What the formats of the access log share: what a line tells, how text is escaped, and that pieces are
remembered. Pure; knows no file, no thread and no clock.

A line is made of the same number of pieces whatever it says, most of which are remembered: those of a
Target, of a client and its header fields, of a status. So a usual request costs one tuple and next to no
formatting; `access_log` joins many lines at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from time import gmtime, strftime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from fastlb.data_plane.exchange_notes import ENDED_BY
from fastlb.data_plane.request_head import HeaderBlock, RequestHead

if TYPE_CHECKING:
    from fastlb.data_plane.forwarding import Exchange

K = TypeVar("K", bound=Hashable)

MOST_REMEMBERED = 8192
"""Of one kind of pieces, some 400 KB; then they are made anew."""
MOST_TEXT = 2048
"""Bytes of a header field that are logged; a request line is bounded anyway."""
_FIELD = re.compile(rb"(?i)\n(user-agent|referer):[ \t]*([^\r]*)")
_UNSAFE = bytes(n for n in range(256) if not 32 <= n < 127 or n in b'"\\')
"""What must not stand in a quoted text as it is, in any of the formats."""

Kind = Literal["http", "ws", "tcp"]


class Memo(dict[K, bytes]):
    """What `make` made of a key; a look-up costs no call where it is remembered."""

    def __init__(self, make: Callable[[K], bytes], most: int = MOST_REMEMBERED) -> None:
        super().__init__()
        self._make = make
        self._most = most

    def __missing__(self, key: K) -> bytes:
        if len(self) >= self._most:
            self.clear()
        value = self[key] = self._make(key)
        return value


@dataclass(slots=True)
class Client:
    """Who sent a request, and what its header fields say. `port` is 0 where a trusted proxy named the
    client. `host`, `user_agent` and `referer` are as they came; `-` is what was not sent."""

    listener: str
    address: str
    port: int
    host: bytes
    http: bytes
    user_agent: bytes
    referer: bytes
    trace_before: bytes
    trace_after: bytes
    head_bytes: int
    """Of the head, without its first line."""
    connection: bytes
    """The connection's id."""

    @property
    def named(self) -> bytes:
        """`192.0.2.1:4711`, `[2001:db8::1]:4711`; without a client `-:0`."""
        if not self.address:
            return b"-:0"
        shown = f"[{self.address}]" if ":" in self.address else self.address
        return f"{shown}:{self.port}".encode("ascii", "replace")


NOT_SENT = b"-"


def fields_of(block: HeaderBlock | None) -> dict[str, Any]:
    """What `Client` needs of a header block, by its names; of None all that was not sent."""
    found = {b"user-agent": NOT_SENT, b"referer": NOT_SENT}
    if block is None:
        return {
            "host": NOT_SENT,
            "http": NOT_SENT,
            "user_agent": NOT_SENT,
            "referer": NOT_SENT,
            "trace_before": b"",
            "trace_after": b"",
        }
    for field in _FIELD.finditer(b"\n" + block.raw):
        found[field[1].lower()] = field[2].strip(b" \t")[:MOST_TEXT]
    has_root = block.forwarded.endswith(b"Self=")
    return {
        "host": block.host or NOT_SENT,
        "http": b"HTTP/1.1" if block.http_11 else b"HTTP/1.0",
        "user_agent": found[b"user-agent"],
        "referer": found[b"referer"],
        "trace_before": b"Self=" if has_root else b"Root=",
        "trace_after": block.rest.removesuffix(b"\r\n\r\n"),
    }


@dataclass(slots=True)
class Ending:
    """How a request ended that was not answered in the usual way, or a stream.

    `why` is `complete`, or a RequestError's cause, `client_gone`, `idle` and the like; `detail` says more
    for a person. Times are in seconds, -1 for what did not come to be. `rule` is None where no rule was
    asked. `target_status` is 0 where no target answered; `status` is 0 for TCP, which has none.
    """

    kind: Kind
    status: int
    target_status: int
    bytes_in: int
    bytes_out: int
    body_bytes_out: int
    group: str
    target: str
    targets: tuple[str, ...]
    """All that had it, the last one included."""
    held: float
    connect: float
    response: float
    total: float
    retries: int
    rule: int | None
    action: str
    """`forward`, `redirect`, `fixed-response`, or `-`."""
    location: bytes
    why: str = "complete"
    detail: str = ""

    @property
    def by(self) -> str:
        """Who ended it: client, target or fastlb; nobody where it is complete."""
        return ENDED_BY.get(self.why, "fastlb")


Pieces = tuple[bytes, ...]
Answered = tuple[Any, "Exchange", float]
"""A request that a target has answered: what is remembered of its client, it, and the answer's time by
perf_counter."""


def pieces_of(
    line: Callable[[Any, Exchange, float], Pieces], requests: Iterable[Answered]
) -> list[bytes]:
    """Those of all these requests, by what makes them of one."""
    pieces: list[bytes] = []
    for request in requests:
        pieces += line(*request)
    return pieces


class Lines(Protocol):
    """One format: a line is `columns` pieces, of which that at `uri_at` is the request's target as it came,
    and is still to be escaped where it needs it."""

    columns: int
    uri_at: int

    def escape(self, text: bytes, /) -> bytes:
        """For the place of the request line."""

    def known(self, client: Client) -> Any:
        """What is remembered of a client's connection and its last header block: has the `client`."""

    def answered(self, requests: Iterable[Answered], /) -> list[bytes]:
        """The pieces of all their lines."""

    def other(
        self, known: Any, head: RequestHead | None, trace: bytes, ending: Ending, wall: float
    ) -> Pieces:
        """Any other; `wall` is in seconds since 1970."""

    def set_offset(self, offset: float) -> None:
        """What is added to perf_counter's time for seconds since 1970."""

    def dropped(self, count: int, wall: float) -> bytes:
        """A line that says that so many are missing; empty where the format has no place for it."""


def escape_json(text: bytes) -> bytes:
    """Inside the quotes of a JSON string; what is not UTF-8 as `\\xff`, spelled out."""
    return json.dumps(text.decode("utf-8", "backslashreplace"))[1:-1].encode()


def escape_quoted(text: bytes) -> bytes:
    """Inside the quotes of the other formats: what steers or ends the quotes as `\\x22`."""
    return b"".join(b"\\x%02x" % n if n in _UNSAFE else b"%c" % n for n in text)


def is_plain(text: bytes) -> bool:
    """Whether it may stand in quotes as it is."""
    return len(text.translate(None, _UNSAFE)) == len(text)


def number(value: int) -> bytes:
    return b"%d" % value


class Stamp:
    """A time as text, made anew for each millisecond or second only."""

    __slots__ = ("_form", "_of", "_text", "_unit")

    def __init__(self, form: Callable[[int, int], bytes], unit: int) -> None:
        self._form = form
        self._unit = unit
        self._of = -1
        self._text = b""

    def at(self, wall: float) -> bytes:
        of = int(wall * self._unit)
        if of != self._of:
            self._of = of
            second, fraction = divmod(of, self._unit)
            self._text = self._form(second, fraction)
        return self._text


@lru_cache(maxsize=64)
def iso(second: int) -> bytes:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(second)).encode()
