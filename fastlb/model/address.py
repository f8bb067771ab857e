"""Where a Listener listens and where a Target is found. Resolves no names."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """`host` and `port` of a TCP address, or the `path` of a unix socket (then host is "" and port 0).

    `host` is an IP literal without brackets, or a name for the control plane to resolve.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_unix(self) -> bool:
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`127.0.0.1:9001`, `[::1]:9001`, `localhost:9001`, `:9001` (every address), `unix:/run/app.sock`.

    Raises ValueError with a sentence that says what was expected.
    """
    shown = json.dumps(text, ensure_ascii=False)
    if text.startswith("unix:"):
        path = text[5:]
        if not path.startswith("/"):
            raise ValueError(f"expected unix:/absolute/path, got {shown}")
        if len(path.encode()) > 107:
            raise ValueError(f"a unix socket's path holds at most 107 bytes, got {shown}")
        return Address(path=path)
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise ValueError(f"expected HOST:PORT or unix:/path, got {shown}")
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) < 65536):
        raise ValueError(f"expected a port from 0 to 65535 after the last colon, got {shown}")
    if host.startswith("[") and host.endswith("]"):
        try:
            host = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"expected an IPv6 address in the brackets, got {shown}") from None
    elif ":" in host:
        raise ValueError(f"expected an IPv6 address in brackets, as [::1]:9001, got {shown}")
    elif any(c.isspace() or c in "/,@" for c in host):
        raise ValueError(f"expected HOST:PORT, got {shown}")
    return Address(host=host or "0.0.0.0", port=int(port_text))


def parse_target_address(text: str) -> Address:
    """The same of a Target, which a connection is opened to: with a port, and `:9001` is of this host."""
    address = parse_address(text)
    if address.is_unix:
        return address
    if not address.port:
        raise ValueError(f"expected a port from 1 to 65535, got {json.dumps(text)}")
    return Address("127.0.0.1", address.port) if text.startswith(":") else address
