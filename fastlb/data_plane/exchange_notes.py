"""What is noted of a request beside its answer, for the access log alone: when it left, was answered,
how often it was sent.

Most requests find an open connection and are answered in one piece: of them nothing is noted. Pure;
times are perf_counter's, and are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

ENDED_BY = {
    "complete": "",
    "closed": "",
    "client_gone": "client",
    "client_timeout": "client",
    "http_request_error": "client",
    "http_request_denied": "client",
    "reset by client": "client",
    "reset by target": "target",
    "connection_refused": "target",
    "connection_timeout": "target",
    "connection_terminated": "target",
    "http_response_timeout": "target",
    "http_response_incomplete": "target",
    "http_response_header_section_size": "target",
    "http_protocol_error": "target",
    "http_upgrade_failed": "target",
}
"""Who ended a request, by why it ended; what is not here is fastlb's own doing."""


@dataclass(frozen=True, slots=True)
class Times:
    """In seconds: `held` for want of a target, `connect` to the target that answered, `response` from
    sending to the answer's first byte, `sending` from then to the end, `total`."""

    held: float
    connect: float
    response: float
    sending: float
    total: float


class ExchangeNotes:
    """Of one request; 0 is a time that was not noted."""

    __slots__ = ("answered", "connect", "connecting", "dispatched", "retries")

    def __init__(self) -> None:
        self.connecting = 0.0
        self.connect = 0.0
        self.dispatched = 0.0
        self.answered = 0.0
        self.retries = 0

    def connected(self, now: float) -> None:
        self.connect = now - self.connecting
        self.dispatched = now

    def sent_again(self, now: float) -> None:
        self.retries += 1
        self.connect = 0.0
        self.dispatched = now
        self.answered = 0.0

    def first_byte(self, now: float) -> None:
        """It may be told of more than once."""
        self.answered = self.answered or now

    def times(self, began: float, held: float, now: float) -> Times:
        """Of a request that ended `now`, answered; `began` is later than it came by what it was `held`."""
        answered = self.answered or now
        return Times(
            held=held,
            connect=self.connect,
            response=answered - (self.dispatched or began),
            sending=now - answered,
            total=now - began + held,
        )
