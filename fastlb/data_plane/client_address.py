"""Who a client is, where proxies stand before us. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


class TrustedProxies:
    """The networks whose X-Forwarded-For is believed."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [_network(network) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: str) -> bool:
        """Whether `address`, an IP literal, lies in one of the networks."""
        if not self._networks:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self._networks)

    def client(self, connected: str, forwarded_for: bytes) -> str:
        """The rightmost address that is not a trusted proxy's, of the chain that ends with `connected`."""
        address = connected
        for entry in reversed(forwarded_for.split(b",")):
            if not self.trusts(address):
                return address
            text = entry.strip(b" \t").decode("latin-1")
            if text.startswith("["):
                text = text[1:].partition("]")[0]
            elif text.count(":") == 1:
                text = text.partition(":")[0]
            try:
                address = str(ipaddress.ip_address(text))
            except ValueError:
                return address
        return address


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network of IPv4-mapped addresses is the IPv4 network: both kinds are compared as IPv4."""
    network = ipaddress.ip_network(text, strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
