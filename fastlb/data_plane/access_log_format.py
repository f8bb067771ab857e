"""How a request looks as a line of the access log: JSON, AWS's ALB line, Apache's combined. Pure.

A line is made of the same number of pieces whatever it says, most of which are remembered: those of a
Target, of a client and its header fields, of a status. So a usual request costs one tuple and no
formatting; `access_log` joins a few hundred lines at once. Knows no file, no thread and no clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from time import gmtime, strftime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from fastlb.data_plane.exchange_notes import ENDED_BY
from fastlb.data_plane.request_head import HeaderBlock, RequestHead

if TYPE_CHECKING:
    from fastlb.data_plane.forwarding import Exchange
    from fastlb.data_plane.target_runtime import TargetRuntime

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


class Lines(Protocol):
    """One format: a line is `columns` pieces, of which that at `uri_at` is the request's target as it came,
    and is still to be escaped where it needs it."""

    columns: int
    uri_at: int

    def escape(self, text: bytes, /) -> bytes:
        """For the place of the request line."""

    def known(self, client: Client) -> Any:
        """What is remembered of a client's connection and its last header block: has the `client`."""

    def complete(self, known: Any, exchange: Exchange, now: float) -> Pieces:
        """A request that a target has answered; `now` is perf_counter's."""

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


def _number(value: int) -> bytes:
    return b"%d" % value


def _ms(seconds: float) -> bytes:
    return b"%.3f" % (seconds * 1000) if seconds >= 0 else b"null"


class _Stamp:
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
def _iso(second: int) -> bytes:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(second)).encode()


class JsonKnown:
    __slots__ = ("about", "after", "before", "client", "head_bytes", "trace")

    def __init__(self, client: Client, before: bytes, about: bytes, after: bytes) -> None:
        self.client = client
        self.before = before
        self.about = about
        self.after = after
        self.trace = b',"retries":0,"rule":0,"trace_id":"' + client.trace_before
        self.head_bytes = client.head_bytes


class JsonLines:
    """One JSON object a line; each has the same fields, and those that were cut short three more."""

    columns = 15
    uri_at = 4
    escape = staticmethod(escape_json)

    def __init__(self, pid: int) -> None:
        self._tail = b',"worker":%d}\n' % pid
        self._millisecond = -1
        self._stamp = b""
        self._offset = 0.0
        self._numbers = Memo(_number)
        self._sizes: Memo[int] = Memo(lambda size: b',"bytes_out":%d' % size)
        self._statuses: Memo[int] = Memo(lambda status: b'","status":%d,"bytes_in":' % status)
        self._targets: Memo[TargetRuntime] = Memo(
            lambda target: self._target(target.group.name, target.key, b"0", b"0")
        )

    def set_offset(self, offset: float) -> None:
        self._offset = offset

    def known(self, client: Client) -> JsonKnown:
        return self._known(client, b"http")

    def _known(self, client: Client, kind: bytes) -> JsonKnown:
        before = b'","type":"%b","listener":"%b","client":"%b","method":"' % (
            kind,
            escape_json(client.listener.encode()),
            client.named,
        )
        about = b'%b","host":"%b","protocol":"%b","user_agent":"%b"' % (
            escape_json(client.trace_after),
            escape_json(client.host),
            client.http,
            escape_json(client.user_agent),
        )
        after = about + b',"termination":"complete"' + self._tail
        return JsonKnown(client, before, about, after)

    @staticmethod
    def _target(group: str, target: str, held: bytes, connect: bytes) -> bytes:
        return b',"target_group":"%b","target":"%b","held_ms":%b,"connect_ms":%b,"response_ms":' % (
            escape_json(group.encode()),
            escape_json(target.encode()),
            held,
            connect,
        )

    def _set_time(self, millisecond: int) -> None:
        self._millisecond = millisecond
        second, fraction = divmod(millisecond, 1000)
        self._stamp = b'{"time":"%b.%03dZ' % (_iso(second), fraction)

    def complete(self, known: JsonKnown, exchange: Exchange, now: float) -> Pieces:
        millisecond = int((now + self._offset) * 1000)
        if millisecond != self._millisecond:
            self._set_time(millisecond)
        head = exchange.head
        target = exchange.target
        assert target is not None
        size = known.head_bytes + len(head.line) + exchange.received
        notes = exchange.notes
        if notes is None:
            before = self._targets[target]
            response = total = b"%.3f" % ((now - exchange.began) * 1000)
            if exchange.rule:
                trace = _json_trace(0, b"%d" % exchange.rule, known.client.trace_before)
            else:
                trace = known.trace
        else:
            noted = notes.times(exchange.began, exchange.waited, now)
            before = self._target(
                target.group.name, target.key, _ms(noted.held), _ms(noted.connect)
            )
            response, total = _ms(noted.response), _ms(noted.total)
            trace = _json_trace(notes.retries, b"%d" % exchange.rule, known.client.trace_before)
        return (
            self._stamp,
            known.before,
            head.method,
            b'","target_uri":"',
            head.target,
            self._statuses[exchange.status],
            self._numbers[size],
            self._sizes[exchange.head_out + exchange.bytes_out],
            before,
            response,
            b',"total_ms":',
            total,
            trace,
            exchange.trace,
            known.after,
        )

    def other(
        self, known: JsonKnown, head: RequestHead | None, trace: bytes, ending: Ending, wall: float
    ) -> Pieces:
        if ending.kind != "http":
            known = self._known(known.client, ending.kind.encode())
        end = b',"termination":"%b"' % escape_json(ending.why.encode())
        if ending.by:
            end += b',"ended_by":"%b","detail":"%b"' % (
                ending.by.encode(),
                escape_json(ending.detail.encode()),
            )
        rule = b"null" if ending.rule is None else b"%d" % ending.rule
        self._set_time(int(wall * 1000))
        return (
            self._stamp,
            known.before,
            head.method if head is not None else NOT_SENT,
            b'","target_uri":"',
            head.target if head is not None else NOT_SENT,
            self._statuses[ending.status],
            self._numbers[ending.bytes_in],
            self._sizes[ending.bytes_out],
            self._target(ending.group, ending.target, _ms(ending.held), _ms(ending.connect)),
            _ms(ending.response),
            b',"total_ms":',
            _ms(ending.total),
            _json_trace(ending.retries, rule, known.client.trace_before if trace else NOT_SENT),
            trace,
            known.about + end + self._tail,
        )

    def dropped(self, count: int, wall: float) -> bytes:
        second, fraction = divmod(int(wall * 1000), 1000)  # called in the writer's thread
        time = b"%b.%03d" % (_iso(second), fraction)
        return b'{"time":"%bZ","dropped_lines":%d%b' % (time, count, self._tail)


def _json_trace(retries: int, rule: bytes, before: bytes) -> bytes:
    return b',"retries":%d,"rule":%b,"trace_id":"%b' % (retries, rule, before)


def _alb_seconds(milliseconds: int) -> bytes:
    return b"%d.%03d" % divmod(milliseconds, 1000)


def _s(seconds: float) -> bytes:
    return b"%.3f" % seconds if seconds >= 0 else b"-1"


class AlbKnown:
    __slots__ = ("about", "before", "client", "end", "head_bytes", "host", "origin")

    def __init__(self, client: Client, name: bytes) -> None:
        self.client = client
        self.head_bytes = client.head_bytes
        host = escape_quoted(client.host)
        port = client.listener.rpartition(":")[2].encode()
        has_port = re.search(rb":[0-9]*$", client.host) is not None
        self.before = b" %b %b " % (name, client.named)
        self.origin = b" http://%b" % (host if has_port else b"%b:%b" % (host, port))
        self.about = b' %b" "%b" - - ' % (client.http, escape_quoted(client.user_agent))
        self.host = b'%b" "%b" "-" ' % (escape_quoted(client.trace_after), host)
        self.end = b' "-" "-" TID_%b\n' % client.connection


class AlbLines:
    """The fields of an Application Load Balancer in their order, up to its id of the connection.

    Where a field is AWS's affair alone it has AWS's word for "none"; a cause of ours stands in
    error_reason, and a TCP connection has the type `tcp`.
    """

    columns = 26
    uri_at = 13
    escape = staticmethod(escape_quoted)

    def __init__(self, name: str) -> None:
        self._name = escape_quoted(f"fastlb/{name}".replace(" ", "_").encode())
        self._stamp = _Stamp(self._form, 1000)
        self._created = _Stamp(self._form, 1000)
        self._offset = 0.0
        self._numbers = Memo(_number)
        self._times = Memo(_alb_seconds)
        self._statuses: Memo[int] = Memo(lambda status: b" 0.000 %d %d " % (status, status))
        self._listed: Memo[int] = Memo(lambda status: b'" "%d"' % status)
        self._addresses: Memo[TargetRuntime] = Memo(lambda target: _alb_target(target.key))
        self._groups: Memo[TargetRuntime] = Memo(lambda target: _bare(target.group.name))

    @staticmethod
    def _form(second: int, ms: int) -> bytes:
        return b"%b.%03d000Z" % (_iso(second), ms)

    def set_offset(self, offset: float) -> None:
        self._offset = offset

    def known(self, client: Client) -> AlbKnown:
        return AlbKnown(client, self._name)

    def complete(self, known: AlbKnown, exchange: Exchange, now: float) -> Pieces:
        head = exchange.head
        target = exchange.target
        assert target is not None
        size = known.head_bytes + len(head.line) + exchange.received
        notes = exchange.notes
        status = exchange.status
        address = self._addresses[target]
        seconds = now - exchange.began
        if notes is None:
            request = b" 0.000 "
            response = self._times[int(seconds * 1000)]
            statuses = self._statuses[status]
            listed = address
        else:
            times = notes.times(exchange.began, exchange.waited, now)
            seconds = times.total
            request = b" %b " % _s(times.total - times.response - times.sending)
            response = _s(times.response)
            statuses = b" %b %d %d " % (_s(times.sending), status, status)
            listed = b" ".join(map(_alb_target, exchange.target_keys))
        wall = now + self._offset
        return (
            b"http ",
            self._stamp.at(wall),
            known.before,
            address,
            request,
            response,
            statuses,
            self._numbers[size],
            b" ",
            self._numbers[exchange.head_out + exchange.bytes_out],
            b' "',
            head.method,
            known.origin,
            head.target,
            known.about,
            self._groups[target],
            known.client.trace_before,
            exchange.trace,
            known.host,
            self._numbers[exchange.rule],
            b" ",
            self._created.at(wall - seconds),
            b' "forward" "-" "-" "',
            listed,
            self._listed[status],
            known.end,
        )

    def other(
        self, known: AlbKnown, head: RequestHead | None, trace: bytes, ending: Ending, wall: float
    ) -> Pieces:
        status = b"%d" % ending.status if ending.status else b"-"
        target_status = b"%d" % ending.target_status if ending.target_status else b"-"
        answered = ending.response >= 0
        sending = ending.total - max(ending.held, 0) - max(ending.connect, 0) - ending.response
        listed = b" ".join(map(_alb_target, ending.targets)) or b"-"
        reason = b"-" if not ending.by else escape_quoted(ending.why.encode())
        group = _bare(ending.group) if ending.group != "-" else b'- "'
        return (
            b"%b " % ending.kind.encode(),
            self._stamp.at(wall),
            known.before,
            _alb_target(ending.target) if ending.target != "-" else b"-",
            b" %b " % (_s(max(ending.held, 0) + max(ending.connect, 0)) if answered else b"-1"),
            _s(ending.response),
            b" %b %b %b " % (_s(max(sending, 0)) if answered else b"-1", status, target_status),
            self._numbers[ending.bytes_in],
            b" ",
            self._numbers[ending.bytes_out],
            b' "',
            head.method if head is not None else NOT_SENT,
            known.origin,
            head.target if head is not None else b"- ",
            known.about if head is not None else known.about[1:],
            group,
            known.client.trace_before if trace else b"-",
            trace,
            known.host,
            b"-1" if ending.rule is None else b"%d" % ending.rule,
            b" ",
            self._created.at(wall - max(ending.total, 0)),
            b' "%b" "%b" "%b" "'
            % (ending.action.encode(), escape_quoted(ending.location) or b"-", reason),
            listed,
            b'" "%b"' % target_status,
            known.end,
        )

    def dropped(self, count: int, wall: float) -> bytes:
        return b""


def _alb_target(key: str) -> bytes:
    """HOST:PORT; of a unix socket its path, with the port 0, since parsers expect a colon."""
    text = key.removeprefix("unix:") + ":0" if key.startswith("unix:") else key
    return escape_quoted(text.encode()).replace(b" ", b"\\x20")


def _bare(group: str) -> bytes:
    """A group's name where a word is expected, up to the quote that follows it."""
    return escape_quoted(group.encode()).replace(b" ", b"\\x20") + b' "'


class CombinedKnown:
    __slots__ = ("about", "address", "client", "head_bytes")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.head_bytes = client.head_bytes
        self.address = (client.address or "-").encode("ascii", "replace") + b" - - ["
        self.about = b' "%b" "%b"\n' % (
            escape_quoted(client.referer),
            escape_quoted(client.user_agent),
        )


class CombinedLines:
    """Apache's and nginx's combined: bytes are the body's, the time is that of the end."""

    columns = 10
    uri_at = 5
    escape = staticmethod(escape_quoted)

    def __init__(self) -> None:
        self._stamp = _Stamp(
            lambda second, _: strftime("%d/%b/%Y:%H:%M:%S +0000", gmtime(second)).encode(), 1
        )
        self._offset = 0.0
        self._numbers = Memo(_number)
        self._statuses: Memo[int] = Memo(lambda status: b'" %03d ' % status)

    def set_offset(self, offset: float) -> None:
        self._offset = offset

    def known(self, client: Client) -> CombinedKnown:
        return CombinedKnown(client)

    def complete(self, known: CombinedKnown, exchange: Exchange, now: float) -> Pieces:
        head = exchange.head
        return (
            known.address,
            self._stamp.at(now + self._offset),
            b'] "',
            head.method,
            b" ",
            head.target,
            b" " + known.client.http,
            self._statuses[exchange.status],
            self._numbers[exchange.bytes_out],
            known.about,
        )

    def other(
        self,
        known: CombinedKnown,
        head: RequestHead | None,
        trace: bytes,
        ending: Ending,
        wall: float,
    ) -> Pieces:
        return (
            known.address,
            self._stamp.at(wall),
            b'] "',
            head.method if head is not None else b"",
            b" " if head is not None else b"-",
            head.target if head is not None else b"",
            b" " + known.client.http if head is not None else b"",
            self._statuses[ending.status],
            self._numbers[ending.body_bytes_out],
            known.about,
        )

    def dropped(self, count: int, wall: float) -> bytes:
        return b""
