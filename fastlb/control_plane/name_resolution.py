"""Where targets are that are configured by a host name. Asks the resolver, which may take its time."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from fastlb.control_plane.faults import Faults
from fastlb.errors import FastlbError
from fastlb.model.address import Address
from fastlb.model.target_group import Target, TargetGroup

Resolved = Mapping[Address, Sequence[Address]]
"""What the targets' host names were found to be, the first choice first."""


def resolve(address: Address, group: str) -> Address:
    """The address with an IP literal in the place of a host name, which is looked up now."""
    return resolve_all(address, group)[0]


def resolve_all(address: Address, group: str) -> list[Address]:
    """All addresses of a host name, the first choice first. May take long: DNS. Raises FastlbError."""
    if address.is_unix or _is_literal(address.host):
        return [address]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise FastlbError(
            f"target {address} of group {group}: cannot resolve {address.host!r}: "
            f"{error.strerror or error}; use an IP address, or a name that this host can resolve"
        ) from error
    # An app on "localhost" mostly listens on 127.0.0.1 alone, while the resolver names ::1 first.
    if address.host == "localhost":
        found.sort(key=lambda one: one[0] != socket.AF_INET)
    return [Address(host=str(one[4][0]), port=address.port) for one in found]


def resolve_groups(groups: Iterable[TargetGroup], faults: Faults) -> dict[Address, list[Address]]:
    """Where all configured targets are; without those that cannot be resolved, which are noted."""
    resolved: dict[Address, list[Address]] = {}
    for group in groups:
        for target in group.targets:
            with faults.noted():
                resolved[target.address] = resolve_all(target.address, group.name)
    return resolved


def by_what_was_found(resolved: Resolved) -> Callable[[Address, str], Address]:
    """`resolve`, which asks only for what was not looked up before."""

    def found(address: Address, group: str) -> Address:
        known = resolved.get(address)
        return known[0] if known else resolve(address, group)

    return found


def doubles(group: TargetGroup, where: Callable[[Target], Address]) -> Iterator[str]:
    """The targets of a group that are at the address of another one; `where` is where each is."""
    seen: dict[Address, Target] = {}
    for target in group.targets:
        address = where(target)
        if address in seen:
            yield (
                f"target_groups.{group.name}.targets: {target.address} is "
                f"{seen[address].address} already: both are at {address}"
            )
        seen.setdefault(address, target)


def first_of(target: Target, resolved: Resolved) -> Address:
    """Where a target is, from the names that were looked up before."""
    found = resolved.get(target.address)
    return found[0] if found else target.address


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
