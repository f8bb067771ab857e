"""One request's journey: to a target, perhaps to a second one, and its response back to the client.

An Exchange belongs to one client connection and, at a time, to one target connection. It is made anew
for each request and never used again, so that a late byte or event of an old one finds nobody.
Knows both sides' connections and no listening socket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

from fastlb.data_plane.chunked import encode, encode_end
from fastlb.data_plane.exchange_client import Client
from fastlb.data_plane.exchange_notes import ExchangeNotes
from fastlb.data_plane.hold import not_in_time
from fastlb.data_plane.http_client import TargetConnection
from fastlb.data_plane.request_body import RequestBody
from fastlb.data_plane.request_head import SAFE, RequestHead
from fastlb.data_plane.response_head import ResponseHead, without_length
from fastlb.data_plane.stream import Stream
from fastlb.data_plane.target_pool import LOCAL_ERRORS, Opening, TargetPool, is_refusal
from fastlb.data_plane.target_runtime import GroupRuntime, TargetRuntime
from fastlb.errors import RequestError
from fastlb.model.target_group import OUT_OF_USE

HELD_HEAD_SECONDS = 2.5
"""How long a response's head may wait for its body's first byte: longer than it takes to suspect a hung
target, so that the request can still go to another."""


RETRY_PLACE_SECONDS = 0.25
"""How long a second try takes up its place in the budget: with answers that take seconds, those that wait
for a place would else wait longer than anybody's patience. What must not happen is that all try at once."""


class Exchange:
    """One request and its response."""

    # Slots, and each set at once: an object with a dictionary gets its attributes' places from the first
    # ones of its class, and where many of those were made before one had set them all, every later one
    # is given a dictionary of its own, for a microsecond each.
    __slots__ = (
        "_answering",
        "_chunk_out",
        "_connecting",
        "_retrying",
        "_sent",
        "_tried",
        "_tries",
        "began",
        "body",
        "bytes_out",
        "client",
        "connection",
        "group",
        "head",
        "head_out",
        "is_held",
        "notes",
        "over",
        "payload",
        "request_done",
        "rule",
        "status",
        "target",
        "trace",
        "waited",
    )

    def __init__(
        self, client: Client, head: RequestHead, group: GroupRuntime, rule: int, trace: bytes
    ) -> None:
        """`rule` is the priority of the Rule that chose the group, 0 for the default; `trace` is the
        request's new trace id."""
        self.client = client
        self.head = head
        self.group = group
        self.rule = rule
        self.trace = trace
        self.began = perf_counter()
        self.target: TargetRuntime | None = None
        self.connection: TargetConnection | None = None
        self.status = 0
        """Of the final response, once its head went to the client."""
        self.bytes_out = 0
        """Of the answer's body."""
        self.head_out = 0
        """Bytes of the answer's head."""
        self.notes: ExchangeNotes | None = None
        self.over = False
        self.request_done = True
        """Whether the client has sent all of it."""
        self.is_held = False
        """Whether it waits in its group's HoldQueue."""
        self.waited = 0.0
        """Seconds that it has waited there; `began` does not count them, since no target took them."""
        self.body: RequestBody | None = None
        """Of a request whose body did not come whole with its head."""
        self.payload = b""
        """The whole body of one whose body did."""
        self._sent = False
        self._answering = False
        self._retrying = False
        self._chunk_out = False
        self._tries = 0
        self._tried: Sequence[TargetRuntime] = ()
        self._connecting: Opening | None = None

    @property
    def is_head(self) -> bool:
        return self.head.method == b"HEAD"

    @property
    def wants_upgrade(self) -> bool:
        return bool(self.head.block.upgrade)

    @property
    def last_target(self) -> TargetRuntime | None:
        """The target that has the request, or was the last to have it."""
        return self.target or (self._tried[-1] if self._tried else None)

    @property
    def received(self) -> int:
        """Bytes of the request's body that have come."""
        return len(self.payload) if self.body is None else self.body.received

    @property
    def target_keys(self) -> tuple[str, ...]:
        """The addresses of all targets that were asked, in their order."""
        asked = self._tried if self.target is None else (*self._tried, self.target)
        return tuple(target.key for target in asked)

    @property
    def response_begun(self) -> bool:
        """Whether a byte of the response has come that was not held back."""
        connection = self.connection
        return self.status != 0 or (connection is not None and connection.bytes_seen)

    # -- the request

    def start(self) -> bool:
        """Choose a target and send. Whether it is sent, and the client has only to wait for its answer for
        the `response_timeout`; else this has told it for how long to wait for what."""
        group = self.group
        choose = group.choose
        if choose is None:
            detail = f"no target of group {group.name} is registered"
            self._hold_or(RequestError(503, "destination_unavailable", detail))
            return False
        target = choose(self.client.client_ip)
        head = self.head
        if self.body is None:
            idle = target.pool.idle
            connection = idle.pop() if idle else None
            if connection is not None and not connection.closing:
                # As `_attempt` and `_send` do, for what nearly every request is.
                self.target = target
                self.connection = connection
                self._sent = True
                target.begin()
                block = head.block
                data = b"".join((head.line, block.forwarded, self.trace, block.rest, self.payload))
                target.bytes_out += len(data)
                if head.ordinary:
                    connection.start(self, data)
                else:
                    self._start_other(connection, data)
                return True
        self._attempt(target)
        return False

    def begin_body(self, data: bytes) -> bytes:
        """Take what came with the head of a request that has a body; returns what comes after it. Raises
        RequestError (400, 413)."""
        if data and len(data) == self.head.block.content_length:
            self.payload = data
            return b""
        self.request_done = False
        self.body = RequestBody(self.head, self.client.max_body_bytes)
        return self.feed(data) if data else b""

    def feed(self, data: bytes) -> bytes:
        """Take the body's next bytes; returns what comes after it. Raises RequestError (400, 413)."""
        body = self.body
        assert body is not None
        encoded, rest = body.feed(data)
        self.request_done = body.done
        connection = self.connection
        if connection is not None and encoded:
            connection.send_body(encoded)
            connection.target.sent(len(encoded))
            body.sent()
        return rest

    @property
    def bulk_left(self) -> int:
        """Bytes of the body to come that may go to the target's connection past `feed`."""
        body, connection = self.body, self.connection
        return body.bulk_left if body is not None and connection is not None else 0

    def on_body_moved(self, count: int) -> None:
        """So many of those went there."""
        body, target = self.body, self.target
        assert body is not None
        assert target is not None
        body.moved(count)
        self.request_done = body.done
        target.sent(count)

    @property
    def holds_too_much(self) -> bool:
        """Whether the client should not be read for now: nobody takes its body."""
        connection = self.connection
        if connection is not None:
            return connection.write_paused
        return self.body is not None and self.body.holds_too_much

    # -- while no target can take it (hold.Held)

    def _hold_or(self, error: RequestError) -> None:
        """Wait for a target where the group holds requests; else answer with `error`."""
        self._end_retry()
        hold = self.group.settings.hold
        if hold is not None:
            try:
                self.client.await_for(self.group.held.add(self, hold))
                self.is_held = True
                return
            except RequestError as refusal:
                error = refusal
        self._give_up(error)

    @property
    def tried(self) -> Sequence[TargetRuntime]:
        return self._tried

    @property
    def patience(self) -> float:
        """Seconds from now on for which the client waits at most while no target has the request."""
        return self.group.held.left(self) if self.is_held else self.group.settings.response_timeout

    def has_left(self) -> bool:
        return self.client.has_ended

    def on_released(self, seconds: float) -> None:
        self.is_held = False
        # Never later than now: the queue goes by another clock, and a latency is never negative.
        self.began = min(self.began + seconds, perf_counter())
        client_ip = self.client.client_ip
        target = self.group.pick(client_ip, self._tried) or self.group.pick(client_ip, ())
        assert target is not None
        target.begin_held(seconds)
        self._note().dispatched = perf_counter()
        self._give_to(target)

    def on_hold_over(self, error: RequestError) -> None:
        self.is_held = False
        self._give_up(error)

    # -- to a target

    def _attempt(self, target: TargetRuntime, *, fresh: bool = False) -> None:
        self.target = target
        target.begin()
        pool: TargetPool = target.pool
        if not fresh:
            connection = pool.take()
            if connection is not None:
                self._send(connection)
                return
        self._note().connecting = perf_counter()
        self._connecting = pool.open(self)
        self.client.await_for(self.group.settings.connect_timeout)

    def _note(self) -> ExchangeNotes:
        notes = self.notes
        if notes is None:
            notes = self.notes = ExchangeNotes()
        return notes

    def on_connected(self, connection: TargetConnection) -> None:
        self._connecting = None
        self._note().connected(perf_counter())
        self._send(connection)
        self.client.update_reading()
        self.client.pace_target()

    def _send(self, connection: TargetConnection) -> None:
        target = self.target
        assert target is not None
        self.connection = connection
        self._sent = True
        head = self.head
        block = head.block
        data = b"".join((head.line, block.forwarded, self.trace, block.rest, self.payload))
        if self.body is not None:
            data += self.body.held()
            self.body.sent()
        target.bytes_out += len(data)
        self._start_other(connection, data)
        if self.request_done:
            self.client.await_for(self.group.settings.response_timeout)
        else:
            self.client.await_body()

    def _start_other(self, connection: TargetConnection, data: bytes) -> None:
        if not self.head.idempotent or self.body is not None:
            # A body that is still to come may become too long to be sent a second time.
            connection.start_once(self, data)
        elif self.is_head:
            connection.start_bodyless(self, data)
        else:
            connection.start(self, data)

    def on_connect_failed(self, error: OSError) -> None:
        self._connecting = None
        target = self.target
        assert target is not None
        name = error.strerror or str(error)
        if error.errno in LOCAL_ERRORS:
            self._give_up(RequestError(503, "proxy_internal_error", name.lower()))
            return
        target.failed(
            "refused" if is_refusal(error) else "reset", f"{name.lower()} on {target.key}"
        )
        self._retry_or(RequestError(502, "connection_refused", name.lower()), unsent=True)

    def on_target_writable(self, writable: bool) -> None:
        self.client.update_reading()

    # -- back to the client

    def on_head_held(self) -> None:
        if self.client.is_logged:
            self._note().first_byte(perf_counter())
        self.client.await_for(min(HELD_HEAD_SECONDS, self.group.settings.response_timeout))

    def on_interim(self, head: ResponseHead) -> None:
        # What a 1xx says is over when it is said: a final response, or its absence, is still to come.
        if self.head.block.http_11:
            lines = without_length(head.block.forwarded)
            self.client.write(head.line + lines + b"\r\n")
        if self.request_done:
            self.client.await_for(self.group.settings.response_timeout)
        else:
            self.client.await_body()

    def on_upgrade(self, head: ResponseHead, rest: bytes) -> None:
        connection = self.connection
        assert connection is not None
        lines = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.block.upgrade
        self.status = 101
        self._end_retry()
        answer = head.line + without_length(head.block.forwarded) + lines + b"\r\n"
        self.client.start_tunnel(self, connection, answer, rest)

    def on_whole(self, head: ResponseHead, data: bytes) -> None:
        # First: it waits for others' requests by now, and must not be paced for this one.
        self.connection = None
        self.status = status = head.status
        now = perf_counter()
        if not self.client.take_answer(self, head, data, now):
            self.on_response(head, data, head.size, True)
            self.on_end(b"")
            return
        self.over = True
        if self._retrying:
            self._end_retry()
        target = self.target
        assert target is not None
        if status >= 500:
            target.status_5xx += 1
        target.end(now - self.began)

    def on_response(self, head: ResponseHead, data: bytes, end: int, whole: bool) -> None:
        client = self.client
        self.status = head.status
        keep = client.decide_keep(self)
        http_11 = self.head.block.http_11
        if keep and http_11 and head.kept:  # what nearly every response is
            self.head_out = len(head.kept)
            if head.kept is head.raw:
                client.write(data)
            else:
                client.write_parts(head.kept, data, end)
        else:
            bodyless = whole and len(data) == end
            start, self._chunk_out, ends = head.for_client(
                http_11=http_11, bodyless=bodyless, keep=keep
            )
            if ends:
                client.close_after()
            self.head_out = len(start)
            if self._chunk_out and len(data) > end:
                client.write(start + encode([data[end:]]))
            else:
                client.write_parts(start, data, end)
        self.bytes_out += len(data) - end
        if not whole:
            self._begin_answering()

    def _begin_answering(self) -> None:
        """The response's head is out and its body to come: nobody waits for its first byte any more."""
        target = self.target
        assert target is not None
        self._answering = True
        target.answering += 1
        if self.client.is_logged:
            self._note().first_byte(perf_counter())
        self.client.await_for(self.group.settings.response_timeout)

    def on_body(self, pieces: list[bytes]) -> None:
        size = sum(map(len, pieces))
        self.bytes_out += size
        client = self.client
        if self._chunk_out:
            client.write(encode(pieces))
        elif len(pieces) == 1:
            client.write(pieces[0])
        else:
            client.write(b"".join(pieces))
        client.await_for(self.group.settings.response_timeout)

    def bulk_sink(self) -> Stream | None:
        return None if self._chunk_out else self.client.stream

    def on_moved(self, count: int) -> None:
        self.bytes_out += count
        self.client.count_written(count)
        self.client.await_for(self.group.settings.response_timeout)

    def on_end(self, trailers: bytes) -> None:
        self.connection = None
        if self._chunk_out:
            self.client.write(encode_end(trailers))
        self.over = True
        if self._retrying:
            self._end_retry()
        target = self.target
        assert target is not None
        if self._answering:
            self._end_answering(target)
        if self.status >= 500:
            target.status_5xx += 1
        target.end(perf_counter() - self.began)
        self.client.on_exchange_over(self)

    # -- when it goes wrong

    def on_target_lost(self, error: RequestError, kind: str) -> None:
        connection, self.connection = self.connection, None
        target = self.target
        assert target is not None
        assert connection is not None
        begun = self.status != 0 or connection.bytes_seen
        if connection.to_send and not self._tried and not self._retrying:
            # Nothing of it was sent, by this try or another: it may go anywhere.
            self._sent = False
            if self.body is not None:
                self.body.take_back(connection.to_send[len(self.head.to_target(self.trace)) :])
        if kind == "reset" and not begun and not connection.fresh:
            # An idle connection that the target closed in this very moment: no evidence against it.
            if self._may_send_again():
                self._detach()
                self._resend(lambda: self._again(target))
                return
        elif kind == "reset":
            target.failed("reset", f"{error.detail} on {target.key}")
        else:
            target.count_error()
        if self.status:
            self._cut(error)
        elif begun:
            self._give_up(error)
        else:
            self._retry_or(error)

    def on_timeout(self) -> None:
        """The connection's deadline passed while it was the target's turn."""
        target = self.target
        if self.is_held:
            self._give_up(not_in_time())
            return
        if target is None:
            self._give_up(RequestError(503, "destination_unavailable", "no second try in time"))
            return
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
            detail = f"no connection within {self.group.settings.connect_timeout:g} s"
            target.failed("timeout", f"{detail} to {target.key}")
            self._retry_or(RequestError(504, "connection_timeout", detail), unsent=True)
            return
        left = self.group.settings.response_timeout - HELD_HEAD_SECONDS
        if left > 0 and self.connection is not None and self.connection.release_head():
            self.client.await_for(left)
            return
        detail = f"no answer within {self.group.settings.response_timeout:g} s"
        target.count_error()
        self._drop_connection()
        error = RequestError(504, "http_response_timeout", detail)
        if self.status:
            self._cut(error)
        else:
            self._give_up(error)

    def leave_suspect(self) -> None:
        """The target hangs, as the table says: ask another one, where that is safe and one is there.

        One that was killed by the request itself is not suspect; who left a hung one may leave another.
        """
        target = self.target
        if (
            target is None
            or self.response_begun
            or (self.connection is None and self._connecting is None)
            or (self._sent and self.head.method not in SAFE)
            or not self._may_send_again()
            or self._tries >= self.group.settings.retries + target.suspect
            or not self.group.others([*self._tried, target])
        ):
            return
        self._tries += 1
        self._tried = (*self._tried, target)
        self._drop_connection()
        self._detach()
        self._resend(self._elsewhere)

    def abandon(self) -> None:
        """The client is gone, or got its answer from us."""
        if not self.over:
            self._drop_connection()
            self._finish()

    def _may_send_again(self) -> bool:
        """Whether a target may get this request though another may have got it (RFC 9110 §9.2.2)."""
        if not self._sent:
            return True
        return self.head.idempotent and (self.body is None or self.body.is_whole)

    def _retry_or(self, error: RequestError, *, unsent: bool = False) -> None:
        """Try another target, or answer with `error`. `unsent`: this target got nothing at all, which
        has cost nobody anything, so that each other eligible target may be tried."""
        target = self.target
        assert target is not None
        retries = self.group.settings.retries
        allowed = retries > 0 and (unsent or self._tries < retries)
        self._tried = (*self._tried, target)
        if not allowed or not self._may_send_again():
            self._give_up(error)
            return
        if not unsent:
            self._tries += 1
        self._detach()
        if self.group.pick(self.client.client_ip, self._tried) is None:
            self._hold_or(error)
            return
        self._resend(self._elsewhere)

    def _resend(self, retry: Callable[[], bool]) -> None:
        self._end_retry()
        self.client.await_for(self.group.settings.response_timeout)
        self.client.retries.start(retry)

    def _elsewhere(self) -> bool:
        if self.over:
            return False
        client_ip = self.client.client_ip
        # While it waited for its turn the others may have gone: then one that was tried is better than none.
        target = self.group.pick(client_ip, self._tried) or self.group.pick(client_ip, ())
        if target is None:
            detail = f"no other target of group {self.group.name} is left"
            self._hold_or(RequestError(502, "destination_unavailable", detail))
            return False
        self._try_again(target, fresh=False)
        return True

    def _again(self, target: TargetRuntime) -> bool:
        if self.over:
            return False
        if target.state in OUT_OF_USE and self.group.choose is not None:
            return self._elsewhere()  # drained since, and there are others
        self._try_again(target, fresh=True)
        return True

    def _try_again(self, target: TargetRuntime, *, fresh: bool) -> None:
        self._retrying = True
        self.client.later(RETRY_PLACE_SECONDS, self._end_retry)
        self._note().sent_again(perf_counter())
        self._give_to(target, fresh=fresh)

    def _give_to(self, target: TargetRuntime, *, fresh: bool = False) -> None:
        """As `_attempt`, where the client's connection has settled to wait."""
        self._attempt(target, fresh=fresh)
        self.client.pace_target()
        self.client.update_reading()

    def _end_retry(self) -> None:
        if self._retrying:
            self._retrying = False
            self.client.retries.end()

    def _detach(self) -> None:
        """Leave the target before a second try."""
        if self.target is not None:
            self._end_answering(self.target)
            self.target.end(None)
            self.target = None

    def _drop_connection(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abandon()

    def _give_up(self, error: RequestError) -> None:
        self._drop_connection()
        self._finish()
        self.client.on_exchange_failed(self, error)

    def _cut(self, error: RequestError) -> None:
        """The response has begun and cannot be mended: the client must see that it is not whole."""
        self._drop_connection()
        self._finish()
        self.client.on_exchange_cut(self, error)

    def _finish(self) -> None:
        """It ends without a whole response."""
        self.over = True
        if self.is_held:
            self.is_held = False
            self.group.held.leave(self)
        self._end_retry()
        target = self.target
        if target is not None:
            self._end_answering(target)
            target.end(None)

    def _end_answering(self, target: TargetRuntime) -> None:
        if self._answering:
            self._answering = False
            target.answering -= 1
