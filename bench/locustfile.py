"""Locust users for HTTP, each without pauses; against the bench's targets or `fastlb demo`.

    locust -f bench/locustfile.py --host http://127.0.0.1:8080           all of them
    locust -f bench/locustfile.py --host http://127.0.0.1:8080 Upload    one kind

Locust spends far more CPU on a request than any proxy: see docs/benchmarks.md. Knows no proxy.
"""

# locust is not there where mypy runs, and its decorators are unknown then.
# mypy: disable-error-code="untyped-decorator, misc, no-untyped-call, no-any-unimported"

from __future__ import annotations

import random

from locust import FastHttpUser, constant, task

KIB = 1024
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Referer": "https://example.com/some/page",
    "Cookie": "session=0123456789abcdef0123456789abcdef0123456789abcdef; theme=dark",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-User": "?1",
    "Cache-Control": "max-age=0",
    "DNT": "1",
    "X-Requested-With": "bench",
}


class Bench(FastHttpUser):
    """What all have in common: no pauses, no retries that would hide a failure."""

    abstract = True
    wait_time = constant(0)
    max_retries = 0

    def ask(self, method: str, path: str, name: str, size: int = 0, **rest: object) -> None:
        """One request; a status other than 200 is a failure, and so is a body of another `size`."""
        with self.client.request(method, path, name=name, catch_response=True, **rest) as answer:
            got = len(answer.content or b"")
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
            elif size and got != size:
                answer.failure(f"{got} bytes instead of {size}")


class MinimalGet(Bench):
    """GET / with next to no fields."""

    weight = 4

    @task
    def get(self) -> None:
        self.ask("GET", "/", "minimal GET")


class BrowserGet(Bench):
    """15 fields, another path and query each time."""

    weight = 4

    @task
    def get(self) -> None:
        number = random.randrange(1_000_000)
        path = f"/echo/items/{number}?page={number % 97}&sort=price"
        self.ask("GET", path, "browser-like GET", headers=BROWSER)


class Post4k(Bench):
    """POST with a body of 4 KiB."""

    weight = 2

    @task
    def post(self) -> None:
        self.ask("POST", "/echo", "POST 4 KiB", data=b"x" * 4 * KIB)


class Response64k(Bench):
    """GET of 64 KiB."""

    weight = 2

    @task
    def get(self) -> None:
        self.ask("GET", f"/bytes/{64 * KIB}", "64 KiB response", size=64 * KIB)


class NewConnection(Bench):
    """A new connection for each request."""

    weight = 2

    @task
    def get(self) -> None:
        self.client.client.clientpool.close()
        self.ask("GET", "/", "new connection per request", headers={"Connection": "close"})


class Upload(Bench):
    """POST of 1 MiB."""

    weight = 1

    @task
    def post(self) -> None:
        self.ask("POST", "/echo", "1 MiB upload", data=b"x" * KIB * KIB)


class Download(Bench):
    """GET of 10 MiB."""

    weight = 1

    @task
    def get(self) -> None:
        self.ask("GET", f"/bytes/{10 * KIB * KIB}", "10 MiB response", size=10 * KIB * KIB)
