"""A small ASGI app, as uvicorn runs it: JSON of 1 KiB."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bench.workloads import APP_ANSWER_BYTES

Message = MutableMapping[str, Any]


def answer(path: str) -> bytes:
    """The path and a filler, as JSON of APP_ANSWER_BYTES."""
    text = json.dumps({"path": path, "filler": ""}).encode()
    return text[:-2] + b"x" * (APP_ANSWER_BYTES - len(text)) + text[-2:]


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    body = answer(scope["path"])
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
