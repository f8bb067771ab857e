"""How a demo worker misbehaves as a process, rather than in what it answers.

For whoever wants to see what becomes of an instance that starts slowly, crashes, ignores signals,
leaves children behind, burns CPU or leaks. Knows neither uvicorn nor the app.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
CRASH_STATUS = 3
SLICE_SECONDS = 0.002
MIB = 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `before_listening`."""
    parser.add_argument(
        "--start-delay",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="listen only after this time: a slow start",
    )
    parser.add_argument(
        "--crash-at-start",
        action="store_true",
        help=f"print a few lines to standard error and exit with status {CRASH_STATUS}, after the "
        "start delay, without ever listening",
    )
    parser.add_argument(
        "--ignore-term",
        action="store_true",
        help="ignore SIGTERM and SIGINT: only SIGKILL ends it",
    )
    parser.add_argument(
        "--fork",
        type=int,
        default=0,
        metavar="N",
        help="start N idle child processes, which live on when the worker dies and end by a signal only",
    )
    parser.add_argument(
        "--print-every",
        type=float,
        metavar="SECONDS",
        help="print a line to standard output every so often",
    )


def before_listening(arguments: argparse.Namespace, name: str) -> None:
    """Do as the flags say. To be called before there are threads: it may fork."""
    for _ in range(arguments.fork):
        if os.fork() == 0:
            _idle()
    if arguments.ignore_term:
        # Blocked, not ignored: uvicorn sets handlers of its own, which then are never called.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    if arguments.print_every is not None:
        threading.Thread(
            target=_print_on, args=(name, arguments.print_every), name="prints", daemon=True
        ).start()
    time.sleep(arguments.start_delay)
    if arguments.crash_at_start:
        print(f"{name} (pid {os.getpid()}) was told to crash at its start:", file=sys.stderr)
        print("  a setting that it needs is missing", file=sys.stderr)
        print(f"  it exits with status {CRASH_STATUS}", file=sys.stderr)
        sys.exit(CRASH_STATUS)


def _idle() -> NoReturn:
    while True:
        signal.pause()


def _print_on(name: str, seconds: float) -> None:
    number = 0
    while True:
        number += 1
        try:
            print(f"{name} (pid {os.getpid()}) prints line {number}", flush=True)
        except OSError:
            return  # nobody reads
        time.sleep(seconds)


async def burn(seconds: float) -> None:
    """Use that much CPU time of this thread, in slices between which others get their turn."""
    while seconds > 0:
        start = time.thread_time()
        while (used := time.thread_time() - start) < SLICE_SECONDS:
            sum(range(500))
        seconds -= used
        await asyncio.sleep(0)


def filled(mebibytes: int) -> bytearray:
    """So much memory, written to, so that it is resident."""
    return bytearray(b"\x01") * (mebibytes * MIB)


def resident_bytes() -> int:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
