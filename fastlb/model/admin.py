"""Admin: where an operator looks at an instance and changes it over HTTP. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fastlb.model.address import Address
from fastlb.model.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Admin:
    """The admin server: dashboard, JSON API and /metrics."""

    address: Address | None = setting(
        None,
        "address",
        "where the dashboard, the Admin API and /metrics are served, HOST:PORT or unix:/path; one that "
        "other hosts can reach needs a token",
        why="who may change a balancer is for its owner to say",
        flag="--admin",
        optional=True,
    )
    token_file: str | None = setting(
        None,
        "path",
        "file whose first line is the token that the admin address demands; the environment variable "
        "FASTLB_ADMIN_TOKEN says it too",
        why="an address on this host alone needs none",
        flag="--admin-token-file",
        optional=True,
    )
    socket: bool = setting(
        True,
        "switch",
        "serve the same over admin.sock in the run-time folder, which is its owner's alone",
        why="`fastlb top` looks there",
        flag="--admin-socket",
    )
