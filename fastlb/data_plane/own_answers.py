"""Answers that fastlb makes itself: errors with their cause, fixed responses, redirects. Pure."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

from fastlb.data_plane.listener_runtime import RequestFacts
from fastlb.data_plane.request_head import RequestHead
from fastlb.errors import RequestError
from fastlb.model.listener import FixedResponse, Redirect
from fastlb.model.matching import redirect_location

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Content Too Large",
    414: "URI Too Long",
}
"""RFC 9110's phrases; those of Python 3.11 are older."""


def answer(
    status: int,
    body: bytes,
    now: float,
    *,
    close: bool,
    fields: bytes = b"",
    content_type: str = "text/plain; charset=utf-8",
    head_only: bool = False,
    keep_alive: bool = False,
) -> bytes:
    """A whole response; `fields` are extra lines with their CRLF, `now` is the time of its Date in
    seconds since 1970. A 204 or 304 goes without a body.

    `keep_alive` says so in words, as a client of HTTP/1.0 needs it.
    """
    reason = _REASONS.get(status, "Unknown")
    framing = b""
    if status not in (204, 304):
        framing = b"Content-Type: %b\r\nContent-Length: %d\r\n" % (
            content_type.encode("latin-1", "replace"),
            len(body),
        )
    else:
        body = b""
    connection = b""
    if close:
        connection = b"Connection: close\r\n"
    elif keep_alive:
        connection = b"Connection: keep-alive\r\n"
    return b"HTTP/1.1 %d %b\r\nDate: %b\r\n%b%b%b\r\n%b" % (
        status,
        reason.encode(),
        formatdate(now, usegmt=True).encode(),
        framing,
        fields,
        connection,
        b"" if head_only else body,
    )


def error_answer(error: RequestError, now: float, *, close: bool, head_only: bool = False) -> bytes:
    """The answer to a request that no target answered; the cause stands in Proxy-Status (RFC 9209)."""
    details = "".join(c if 32 <= ord(c) < 127 and c not in '"\\' else "'" for c in error.detail)
    fields = f'Proxy-Status: fastlb; error={error.cause}; details="{details}"\r\n'
    if error.status == 503:
        fields += "Retry-After: 1\r\n"
    elif error.status == 405:
        fields += "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n"
    reason = _REASONS.get(error.status, "Unknown")
    body = f"{error.status} {reason}: {error.detail}\n"
    return answer(
        error.status,
        body.encode("ascii", "replace"),
        now,
        close=close,
        fields=fields.encode("ascii", "replace"),
        head_only=head_only,
    )


def action_answer(
    action: FixedResponse | Redirect,
    head: RequestHead,
    facts: RequestFacts,
    now: float,
    *,
    keep: bool,
) -> bytes:
    """The answer of a Rule that asks no target; `keep` says that the connection stays open."""
    location = b""
    body = b""
    content_type = "text/plain; charset=utf-8"
    if isinstance(action, FixedResponse):
        body = action.body.encode()
        content_type = action.content_type
    else:
        target = redirect_location(
            action,
            protocol="http",
            host=facts.host,
            port=facts.port,
            path=facts.path,
            query=facts.query,
        )
        location = b"Location: %b\r\n" % target.encode("ascii")
    return answer(
        action.status,
        body,
        now,
        close=not keep,
        fields=location,
        content_type=content_type,
        head_only=head.method == b"HEAD",
        keep_alive=keep and not head.block.http_11,
    )
