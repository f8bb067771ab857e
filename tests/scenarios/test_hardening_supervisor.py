"""What befalls a supervisor from outside: signals, a removed folder, orphans that hang, no files."""

from __future__ import annotations

import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastlb.child_process import ChildProcess
from fastlb.control_plane.listen_sockets import ListenSockets
from fastlb.control_plane.stop_signals import AGAIN_AFTER, meaning
from fastlb.control_plane.surroundings import check_access_log
from fastlb.errors import FastlbError
from fastlb.target_table.layout import SLOT_BYTES
from tests.support.fastlb import ROOT, FastlbProcess
from tests.support.processes import RUN_DIR_VARIABLE, alive, open_files, wait_until
from tests.support.scaling import ask

from .stand_in import REPOSITORY, Client, Instance, ask_once
from .test_processes import children_of, listener

# --- the start ------------------------------------------------------------------------------


def test_an_access_log_that_cannot_be_opened_is_a_start_error(
    run_root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "none" / "a.log"
    fastlb = FastlbProcess(run_root, "--access-log", str(path), targets=["127.0.0.1:9"], wait=False)
    with fastlb:
        assert fastlb.process.wait(30) == 1
        said = f"fastlb: access_log: cannot open '{path}': No such file or directory\n"
        assert fastlb.log() == said
    with pytest.raises(FastlbError, match="Is a directory"):
        check_access_log(str(tmp_path))
    check_access_log(str(tmp_path / "new.log"))


FAULTS = (
    "access_log: cannot open '/no/such/folder/log': No such file or directory",
    "target app.invalid:80 of group web: cannot resolve 'app.invalid'",
    "target db.invalid:80 of group web: cannot resolve 'db.invalid'",
    "target_groups.web.targets: 127.0.0.1:7 is localhost:7 already",
    "cannot listen on {0}: the address is in use by pid",
    "cannot listen on {1}: the address is in use by pid",
    "admin.token_file: cannot read /no/such/token: No such file or directory",
)


def faulty(*listen: str) -> str:
    """A file that `fastlb check` has nothing to say against."""
    listeners = "".join(
        f'[[listeners]]\naddress = "{one}"\ndefault = {{ forward = "web" }}\n' for one in listen
    )
    names = '"app.invalid:80", "localhost:7", "db.invalid:80", "127.0.0.1:7"'
    return (
        'access_log = "/no/such/folder/log"\nadmin = { token_file = "/no/such/token" }\n'
        f"{listeners}[target_groups.web]\ntargets = [{names}]\n"
    )


def test_all_faults_of_a_start_and_of_a_reload_are_said_at_once(
    run_root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "fastlb.toml"
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        taken = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in (one, two)]
        path.write_text(faulty(*taken, "http://127.0.0.1:0"))
        expected = sorted(fault.format(*taken) for fault in FAULTS)
        with FastlbProcess(run_root, "--config", str(path), listen=(), wait=False) as fastlb:
            assert fastlb.process.wait(30) == 1
            said = sorted(line.removeprefix("fastlb: ") for line in fastlb.log().splitlines())
        assert [line[: len(each)] for line, each in zip(said, expected, strict=True)] == expected

        path.write_text(
            '[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = { forward = "web" }\n'
            '[target_groups.web]\ntargets = ["127.0.0.1:9"]\n'
        )
        with FastlbProcess(run_root, "--config", str(path), listen=()) as fastlb:
            before, files = fastlb.targets(), open_files(fastlb.pid)
            path.write_text(faulty(*taken, "http://127.0.0.1:0"))
            for _ in range(20):
                error = ask(fastlb.run_dir / fastlb.name, "reload")["error"]
            said = sorted(line.rpartition("].address: ")[2] for line in error.splitlines())
            assert [
                line[: len(each)] for line, each in zip(said, expected, strict=True)
            ] == expected
            assert fastlb.targets().keys() == before.keys()
            # Its admin server may have come up meanwhile; what is kept of each refusal would be more.
            wait_until(lambda: open_files(fastlb.pid) < files + 20, "nothing is kept")
            fastlb.stop()


def test_a_table_that_is_too_large_ends_the_start(run_root: Path, tmp_path: Path) -> None:
    body = "b" * 65536
    rules = "".join(
        f'[[listeners.rules]]\npriority = {n}\npath = ["/{n}"]\n'
        f'fixed_response = {{ status = 200, body = "{body}" }}\n'
        for n in range(1, SLOT_BYTES // len(body) + 1)
    )
    path = tmp_path / "large.toml"
    path.write_text(
        '[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = { forward = "web" }\n'
        f'{rules}[target_groups.web]\ntargets = ["127.0.0.1:9"]\n'
    )
    with FastlbProcess(run_root, "--config", str(path), listen=(), wait=False) as fastlb:
        assert fastlb.process.wait(30) == 1
        assert "the target table of" in fastlb.log()
        assert "Traceback" not in fastlb.log()


def test_closed_standard_files_are_no_sockets(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from fastlb.control_plane.surroundings import fill_standard_files\n"
        "os.closerange(0, 3)\n"
        "fill_standard_files()\n"
        f"open({str(tmp_path / 'found')!r}, 'w').write("
        "str([(os.readlink(f'/proc/self/fd/{n}'), os.get_inheritable(n)) for n in range(3)]))\n"
    )
    child = ChildProcess([sys.executable, "-c", code], env={"PYTHONPATH": str(REPOSITORY)})
    assert child.wait(time.monotonic() + 30) == 0
    assert (tmp_path / "found").read_text() == str([("/dev/null", True)] * 3)


def test_the_first_socket_excludes_others_and_shares_with_ours() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first = ListenSockets((listener(f"127.0.0.1:{port}"),), slots=3)
    with pytest.raises(FastlbError, match="in use"):
        ListenSockets((listener(f"127.0.0.1:{port}"),), slots=3)
    (slots,) = first.sockets.values()
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    waiting = [0, 0, 0]
    for slot, one in enumerate(slots):
        while True:
            try:
                accepted, _ = one.accept()
            except BlockingIOError:
                break
            accepted.close()
            waiting[slot] += 1
    assert sum(waiting) == 100
    assert all(waiting), waiting
    for client in clients:
        client.close()
    first.close()


# --- signals --------------------------------------------------------------------------------


def test_what_a_signal_means() -> None:
    assert meaning(signal.SIGTERM, False, None) == "stop"
    assert meaning(signal.SIGINT, False, AGAIN_AFTER / 2) == "echo"
    assert meaning(signal.SIGTERM, False, AGAIN_AFTER * 2) == "end"
    assert meaning(signal.SIGHUP, False, None) == "reload"
    assert meaning(signal.SIGHUP, True, None) == "stop"
    assert meaning(signal.SIGHUP, True, AGAIN_AFTER * 2) == "echo"
    assert meaning(signal.SIGQUIT, False, None) == "end"
    assert meaning(signal.SIGUSR1, True, None) == "reopen"
    assert meaning(signal.SIGUSR2, True, None) == "nothing"


def test_sigusr_is_no_end_and_sigquit_ends_at_once(tmp_path: Path) -> None:
    with Instance(tmp_path, drain=30) as instance:
        instance.until_ready()
        for number, said in (
            (signal.SIGUSR1, "SIGUSR1: opening the access log anew"),
            (signal.SIGUSR2, "SIGUSR2 is ignored"),
        ):
            instance.process.send_signal(number)
            wait_until(lambda said=said: said in instance.log, 30, "it says so")  # type: ignore[misc]
        pids = children_of(instance.process.pid)
        busy = Client(instance.port).send("slow 60")
        wait_until(
            lambda: sum(one["connections"] for one in instance.workers()), 30, "it is accepted"
        )
        began = time.monotonic()
        instance.process.send_signal(signal.SIGQUIT)
        assert instance.process.wait(time.monotonic() + 30) == 0
        assert time.monotonic() - began < 15
        wait_until(lambda: not any(map(alive, pids)), 30, "no process is left")
        assert not (tmp_path / "t").exists()
        busy.close()


def test_the_end_of_its_terminal_ends_an_instance(run_root: Path) -> None:
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "fastlb", "run", "--name", "t", "--workers", "1"),
            *("--listen", "http://127.0.0.1:0", "--target", "127.0.0.1:9"),
        ],
        cwd=ROOT,
        env=os.environ | {RUN_DIR_VARIABLE: str(run_root)},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    try:
        wait_until((run_root / "t" / "control.sock").exists, 30, "it runs")
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
        assert not (run_root / "t").exists()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


# --- the stop -------------------------------------------------------------------------------


def test_a_drain_says_what_it_waits_for_and_what_it_cuts(tmp_path: Path) -> None:
    with Instance(tmp_path, drain=0.4) as instance:
        instance.until_ready()
        busy = Client(instance.port).send("slow 60")
        wait_until(
            lambda: sum(one["connections"] for one in instance.workers()), 30, "it is accepted"
        )
        instance.process.send_signal(signal.SIGTERM)
        assert instance.process.wait(time.monotonic() + 30) == 0
        assert "draining: at most 0.4 s for 0 requests on 1 connection" in instance.log
        cut = "the drain time-out of 0.4 s is over (--drain-timeout): cut 0 requests on 1 conn"
        assert cut in instance.log
        busy.close()


def test_a_stop_in_the_midst_of_the_start_is_no_error(tmp_path: Path) -> None:
    with Instance(tmp_path) as instance:
        wait_until(lambda: "listening on" in instance.log, 30, "it starts")
        instance.process.send_signal(signal.SIGTERM)
        assert instance.process.wait(time.monotonic() + 30) == 0
        assert "ERROR" not in instance.log


# --- what is missing ------------------------------------------------------------------------


def test_a_removed_folder_is_made_anew(tmp_path: Path) -> None:
    with Instance(tmp_path) as instance:
        instance.until_ready()
        shutil.rmtree(instance.run_dir)
        wait_until((instance.run_dir / "control.sock").exists, 30, "it is there again")
        wait_until(lambda: "were removed: made anew" in instance.log, 30, "it says so")
        assert instance.status()["pid"] == instance.process.pid
        with Instance(tmp_path) as second:
            assert second.process.wait(time.monotonic() + 30) == 1
            assert "an instance named 't' is running" in second.log
        assert ask_once(instance.port)
        assert instance.log.count("made anew") == 1
        instance.process.send_signal(signal.SIGTERM)
        assert instance.process.wait(time.monotonic() + 30) == 0
        assert not instance.run_dir.exists()


def test_a_worker_that_cannot_be_replaced_for_want_of_files_is_replaced_later(
    tmp_path: Path,
) -> None:
    with Instance(tmp_path) as instance:
        victim = instance.until_ready()["workers"][1]["pid"]
        pid = instance.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (10, before[1]))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: "worker 1 cannot be started: " in instance.log, 30, "it cannot be")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert instance.until_ready()["workers"][1]["pid"] != victim


def test_a_hung_worker_is_shown_as_such(tmp_path: Path) -> None:
    with Instance(tmp_path) as instance:
        pid = instance.until_ready()["workers"][0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: instance.workers()[0]["state"] == "hung", 30, "it is noticed")
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: instance.workers()[0]["state"] == "running", 30, "it is back")


# --- orphans --------------------------------------------------------------------------------


def test_an_orphan_that_hangs_is_killed(tmp_path: Path) -> None:
    with Instance(tmp_path, drain=0.5) as first:
        hung = first.until_ready()["workers"][0]["pid"]
        where = f"127.0.0.1:{first.port}"
        first.kill_supervisor()
        os.kill(hung, signal.SIGSTOP)
        with Instance(tmp_path, listen=where, drain=0.5) as second:
            second.until_ready()
            wait_until(lambda: not alive(hung), 30, "it is killed")
            assert re.search(rf"pid {hung} does not heed SIGTERM: SIGKILL", second.log)


def test_a_stop_does_not_leave_an_orphan_that_hangs(tmp_path: Path) -> None:
    with Instance(tmp_path, drain=30) as first:
        hung = first.until_ready()["workers"][0]["pid"]
        where = f"127.0.0.1:{first.port}"
        first.kill_supervisor()
        os.kill(hung, signal.SIGSTOP)
        with Instance(tmp_path, listen=where, drain=30) as second:
            second.until_ready()
            second.process.send_signal(signal.SIGQUIT)
            assert second.process.wait(time.monotonic() + 30) == 0
            wait_until(lambda: not alive(hung), 30, "it is killed")
