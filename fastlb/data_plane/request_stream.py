"""A client's connection as a stream of requests: cuts heads out of it, one at a time, and waits for the
next one. What a client sends ahead stays unread in a bounded buffer. Knows no target and no answer;
`http_server` does with a request what is to be done.
"""

from __future__ import annotations

import re

from fastlb.data_plane.client_stream import CLIENT, HEAD, IDLE, LINGER, TARGET, ClientStream
from fastlb.data_plane.listener_runtime import HttpListener
from fastlb.data_plane.request_head import MAX_REQUEST_LINE, RequestHead, glimpse
from fastlb.data_plane.worker_state import WorkerState
from fastlb.errors import RequestError

AHEAD_BYTES = 65536
"""Bytes of later requests that are held while one is in progress, before reading stops."""
_EMPTY_LINES = re.compile(rb"(?:\r\n)+")
MAX_EMPTY_LINES = 16
_BARE_LF = re.compile(rb"(?<!\r)\n")


class RequestStream(ClientStream):
    """One client connection, less what becomes of its requests."""

    __slots__ = ("_ahead", "_last", "client_ip", "fields", "idle_since", "listener")

    def __init__(self, worker: WorkerState, listener: HttpListener, peer: str) -> None:
        super().__init__(worker, listener.counts, listener.settings.idle_timeout)
        self.listener = listener
        self.fields = listener.fields_for(peer)
        self.client_ip = self.fields.peer
        self.idle_since = 0.0
        self._ahead = b""
        self._last: RequestHead | None = None

    # -- what a subclass says

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        """One request has come; `rest` is its body and what follows."""
        raise NotImplementedError

    def _refuse(self, error: RequestError, head: RequestHead | None = None) -> None:
        """What came is no request, or none that is taken; nothing after it is."""
        raise NotImplementedError

    def update_reading(self) -> None:
        """Read the client only while what it sends has a place to go."""
        raise NotImplementedError

    # -- heads

    def _read_request(self, data: bytes) -> None:
        """Take one request from the beginning of `data`, or wait for the rest of its head."""
        self._ahead = b""
        if data.startswith(
            b"\r\n"
        ):  # RFC 9112 §2.2: a few empty lines before a request are ignored
            lines = _EMPTY_LINES.match(data)
            assert lines is not None
            if lines.end() > 2 * MAX_EMPTY_LINES:
                self._refuse(RequestError(400, "http_request_error", "too many empty lines"))
                return
            data = data[lines.end() :]
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._await_more(data)
            return
        max_headers = self.listener.settings.max_headers
        try:
            if end > MAX_REQUEST_LINE or end > self.listener.settings.max_header_bytes:
                self._check_size(data[:end])
            raw = data if end == len(data) else data[:end]
            last = self._last
            block = last.block if last is not None else None
            head = self.worker.heads.read(raw, block, self.fields, max_headers)
        except RequestError as error:
            self._refuse(error, glimpse(data))
            return
        self._last = head if head.block.memorable else None
        self._begin(head, data[end:])

    def _await_more(self, data: bytes) -> None:
        """`data` is the beginning of a head, or nothing."""
        try:
            self._check_size(data)
            if _BARE_LF.search(data):
                raise RequestError(400, "http_request_error", "a line ends without CR")
        except RequestError as error:
            self._refuse(error)
            return
        self._ahead = data
        if self._eof:
            self.close()
        elif data and self._turn == IDLE:
            self._turn = HEAD
            self.await_for(self.listener.settings.header_timeout)

    def _check_size(self, data: bytes) -> None:
        limit = self.listener.settings.max_header_bytes
        line_limit = min(limit, MAX_REQUEST_LINE)
        if data.find(b"\r\n", 0, line_limit + 2) < 0 and len(data) > line_limit:
            raise RequestError(
                414, "http_request_error", f"a request line of over {line_limit} bytes"
            )
        if len(data) > limit:
            raise RequestError(431, "http_request_error", f"a head of over {limit} bytes")

    # -- between requests

    def _become_idle(self) -> None:
        """The connection waits for its next request, which may be here already."""
        worker = self.worker
        now = worker.timers.now
        self.idle_since = now
        if not self._writable:
            # Its next request waits until it has read what it asked for before: answers to a client
            # that sends and does not read would fill the memory.
            self._turn = CLIENT
            self.await_for(self.idle_timeout)
            self.update_reading()
            return
        self._turn = IDLE
        if self._ahead:
            # Through the loop, not by recursion: a client may have sent a thousand requests ahead.
            worker.loop.call_soon(self._read_ahead)
            return
        if self._eof:
            self.close()
            return
        self.await_for(self.idle_timeout)
        if not self._reading:
            self.update_reading()

    def _read_ahead(self) -> None:
        if self._turn == IDLE:
            if not self._writable:
                self._become_idle()  # what was put off has filled its buffer since
                return
            self._read_request(self._ahead)
            if self._turn < LINGER and self._turn != TARGET:
                self.update_reading()

    def begin_drain(self) -> None:
        """The worker stops, or the listener is no more: an idle connection is closed; others are told
        with their next answer.

        One that was busy a moment ago will most likely send again, and is told then."""
        if self._turn in (IDLE, HEAD) and not self._ahead:
            quiet = self.worker.timers.now - self.idle_since
            if quiet >= self.worker.drain_grace and not self.has_more():
                self.close()

    def renew(self) -> None:
        """The listener's settings have changed: the next request is read by the new ones."""
        settings = self.listener.settings
        self.idle_timeout = settings.idle_timeout
        self.fields = self.listener.fields_for(self.fields.peer)
        if not self.fields.trusted:
            self.client_ip = self.fields.peer
        self._last = None  # it was rewritten by the old ones
