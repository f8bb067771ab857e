"""Who the client is behind trusted proxies: chains, ports, brackets, and what cannot be read."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlb.data_plane.client_address import TrustedProxies
from fastlb.data_plane.http_server import HttpConnection
from fastlb.data_plane.listener_runtime import HttpListener
from fastlb.data_plane.worker_state import WorkerState
from fastlb.model.address import Address
from fastlb.model.listener import FixedResponse, Listener, Rule
from fastlb.target_table.counters import Counters

PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "fd00::1"])


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.255.0.1", True),
        ("11.0.0.1", False),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("2001:db8:ffff::1", True),
        ("2001:db9::1", False),
        ("fd00::1", True),
        ("fd00::2", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:11.0.0.1", False),
        ("::10.0.0.1", False),
        ("", False),
        ("unix:", False),
        ("localhost", False),
        ("10.0.0.1:80", False),
        ("10.0.0", False),
        ("010.0.0.1", False),
    ],
)
def test_trusts(address: str, trusted: bool) -> None:
    assert PROXIES.trusts(address) is trusted


def test_without_networks_nobody_is_trusted() -> None:
    nobody = TrustedProxies([])
    assert not nobody
    assert PROXIES
    assert not nobody.trusts("127.0.0.1")
    assert nobody.client("127.0.0.1", b"198.51.100.1") == "127.0.0.1"


@pytest.mark.parametrize("network", ["::ffff:10.0.0.0/104", "::ffff:10.1.2.3", "::ffff:0:0/96"])
def test_a_network_may_be_written_as_mapped_addresses(network: str) -> None:
    proxies = TrustedProxies([network])
    assert proxies.trusts("10.1.2.3")
    assert proxies.trusts("::ffff:10.1.2.3")
    assert not proxies.trusts("::10.1.2.3")


def test_a_network_may_be_written_with_an_address_inside_it() -> None:
    assert TrustedProxies(["10.1.2.3/8"]).trusts("10.9.9.9")


CHAINS = [
    # connected, X-Forwarded-For, client
    ("203.0.113.5", b"", "203.0.113.5"),
    ("203.0.113.5", b"198.51.100.1", "203.0.113.5"),  # a stranger may write what he likes
    ("10.0.0.1", b"", "10.0.0.1"),
    ("10.0.0.1", b"198.51.100.1", "198.51.100.1"),
    ("10.0.0.1", b"evil, 198.51.100.1", "198.51.100.1"),
    ("10.0.0.1", b"127.0.0.1, 198.51.100.1", "198.51.100.1"),  # only the rightmost is known
    ("10.0.0.1", b"198.51.100.1, 10.0.0.2, 10.0.0.3", "198.51.100.1"),
    ("10.0.0.1", b"10.0.0.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
    ("10.0.0.1", b"10.0.0.3, 10.0.0.2", "10.0.0.3"),  # proxies all the way
    ("10.0.0.1", b"198.51.100.1,10.0.0.2", "198.51.100.1"),
    ("10.0.0.1", b" \t198.51.100.1\t ", "198.51.100.1"),
    ("::ffff:10.0.0.1", b"198.51.100.1", "198.51.100.1"),
    ("2001:db8::1", b"2001:db9::1", "2001:db9::1"),
    # ports and brackets
    ("10.0.0.1", b"198.51.100.1:4711", "198.51.100.1"),
    ("10.0.0.1", b"[2001:db9::1]", "2001:db9::1"),
    ("10.0.0.1", b"[2001:db9::1]:4711", "2001:db9::1"),
    ("10.0.0.1", b"2001:DB9:0:0::1", "2001:db9::1"),
    ("10.0.0.1", b"198.51.100.1, [2001:db8::7]:80", "198.51.100.1"),
    ("10.0.0.1", b"198.51.100.1, 10.0.0.2:80", "198.51.100.1"),
    # what cannot be read ends the chain at the last that could
    ("10.0.0.1", b"unknown", "10.0.0.1"),
    ("10.0.0.1", b"_hidden", "10.0.0.1"),
    ("10.0.0.1", b"198.51.100.1, unknown, 10.0.0.2", "10.0.0.2"),
    ("10.0.0.1", b"198.51.100.1,", "10.0.0.1"),
    ("10.0.0.1", b"198.51.100.1, , 10.0.0.2", "10.0.0.2"),
    ("10.0.0.1", b"198.51.100.256", "10.0.0.1"),
    ("10.0.0.1", b"0x7f000001", "10.0.0.1"),
    ("10.0.0.1", b"2130706433", "10.0.0.1"),
    ("10.0.0.1", b"\xff\x00\xe4", "10.0.0.1"),
    ("10.0.0.1", b"[]", "10.0.0.1"),
    ("10.0.0.1", b"[", "10.0.0.1"),
    ("10.0.0.1", b":80", "10.0.0.1"),
    ("10.0.0.1", b'"198.51.100.1"', "10.0.0.1"),
    ("10.0.0.1", b"198.51.100.1 10.0.0.2", "10.0.0.1"),
    # a client of a unix socket has no address
    ("", b"198.51.100.1", ""),
]


@pytest.mark.parametrize(("connected", "forwarded_for", "client"), CHAINS)
def test_client(connected: str, forwarded_for: bytes, client: str) -> None:
    assert PROXIES.client(connected, forwarded_for) == client


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(addresses, st.lists(addresses, max_size=4), st.binary(max_size=30))
def test_the_client_is_the_rightmost_that_is_not_trusted(
    client: str, proxies: list[str], before: bytes
) -> None:
    trusting = TrustedProxies(proxies)
    if not proxies or trusting.trusts(client):
        return
    chain = b", ".join([before.replace(b",", b""), client.encode(), *map(str.encode, proxies)])
    found = trusting.client(proxies[0], chain)
    assert ipaddress.ip_address(found) == ipaddress.ip_address(client)


@given(st.binary(max_size=60))
def test_whatever_is_sent_the_answer_is_an_address(forwarded_for: bytes) -> None:
    ipaddress.ip_address(PROXIES.client("10.0.0.1", forwarded_for))


# -- on a connection


def test_each_request_of_a_proxys_connection_is_its_own_clients() -> None:
    refused = Rule(priority=1, action=FixedResponse(status=403), source_ip=("198.51.100.0/24",))
    listener = HttpListener(
        Listener(
            protocol="http",
            address=Address("127.0.0.1", 80),
            default=FixedResponse(status=200),
            rules=(refused,),
            trusted_proxies=("10.0.0.0/8",),
        ),
        {},
    )
    loop = asyncio.new_event_loop()
    counters = Counters()
    near, far = socket.socketpair()
    worker = WorkerState(loop, counters, 0, near, lambda: None)
    ours, client = socket.socketpair()
    ours.setblocking(False)
    client.setblocking(False)
    try:
        connection = HttpConnection(worker, listener, "10.0.0.1", False)
        connection.open(ours)
        for chain, status in (
            (b"198.51.100.7", 403),
            (None, 200),
            (b"203.0.113.1", 200),
            (b"203.0.113.1, 198.51.100.7, 10.0.0.9", 403),
            (b"198.51.100.7, 203.0.113.1", 200),
        ):
            field = b"" if chain is None else b"X-Forwarded-For: " + chain + b"\r\n"
            connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n")
            loop.call_soon(loop.stop)
            loop.run_forever()  # what is written leaves at the end of a turn of the loop
            assert client.recv(4096).startswith(b"HTTP/1.1 %d " % status)
    finally:
        worker.reactor.close()
        ours.close()
        client.close()
        near.close()
        far.close()
        loop.close()
        worker.targets.bytes.release()
        worker.row.release()
        counters.close()
