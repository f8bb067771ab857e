"""Signals that come before an instance can act on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.processes import wait_until


def test_a_signal_in_the_first_moment_ends_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastlb", "run", "--name", "early", "--workers", "1"]
    command += [
        "--listen",
        "http://127.0.0.1:0",
        "--target",
        "127.0.0.1:9",
        "--drain-timeout",
        "1s",
    ]
    environment = {**os.environ, "FASTLB_RUN_DIR": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, start_new_session=True)
    try:
        blocked = Path(f"/proc/{process.pid}/status")

        def waits() -> bool:
            line = next(one for one in blocked.read_text().splitlines() if one.startswith("SigBlk"))
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGHUP - 1))

        wait_until(waits, 30, "the signals wait")
        for number in (signal.SIGHUP, signal.SIGUSR1):
            process.send_signal(number)
        wait_until(lambda: (tmp_path / "early" / "control.sock").exists(), 30, "it has started")
        wait_until(lambda: "reload:" in (tmp_path / "log").read_text(), 30, "it has reloaded")
        wait_until(lambda: "listening on" in (tmp_path / "log").read_text(), 30, "it listens")
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(30) == 0, time.monotonic()
