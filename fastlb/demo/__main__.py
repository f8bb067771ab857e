"""Serves one demo worker: `python -m fastlb.demo --uds PATH | --port N [--name NAME]`.

Knows uvicorn; what is answered is in `app`.
"""

from __future__ import annotations

import argparse
import logging
import os
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fastlb.demo.app import DROP, Worker


class DemoProtocol(HttpToolsProtocol):
    """Lets the app drop its client's connection, for which ASGI has no word."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["extensions"] = {DROP: self.transport.abort}


def end_with_the_parent() -> None:
    """End at once when standard input is at its end: it is a pipe whose other end the parent holds.

    Holds however the parent ends, and, unlike PR_SET_PDEATHSIG, whichever thread of it started us.
    """

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fastlb.demo", description="One demo worker.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--uds", metavar="PATH", help="unix socket to listen on")
    where.add_argument("--port", type=int, metavar="N", help="port of 127.0.0.1 to listen on")
    parser.add_argument("--name", help="what the worker calls itself (default: its pid)")
    parser.add_argument(
        "--end-with-stdin",
        action="store_true",
        help="end at once when standard input is closed: the one who started this is gone",
    )
    arguments = parser.parse_args()
    if arguments.end_with_stdin:
        end_with_the_parent()
    logging.basicConfig(level=logging.WARNING)
    name = arguments.name or f"demo-{os.getpid()}"
    uvicorn.run(
        Worker(name).app(),
        uds=arguments.uds,
        host="127.0.0.1",
        port=arguments.port or 0,
        http=DemoProtocol,
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
