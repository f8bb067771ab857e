"""The access log of one worker: gathers lines in the loop, hands them over in batches to a thread that
writes them, so that a slow disk never holds up a request.

How a line looks is `access_log_format`'s, and how a file is written, opened anew and lost
`log_writer`'s. Reads connections and exchanges, and changes none.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fastlb.data_plane.access_log_alb import AlbLines
from fastlb.data_plane.access_log_combined import CombinedLines
from fastlb.data_plane.access_log_format import (
    Answered,
    Client,
    Ending,
    Kind,
    Lines,
    Pieces,
    fields_of,
    is_plain,
)
from fastlb.data_plane.access_log_json import JsonLines
from fastlb.data_plane.log_writer import LogWriter
from fastlb.data_plane.request_head import HeaderBlock, RequestHead
from fastlb.data_plane.tcp_server import TcpEnd

if TYPE_CHECKING:
    from fastlb.data_plane.forwarding import Exchange
    from fastlb.data_plane.http_server import HttpConnection

TOLD = 64
"""Requests of which lines are made in one go: one such loop costs half of what a call for each does."""
BATCH_LINES = 512
"""Lines that are joined and handed to the thread at once; fewer at each tick. The thread costs the same
for one line as for all of them: 64 lines, or joining them in smaller portions, measured worse."""
_LOCATION = re.compile(rb"\r\nLocation: ([^\r]*)\r\n")


@dataclass(slots=True)
class KnownClient:
    """What an HttpConnection keeps between its requests for the log that made it: `pieces` are its
    format's, of the last header block."""

    log: AccessLog
    block: HeaderBlock | None
    client_ip: str
    port: int
    id: bytes
    pieces: Any


def lines_of(format: str, name: str, pid: int) -> Lines:
    """The format by its name; `name` is the instance's."""
    if format == "alb":
        return AlbLines(name)
    return CombinedLines() if format == "combined" else JsonLines(pid)


class AccessLog:
    """Appends to `path`; `-` is standard output. Several workers may write to the same file."""

    def __init__(self, path: str, lines: Lines) -> None:
        self._lines = lines
        self._answered: list[Answered] = []
        """Of which no lines are made yet."""
        self._full = BATCH_LINES * lines.columns
        self._pieces: list[bytes] = []
        self._connections = 0
        self._writer = LogWriter(path, lambda count: lines.dropped(count, time.time()))
        lines.set_offset(time.time() - perf_counter())

    @property
    def dropped(self) -> int:
        """Lines that were lost so far, since the file took none."""
        return self._writer.dropped

    @property
    def reopened(self) -> int:
        """The greatest number that `reopen` was called with and that has been done."""
        return self._writer.reopened

    # -- requests

    def complete(self, connection: HttpConnection, exchange: Exchange, now: float) -> None:
        """A request that a target has answered, as nearly all are; `now` is perf_counter's."""
        known = connection.logged
        block = exchange.head.block
        if (
            known is None
            or known.block is not block
            or known.client_ip is not connection.client_ip
            or known.log is not self
        ):
            known = self._know(connection, block)
        answered = self._answered
        answered.append((known.pieces, exchange, now))
        if len(answered) >= TOLD:
            self._add(())

    def cut_short(
        self,
        connection: HttpConnection,
        exchange: Exchange,
        status: int,
        why: str,
        detail: str,
        own_answer: bytes = b"",
    ) -> None:
        """A request that a target was to answer. `own_answer` is what the client got from us instead."""
        ending = self._ending(exchange, status, own_answer)
        ending.why, ending.detail = why, detail
        self._write(connection, exchange.head, exchange.trace, ending)

    def own(
        self,
        connection: HttpConnection,
        head: RequestHead | None,
        status: int,
        answer: bytes,
        why: str = "complete",
        detail: str = "",
        rule: int | None = None,
        action: str = "-",
    ) -> None:
        """A request that no target was asked for, and our `answer`."""
        location = _LOCATION.search(answer) if action == "redirect" else None
        ending = Ending(
            kind="http",
            status=status,
            target_status=0,
            bytes_in=_size(head),
            bytes_out=len(answer),
            body_bytes_out=_body_size(answer),
            group="-",
            target="-",
            targets=(),
            held=0,
            connect=0,
            response=-1,
            total=0,
            retries=0,
            rule=rule,
            action=action,
            location=location[1] if location else b"",
            why=why,
            detail=detail,
        )
        self._write(connection, head, b"", ending)

    def tunnel(
        self,
        connection: HttpConnection,
        exchange: Exchange,
        bytes_in: int,
        bytes_out: int,
        reason: str,
    ) -> None:
        """An upgraded connection that has ended; bytes are those inside the tunnel."""
        ending = self._ending(exchange, 101, b"")
        is_websocket = exchange.head.block.upgrade.lower() == b"websocket"
        kind: Kind = "ws" if is_websocket else "http"
        self._write(
            connection,
            exchange.head,
            exchange.trace,
            replace(
                ending,
                kind=kind,
                bytes_in=ending.bytes_in + bytes_in,
                bytes_out=ending.bytes_out + bytes_out,
                body_bytes_out=bytes_out,
                **_stream_end(reason),
            ),
        )

    def tcp(self, listener: str, address: str, port: int, group: str, end: TcpEnd) -> None:
        """A TCP connection of a client that has ended."""
        client = Client(
            listener=listener,
            address=address,
            port=port,
            head_bytes=0,
            connection=self._new_id(),
            **fields_of(None),
        )
        ending = Ending(
            kind="tcp",
            status=0,
            target_status=0,
            bytes_in=end.bytes_in,
            bytes_out=end.bytes_out,
            body_bytes_out=end.bytes_out,
            group=group,
            target=end.targets[-1] if end.targets else "-",
            targets=end.targets,
            held=end.held,
            connect=end.connect,
            response=0 if end.connect >= 0 else -1,
            total=end.total,
            retries=max(len(end.targets) - 1, 0),
            rule=0,
            action="forward",
            location=b"",
            **_stream_end(end.why, end.detail),
        )
        known = self._lines.known(client)
        self._add(self._lines.other(known, None, b"", ending, time.time()))

    def _ending(self, exchange: Exchange, status: int, own_answer: bytes) -> Ending:
        now = perf_counter()
        target, notes = exchange.last_target, exchange.notes
        held, began = exchange.waited, exchange.began
        total = now - began + held
        answered = notes.answered if notes is not None else 0.0
        if not answered and exchange.status:
            answered = now
        sent = (notes.dispatched if notes is not None else 0.0) or began
        size = exchange.head_out + exchange.bytes_out
        return Ending(
            kind="http",
            status=status,
            target_status=exchange.status,
            bytes_in=_size(exchange.head) + exchange.received,
            bytes_out=size + len(own_answer),
            body_bytes_out=exchange.bytes_out + _body_size(own_answer),
            group=exchange.group.name,
            target=target.key if target is not None else "-",
            targets=exchange.target_keys,
            held=held,
            connect=notes.connect if notes is not None else 0.0,
            response=answered - sent if answered else -1,
            total=total,
            retries=notes.retries if notes is not None else 0,
            rule=exchange.rule,
            action="forward",
            location=b"",
        )

    # -- clients

    def meet(self, connection: HttpConnection) -> None:
        """A new connection: its port is known as long as it is there."""
        connection.logged = self._new_client(connection)

    def _new_client(self, connection: HttpConnection) -> KnownClient:
        return KnownClient(self, None, "", connection.peer_port(), self._new_id(), None)

    def _new_id(self) -> bytes:
        self._connections += 1
        return b"%08x%08x" % (self._writer.number, self._connections & 0xFFFFFFFF)

    def _know(self, connection: HttpConnection, block: HeaderBlock | None) -> KnownClient:
        """Its pieces for a header block that is not that of its last request."""
        known = connection.logged
        if known is None or known.log is not self:
            known = connection.logged = self._new_client(connection)
        own_address = connection.client_ip is connection.fields.peer
        client = Client(
            listener=connection.listener.key,
            address=connection.client_ip,
            port=known.port if own_address else 0,
            head_bytes=len(block.raw) if block is not None else 0,
            connection=known.id,
            **fields_of(block),
        )
        known.block, known.client_ip = block, connection.client_ip
        known.pieces = self._lines.known(client)
        return known

    # -- lines

    def _write(
        self, connection: HttpConnection, head: RequestHead | None, trace: bytes, ending: Ending
    ) -> None:
        known = self._know(connection, head.block if head is not None else None)
        self._add(self._lines.other(known.pieces, head, trace, ending, time.time()))

    def _add(self, line: Pieces) -> None:
        """A line, if any, after those of the requests that were answered before."""
        if self._answered:
            self._pieces += self._lines.answered(self._answered)
            self._answered.clear()
        self._pieces += line
        if len(self._pieces) >= self._full:
            self._hand_over()

    def _hand_over(self) -> None:
        """Make whole lines; escape what clients chose to write, where that is needed at all."""
        pieces, self._pieces = self._pieces, []
        lines = self._lines
        columns, at = lines.columns, lines.uri_at
        if not is_plain(b"".join(pieces[at::columns])):
            escape = lines.escape
            pieces[at::columns] = [
                uri if is_plain(uri) else escape(uri) for uri in pieces[at::columns]
            ]
        self._writer.put(b"".join(pieces), len(pieces) // columns)

    def _flush(self) -> None:
        self._add(())
        if self._pieces:
            self._hand_over()

    def on_tick(self) -> None:
        """Ten times a second: pass on what there is."""
        self._lines.set_offset(time.time() - perf_counter())
        self._flush()

    def reopen(self, number: int) -> None:
        """Open the file by its name anew, soon; `reopened` is `number` then."""
        self._flush()
        self._writer.reopen(number)

    def close(self, seconds: float = 2.0) -> None:
        """Write what is there, waiting no longer than so for a slow disk."""
        self._flush()
        self._writer.close(seconds)


def _size(head: RequestHead | None) -> int:
    return len(head.line) + len(head.block.raw) if head is not None else 0


def _body_size(answer: bytes) -> int:
    return len(answer) - answer.find(b"\r\n\r\n") - 4 if answer else 0


def _stream_end(reason: str, detail: str = "") -> dict[str, Any]:
    """A Pump's reason in the log's words; of its two sides `a` is the client."""
    whys = {
        "closed": "complete",
        "reset by a": "client_gone",
        "reset by b": "connection_terminated",
    }
    details = {
        "reset by a": "the client reset the connection",
        "reset by b": "the target reset the connection",
        "idle": "nothing moved for as long as idle_timeout",
        "stopping": "the drain deadline passed",
    }
    return {"why": whys.get(reason, reason), "detail": detail or details.get(reason, "")}
