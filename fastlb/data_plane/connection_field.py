"""The Connection field, of requests and responses alike: its options, and the fields that it takes away
(RFC 9110 §7.6.1). Pure."""

from __future__ import annotations

import re
from functools import lru_cache

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Taken out, or written anew, wherever they stand; naming them changes nothing.
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"))
# Options never take these away: they frame, route or authenticate the message.
_KEPT = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"authorization",
        b"cookie",
        b"set-cookie",
    )
)
_KNOWN = _HOP_BY_HOP | _KEPT | {b"close"}

NO_OPTIONS: frozenset[bytes] = frozenset()


@lru_cache(256)
def connection_options(value: bytes) -> frozenset[bytes]:
    """The options of a Connection field, in lower case. Raises ValueError."""
    options = frozenset(option.strip(b" \t").lower() for option in value.split(b",")) - {b""}
    if not all(map(_TOKEN.fullmatch, options)):
        raise ValueError("malformed Connection")
    return options


def named_fields(options: frozenset[bytes]) -> frozenset[bytes]:
    """The fields that these options make hop-by-hop."""
    return options - _KNOWN if options else options


def without(lines: bytes, names: frozenset[bytes]) -> bytes:
    """`lines`, each with its CRLF, less the fields of these names (in lower case)."""
    return b"".join(
        line
        for line in lines.splitlines(keepends=True)
        if line.split(b":", 1)[0].lower() not in names
    )
