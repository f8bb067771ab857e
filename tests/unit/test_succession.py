"""What two supervisors say to each other, with an owner that only notes what is done with it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fastlb.control_plane import successor
from fastlb.control_plane.predecessor import Predecessor, refuse_other_number
from fastlb.control_plane.successor import Succession
from fastlb.control_plane.upgrade import Upgrade, without
from fastlb.errors import FastlbError
from fastlb.target_table import handover

ROOT = Path(__file__).parents[2]
HEIR = """
import asyncio, os, sys, time
from fastlb.control_plane.predecessor import Predecessor
predecessor = Predecessor.ask("t")
assert predecessor is not None
run_dir, estate = predecessor.take()
word = sys.argv[1]
if word == "hang":
    time.sleep(60)
if word == "crash":
    os._exit(3)
if word == "fail":
    predecessor.fail("no such luck")
    sys.exit(1)
print(asyncio.run(predecessor.take_charge()))
predecessor.close()
"""
"""A new supervisor that does nothing but talk, as a process, since it may be killed."""


class Owner:
    def __init__(self) -> None:
        self.did: list[str] = []
        self.refusal = ""

    def why_not(self, pid: int) -> str:
        return self.refusal

    async def freeze(self) -> tuple[dict[str, Any], list[int]]:
        self.did.append("freeze")
        return {"listeners": {}}, [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]

    async def take_back(self, why: str) -> None:
        self.did.append(f"take back: {why}")

    def hand_over(self, pid: int) -> dict[str, Any]:
        self.did.append("hand over")
        return {"wanted": ["web"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTLB_RUN_DIR", str(tmp_path))
    (tmp_path / "t").mkdir(mode=0o700)
    return tmp_path / "t"


async def heir(word: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", HEIR, word, cwd=ROOT, stdout=subprocess.PIPE
    )


def talk(folder: Path, *words: str) -> tuple[Owner, Succession, list[int | None], str]:
    """One new supervisor after the other, each doing what its word says."""
    owner, said = Owner(), ""
    codes: list[int | None] = []
    files = len(os.listdir("/proc/self/fd"))

    async def run() -> Succession:
        nonlocal said
        succession = Succession(folder / "takeover.sock", owner)
        succession.start()
        for word in words:
            process = await heir(word)
            output, _ = await process.communicate()
            said += output.decode()
            codes.append(process.returncode)
            async with asyncio.timeout(30):
                while succession.under_way:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        await succession.close()
        return succession

    succession = asyncio.run(run())
    assert not (folder / "takeover.sock").exists()
    assert len(os.listdir("/proc/self/fd")) <= files, "no descriptor is left"
    return owner, succession, codes, said


def test_one_that_crashes_or_fails_gives_it_back_and_the_next_gets_it(folder: Path) -> None:
    owner, succession, codes, said = talk(folder, "crash", "fail", "ready")
    assert codes == [3, 1, 0]
    crash, fail = [one for one in owner.did if one.startswith("take back")]
    assert "it ended before its workers were ready" in crash
    assert fail == "take back: no such luck"
    assert owner.did[-2:] == ["freeze", "hand over"]
    assert "'wanted': ['web']" in said
    assert succession.over.is_set()
    assert sorted(succession.failures.values()) == sorted(
        one.removeprefix("take back: ") for one in (crash, fail)
    )


def test_one_that_hangs_is_killed_before_anything_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(successor, "READY_WITHIN", 0.2)
    owner, succession, codes, _ = talk(folder, "hang")
    assert codes == [-9]
    assert owner.did == ["freeze", "take back: its workers were not ready within 0.2 s"]
    assert not succession.over.is_set()


def test_what_cannot_be_passed_on_is_taken_back(folder: Path) -> None:
    async def freeze(self: Owner) -> tuple[dict[str, Any], list[int]]:
        raise OSError(24, "Too many open files")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Owner, "freeze", freeze)
        owner, succession, codes, _ = talk(folder, "ready")
    assert codes[0] != 0
    assert len(owner.did) == 1
    assert "Too many open files" in owner.did[0]
    assert not succession.over.is_set()


@pytest.mark.parametrize("junk", [b"", b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\1\x80"])
def test_junk_and_refusals_begin_nothing(folder: Path, junk: bytes) -> None:
    owner = Owner()

    async def run() -> None:
        succession = Succession(folder / "takeover.sock", owner)
        succession.start()

        def talk_junk() -> None:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(30)
                one.connect(str(folder / "takeover.sock"))
                one.sendall(junk)
                one.shutdown(socket.SHUT_WR)
                while one.recv(1000):
                    pass

        await asyncio.to_thread(talk_junk)
        owner.refusal = "it is stopping"
        asked = await asyncio.to_thread(Predecessor.ask, "t")
        assert asked is not None
        with pytest.raises(FastlbError, match="does not hand over: it is stopping"):
            await asyncio.to_thread(asked.take)
        asked.close()
        await succession.close()

    asyncio.run(run())
    assert owner.did == []


def test_nobody_there_is_no_error(folder: Path) -> None:
    assert Predecessor.ask("t") is None
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(folder / "takeover.sock"))
    dead.close()
    assert Predecessor.ask("t") is None


def test_an_old_one_that_dies_at_the_last_word_leaves_the_instance(folder: Path) -> None:
    code = (
        "import os, socket\n"
        "from fastlb.target_table import handover as h\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(os.environ['AT']); s.listen(); print(flush=True)\n"
        "c, _ = s.accept()\n"
        "c.sendall(h.frame({'handover': h.HANDOVER, 'version': '1'})); c.recv(1000)\n"
        "n = os.open('/dev/null', 0); h.send_with_fds(c, h.frame({'listeners': {}}), [n, n, n])\n"
        "c.recv(1000); os._exit(9)\n"
    )
    old = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"AT": str(folder / "takeover.sock")},
        stdout=subprocess.PIPE,
    )
    with old:
        assert old.stdout is not None
        old.stdout.readline()
        asked = Predecessor.ask("t")
        assert asked is not None
        assert asked.pid == old.pid
        run_dir, estate = asked.take()
        began = time.monotonic()
        assert asyncio.run(asked.take_charge()) == {}
        assert time.monotonic() - began < 20
        asked.close()
        run_dir.leave()
        os.close(estate.counters)
        estate.given.close()


def test_another_number_is_refused_with_what_to_do() -> None:
    refuse_other_number({"handover": handover.HANDOVER, "version": "1"})
    for greeting in ({"handover": 99, "version": "7.0"}, {}):
        with pytest.raises(FastlbError, match="nothing was changed"):
            refuse_other_number(greeting)


def test_what_was_not_started_by_run_is_not_upgraded(folder: Path) -> None:
    upgrade = Upgrade(Succession(folder / "takeover.sock", Owner()), None)
    with pytest.raises(ValueError, match="not started by `fastlb run`"):
        asyncio.run(upgrade.answer({"program": ["/bin/true"]}))
    with pytest.raises(ValueError, match="expected the program"):
        asyncio.run(upgrade.answer({"program": "true"}))


def test_a_program_that_is_not_there_is_told(folder: Path) -> None:
    upgrade = Upgrade(Succession(folder / "takeover.sock", Owner()), ["--name", "t"])
    with pytest.raises(ValueError, match="/no/such cannot be started: No such file"):
        asyncio.run(upgrade.answer({"program": ["/no/such"]}))
    with pytest.raises(ValueError, match="does not take the configuration"):
        asyncio.run(upgrade.answer({"program": ["/bin/false"]}))
    assert upgrade.pid == 0


def test_flags_are_left_out_only_before_the_apps_command() -> None:
    words = ["--name", "x", "--takeover", "--", "app", "--takeover"]
    assert without(words, "--takeover") == ["--name", "x", "--", "app", "--takeover"]
    assert without(["--takeover"], "--takeover") == []
