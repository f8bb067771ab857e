"""The routes: overview, series, events, every Operation, the OpenAPI document, metrics and the page.

Turns HTTP into commands and answers into JSON. Who may ask is `guard`'s affair.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from fastlb.admin.events import Events, encoded
from fastlb.admin.metrics import render
from fastlb.admin.openapi import BASE, openapi
from fastlb.admin.operation import Operation
from fastlb.admin.operations import OPERATIONS
from fastlb.admin.reading import Source
from fastlb.admin.sampler import Sampler

log = logging.getLogger("fastlb.admin")

Answer = Mapping[str, Any]
Command = Callable[[Mapping[str, Any]], Answer | Awaitable[Answer]]
"""As at the control socket: from the request to the answer; a ValueError's text is why it cannot be."""

BODY_BYTES = 64 * 1024
WEB = Path(__file__).parent / "web"


class ApiError(Exception):
    """One request cannot be answered; the status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def json_response(value: object, status: int = 200) -> Response:
    return Response(encoded(value), status, media_type="application/json")


def error_response(status: int, why: str) -> Response:
    return json_response({"error": why}, status)


class Api:
    """All routes of one instance, as an ASGI app in `app`."""

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        events: Events,
        commands: Mapping[str, Command],
    ) -> None:
        self._source = source
        self._sampler = sampler
        self._events = events
        self._commands = commands
        self._scraping = asyncio.Lock()
        self._operations = tuple(one for one in OPERATIONS if one.command in commands)
        routes: list[BaseRoute] = [
            Route(f"{BASE}/overview", self._overview),
            Route(f"{BASE}/events", self._follow),
            Route(f"{BASE}/series", self._series),
            Route(f"{BASE}/openapi.json", self._openapi),
            *(self._route(one) for one in self._operations),
            Route("/metrics", self._metrics),
            Route("/", self._page),
            Mount("/static", StaticFiles(directory=WEB, check_dir=False)),
        ]
        self.app = Starlette(
            routes=routes,
            exception_handlers={
                ApiError: _on_api_error,
                HTTPException: _on_http_exception,
                Exception: _on_mistake,
            },
        )

    # -- looking

    async def _overview(self, request: Request) -> Response:
        return json_response(self._sampler.overview())

    async def _follow(self, request: Request) -> Any:
        if self._events.full:
            raise ApiError(503, "too many follow the events already")
        return self._events

    async def _series(self, request: Request) -> Response:
        scope = request.query_params.get("scope", "all")
        span = request.query_params.get("span", "5m")
        if span not in ("5m", "1h"):
            raise ApiError(400, f"span: expected 5m or 1h, got {json.dumps(span)}")
        found = self._sampler.series.answer(scope, span)
        if found is None:
            raise ApiError(
                404,
                f"scope: there is no {json.dumps(scope)}; expected all, listener:KEY, group:NAME, "
                "target:GROUP/ADDRESS or worker:INDEX",
            )
        return json_response(found)

    async def _metrics(self, request: Request) -> Response:
        # One at a time: scrapers may wait for each other, the supervisor for none.
        async with self._scraping:
            reading = self._source.read()
            accept = request.headers.get("accept", "")
            text, kind = await asyncio.to_thread(render, reading, self._source.buckets, accept)
        return Response(text, headers={"Content-Type": kind})

    async def _openapi(self, request: Request) -> Response:
        return json_response(openapi(self._operations, self._sampler.reading.version))

    async def _page(self, request: Request) -> Response:
        page = WEB / "index.html"
        if not page.exists():
            raise ApiError(404, f"the web page is not installed; the API is under {BASE}")
        return FileResponse(page)

    # -- operations

    def _route(self, operation: Operation) -> Route:
        async def answer(request: Request) -> Response:
            return await self._answer(operation, request)

        return Route(BASE + operation.path, answer, methods=[operation.method])

    async def _answer(self, operation: Operation, request: Request) -> Response:
        in_path = {name: str(value) for name, value in request.path_params.items()}
        try:
            given = await _given(operation, request)
            asked = operation.requests(in_path, given)
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        command = self._commands[operation.command]
        found: Answer = {}
        for one in asked:
            try:
                answer = command(one)
                found = await answer if inspect.isawaitable(answer) else answer
            except ValueError as error:
                unknown = any(
                    value not in self._source.names(name) for name, value in in_path.items()
                )
                raise ApiError(404 if unknown else 409, str(error)) from None
        return json_response(found)


async def _given(operation: Operation, request: Request) -> dict[str, object]:
    """What the query or the body says. Raises ValueError, ApiError."""
    if operation.method == "GET":
        names = [name for name, _ in request.query_params.multi_items()]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]}: is there twice")
        return dict(request.query_params)
    pieces = b""
    async for piece in request.stream():
        pieces += piece
        if len(pieces) > BODY_BYTES:
            raise ApiError(413, f"a body of over {BODY_BYTES} bytes")
    if not pieces.strip():
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "expected a body of application/json")
    try:
        given = json.loads(pieces)
    except (ValueError, RecursionError):
        raise ValueError("the body is no JSON") from None
    if not isinstance(given, dict):
        raise ValueError("expected a JSON object")
    return given


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error.status, str(error))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = error_response(error.status_code, f"{request.url.path}: {error.detail.lower()}")
    response.headers.update(error.headers or {})
    return response


async def _on_mistake(request: Request, error: Exception) -> Response:
    """Starlette raises it on for the log."""
    return error_response(500, "a mistake of fastlb; its log says which")
