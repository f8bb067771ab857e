"""The client of an instance's admin server: HTTP over the unix socket in its run-time folder.

Knows paths and JSON, and nothing of what is answered.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from fastlb.cli.asking import Supervisor
from fastlb.control_plane.run_dir import ADMIN, run_dir_path
from fastlb.errors import FastlbError

API = "/api/v1/"
ANSWER_SECONDS = 10.0
SILENCE_SECONDS = 5.0
"""An event comes each second: whoever is silent for so long is stopped or gone."""


class AdminGone(FastlbError):
    """Nobody answers at the socket, or not in time."""


class AdminClient:
    """Asks at `path`. Each question has a connection of its own. Errors are FastlbErrors, AdminGone
    where there was no answer at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, name: str | None) -> AdminClient:
        """Of the instance that a command with `--name` means. Raises FastlbError where none runs."""
        status = Supervisor(name).ask({"command": "status"})
        path = run_dir_path(str(status["name"])) / ADMIN
        if not path.exists():
            raise FastlbError(
                f"{path} is not there: the instance runs without its admin server, or is of a version "
                "that has none; fastlb status asks the supervisor itself"
            )
        return cls(path)

    def get(self, what: str) -> dict[str, Any]:
        return self._exchange("GET", what, None)

    def post(self, what: str, body: dict[str, Any]) -> str:
        """What was said to it. Raises FastlbError with the server's words where it was refused."""
        return str(self._exchange("POST", what, body).get("said", "done"))

    def overviews(self) -> Iterator[dict[str, Any]]:
        """One a second, for as long as the server is there. Raises AdminGone when it is not."""
        with closing(_UnixConnection(self.path, SILENCE_SECONDS)) as connection:
            try:
                connection.request("GET", f"{API}events", headers={"accept": "text/event-stream"})
                response = connection.getresponse()
                if response.status != 200:
                    raise FastlbError(_refusal(response.status, response.read()))
                event = ""
                while line := response.readline():
                    name, _, value = line.decode().rstrip("\r\n").partition(":")
                    if name == "event":
                        event = value.strip()
                    elif name == "data" and event == "overview":
                        yield json.loads(value)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise AdminGone(f"{self.path}: {error or type(error).__name__}") from None
        raise AdminGone(f"{self.path}: the admin server ended the stream")

    def _exchange(self, method: str, what: str, body: dict[str, Any] | None) -> dict[str, Any]:
        text = None if body is None else json.dumps(body)
        headers = {} if body is None else {"content-type": "application/json"}
        with closing(_UnixConnection(self.path, ANSWER_SECONDS)) as connection:
            try:
                connection.request(method, API + what, text, headers)
                response = connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise AdminGone(f"{self.path}: {error or type(error).__name__}") from None
        if response.status >= 400:
            raise FastlbError(_refusal(response.status, answer))
        try:
            document = json.loads(answer)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise FastlbError(f"{self.path}: expected a JSON object, got {answer[:80]!r}")
        return document


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _refusal(status: int, body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the admin server answered {status}"
