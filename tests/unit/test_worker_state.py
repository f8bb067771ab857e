"""What a worker's connections share: the end of the loop's turn, at which all that was written leaves."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from fastlb.data_plane.worker_state import WorkerState
from fastlb.target_table.counters import Counters


class Sender:
    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.sent = 0

    def send_now(self) -> None:
        self.sent += 1
        if self.fails:
            raise RuntimeError("a bug")


def test_a_sender_that_fails_keeps_no_other_from_sending() -> None:
    loop = asyncio.new_event_loop()
    failures: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    pipe, other = socket.socketpair()
    with pipe, other:
        state = WorkerState(loop, Counters(), 0, pipe, lambda: None)
        senders = [Sender(fails) for fails in (False, True, True, False, True, False)]
        for sender in senders:
            state.reactor.send_soon(sender)
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.close()
    assert [sender.sent for sender in senders] == [1] * 6
    assert len(failures) == 3
