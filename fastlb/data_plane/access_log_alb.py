"""The access log as an Application Load Balancer of AWS writes it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastlb.data_plane.access_log_format import (
    NOT_SENT,
    Answered,
    Client,
    Ending,
    Memo,
    Pieces,
    Stamp,
    escape_quoted,
    iso,
    number,
    pieces_of,
)
from fastlb.data_plane.request_head import RequestHead

if TYPE_CHECKING:
    from fastlb.data_plane.forwarding import Exchange
    from fastlb.data_plane.target_runtime import TargetRuntime


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
        self._stamp = Stamp(self._form, 1000)
        self._created = Stamp(self._form, 1000)
        self._offset = 0.0
        self.numbers = Memo(number)
        self._times = Memo(_alb_seconds)
        self._statuses: Memo[int] = Memo(lambda status: b" 0.000 %d %d " % (status, status))
        self._listed: Memo[int] = Memo(lambda status: b'" "%d"' % status)
        self._addresses: Memo[TargetRuntime] = Memo(lambda target: _alb_target(target.key))
        self._groups: Memo[TargetRuntime] = Memo(lambda target: _bare(target.group.name))

    @staticmethod
    def _form(second: int, ms: int) -> bytes:
        return b"%b.%03d000Z" % (iso(second), ms)

    def set_offset(self, offset: float) -> None:
        self._offset = offset

    def known(self, client: Client) -> AlbKnown:
        return AlbKnown(client, self._name)

    def answered(self, requests: Iterable[Answered]) -> list[bytes]:
        return pieces_of(self._answered, requests)

    def _answered(self, known: AlbKnown, exchange: Exchange, now: float) -> Pieces:
        head = exchange.head
        target = exchange.target
        assert target is not None
        size = known.head_bytes + len(head.line)
        if exchange.body is not None or exchange.payload:
            size += exchange.received
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
            self.numbers[size],
            b" ",
            self.numbers[exchange.head_out + exchange.bytes_out],
            b' "',
            head.method,
            known.origin,
            head.target,
            known.about,
            self._groups[target],
            known.client.trace_before,
            exchange.trace,
            known.host,
            self.numbers[exchange.rule],
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
            self.numbers[ending.bytes_in],
            b" ",
            self.numbers[ending.bytes_out],
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
