"""The demo app as a process on a unix socket, and `fastlb demo` itself."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from fastlb.auto_scaling.usage import usage_of_trees
from fastlb.cli import demo
from fastlb.demo.app import Told
from fastlb.errors import ConfigError
from fastlb.model.address import parse_address
from tests.support.processes import (
    RUN_DIR_VARIABLE,
    alive,
    children,
    kill_all,
    processes_of,
    wait_until,
)
from tests.support.targets import DemoTarget, free_port


@pytest.fixture(scope="module")
def running(run_root: Path) -> Iterator[DemoTarget]:
    folder = Path(tempfile.mkdtemp(prefix="demo", dir=run_root))
    with DemoTarget("demo-1", folder / "demo.sock") as target:
        yield target


def client_of(target: DemoTarget) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(target.where))
    return httpx.Client(transport=transport, base_url="http://demo", timeout=10)


@pytest.fixture
def client(running: DemoTarget) -> Iterator[httpx.Client]:
    with client_of(running) as one:
        yield one
        one.post("/fail?mode=off")


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(str(path))
        except OSError:
            return False
    return True


def test_an_answer_names_its_worker_and_repeats_the_request_id(client: httpx.Client) -> None:
    answer = client.get("/", headers={"X-Request-Id": "abc-7"})
    assert answer.status_code == 200
    assert answer.headers["x-demo-worker"] == "demo-1"
    assert answer.headers["x-request-id"] == "abc-7"
    assert answer.text.startswith("demo-1 (pid ")


def test_echo_tells_what_arrived(client: httpx.Client) -> None:
    body = os.urandom(300_000)
    seen = client.post("/echo/deep%20er?a=1&b", content=body, headers={"X-One": "two"}).json()
    assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/echo/deep%20er", "a=1&b")
    assert ["x-one", "two"] in seen["headers"]
    assert seen["length"] == len(body)
    assert seen["sha256"] == hashlib.sha256(body).hexdigest()
    assert "sha256" not in client.get("/echo").json()


def test_raw_echo_streams_both_ways_at_once(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for number in range(100):
            yield bytes([number]) * 500

    answer = client.post("/echo?raw=1", content=pieces())
    assert answer.content == b"".join(bytes([number]) * 500 for number in range(100))


def test_bytes_have_the_asked_length(client: httpx.Client) -> None:
    answer = client.get("/bytes/70001")
    assert answer.headers["content-length"] == "70001"
    assert answer.content == (bytes(range(256)) * 274)[:70001]


def test_stream_sends_its_events(client: httpx.Client) -> None:
    answer = client.get("/stream?n=3&ms=1")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("data: demo-1 sends event") == 3


def test_told_to_fail_with_a_status(client: httpx.Client) -> None:
    client.post("/fail?mode=status&status=418&times=2")
    assert [client.get("/").status_code for _ in range(3)] == [418, 418, 200]
    assert client.post("/fail?mode=nonsense").status_code == 400


def test_told_to_close_and_to_hang(client: httpx.Client) -> None:
    client.post("/fail?mode=close&times=1")
    with pytest.raises(httpx.RemoteProtocolError):
        client.get("/")
    client.post("/fail?mode=hang&times=1")
    with pytest.raises(httpx.ReadTimeout):
        client.get("/", timeout=0.3)
    assert client.get("/").status_code == 200


def test_told_to_fail_its_health_only(client: httpx.Client) -> None:
    client.post("/fail?mode=health")
    assert (client.get("/health").status_code, client.get("/").status_code) == (503, 200)
    client.post("/fail?mode=off")
    assert client.get("/health").status_code == 200


def test_told_counts_down_for_its_own_paths_only() -> None:
    told = Told("status", 500, 1)
    assert [told.next_answer(path) for path in ("/health", "/kill", "/", "/")] == [
        "off",
        "off",
        "status",
        "off",
    ]


def test_a_worker_that_kills_itself_answers_first(run_root: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="demo", dir=run_root))
    with DemoTarget("demo-2", folder / "demo.sock") as target:
        with client_of(target) as client:
            assert f"pid {target.pid}" in client.post("/kill").text
        wait_until(lambda: not alive(target.pid))


def test_burning_uses_cpu_and_others_are_answered_meanwhile(client: httpx.Client) -> None:
    pid = int(client.get("/").text.partition("pid ")[2].partition(")")[0])

    def used() -> float:
        return usage_of_trees([pid])[pid].cpu_seconds

    before = used()
    with ThreadPoolExecutor(2) as pool:
        burning = [pool.submit(client.get, "/burn?ms=400") for _ in range(2)]
        for _ in range(5):
            assert client.get("/health").text == "ok\n"
        assert not burning[0].done()
        assert burning[0].result().text.startswith("demo-1 (pid ")
        burning[1].result()
    assert used() - before >= 0.75  # counted in ticks of 10 ms


def test_a_leak_stays(client: httpx.Client) -> None:
    before = int(client.get("/memory").text)
    assert "keeps 30 MiB more" in client.get("/leak?mb=30").text
    assert int(client.get("/memory").text) - before > 25 * 1024 * 1024


class DemoWorker:
    """`python -m fastlb.demo` with flags, leading a process group that ends with the test."""

    def __init__(self, folder: Path, flags: list[str], environment: dict[str, str]) -> None:
        self.path = folder / "demo.sock"
        self.output = folder / "output"
        with self.output.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastlb.demo", *flags],
                env=os.environ | {"FASTLB_SOCKET": str(self.path)} | environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                process_group=0,
            )
        self.pid = self.process.pid

    def get(self, path: str) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=str(self.path))
        with httpx.Client(transport=transport, base_url="http://demo", timeout=10) as client:
            return client.get(path)

    def end(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@pytest.fixture
def start_worker(run_root: Path) -> Iterator[Callable[..., DemoWorker]]:
    workers: list[DemoWorker] = []

    def start(*flags: str, **environment: str) -> DemoWorker:
        folder = Path(tempfile.mkdtemp(prefix="d", dir=run_root))
        workers.append(DemoWorker(folder, list(flags), environment))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


def test_where_it_listens_may_stand_in_the_environment(
    start_worker: Callable[..., DemoWorker],
) -> None:
    on_socket = start_worker(PORT="1")
    port = free_port()
    on_port = start_worker(FASTLB_SOCKET="", PORT=str(port))
    nowhere = start_worker(FASTLB_SOCKET="")
    wrong = start_worker(FASTLB_SOCKET="", PORT="http")
    for process in (nowhere.process, wrong.process):
        assert process.wait(20) == 2
    assert "nowhere to listen: give --uds PATH" in nowhere.output.read_text()
    wait_until(lambda: answers(on_socket.path), 30)
    assert on_socket.get("/").status_code == 200
    wait_until(lambda: listens(port), 30)
    assert f"pid {on_port.pid}" in httpx.get(f"http://127.0.0.1:{port}/").text


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_versions_health_and_failures_from_the_start(
    start_worker: Callable[..., DemoWorker],
) -> None:
    worker = start_worker("--version", "v2", "--health-status", "503", "--fail", "500")
    wait_until(lambda: answers(worker.path), 30)
    health = worker.get("/health")
    assert (health.status_code, health.text) == (503, "unwell\n")
    answer = worker.get("/")
    assert (answer.status_code, answer.headers["x-demo-version"]) == (500, "v2")


def test_a_crash_at_start_and_a_status_that_is_none(
    start_worker: Callable[..., DemoWorker],
) -> None:
    crashing = start_worker("--crash-at-start", "--name", "web-1")
    wrong = start_worker("--fail", "99")
    assert crashing.process.wait(20) == 3
    assert crashing.output.read_text().startswith("web-1 (pid ")
    assert not crashing.path.exists()
    assert wrong.process.wait(20) == 2
    assert "'99' is no HTTP status" in wrong.output.read_text()


def test_a_slow_start_that_prints_meanwhile(start_worker: Callable[..., DemoWorker]) -> None:
    worker = start_worker("--start-delay", "0.5", "--print-every", "0.05")
    wait_until(lambda: "prints line 3\n" in worker.output.read_text(), 30)
    assert not worker.path.exists()
    wait_until(lambda: answers(worker.path), 30)


def test_it_ignores_signals_and_leaves_children(start_worker: Callable[..., DemoWorker]) -> None:
    worker = start_worker("--ignore-term", "--fork", "2")
    wait_until(lambda: answers(worker.path), 30)
    family = children(worker.pid)
    assert len(family) == 2
    worker.process.send_signal(signal.SIGINT)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.get("/health").status_code == 200
    worker.process.kill()
    worker.process.wait()
    assert all(alive(pid) for pid in family)
    os.kill(family[0], signal.SIGTERM)
    wait_until(lambda: not alive(family[0]))
    kill_all(family[1:])


def test_a_well_behaved_worker_ends_by_a_signal(start_worker: Callable[..., DemoWorker]) -> None:
    worker = start_worker()
    wait_until(lambda: answers(worker.path), 30)
    worker.process.terminate()
    assert worker.process.wait(20) == -signal.SIGTERM


def test_the_configuration_of_the_demo() -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    arguments = parser.parse_args([])
    address = demo.listen_address(arguments.listen)
    configuration = demo.demo_configuration(address, 4, 2)
    assert str(configuration.listeners[0].address) == "127.0.0.1:8080"
    (group,) = configuration.auto_scaling_groups
    assert (group.min, group.desired, group.max) == (3, 4, 8)
    assert configuration.target_groups[0].health_check.path == "/health"
    named = demo.demo_configuration(address, 1, 2, "other")
    assert (configuration.name, named.name) == ("demo", "other")
    for wrong in ("tcp://127.0.0.1:1", "127.0.0.1:1", "http://x", "http://127.0.0.1:0"):
        with pytest.raises(ConfigError, match="--listen"):
            demo.listen_address(wrong)


def test_where_the_dashboard_of_the_demo_is() -> None:
    assert demo.dashboard_address("127.0.0.1:1234") == parse_address("127.0.0.1:1234")
    for wrong in ("unix:/x", "x", "http://127.0.0.1:1"):
        with pytest.raises(ConfigError, match="--admin"):
            demo.dashboard_address(wrong)
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((demo.DASHBOARD.host, demo.DASHBOARD.port))
            one.listen()
        except OSError:
            pass  # somebody else has it, which is as good
        assert demo.dashboard_address(None) is None


def test_what_to_try_can_be_typed_anywhere() -> None:
    shown = demo.what_to_try(demo.listen_address("http://127.0.0.1:8080"), 1, "mine")
    assert "in front of 1 demo worker.\n" in shown
    assert "dashboard" not in shown
    (line,) = [line for line in shown.splitlines() if " status --name mine " in line]
    assert line.strip().startswith("/")


@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_what_to_try_works_for_any_number_of_demo_workers(count: int) -> None:
    address = demo.listen_address("http://127.0.0.1:8080")
    shown = demo.what_to_try(address, count, "mine")
    (more,) = re.findall(r" scale (\d+) --name mine --wait", shown)
    (group,) = demo.demo_configuration(address, count, 1).auto_scaling_groups
    assert count < int(more) <= group.max
    (first,) = [line for line in shown.splitlines() if line.strip().startswith("curl http")]
    assert ("take turns" in first) == (count > 1)


def test_the_command_serves_says_what_to_try_and_leaves_nothing(run_root: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="d", dir=run_root))
    environment = os.environ | {RUN_DIR_VARIABLE: str(folder / "r")}
    port = free_port()
    command = [sys.executable, "-m", "fastlb", "demo", "--workers", "1"]
    command += ["--listen", f"http://127.0.0.1:{port}"]
    dashboard = free_port()
    command += ["--admin", f"127.0.0.1:{dashboard}"]
    output = folder / "output"
    with output.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    try:
        wait_until(lambda: "curl http" in output.read_text(), 30, "what to try is printed")
        assert f"Its dashboard is http://127.0.0.1:{dashboard}/\n" in output.read_text()
        page = httpx.get(f"http://127.0.0.1:{dashboard}/", follow_redirects=True)
        assert "<title>" in page.text
        url = f"http://127.0.0.1:{port}/"
        wait_until(lambda: len({httpx.get(url).headers["x-demo-worker"] for _ in range(6)}) == 3)
        second = subprocess.run(
            command,
            env=environment | {RUN_DIR_VARIABLE: str(folder / "s")},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert second.returncode == 1
        assert f"fastlb demo --listen http://127.0.0.1:{port + 1}" in second.stderr
        process.terminate()
        assert process.wait(20) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in output.read_text()
    wait_until(lambda: not processes_of(folder), 5, "nothing is left")
