"""What an Exchange keeps of a request's time."""

from __future__ import annotations

from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pytest

from fastlb.data_plane.forwarding import Exchange


def test_a_wait_that_seems_longer_than_it_was_makes_no_negative_latency(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A queue of held requests goes by the loop's clock, which is a little behind."""
    target = SimpleNamespace(begin_held=lambda _seconds: None)
    group: Any = SimpleNamespace(pick=lambda _client, _tried: target)
    client: Any = SimpleNamespace(client_ip="192.0.2.1")
    head: Any = SimpleNamespace()
    monkeypatch.setattr(Exchange, "_give_to", lambda _self, _target: None)
    exchange = Exchange(client, head, group, 0, b"")
    began = exchange.began
    exchange.on_released(0.0)
    assert exchange.began == began
    exchange.on_released(10.0)
    assert began <= exchange.began <= perf_counter()
