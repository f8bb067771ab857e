"""Serves one demo worker: `python -m fastlb.demo --uds PATH | --port N [--name NAME]`.

Knows uvicorn; what is answered is in `app`, how a worker misbehaves in `misbehaviour`.
"""

from __future__ import annotations

import argparse
import logging
import os
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fastlb.demo import misbehaviour
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


def where_to_listen(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Fill in the socket or the port from the environment where no flag says one."""
    if arguments.uds is not None or arguments.port is not None:
        return
    arguments.uds = os.environ.get("FASTLB_SOCKET") or None
    if arguments.uds is not None:
        return
    port = os.environ.get("PORT", "")
    if not (port.isascii() and port.isdigit()):
        parser.error(
            "nowhere to listen: give --uds PATH or --port N, or set FASTLB_SOCKET, or PORT to a number"
        )
    arguments.port = int(port)


def status(text: str) -> int:
    """An HTTP status of the command line."""
    if not (text.isascii() and text.isdigit() and 200 <= int(text) <= 599):
        raise argparse.ArgumentTypeError(f"{text!r} is no HTTP status: give 200 to 599")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastlb.demo",
        description="One demo worker. Without --uds and --port it listens on the unix socket "
        "$FASTLB_SOCKET, or else on the port $PORT of 127.0.0.1.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--uds", metavar="PATH", help="unix socket to listen on")
    where.add_argument("--port", type=int, metavar="N", help="port of 127.0.0.1 to listen on")
    parser.add_argument("--name", help="what the worker calls itself (default: demo-PID)")
    parser.add_argument(
        "--end-with-stdin",
        action="store_true",
        help="end at once when standard input is closed: the one who started this is gone",
    )
    parser.add_argument(
        "--version", metavar="TEXT", help="put TEXT into an x-demo-version header of every answer"
    )
    parser.add_argument(
        "--health-status",
        type=status,
        default=200,
        metavar="STATUS",
        help="what /health answers (default: 200); with 503 it never becomes healthy",
    )
    parser.add_argument(
        "--fail",
        type=status,
        metavar="STATUS",
        help="answer this to everything but /health, from the start until POST /fail?mode=off",
    )
    misbehaviour.add_arguments(parser)
    return parser


def main() -> None:
    parser = make_parser()
    arguments = parser.parse_args()
    where_to_listen(arguments, parser)
    name = arguments.name or f"demo-{os.getpid()}"
    misbehaviour.before_listening(arguments, name)
    if arguments.end_with_stdin:
        end_with_the_parent()
    logging.basicConfig(level=logging.WARNING)
    worker = Worker(name, arguments.version, arguments.health_status, arguments.fail)
    uvicorn.run(
        worker.app(),
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
