"""The client side of HTTP: what becomes of a connection's requests, one at a time and in their order.

Asks the Listener's rules, answers what is wrong or fixed by itself, and gives everything else to an
Exchange. Chooses no target and reads no response.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from random import random
from time import perf_counter, time

from fastlb.data_plane.access_log import KnownClient
from fastlb.data_plane.client_stream import (
    CLIENT,
    GONE,
    HEAD,
    IDLE,
    SEND_BYTES,
    TARGET,
)
from fastlb.data_plane.forwarding import Exchange
from fastlb.data_plane.http_client import BULK_BYTES, TargetConnection
from fastlb.data_plane.listener_runtime import HttpListener, RequestFacts
from fastlb.data_plane.own_answers import action_answer, error_answer
from fastlb.data_plane.request_head import RequestHead
from fastlb.data_plane.request_stream import AHEAD_BYTES, RequestStream
from fastlb.data_plane.response_head import ResponseHead
from fastlb.data_plane.retry_budget import RetryBudget
from fastlb.data_plane.splice import Pump
from fastlb.data_plane.stream import Stream
from fastlb.data_plane.target_runtime import GroupRuntime
from fastlb.data_plane.tunnel import Tunnel
from fastlb.data_plane.worker_state import WorkerState
from fastlb.errors import RequestError
from fastlb.model.listener import FixedResponse, Forward, Redirect
from fastlb.model.matching import choose_group


class HttpConnection(RequestStream):
    """One client connection of an HTTP listener."""

    __slots__ = ("_abort_reason", "_closing", "_exchange", "logged", "refused")

    def __init__(
        self, worker: WorkerState, listener: HttpListener, peer: str, refused: bool
    ) -> None:
        super().__init__(worker, listener, peer)
        self.refused = refused
        """Over max_connections: its first request is answered 503."""
        self._exchange: Exchange | None = None
        self._closing = False
        self._abort_reason = ""
        self.logged: KnownClient | None = None
        """The access log's own."""

    @property
    def max_body_bytes(self) -> int | None:
        return self.listener.settings.max_body_bytes

    @property
    def retries(self) -> RetryBudget:
        return self.worker.retries

    # -- what happens to the socket

    def open(self, sock: socket.socket) -> None:
        super().open(sock)
        self.idle_since = self.worker.timers.now
        self.await_for(self.listener.settings.header_timeout)
        if self.worker.access_log is not None:
            self.worker.access_log.meet(self)

    def data_received(self, data: bytes) -> None:
        self.counts.bytes_in += len(data)
        exchange = self._exchange
        if exchange is None:
            if self._turn < CLIENT:
                last = self._last
                if last is not None and not self._ahead:
                    raw = last.raw
                    if data == raw:  # the former head, byte for byte
                        self._begin(last, b"")
                        return
                    if raw and data.startswith(raw):
                        self._begin(last, data[len(raw) :])
                        return
                    if len(data) <= self.listener.settings.max_header_bytes:
                        again = self.worker.heads.again(data, last)
                        if again is not None:
                            self._last = again
                            self._begin(again, b"")
                            return
                self._read_request(self._ahead + data if self._ahead else data)
            elif self._turn == CLIENT:
                self._ahead += data
                self.update_reading()
            else:
                self.ignore(data)
        elif exchange.request_done:
            self._ahead += data
            if len(self._ahead) > AHEAD_BYTES:
                self.update_reading()
        else:
            self._feed(exchange, data)

    def eof_received(self) -> bool:
        """A client may end its side and wait for the answer to what it sent: keep the other side."""
        self._eof = True
        self.send_now()
        exchange = self._exchange
        if exchange is None:
            # Nothing is in progress, unless requests sent ahead wait for their turn of the loop.
            return self._turn == CLIENT or (self._turn == IDLE and bool(self._ahead))
        if not exchange.request_done:
            self._refuse(RequestError(400, "http_request_error", "the body ended early"))
        return True

    def connection_lost(self, error: OSError | None) -> None:
        worker = self.worker
        worker.timers.disarm(self)
        worker.connection_closed(self)
        self._turn = GONE
        self._ahead = b""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
            if self._abort_reason:
                self._count(exchange, 499, self._abort_reason, "the drain deadline passed")
            else:
                self._count(exchange, 499, "client_gone", "the client closed the connection")

    def pause_writing(self) -> None:
        self._writable = False
        self._full_since = self.worker.timers.now
        self.pace_target()

    def resume_writing(self) -> None:
        self._writable = True
        self.pace_target()
        exchange = self._exchange
        if exchange is not None:
            self.await_for(self._patience(exchange))
        elif self._turn == CLIENT:
            self._become_idle()

    def pace_target(self) -> None:
        """Read the response only as fast as the client takes it."""
        exchange = self._exchange
        connection = exchange.connection if exchange is not None else None
        if connection is not None and not connection.closing:
            connection.pace(self._writable)

    def update_reading(self) -> None:
        """Read the client only while what it sends has a place to go."""
        exchange = self._exchange
        if exchange is None:
            wanted = self._turn != CLIENT or len(self._ahead) <= AHEAD_BYTES
        elif exchange.request_done:
            wanted = len(self._ahead) <= AHEAD_BYTES
        else:
            wanted = not exchange.holds_too_much
        self.read_if(wanted)

    # -- requests

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        """One request has come; `rest` is its body and what follows."""
        worker = self.worker
        self.counts.requests += 1
        group = self.listener.only_group
        if group is None or self.fields.trusted or self.refused:
            try:
                found = self._group_for(head, rest)
            except RequestError as error:
                self._refuse(error, head)
                return
            if found is None:
                return
            group, rule = found
        else:
            rule = 0
        self._exchange = exchange = Exchange(self, head, group, rule, worker.next_trace_id())
        self._turn = TARGET
        worker.retries.active += 1
        if not head.block.bodyless:
            try:
                self._check_length(head)
                rest = exchange.begin_body(rest)
                if self._eof and not exchange.request_done:
                    raise RequestError(400, "http_request_error", "the body ended early")
            except RequestError as error:
                self._refuse(error, head)
                return
        self._ahead = rest
        if exchange.start():
            # As `await_for`, without the call.
            deadline = self.deadline = worker.timers.now + group.settings.response_timeout
            if deadline < self.armed_at:
                worker.timers.arm(self, deadline)
        if not self._writable:
            self.pace_target()
        if (rest or not exchange.request_done) and self._exchange is exchange:
            self.update_reading()

    def _check_length(self, head: RequestHead) -> None:
        limit = self.listener.settings.max_body_bytes
        if limit is not None and head.block.content_length > limit:
            raise RequestError(413, "http_request_denied", f"a body of over {limit} bytes")

    def _group_for(self, head: RequestHead, rest: bytes) -> tuple[GroupRuntime, int] | None:
        """Where a request goes and the priority of the rule that says so, 0 for the default; None where
        it is answered already. Raises RequestError."""
        worker = self.worker
        listener = self.listener
        if self.refused:
            raise RequestError(503, "connection_limit_reached", "too many connections")
        self._check_length(head)
        fields = self.fields
        if fields.trusted:
            # Also without the field: a proxy's next request is another client's.
            self.client_ip = listener.trusted.client(fields.peer, head.block.forwarded_for)
        group = listener.only_group
        rule = 0
        if group is None:
            # The same request again, from the same client, goes the same way by the same rules.
            routed = head.routed
            if routed is not None and routed[0] is listener.router and not fields.trusted:
                _, rule, action = routed
            else:
                rule, action = listener.router.match(RequestFacts(head, self.client_ip))
                head.routed = listener.router, rule, action
            if not isinstance(action, Forward):
                facts = RequestFacts(head, self.client_ip)
                self._answer_self(action, rule, head, facts, rest)
                return None
            name = choose_group(action, random())
            group = worker.targets.groups.get(name)
            if group is None:  # only a removed listener's rules can name one that is no more
                raise RequestError(
                    503, "destination_unavailable", f"target group {name} is no more"
                )
        return group, rule

    def _feed(self, exchange: Exchange, data: bytes) -> None:
        try:
            rest = exchange.feed(data)
        except RequestError as error:
            self._refuse(error)
            return
        if exchange.over or self._exchange is not exchange:
            return
        self._ahead = rest
        self.await_for(self._patience(exchange))
        self.sink_left = exchange.bulk_left
        self.sink = exchange.connection if self.sink_left >= BULK_BYTES else None
        if exchange.request_done or exchange.holds_too_much:
            self.update_reading()

    def _move(self) -> bool:
        exchange = self._exchange
        if (
            exchange is None
            or exchange.connection is not self.sink
            or exchange.bulk_left != self.sink_left
        ):
            self.sink = None  # what comes is not that body any more
            return False
        return super()._move()

    def moved(self, count: int) -> None:
        exchange = self._exchange
        assert exchange is not None
        self.counts.bytes_in += count
        exchange.on_body_moved(count)
        if exchange.request_done:
            self.sink = None
        self.await_for(self._patience(exchange))
        if exchange.request_done or exchange.holds_too_much:
            self.update_reading()

    def _patience(self, exchange: Exchange) -> float:
        if exchange.connection is None:
            return exchange.patience
        if exchange.request_done:
            return exchange.group.settings.response_timeout
        return self.idle_timeout

    def _answer_self(
        self,
        action: FixedResponse | Redirect,
        priority: int,
        head: RequestHead,
        facts: RequestFacts,
        rest: bytes,
    ) -> None:
        block = head.block
        body_to_come = bool(block.chunked or block.content_length)
        keep = block.keep_alive and not body_to_come and not self.listener.draining
        data = action_answer(action, head, facts, time(), keep=keep)
        self.counts.statuses[action.status // 100] += 1
        log = self.worker.access_log
        if log is not None:
            kind = "redirect" if isinstance(action, Redirect) else "fixed-response"
            log.own(self, head, action.status, data, rule=priority, action=kind)
        self.write(data)
        if keep:
            self._ahead = rest
            self._become_idle()
        else:
            self._end_requests()

    # -- what an Exchange asks and tells (exchange_client.Client)

    def peer_port(self) -> int:
        """Of the client's address; 0 where it is not known any more."""
        try:
            port: int = self.sock.getpeername()[1]
        except OSError:
            return 0
        return port

    @property
    def is_logged(self) -> bool:
        return self.worker.access_log is not None

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.worker.loop.call_later(seconds, call)

    @property
    def stream(self) -> Stream:
        return self

    def count_written(self, count: int) -> None:
        self.counts.bytes_out += count

    def await_body(self) -> None:
        self.await_for(self.idle_timeout)

    def take_answer(self, exchange: Exchange, head: ResponseHead, data: bytes, now: float) -> bool:
        size = len(data)
        if (
            not exchange.head.block.stays
            or not exchange.request_done
            or self._ahead
            or self._eof
            or not self._writable
            or self.to_send
            or self.listener.draining
            or size > SEND_BYTES
        ):
            return False
        at, kept = head.size, head.kept
        body_bytes = size - at
        if kept is not head.raw:
            data = kept + data[at:]
            size = len(data)
        worker, counts = self.worker, self.counts
        counts.bytes_out += size
        counts.statuses[head.family] += 1
        self.to_send = data
        reactor = self.reactor
        if reactor.in_turn:
            reactor.outbox.append(self)
        else:
            reactor.send_soon(self)
        self._exchange = None
        worker.retries.active -= 1
        if worker.access_log is not None:
            exchange.head_out, exchange.bytes_out = len(kept), body_bytes
            worker.access_log.complete(self, exchange, now)
        idle_since = self.idle_since = worker.timers.now
        self._turn = IDLE
        # As `await_for`, without the call.
        deadline = self.deadline = idle_since + self.idle_timeout
        if deadline < self.armed_at:
            worker.timers.arm(self, deadline)
        if not self._reading:
            self.update_reading()
        return True

    def decide_keep(self, exchange: Exchange) -> bool:
        if (
            exchange.head.block.keep_alive
            and exchange.request_done
            and (not self._eof or self._ahead)
            and not self.listener.draining
        ):
            return True
        self._closing = True
        return False

    def close_after(self) -> None:
        self._closing = True

    def start_tunnel(
        self, exchange: Exchange, connection: TargetConnection, head: bytes, rest: bytes
    ) -> None:
        self.send_now()
        if self.backlog_bytes:
            # The rest of an earlier answer: the socket cannot be taken from under it. Rare (a client
            # that pipelines, reads slowly, and upgrades), so that it costs a turn of the loop.
            connection.pause_reading()
            self.worker.loop.call_later(
                0.005, self._start_tunnel_later, exchange, connection, head, rest
            )
            return
        target = exchange.target
        assert target is not None
        if self.closing or connection.closing:
            return  # one has ended: its connection_lost says the rest
        client_socket, target_socket = self.release(), connection.release()
        self._reading = False
        self._exchange = None
        self._turn = GONE
        exchange.over = True
        worker = self.worker
        worker.retries.active -= 1
        self.counts.statuses[1] += 1
        connection.receiver = None
        target.answering += 1
        ahead, self._ahead = self._ahead, b""

        exchange.head_out = len(head)

        def ended(pump: Pump, reason: str) -> None:
            target.answering -= 1
            target.end(None)
            if worker.access_log is not None:
                received = len(ahead) + pump.bytes_a_to_b
                sent = len(rest) + pump.bytes_b_to_a
                worker.access_log.tunnel(self, exchange, received, sent, reason)

        tunnel = Tunnel(
            worker,
            self.counts,
            target,
            client_socket,
            target_socket,
            to_client=head + rest,
            to_target=ahead,
            idle_timeout=self.idle_timeout,
            on_end=ended,
            listener=self.listener,
        )
        tunnel.start()

    def _start_tunnel_later(
        self, exchange: Exchange, connection: TargetConnection, head: bytes, rest: bytes
    ) -> None:
        if not exchange.over:
            self.start_tunnel(exchange, connection, head, rest)

    def on_exchange_over(self, exchange: Exchange) -> None:
        self._exchange = None
        worker = self.worker
        worker.retries.active -= 1
        self.counts.statuses[exchange.status // 100] += 1
        if worker.access_log is not None:
            worker.access_log.complete(self, exchange, perf_counter())
        if self._closing:
            if exchange.request_done and not self._ahead:
                self.close()
            else:
                self._end_requests()
            return
        self._become_idle()

    def on_exchange_failed(self, exchange: Exchange, error: RequestError) -> None:
        self._exchange = None
        self.worker.retries.active -= 1
        self._error(error, exchange.head, exchange, keep=exchange.request_done)

    def on_exchange_cut(self, exchange: Exchange, error: RequestError) -> None:
        self._exchange = None
        self.counts.errors += 1
        self._count(exchange, exchange.status, error.cause, f"cut: {error.detail}")
        self.cut()

    # -- ends and errors

    def _refuse(self, error: RequestError, head: RequestHead | None = None) -> None:
        """The client's own fault, or ours before a target was found: answer and close."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            head = exchange.head
            exchange.abandon()
            if exchange.status:
                self.worker.retries.active -= 1
                self.counts.errors += 1
                self._log_short(exchange, exchange.status, error.cause, f"cut: {error.detail}")
                self.cut()
                return
            self.worker.retries.active -= 1
        self._error(error, head, exchange, keep=False)

    def _error(
        self,
        error: RequestError,
        head: RequestHead | None,
        exchange: Exchange | None,
        *,
        keep: bool,
    ) -> None:
        worker = self.worker
        self.counts.errors += 1
        self.counts.statuses[error.status // 100] += 1
        keep = (
            keep
            and head is not None
            and head.block.keep_alive
            and head.block.http_11
            and (not self._eof or bool(self._ahead))
            and not self.listener.draining
        )
        head_only = head is not None and head.method == b"HEAD"
        data = error_answer(error, time(), close=not keep, head_only=head_only)
        self.write(data)
        if exchange is not None:
            self._log_short(exchange, error.status, error.cause, error.detail, data)
        elif worker.access_log is not None:
            worker.access_log.own(self, head, error.status, data, error.cause, error.detail)
        if keep:
            self._become_idle()
        else:
            self._end_requests()

    def _end_requests(self) -> None:
        """Whatever the client still sends is not read as a request any more."""
        self._exchange = None
        self._ahead = b""
        self.linger()

    def on_deadline(self, now: float) -> None:
        turn = self._turn
        exchange = self._exchange
        if exchange is not None:
            if not self._writable:
                # The client takes nothing: its silence, not the target's.
                patience = self._full_since + self.idle_timeout - now
                if patience > 0:
                    self.await_for(patience)
                    return
                self._exchange = None
                exchange.abandon()
                detail = f"the client took nothing for {self.idle_timeout:g} s"
                self._count(exchange, exchange.status, "client_timeout", detail)
                self.drop()
            elif not exchange.request_done and exchange.connection is not None and self._reading:
                self._refuse(
                    RequestError(408, "http_request_error", "the body did not come in time")
                )
            else:
                exchange.on_timeout()
        elif turn == HEAD and self._ahead:
            self._refuse(RequestError(408, "http_request_error", "the head did not come in time"))
        elif turn in (IDLE, HEAD):
            self.close()
        else:
            self.drop()

    def leave_suspects(self) -> None:
        """The table has changed: a request that waits on a suspect target may go elsewhere."""
        exchange = self._exchange
        if exchange is not None and not exchange.response_begun:
            target = exchange.target
            if target is not None and (target.suspect or target.state == "unhealthy"):
                exchange.leave_suspect()

    def abort(self, reason: str) -> None:
        self._abort_reason = reason
        super().abort(reason)

    def _count(self, exchange: Exchange, status: int, why: str, detail: str) -> None:
        """It ended without a whole answer; `status` is 0 where the client had nothing of one."""
        worker = self.worker
        worker.retries.active -= 1
        if status:
            self.counts.statuses[status // 100] += 1
        self._log_short(exchange, status or 499, why, detail)

    def _log_short(
        self, exchange: Exchange, status: int, why: str, detail: str, answer: bytes = b""
    ) -> None:
        log = self.worker.access_log
        if log is not None:
            log.cut_short(self, exchange, status, why, detail, answer)
