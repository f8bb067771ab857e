"""The table of workloads: what is set up, what is asked, and what fastlb should reach.

Goals are those of one worker on one core, against the best peer of the same rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bench.loads import Bulk, Hold, Load, PingPong, Wrk
from bench.proxies import Setup

KIB, MIB = 1024, 1 << 20
FILES = (64 * KIB, 10 * MIB)
"""Sizes of the files that the nginx target has: /bytes/SIZE, as the demo's are."""
PEERS = ("nginx", "haproxy")
"""Whom fastlb is held against; Caddy is shown beside them."""
APP_ANSWER_BYTES = 1024
IDLE_CONNECTIONS = 5000


@dataclass(frozen=True, slots=True)
class Goal:
    """`rate`: requests/s over those of the best of `peers`, at least. `cost`: CPU a request over that of
    the workload's `base`, at most. `idle_bytes`: bytes a connection, at most."""

    kind: Literal["rate", "cost", "idle_bytes"]
    bound: float
    peers: tuple[str, ...] = PEERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`base` is a second setup of fastlb in the same rounds, for what the difference costs.

    `pinned`: the proxy on one core, client and targets on the others; "unpinned" workloads have one
    worker a core. `direct`: the client can reach
    the target without a proxy. `fresh`: proxies are started anew for each round.
    """

    name: str
    title: str
    load: Load
    setup: Setup = field(default_factory=Setup)
    unit: Literal["requests", "round trips", "MB"] = "requests"
    base: Setup | None = None
    base_title: str = ""
    goal: Goal | None = None
    pinned: bool = True
    direct: bool = True
    fresh: bool = False


_LAST_RULE = "/api/99/items"

WORKLOADS = (
    Workload(name="get", title="minimal GET", load=Wrk(), goal=Goal("rate", 1.00)),
    Workload(
        name="get-1",
        title="minimal GET, 1 connection",
        load=Wrk(connections=1),
    ),
    Workload(
        name="browser",
        title="browser-like GET",
        load=Wrk(path="/shop/items/1?page=2&sort=price", browser=True),
        goal=Goal("rate", 1.00),
    ),
    Workload(
        name="pages",
        title="browser-like GET, each head another",
        load=Wrk(path="/differs/1", browser=True, pages=True),
    ),
    Workload(
        name="post-4k",
        title="POST 4 KiB",
        load=Wrk(path="/echo", body_bytes=4 * KIB),
        goal=Goal("rate", 0.95),
    ),
    Workload(
        name="response-64k",
        title="64 KiB response",
        load=Wrk(path=f"/bytes/{FILES[0]}", answer_bytes=FILES[0]),
        goal=Goal("rate", 1.10),
    ),
    Workload(
        name="response-10m",
        title="10 MiB response, 8 connections",
        load=Wrk(path=f"/bytes/{FILES[1]}", connections=8, answer_bytes=FILES[1]),
        goal=Goal("rate", 1.00),
    ),
    Workload(
        name="upload-1m",
        title="1 MiB upload, 8 connections",
        load=Wrk(path="/echo", connections=8, body_bytes=MIB, answer=str(MIB).encode()),
        setup=Setup(target="sink"),
        goal=Goal("rate", 1.00),
    ),
    Workload(
        name="new-connection",
        title="new connection per request",
        load=Wrk(fields=(("Connection", "close"),)),
        goal=Goal("rate", 0.95),
    ),
    Workload(
        name="idle-1000",
        title="minimal GET, 936 idle connections",
        load=Wrk(idle=936),
    ),
    Workload(
        name="rules-100",
        title="100 rules, the last one matches",
        load=Wrk(path=_LAST_RULE),
        setup=Setup(rules=100),
        base=Setup(rules=1),
        base_title="fastlb, 1 rule",
        goal=Goal("cost", 1.03),
        direct=False,
    ),
    Workload(
        name="targets-100",
        title="100 targets",
        load=Wrk(),
        setup=Setup(target_count=100),
        base=Setup(),
        base_title="fastlb, 1 target",
        goal=Goal("cost", 1.03),
        direct=False,
    ),
    Workload(
        name="unix",
        title="minimal GET, unix-socket target",
        load=Wrk(),
        setup=Setup(target="nginx-unix"),
        goal=Goal("rate", 1.00, peers=("nginx",)),
        direct=False,
    ),
    Workload(
        name="tcp-1",
        title="TCP ping-pong, 1 connection",
        load=PingPong(1),
        setup=Setup(mode="tcp", target="echo"),
        unit="round trips",
    ),
    Workload(
        name="tcp-64",
        title="TCP ping-pong, 64 connections",
        load=PingPong(64),
        setup=Setup(mode="tcp", target="echo"),
        unit="round trips",
        goal=Goal("rate", 0.90),
    ),
    Workload(
        name="tcp-bulk",
        title="TCP bulk, 1 connection",
        load=Bulk(),
        setup=Setup(mode="tcp", target="bulk"),
        unit="MB",
        goal=Goal("rate", 1.00),
    ),
    Workload(
        name="websocket",
        title="WebSocket echo, 64 connections",
        load=PingPong(64, websocket=True),
        setup=Setup(target="websocket"),
        unit="round trips",
    ),
    Workload(
        name="access-log",
        title="minimal GET, access log on",
        load=Wrk(),
        setup=Setup(access_log=True),
        base=Setup(),
        base_title="fastlb, no log",
        goal=Goal("cost", 1.08),
        direct=False,
    ),
    Workload(
        name="app",
        title="uvicorn with a small app",
        load=Wrk(path="/", answer_bytes=APP_ANSWER_BYTES),
        setup=Setup(target="app"),
    ),
    Workload(
        name="get-unpinned",
        title="minimal GET, unpinned",
        load=Wrk(),
        setup=Setup(workers=0),
        base=Setup(),
        base_title="fastlb, 1 worker",
        goal=Goal("cost", 1.05),
        pinned=False,
    ),
    Workload(
        name="browser-unpinned",
        title="browser-like GET, unpinned",
        load=Wrk(path="/shop/items/1?page=2&sort=price", browser=True),
        setup=Setup(workers=0),
        pinned=False,
    ),
    Workload(
        name="response-64k-unpinned",
        title="64 KiB response, unpinned",
        load=Wrk(path=f"/bytes/{FILES[0]}", answer_bytes=FILES[0]),
        setup=Setup(workers=0),
        pinned=False,
    ),
    Workload(
        name="new-connection-unpinned",
        title="new connection each, unpinned",
        load=Wrk(fields=(("Connection", "close"),)),
        setup=Setup(workers=0),
        pinned=False,
    ),
    Workload(
        name="idle-memory",
        title=f"memory of {IDLE_CONNECTIONS:,} idle connections",
        load=Hold(IDLE_CONNECTIONS),
        goal=Goal("idle_bytes", 1536),
        direct=False,
        fresh=True,
    ),
)
QUICK = ("get", "browser", "post-4k", "response-64k", "new-connection", "tcp-64")
"""What `--quick` runs: the ways through the data plane that differ most."""
