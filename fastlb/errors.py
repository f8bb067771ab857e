"""What can go wrong, said for a person, and for a client where one waits for an answer.

Knows nobody. `FastlbError` ends a command with its exit status; `RequestError` ends one request with
an HTTP answer whose cause stands in Proxy-Status (RFC 9209).
"""

from __future__ import annotations


class FastlbError(Exception):
    """A command cannot go on: the message says what happened, where, and what to do."""

    exit_status = 1


class ConfigError(FastlbError):
    """The configuration is wrong; `problems` holds one line for each error, key path first."""

    exit_status = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class RequestError(Exception):
    """One request cannot be answered by a target.

    `status` is the HTTP status for the client; `cause` is a Proxy-Status error type of RFC 9209 §2.3;
    `detail` is for the log and the Proxy-Status `details` parameter, in ASCII.
    """

    def __init__(self, status: int, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.cause = cause
        self.detail = detail
