"""The admin server of a FastlbProcess, asked over HTTP as a browser, a scraper or `curl` would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fastlb import FastlbProcess
from tests.support.processes import wait_until

JSON = {"Content-Type": "application/json"}


def admin_url(fastlb: FastlbProcess) -> str:
    """Of the admin address, as the log says it."""
    found = wait_until(
        lambda: re.search(r"admin on (http://\S+?)(?:,|\n)", fastlb.log()), what="the admin server"
    )
    return found[1]


def over_tcp(fastlb: FastlbProcess, **options: Any) -> httpx.Client:
    return httpx.Client(base_url=admin_url(fastlb), timeout=30, **options)


def over_unix(fastlb: FastlbProcess) -> httpx.Client:
    path = fastlb.run_dir / fastlb.name / "admin.sock"
    wait_until(path.exists, what=str(path))
    transport = httpx.HTTPTransport(uds=str(path))
    return httpx.Client(base_url="http://fastlb", transport=transport, timeout=30)


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of a scrape, by its name and labels."""
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def total(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    wanted = set(labels.items())
    return sum(
        value for (one, found), value in samples(text).items() if one == name and found >= wanted
    )


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """The kind and the value of each event of a stream."""
    kind = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)
