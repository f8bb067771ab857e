"""An instance for the viewers: a group of two plain targets, and an auto scaling group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.apps import http_server
from tests.support.fastlb import FastlbProcess
from tests.support.processes import wait_until
from tests.support.raw_target import RawTarget
from tests.support.scaling import ScaledFastlb, group_of

LISTENERS = "".join(
    f'[[listeners]]\naddress = "http://127.0.0.1:0"\ndefault = {{ forward = "{one}" }}\n'
    for one in ("plain", "web")
)


@contextmanager
def looked_at(root: Path, *flags: str) -> Iterator[ScaledFastlb]:
    """With two targets in `plain`, and `web` of 1 to 3 instances, one of them in service."""
    with RawTarget() as one, RawTarget() as two:
        plain = f'[target_groups.plain]\ntargets = ["{one}", "{two}"]\n'
        web = group_of(command=http_server(root), min=1, max=3)
        with ScaledFastlb(root, LISTENERS, plain, web, flags=flags, listen=()) as fastlb:
            wait_for_admin(fastlb)
            fastlb.wait_steady(1)
            yield fastlb


def wait_for_admin(fastlb: FastlbProcess) -> None:
    """It comes after all that carries traffic."""
    wait_until((fastlb.run_dir / fastlb.name / "admin.sock").exists, 30, "admin.sock")


def admin_url(fastlb: FastlbProcess) -> str:
    """Of the address that `--admin 127.0.0.1:0` asked for."""
    found = wait_until(lambda: re.search(r"admin on (http://\S+)", fastlb.log()), 30, "the address")
    assert found is not None
    return found[1].rstrip(",")
