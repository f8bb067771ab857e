"""The access log as JSON: one object a line, each with the same fields. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastlb.data_plane.access_log_format import (
    MOST_REMEMBERED,
    NOT_SENT,
    Answered,
    Client,
    Ending,
    Memo,
    Pieces,
    escape_json,
    iso,
    number,
)
from fastlb.data_plane.exchange_notes import ExchangeNotes
from fastlb.data_plane.request_head import RequestHead

if TYPE_CHECKING:
    from fastlb.data_plane.forwarding import Exchange
    from fastlb.data_plane.target_runtime import TargetRuntime


def _ms(seconds: float) -> bytes:
    return b"%.3f" % (seconds * 1000) if seconds >= 0 else b"null"


def _times(response: float, total: float) -> bytes:
    return b'%b,"total_ms":%b' % (_ms(response), _ms(total))


def _times_of(microseconds: int) -> bytes:
    """Of a request that waited for nothing but its answer."""
    return _times(microseconds / 1e6, microseconds / 1e6)


class JsonKnown:
    """What is remembered of a client; `start` is what goes before the target of a request of `method`."""

    __slots__ = (
        "_before",
        "about",
        "after",
        "client",
        "head_bytes",
        "method",
        "start",
        "trace",
    )

    def __init__(self, client: Client, before: bytes, about: bytes, after: bytes) -> None:
        self.client = client
        self._before = before
        self.use(b"GET")
        self.about = about
        self.after = after
        self.trace = b',"retries":0,"rule":0,"trace_id":"' + client.trace_before
        self.head_bytes = client.head_bytes

    def start_of(self, method: bytes) -> bytes:
        return b'%b%b","target_uri":"' % (self._before, method)

    def use(self, method: bytes) -> None:
        self.method = method
        self.start = self.start_of(method)


class JsonLines:
    """One JSON object a line; each has the same fields, and those that were cut short three more."""

    columns = 11
    uri_at = 2
    escape = staticmethod(escape_json)

    def __init__(self, pid: int) -> None:
        self._tail = b',"worker":%d}\n' % pid
        self._millisecond = -1
        self._stamp = b""
        self._offset = 0.0
        self.numbers = Memo(number)
        self._sizes: Memo[int] = Memo(lambda size: b',"bytes_out":%d' % size)
        self._statuses: Memo[int] = Memo(lambda status: b'","status":%d,"bytes_in":' % status)
        self._times: Memo[int] = Memo(_times_of)
        self._targets: Memo[TargetRuntime | None] = Memo(
            lambda target: (
                self._target(target.group.name, target.key, b"0", b"0")
                if target is not None
                else b""
            )
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
        self._stamp = b'{"time":"%b.%03dZ' % (iso(second), fraction)

    def answered(self, requests: Iterable[Answered]) -> list[bytes]:
        pieces: list[bytes] = []
        offset = self._offset
        known: JsonKnown
        for known, exchange, now in requests:
            millisecond = int((now + offset) * 1000)
            if millisecond != self._millisecond:
                self._set_time(millisecond)
            head = exchange.head
            if head.method != known.method:
                known.use(head.method)
            size = known.head_bytes + len(head.line)
            if exchange.body is not None or exchange.payload:
                size += exchange.received
            if exchange.notes is None:
                before = self._targets[exchange.target]
                microseconds = int((now - exchange.began) * 1e6)
                times = (
                    self._times[microseconds]
                    if microseconds < MOST_REMEMBERED
                    else _times_of(microseconds)
                )
                trace = known.trace
                if exchange.rule:
                    trace = _json_trace(0, b"%d" % exchange.rule, known.client.trace_before)
            else:
                before, times, trace = self._noted(known, exchange, exchange.notes, now)
            pieces += (
                self._stamp,
                known.start,
                head.target,
                self._statuses[exchange.status],
                self.numbers[size],
                self._sizes[exchange.head_out + exchange.bytes_out],
                before,
                times,
                trace,
                exchange.trace,
                known.after,
            )
        return pieces

    def _noted(
        self, known: JsonKnown, exchange: Exchange, notes: ExchangeNotes, now: float
    ) -> Pieces:
        """Of a request that did not go straight to an open connection: the pieces before its times, these,
        and the one before its trace id."""
        target = exchange.target
        assert target is not None
        times = notes.times(exchange.began, exchange.waited, now)
        return (
            self._target(target.group.name, target.key, _ms(times.held), _ms(times.connect)),
            _times(times.response, times.total),
            _json_trace(notes.retries, b"%d" % exchange.rule, known.client.trace_before),
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
            known.start_of(head.method if head is not None else NOT_SENT),
            head.target if head is not None else NOT_SENT,
            self._statuses[ending.status],
            self.numbers[ending.bytes_in],
            self._sizes[ending.bytes_out],
            self._target(ending.group, ending.target, _ms(ending.held), _ms(ending.connect)),
            _times(ending.response, ending.total),
            _json_trace(ending.retries, rule, known.client.trace_before if trace else NOT_SENT),
            trace,
            known.about + end + self._tail,
        )

    def dropped(self, count: int, wall: float) -> bytes:
        second, fraction = divmod(int(wall * 1000), 1000)  # called in the writer's thread
        time = b"%b.%03d" % (iso(second), fraction)
        return b'{"time":"%bZ","dropped_lines":%d%b' % (time, count, self._tail)


def _json_trace(retries: int, rule: bytes, before: bytes) -> bytes:
    return b',"retries":%d,"rule":%b,"trace_id":"%b' % (retries, rule, before)
