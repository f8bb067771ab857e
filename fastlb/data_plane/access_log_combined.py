"""The access log as Apache's and nginx's combined lines. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from time import gmtime, strftime
from typing import TYPE_CHECKING

from fastlb.data_plane.access_log_format import (
    Answered,
    Client,
    Ending,
    Memo,
    Pieces,
    Stamp,
    escape_quoted,
    number,
    pieces_of,
)
from fastlb.data_plane.request_head import RequestHead

if TYPE_CHECKING:
    from fastlb.data_plane.forwarding import Exchange


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
        self._stamp = Stamp(
            lambda second, _: strftime("%d/%b/%Y:%H:%M:%S +0000", gmtime(second)).encode(), 1
        )
        self._offset = 0.0
        self.numbers = Memo(number)
        self._statuses: Memo[int] = Memo(lambda status: b'" %03d ' % status)

    def set_offset(self, offset: float) -> None:
        self._offset = offset

    def known(self, client: Client) -> CombinedKnown:
        return CombinedKnown(client)

    def answered(self, requests: Iterable[Answered]) -> list[bytes]:
        return pieces_of(self._answered, requests)

    def _answered(self, known: CombinedKnown, exchange: Exchange, now: float) -> Pieces:
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
            self.numbers[exchange.bytes_out],
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
            self.numbers[ending.body_bytes_out],
            known.about,
        )

    def dropped(self, count: int, wall: float) -> bytes:
        return b""
