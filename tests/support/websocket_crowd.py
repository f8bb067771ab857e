"""Many WebSockets in a thread of their own, each asking and checking its own echo, for as long as wanted."""

from __future__ import annotations

import asyncio
import threading
import time
from types import TracebackType

import websockets.exceptions
from websockets.asyncio.client import ClientConnection, connect


class WebSocketCrowd:
    """`count` connections to `url`; each sends a message every `pause` seconds and takes its echo.

    `cut` holds what ended before it should, or answered wrongly: nothing, where all is well.
    """

    def __init__(self, url: str, count: int, pause: float = 0.2) -> None:
        self.cut: list[str] = []
        self.messages = 0
        self._url, self._count, self._pause = url, count, pause
        self._open = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> WebSocketCrowd:
        self._thread.start()
        assert self._open.wait(30), f"{self._count} WebSockets are not open: {self.cut}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> list[str]:
        """Close all; what was cut before."""
        self._stopping = True
        self._thread.join(30)
        return self.cut

    async def _run(self) -> None:
        try:
            found = [await connect(self._url, open_timeout=20) for _ in range(self._count)]
        except (OSError, websockets.exceptions.WebSocketException) as error:
            self.cut.append(f"could not be opened: {error!r}")
            return
        self._open.set()
        await asyncio.gather(*(self._talk(number, one) for number, one in enumerate(found)))

    async def _talk(self, number: int, one: ClientConnection) -> None:
        begun, said = time.monotonic(), 0
        try:
            while not self._stopping:
                said += 1
                text = f"{number}-{said}"
                await one.send(text)
                answer = await asyncio.wait_for(one.recv(), 20)
                if answer != text:
                    self.cut.append(f"{number}: said {text}, heard {answer!r}")
                self.messages += 1
                await asyncio.sleep(self._pause)
            await one.close()
        except (OSError, TimeoutError, websockets.exceptions.WebSocketException) as error:
            lived = time.monotonic() - begun
            self.cut.append(f"{number} after {lived:.1f} s and {said} messages: {error!r}")
