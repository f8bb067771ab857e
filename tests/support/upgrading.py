"""Upgrades in place as a user does them, and WebSockets that must live through them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.fastlb import ROOT, FastlbProcess
from tests.support.processes import RUN_DIR_VARIABLE, wait_until


def command(
    fastlb: FastlbProcess, *words: str, program: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`fastlb WORDS`, asked of the instance."""
    begin = [sys.executable, "-m", "fastlb"] if program is None else [str(program)]
    return subprocess.run(
        [*begin, *words],
        cwd=ROOT,
        env=os.environ | {RUN_DIR_VARIABLE: str(fastlb.run_dir), "FASTLB_NAME": fastlb.name},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )


def install(folder: Path, version: str) -> Path:
    """Another release in a folder of its own: the same code under another number. Its program."""
    shutil.copytree(
        ROOT / "fastlb", folder / "fastlb", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "fastlb" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    script = folder / "bin" / "fastlb"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\n"
        f"import sys\nsys.path.insert(0, {str(folder)!r})\n"
        "from fastlb.__main__ import main\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    script.chmod(0o755)
    return script


def upgrade(fastlb: FastlbProcess, program: Path | None = None) -> int:
    """`fastlb upgrade`, of another release where there is a program; the pid of the supervisor that
    serves after it."""
    old = fastlb.status()["pid"]
    done = command(fastlb, "upgrade", program=program)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{fastlb.log()}"
    status: dict[str, Any] = fastlb.status()
    assert status["pid"] != old
    assert all(one["state"] == "running" for one in status["workers"])
    return int(status["pid"])


class WebSockets:
    """`count` WebSockets to the demo app, on each of which a message is echoed again and again.

    with WebSockets(port, 50) as sockets:
        ...
        sockets.wait_round()
    assert not sockets.failures
    """

    def __init__(self, port: int, count: int, pause: float = 0.1) -> None:
        self.failures: list[str] = []
        self.echoed = [0] * count
        self._port = port
        self._pause = pause
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> WebSockets:
        self._thread.start()
        self.wait_round()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(30)

    def wait_round(self, seconds: float = 30.0) -> None:
        """Until each has sent and got another message, or one has failed."""
        before = list(self.echoed)

        def all_on() -> bool:
            return bool(self.failures) or all(
                now > then for now, then in zip(self.echoed, before, strict=True)
            )

        wait_until(all_on, seconds, "an echo on each WebSocket")
        assert not self.failures, self.failures

    async def _run(self) -> None:
        await asyncio.gather(*(self._talk(n) for n in range(len(self.echoed))))

    async def _talk(self, n: int) -> None:
        try:
            async with connect(f"ws://127.0.0.1:{self._port}/ws", open_timeout=30) as one:
                while not self._ending.is_set():
                    await self._echo(one, n)
                    await asyncio.sleep(self._pause)
        except Exception as error:  # noqa: BLE001  whatever it was is the finding
            self.failures.append(f"{n}: {error!r}")

    async def _echo(self, one: ClientConnection, n: int) -> None:
        text = f"{n}-{self.echoed[n]}"
        await one.send(text)
        async with asyncio.timeout(20):
            answer = await one.recv()
        if answer != text:
            raise AssertionError(f"sent {text}, got {answer!r}")
        self.echoed[n] += 1
