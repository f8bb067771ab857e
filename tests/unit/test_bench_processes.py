"""The bench's own servers and clients against each other, as real processes; none is left."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

import pytest

from bench.loads import Bulk, Load, PingPong, prepared
from bench.processes import BenchError, free_port, running
from tests.support.processes import alive, wait_until


def command(kind: str, port: int) -> list[str]:
    return [sys.executable, "-m", "bench.servers", kind, str(port)]


@pytest.mark.parametrize(
    ("kind", "load"),
    [
        ("echo", PingPong(2)),
        ("websocket", PingPong(2, websocket=True)),
        ("bulk", Bulk()),
    ],
)
def test_a_client_counts_what_its_server_answers(tmp_path: Path, kind: str, load: Load) -> None:
    port = free_port()
    with running(command(kind, port), (), tmp_path, f"127.0.0.1:{port}") as pid:
        with prepared(load, port, (), 1, tmp_path) as ready:
            found = ready.run()
        assert found.count > 100
        assert 0.9 < found.seconds < 5
        if isinstance(load, PingPong):
            assert found.p50 is not None
            assert found.p999 is not None
            assert 0 < found.p50 <= found.p999
    wait_until(lambda: not alive(pid), 30, "the server's end")


def test_a_client_that_gets_wrong_answers_says_so(tmp_path: Path) -> None:
    port = free_port()
    with (
        running(command("bulk", port), (), tmp_path, f"127.0.0.1:{port}"),
        pytest.raises(BenchError, match="not what was sent"),
        prepared(PingPong(1), port, (), 1, tmp_path),
    ):
        pass


def test_the_sink_says_how_much_has_come(tmp_path: Path) -> None:
    port = free_port()
    with running(command("sink", port), (), tmp_path, f"127.0.0.1:{port}"):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for size in (0, 5, 3_000_000):
            client.request("POST", "/", b"x" * size)
            assert client.getresponse().read() == str(size).encode()
        client.close()


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    port = free_port()
    with (
        pytest.raises(
            BenchError, match=r"does not accept connections(?s:.)*no such target: nothing"
        ),
        running(command("nothing", port), (), tmp_path, f"127.0.0.1:{port}"),
    ):
        pass


def test_ports_are_given_once() -> None:
    assert len({free_port() for _ in range(20)}) == 20
