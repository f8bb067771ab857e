"""Who a client is, where proxies stand before us. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


class TrustedProxies:
    """The networks whose X-Forwarded-For is believed."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: str) -> bool:
        """Whether `address`, an IP literal, lies in one of the networks."""
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
