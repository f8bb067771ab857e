"""What an Exchange needs of the client's connection. An interface, so that a journey to a target can be
followed, and tested, without a client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from fastlb.data_plane.http_client import TargetConnection
from fastlb.data_plane.response_head import ResponseHead
from fastlb.data_plane.retry_budget import RetryBudget
from fastlb.data_plane.stream import Stream
from fastlb.errors import RequestError

if TYPE_CHECKING:
    from fastlb.data_plane.forwarding import Exchange


class Client(Protocol):
    """What an Exchange needs of the client's connection."""

    client_ip: str

    @property
    def max_body_bytes(self) -> int | None: ...

    @property
    def retries(self) -> RetryBudget: ...

    @property
    def has_ended(self) -> bool:
        """Whether it has ended its side; it may still wait for the answer."""

    @property
    def is_logged(self) -> bool:
        """Whether its requests go to the access log, which wants to know when an answer began."""

    def await_for(self, seconds: float) -> None:
        """It is the target's turn; call `on_timeout` after `seconds` of silence."""

    def later(self, seconds: float, call: Callable[[], None]) -> None: ...

    def pace_target(self) -> None:
        """The exchange has another target connection: read it only if the client takes what comes."""

    def await_body(self) -> None:
        """The request's body is to come, or to be taken by the target, before any answer is due."""

    def write(self, data: bytes) -> None: ...

    def write_parts(self, head: bytes, data: bytes, at: int) -> None:
        """Write `head` and `data[at:]`."""

    @property
    def stream(self) -> Stream:
        """What is written goes there."""

    def count_written(self, count: int) -> None:
        """Bytes that came there past `write`."""

    def take_answer(self, exchange: Exchange, head: ResponseHead, data: bytes, now: float) -> bool:
        """The whole of a response, `data`, which came at `now` (perf_counter's), and with it the exchange
        is over; False where something must be said beside it, or it is much."""

    def decide_keep(self, exchange: Exchange) -> bool:
        """Whether the client's connection stays open after this response."""

    def close_after(self) -> None:
        """The response ends with the connection."""

    def update_reading(self) -> None:
        """Whether more of the body can be taken may have changed."""

    def start_tunnel(
        self, exchange: Exchange, connection: TargetConnection, answer: bytes, rest: bytes
    ) -> None: ...

    def on_exchange_over(self, exchange: Exchange) -> None: ...

    def on_exchange_failed(self, exchange: Exchange, error: RequestError) -> None:
        """Nothing of a final response was written: the client gets an answer that says why."""

    def on_exchange_cut(self, exchange: Exchange, error: RequestError) -> None:
        """A response was begun and cannot be completed: the connection must be cut."""
