"""fastlb as the first process of a PID namespace, which is what a container gives it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastlb.control_plane.zombies import Reaper, dead_children
from tests.support.fastlb import ROOT
from tests.support.processes import RUN_DIR_VARIABLE, wait_until
from tests.support.scaling import ScaledFastlb, group_of

UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
ORPHANS = """
import os, sys, time
for _ in range(3):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.3)  # its parent has ended by then: it is the first process's child
        os._exit(0)
    os.wait()
os.execv(sys.executable, [sys.executable, "-m", "fastlb.demo", "--uds", sys.argv[1]])
"""


def may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


class Contained(ScaledFastlb):
    """The process that is known is `unshare`, the parent of the first one in the namespace."""

    def popen(self, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*UNSHARE, *command], **options)  # type: ignore[call-overload, no-any-return]

    @property
    def pid(self) -> int:
        return 1

    @property
    def first(self) -> int:
        """Its pid outside."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(path.read_text().split()[0])


@pytest.mark.skipif(not may_unshare(), reason="no PID namespaces here")
def test_the_first_process_reaps_who_is_orphaned_and_stops_in_order(run_root: Path) -> None:
    command = [sys.executable, "-c", ORPHANS, "{socket}"]
    with Contained(run_root, group_of(command=command, min=1, max=1)) as fastlb:
        fastlb.wait_steady(1)
        first = fastlb.first

        def zombies() -> list[str]:
            children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
            stats = [Path(f"/proc/{pid}/stat").read_text() for pid in children]
            return [stat for stat in stats if stat.rpartition(")")[2].split()[0] == "Z"]

        wait_until(lambda: not zombies(), 30, "nobody is left unreaped")
        # The first process must stay, or the container ends.
        within = ["nsenter", "--target", str(first), "--pid", "--mount", f"--wd={ROOT}"]
        done = subprocess.run(
            [*within, sys.executable, "-m", "fastlb", "upgrade", "--name", "t"],
            cwd=ROOT,
            env=os.environ | {RUN_DIR_VARIABLE: str(fastlb.run_dir)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{done.stderr}\n{fastlb.log()}"
        assert "pid 1, has handed over" in done.stdout
        wait_until(lambda: not zombies(), 30, "nobody is left unreaped")
        os.kill(first, 15)
        assert fastlb.process.wait(30) == 0, fastlb.log()
        assert "Traceback" not in fastlb.log()


def test_who_is_waited_for_is_left_alone() -> None:
    awaited = subprocess.Popen(["true"])
    strange = subprocess.Popen(["true"])
    reaper = Reaper(lambda: {awaited.pid})
    wait_until(lambda: {awaited.pid, strange.pid} <= set(dead_children()), 30, "both have ended")
    assert reaper.look() == []
    assert reaper.look() == [strange.pid]
    assert reaper.look() == []
    assert awaited.wait() == 0
    strange.wait()  # as the standard library does it: somebody else took the status
