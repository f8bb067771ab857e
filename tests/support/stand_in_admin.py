"""An admin server without a balancer: it answers what the real one would, with figures of its own.

For the viewers alone: the page and `fastlb top`. What is asked of it by actions is kept in `asked` and
changes what it shows next, so that a viewer's way from a key to a changed table can be seen.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.support.fastlb import ROOT
from tests.support.processes import wait_until

WEB = ROOT / "fastlb" / "admin" / "web"
HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
LOCKED = JSONResponse({"error": "a token is needed"}, 401)


class World:
    """What the stand-in shows: two listeners, some groups and targets, one auto scaling group."""

    def __init__(self, targets: int = 6, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self.started = time.time() - 93_784
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.desired = 3
        self.locked = False
        """Every request is answered by 401, and the stream ends."""
        self.refusal = ""
        """What actions are refused with."""
        self.suspended: list[str] = []
        self.overrides: dict[str, str] = {}
        self.weights: dict[str, int] = {}
        self.protected: set[str] = set()
        self.standby: set[str] = set()
        self.plain_targets = [f"10.0.{n // 250}.{n % 250 + 1}:9000" for n in range(targets)]
        self.decisions: list[dict[str, Any]] = []
        self.latency_known = True
        """Of the HTTP listener: whether no other one has its groups."""
        self.activities: list[dict[str, Any]] = []
        causes = ("cpu 71.2 was over 60 for 3 datapoints", "cpu 44 was under 54 for 15 datapoints")
        for n in range(14):
            up = n % 2 == 0
            at = time.time() - 3400 + n * 230
            self._decide(at, "scaling", "web", f"desired {3 - up} to {2 + up}", causes[not up])
            what = f"launch i-0000000{n:x}" if up else f"end i-0000000{n - 1:x}"
            self._act(at + 1, what, causes[not up], "in service after 0.8 s" if up else "done")
        self._decide(
            time.time() - 40,
            "health",
            "10.0.0.2:9000",
            "unhealthy",
            "connection refused, 3 in a row",
        )

    def _decide(self, at: float, kind: str, subject: str, what: str, cause: str) -> None:
        self.decisions.append(
            {
                "number": len(self.decisions) + 1,
                "at": at,
                "kind": kind,
                "subject": subject,
                "what": what,
                "cause": cause,
                "inputs": {},
                "outcome": "",
                "ended": None,
            }
        )

    def _act(self, at: float, what: str, cause: str, outcome: str) -> None:
        self.activities.append(
            {
                "number": len(self.activities) + 1,
                "at": at,
                "kind": "activity",
                "subject": "web",
                "what": what,
                "cause": cause,
                "inputs": {},
                "outcome": outcome,
                "ended": at + 2,
            }
        )

    # -- figures

    def rates(self, per_second: float, at: float, p50: float | None = 3.1) -> dict[str, Any]:
        """A slow wave with some noise, the same for the same moment."""
        noise = random.Random(round(at)).random()
        wave = 1 + 0.35 * math.sin(at / 97) + 0.15 * math.sin(at / 13) + 0.12 * noise
        requests = per_second * wave
        burst = 6.0 if 0 <= at % 900 < 25 else 1.0
        slow = 1 + 0.5 * noise + (0.8 if burst > 1 else 0)
        return {
            "requests_per_s": round(requests, 1),
            "status": {
                "1xx": 0.0,
                "2xx": round(requests * 0.95, 1),
                "3xx": round(requests * 0.02, 1),
                "4xx": round(requests * 0.024, 1),
                "5xx": round(requests * 0.004 * burst, 2),
            },
            "errors_per_s": round(requests * 0.001 * burst, 2),
            "retries_per_s": round(requests * 0.002 * burst, 2),
            "p50_s": None if p50 is None else round(p50 * slow / 1e3, 6),
            "p95_s": None if p50 is None else round(p50 * 4.2 * slow / 1e3, 6),
            "p99_s": None if p50 is None else round(p50 * 9.7 * slow / 1e3, 6),
            "in_flight": round(requests * 0.009 * slow),
            "bytes_in_per_s": round(requests * 410),
            "bytes_out_per_s": round(requests * 5300),
            "requests_total": int((at - self.started) * per_second),
        }

    def target(self, address: str, group: str, n: int, at: float, instance: str | None) -> Any:
        state, reason = "healthy", "check passed"
        override = self.overrides.get(address)
        if override == "draining":
            state, reason = "draining", "drained by an operator"
        elif override == "disabled":
            state, reason = "disabled", "disabled by an operator"
        elif n % 17 == 1 and instance is None:
            state, reason = "unhealthy", "GET /health: connection refused, 3 in a row"
        serves = state == "healthy"
        figures = self.rates(70.0 - n % 9 * 4 if serves else 0.0, at + n * 7, 2.6 + n % 5 * 0.4)
        figures["status"] = {"5xx": figures["status"]["5xx"]}
        return {
            "group": group,
            "address": address,
            "instance": instance,
            "state": state,
            "suspect": serves and n % 23 == 5,
            "reason": reason,
            "since_s": 40.0 + n * 13,
            "weight": self.weights.get(address, 1),
            "backup": n % 19 == 18,
            "connections": 0 if not serves else 4 + n % 5,
            "override": override,
            **figures,
        }

    def instance_ids(self) -> list[str]:
        return [f"i-{0x3F0A91C0 + n * 7919:08x}" for n in range(self.desired)]

    def overview(self) -> dict[str, Any]:
        at = time.time()
        ids = self.instance_ids()
        socket = "unix:/run/fastlb/shop/{}/app.sock"
        targets = [self.target(one, "api", n, at, None) for n, one in enumerate(self.plain_targets)]
        targets += [
            self.target(socket.format(id), "web", n, at, id)
            for n, id in enumerate(ids)
            if id not in self.standby
        ]
        served: dict[str, Any] = {id: {} for id in ids}
        served |= {one["instance"]: one for one in targets if one["instance"]}
        bad = sum(one["state"] != "healthy" for one in targets)
        total = self.rates(412.0, at)
        return {
            "time": at,
            "name": "shop",
            "version": "0.1.0",
            "uptime_s": at - self.started,
            "draining": False,
            "pid": 4242,
            "host": {
                "cpu_percent": 37.5 + 10 * math.sin(at / 31),
                "memory_percent": 41.0,
                "cores": 8,
            },
            "totals": {**total, "connections": 64},
            "listeners": [
                {
                    "key": "http://0.0.0.0:8080",
                    "protocol": "http",
                    "rules": 4,
                    "connections": 58,
                    "latency_known": self.latency_known,
                    **self.rates(410.0, at),
                },
                {
                    "key": "tcp://127.0.0.1:5432",
                    "protocol": "tcp",
                    "rules": 0,
                    "connections": 6,
                    "latency_known": False,
                    **self.rates(0.6, at, None),
                },
            ],
            "groups": [
                {
                    "name": "api",
                    "algorithm": "least_outstanding_requests",
                    "fail_open": False,
                    "healthy": len(self.plain_targets) - bad,
                    "targets": len(self.plain_targets),
                    "held": 0,
                    **self.rates(290.0, at),
                },
                {
                    "name": "web",
                    "algorithm": "round_robin",
                    "fail_open": False,
                    "healthy": len(ids),
                    "targets": len(ids),
                    "held": 0,
                    **self.rates(122.0, at),
                },
            ],
            "targets": targets,
            "auto_scaling": [self.scaling(at)],
            "instances": [
                {
                    "id": id,
                    "group": "web",
                    "health": "healthy",
                    "pid": 7000 + n,
                    "state": "standby" if id in self.standby else "in_service",
                    "address": socket.format(id),
                    "cpu_percent": 48.0 + n,
                    "age_s": 700 - n * 60,
                    "rss_bytes": 83_400_000 + n * 900_000,
                    "protected": id in self.protected,
                    "template_version": 3,
                    "reason": "",
                    **{key: served[id].get(key) for key in ("p50_s", "p95_s", "p99_s")},
                }
                for n, id in enumerate(ids)
            ],
            "workers": [
                {
                    "index": n,
                    "pid": 4300 + n,
                    "state": "running",
                    "connections": 30 + n,
                    "cpu_percent": 21.5 + n,
                    "rss_bytes": 29_300_000,
                    "accepted_per_s": 3.2,
                    **self.rates(206.0, at + n),
                }
                for n in range(2)
            ],
        }

    def scaling(self, at: float) -> dict[str, Any]:
        value = 52 + 12 * math.sin(at / 97)
        policy = {"name": "cpu", "metric": "cpu", "value": value, "target": 60.0, "unit": "%"}
        last = self.decisions[-2]
        return {
            "name": "web",
            "target_group": "web",
            "desired": self.desired,
            "min": 2,
            "max": 8,
            "in_service": self.desired - len(self.standby),
            "pending": 0,
            "terminating": 0,
            "standby": len(self.standby),
            "policies": [policy],
            "suspended": self.suspended,
            "last_decision": {"time": last["at"], "what": last["what"], "cause": last["cause"]},
            "refresh": None,
        }

    def series(self, scope: str, span: str) -> dict[str, Any]:
        step, points = (10, 360) if span == "1h" else (1, 300)
        end = math.floor(time.time() / step) * step
        times = [end - step * (points - 1 - n) for n in range(points)]
        found = [self.rates(412.0 if scope == "all" else 120.0, at) for at in times]
        series: dict[str, list[float | None]] = {
            "requests": [one["requests_per_s"] for one in found],
            "errors_4xx": [one["status"]["4xx"] for one in found],
            "errors_5xx": [one["status"]["5xx"] for one in found],
            "connections": [64.0 for _ in found],
            **{
                key: [one[key] for one in found] for key in ("p50_s", "p95_s", "p99_s", "in_flight")
            },
        }
        for name in series:  # it was not there yet for the first minutes
            series[name][: points // 9] = [None] * (points // 9)
        if scope == "group:web":
            steps = [2 + round(1.4 + 1.4 * math.sin((at - 160) / 97)) for at in times]
            series["desired"] = [float(one) for one in steps]
            series["in_service"] = [float(one) for one in [steps[0], *steps[:-1]]]
            series["metric"] = [52 + 12 * math.sin(at / 97) for at in times]
        return {"step": step, "end": end, "series": series}

    # -- actions

    def act(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        self.asked.append((path, body))
        if self.refusal:
            return 409, {"error": self.refusal}
        what = path.split("/")
        if what[0] == "targets":
            return self._act_on_target(what[1], body)
        if what[0] == "auto-scaling-groups":
            return self._act_on_group(what[2], body)
        if what[0] == "instances":
            return self._act_on_instance(what[1], what[2], body)
        return 200, {"said": "reloaded: nothing has changed"}

    def _act_on_target(self, what: str, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        address = body["target"]
        known = {one["address"] for one in self.overview()["targets"]}
        if address not in known:
            return 404, {"error": f"no target {address}"}
        if what == "weight":
            self.weights[address] = body["weight"]
        elif what in ("undrain", "enable"):
            self.overrides.pop(address, None)
        else:
            self.overrides[address] = {"drain": "draining", "disable": "disabled"}[what]
        return 200, {"said": f"{what} {address}: done"}

    def _act_on_group(self, what: str, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        if what == "scale":
            if not 2 <= body["desired"] <= 8:
                return 400, {"error": f"desired: expected 2 to 8, got {body['desired']}"}
            self.desired = body["desired"]
        elif what == "suspend":
            self.suspended = sorted({*self.suspended, *body["processes"]})
        elif what == "resume":
            self.suspended = [one for one in self.suspended if one not in body["processes"]]
        return 200, {"said": f"web: {what} {json.dumps(body)}"}

    def _act_on_instance(
        self, id: str, what: str, body: dict[str, Any]
    ) -> tuple[int, dict[str, str]]:
        if what == "standby":
            self.standby.add(id)
        elif what == "return":
            self.standby.discard(id)
        elif what == "protect":
            self.protected.symmetric_difference_update({id})
        return 200, {"said": f"{id}: {what} is done"}


class _Headers:
    """Sets what the real server sets, so that the page is seen under the same rules."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, add)


def make_app(world: World) -> Starlette:
    async def overview(request: Request) -> Response:
        return LOCKED if world.locked else JSONResponse(world.overview())

    async def events(request: Request) -> Response:
        if world.locked:
            return LOCKED

        async def stream() -> AsyncIterator[str]:
            yield "retry: 200\n\n"
            while not world.locked:
                yield f"event: overview\ndata: {json.dumps(world.overview())}\n\n"
                await asyncio.sleep(1)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def series(request: Request) -> Response:
        asked = request.query_params
        return JSONResponse(world.series(asked.get("scope", "all"), asked.get("span", "5m")))

    async def activity(request: Request) -> Response:
        return JSONResponse({"entries": world.activities, "newest": len(world.activities)})

    async def decisions(request: Request) -> Response:
        return JSONResponse({"entries": world.decisions, "newest": len(world.decisions)})

    async def act(request: Request) -> Response:
        status, answer = world.act(request.path_params["path"], await request.json())
        return JSONResponse(answer, status)

    async def index(request: Request) -> Response:
        return FileResponse(WEB / "index.html")

    return Starlette(
        routes=[
            Route("/", index),
            Route("/api/v1/overview", overview),
            Route("/api/v1/events", events),
            Route("/api/v1/series", series),
            Route("/api/v1/activity", activity),
            Route("/api/v1/decisions", decisions),
            Route("/api/v1/{path:path}", act, methods=["POST"]),
            Mount("/static", StaticFiles(directory=WEB)),
        ],
        middleware=[Middleware(_Headers)],
    )


class StandInAdmin:
    """Serves a World on a port of 127.0.0.1, or at a unix socket, in a thread."""

    def __init__(self, world: World, path: Path | None = None, port: int = 0) -> None:
        self.world = world
        config = uvicorn.Config(
            make_app(world),
            host="127.0.0.1",
            port=port,
            uds=str(path) if path else None,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started, 30, "the stand-in's start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.force_exit = True
        self._server.should_exit = True
        self._thread.join(20)

    @property
    def url(self) -> str:
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"


def main() -> None:
    """`python -m tests.support.stand_in_admin [PORT] [TARGETS]`, to look at the page by hand."""
    import sys

    port, targets = (*map(int, sys.argv[1:]), *(9900, 6)[len(sys.argv) - 1 :])
    with StandInAdmin(World(targets), port=port) as admin:
        print(admin.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
