"""The demo app: what one worker answers, and how it fails when it is told to.

An ASGI app (Starlette), served by `fastlb.demo.__main__`. Bodies are streamed, never held whole.
Knows no balancer and no other worker.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, get_args

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from fastlb.demo.misbehaviour import burn, filled, resident_bytes

Mode = Literal["off", "status", "close", "hang", "health"]
MODES: tuple[str, ...] = get_args(Mode)
CONTROLS = frozenset({"/fail", "/kill"})
"""Paths that work whatever the worker was told, so that it can be told otherwise."""
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
CHUNK = bytes(range(256)) * 256
DROP = "fastlb.drop"
"""Name of the ASGI extension that holds a callable which drops the client's connection."""


@dataclass(slots=True)
class Told:
    """How the worker was told to fail. `left` counts the answers to fail yet; None is no end."""

    mode: str = "off"
    status: int = 500
    left: int | None = None

    def next_answer(self, path: str) -> str:
        """The mode of the next answer at `path`, counting it."""
        mode = self.mode
        if mode == "off" or path in CONTROLS or (mode == "health") != (path == "/health"):
            return "off"
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.mode = "off"
        return mode


class Worker:
    """The routes of one demo worker, and what it remembers.

    `version` is put into an x-demo-version header of every answer; `health_status` is what /health
    answers, and every other request gets `fail_status` where there is one, until told otherwise.
    """

    def __init__(
        self,
        name: str,
        version: str | None = None,
        health_status: int = 200,
        fail_status: int | None = None,
    ) -> None:
        self.name = name
        self.count = 0
        self.told = Told() if fail_status is None else Told("status", fail_status)
        self.health_status = health_status
        self.marks = {"x-demo-worker": name}
        if version is not None:
            self.marks["x-demo-version"] = version
        self.leaked: list[bytearray] = []

    def app(self) -> ASGIApp:
        """The whole ASGI app: the routes behind the failures and the marks of this worker."""
        return _Marked(
            Starlette(
                routes=[
                    Route("/", self.index, methods=METHODS),
                    Route("/health", self.health),
                    Route("/echo", self.echo, methods=METHODS),
                    Route("/echo/{rest:path}", self.echo, methods=METHODS),
                    Route("/slow", self.slow, methods=METHODS),
                    Route("/bytes/{size:int}", self.size_of_bytes),
                    Route("/stream", self.stream),
                    Route("/burn", self.burn, methods=METHODS),
                    Route("/leak", self.leak, methods=METHODS),
                    Route("/memory", self.memory),
                    Route("/fail", self.fail, methods=["POST"]),
                    Route("/kill", self.kill, methods=["POST"]),
                    WebSocketRoute("/ws", self.websocket),
                ]
            ),
            self,
        )

    def text(self) -> str:
        return f"{self.name} (pid {os.getpid()}) answers its request number {self.count}\n"

    async def index(self, request: Request) -> Response:
        return PlainTextResponse(self.text())

    async def health(self, request: Request) -> Response:
        well = self.health_status < 400
        return PlainTextResponse("ok\n" if well else "unwell\n", self.health_status)

    async def echo(self, request: Request) -> Response:
        """What arrived, as JSON; with `?raw=1` the body itself as it comes."""
        if request.query_params.get("raw") == "1":
            return _EchoedBody(request.headers.get("content-length"))
        answer: dict[str, object] = {
            "worker": self.name,
            "method": request.method,
            "path": request.scope["raw_path"].decode("latin-1"),
            "query": request.url.query,
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")]
                for name, value in request.headers.raw
            ],
        }
        length = 0
        digest = hashlib.sha256()
        async for piece in request.stream():
            length += len(piece)
            digest.update(piece)
        if request.method in ("POST", "PUT", "PATCH"):
            answer["length"] = length
            answer["sha256"] = digest.hexdigest()
        return JSONResponse(answer)

    async def slow(self, request: Request) -> Response:
        milliseconds = number(request, "ms", 1000, 0, 600_000)
        await asyncio.sleep(milliseconds / 1000)
        return PlainTextResponse(self.text())

    async def size_of_bytes(self, request: Request) -> Response:
        size = request.path_params["size"]
        return StreamingResponse(
            some_bytes(size),
            media_type="application/octet-stream",
            headers={"content-length": str(size)},
        )

    async def stream(self, request: Request) -> Response:
        """Server-sent events: `n` of them, `ms` apart."""
        n = number(request, "n", 10, 0, 1_000_000)
        milliseconds = number(request, "ms", 500, 0, 600_000)

        async def events() -> AsyncIterator[str]:
            for i in range(n):
                if i:
                    await asyncio.sleep(milliseconds / 1000)
                yield f"id: {i}\ndata: {self.name} sends event {i}\n\n"

        return StreamingResponse(
            events(), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def burn(self, request: Request) -> Response:
        """Uses `ms` milliseconds of CPU; others are answered meanwhile."""
        await burn(number(request, "ms", 100, 0, 600_000) / 1000)
        return PlainTextResponse(self.text())

    async def leak(self, request: Request) -> Response:
        """Keeps `mb` MiB more for good."""
        size = number(request, "mb", 10, 0, 100_000)
        self.leaked.append(filled(size))
        return PlainTextResponse(f"{self.name} (pid {os.getpid()}) keeps {size} MiB more\n")

    async def memory(self, request: Request) -> Response:
        """Its resident memory in bytes."""
        return PlainTextResponse(f"{resident_bytes()}\n")

    async def fail(self, request: Request) -> Response:
        """`mode`, `status` of the mode "status", and `times`: without it until `mode=off`."""
        mode = request.query_params.get("mode", "status")
        if mode not in MODES:
            return PlainTextResponse(f"mode is one of {', '.join(MODES)}\n", 400)
        status = number(request, "status", 500, 200, 599)
        times = number(request, "times", 0, 0, 1_000_000_000)
        self.told = Told(mode, status, times or None)
        until = f"for {times} answers" if times else "until mode=off"
        return PlainTextResponse(
            f"{self.name} (pid {os.getpid()}) fails with {mode} {until}\n"
            if mode != "off"
            else f"{self.name} (pid {os.getpid()}) is well again\n"
        )

    async def kill(self, request: Request) -> Response:
        return _LastWords(f"{self.name} (pid {os.getpid()}) kills itself\n")

    async def websocket(self, socket: WebSocket) -> None:
        """Echo."""
        await socket.accept(headers=[(b"x-demo-worker", self.name.encode())])
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if message.get("text") is not None:
                    await socket.send_text(message["text"])
                else:
                    await socket.send_bytes(message["bytes"])
        except WebSocketDisconnect:
            return


class _EchoedBody(Response):
    """Sends each piece of the request's body as it comes.

    Not a StreamingResponse: that one reads the requests' messages too, to notice a disconnect.
    """

    def __init__(self, length: str | None) -> None:
        super().__init__(media_type="application/octet-stream")
        del self.headers["content-length"]
        if length is not None:
            self.headers["content-length"] = length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message.get("more_body", False)
            piece = message.get("body", b"")
            await send({"type": "http.response.body", "body": piece, "more_body": more})


class _LastWords(PlainTextResponse):
    """Answers, then ends the process as a crash would: nothing is closed or said any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)
        os.kill(os.getpid(), signal.SIGKILL)


class _Marked:
    """Fails as told; else marks each answer with its worker and the request's own X-Request-Id."""

    def __init__(self, app: ASGIApp, worker: Worker) -> None:
        self.app = app
        self.worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        worker = self.worker
        mode = worker.told.next_answer(scope["path"])
        if mode == "close":
            scope["extensions"][DROP]()
        if mode in ("close", "hang"):
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if scope["path"] != "/health":
            worker.count += 1
        marks = dict(worker.marks)
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                marks["x-request-id"] = value.decode("latin-1")

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(marks)
            await send(message)

        if mode == "off":
            await self.app(scope, receive, marked)
        else:
            status = 503 if mode == "health" else worker.told.status
            answer = PlainTextResponse(f"{worker.name} was told to fail\n", status)
            await answer(scope, receive, marked)


async def some_bytes(size: int) -> AsyncIterator[bytes]:
    """`size` bytes in pieces: byte i is i modulo 256."""
    while size > 0:
        piece = CHUNK[:size]
        size -= len(piece)
        yield piece


def number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A whole number of the query, within its bounds; the default where there is none."""
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit()):
        return default
    return max(least, min(most, int(text[:12])))
