"""Who may ask over the admin address: a token where one is set, and never a page of another site.

ASGI around the routes. Without a token the address is one of this host alone, and then the danger is a
web page that the operator's own browser has open: it is told apart by Host (a name that somebody made
point to 127.0.0.1), Origin and Sec-Fetch-Site, and can neither read an answer, since there are no CORS
headers, nor send an action. Knows no route but those of the login.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastlb.admin.attempts import Attempts
from fastlb.admin.events import encoded

SESSION_SECONDS = 12 * 3600
LOGIN_BYTES = 4096
OPEN_PATHS = ("/static/", "/login")
"""What the login form needs, and says nothing of the instance."""

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: then a browser says `Origin: null` where it sends the login form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

LOGIN_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fastlb: sign in</title>
<link rel="stylesheet" href="/static/style.css">
</head>
<body class="login">
<main>
<h1>fastlb</h1>
<form method="post" action="/login">
<p><label for="token">Admin token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus></p>
<p><button type="submit">Sign in</button></p>
</form>
<p role="alert">{why}</p>
</main>
</body>
</html>
"""


class Guard:
    """`name` is what the listening socket is bound to: (host, port, ...) or a path."""

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        name: Any,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._token = token.encode() if token is not None else None
        self._host = name[0] if isinstance(name, tuple) else ""
        # Cookies know no port: two instances on one host must not sign each other out.
        self._cookie = f"fastlb_{name[1]}" if isinstance(name, tuple) else "fastlb"
        self._clock = clock
        self._attempts = Attempts(clock)

    def change_token(self, token: str | None) -> None:
        """From now on. Sessions are sealed with the one before, and end."""
        self._token = token.encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        request = Request(scope, receive)
        answer = await self._judge(request)
        await (answer or self._app)(scope, receive, send_with_headers)

    async def _judge(self, request: Request) -> Response | None:
        """What is answered instead; None where it may pass."""
        headers = request.headers
        reads = request.method in ("GET", "HEAD")
        why = self._foreign(headers, reads)
        if why:
            return _refused(403, why)
        path = request.url.path
        if self._token is not None:
            if path == "/login":
                return await self._login(request)
            if path == "/logout" and not reads:
                response = RedirectResponse("/login", 303)
                response.delete_cookie(self._cookie, httponly=True, samesite="strict")
                return response
            refusal = self._unknown(request)
            if refusal is not None and not (reads and path.startswith(OPEN_PATHS)):
                return refusal
        elif path == "/login":
            return RedirectResponse("/", 303)
        if not reads and not _is_json(headers):
            return _refused(415, "expected Content-Type: application/json")
        return None

    # -- other sites' pages

    def _foreign(self, headers: Headers, reads: bool) -> str:
        """Why it is taken for another site's page's request; "" where it is not."""
        host = headers.get("host", "")
        if self._token is None and not self._is_ours(host):
            # With a token a name that points here is of no use to who does not know the token: and
            # the balancer may be reached by any name that its owner gave it.
            return f"the Host {host!r} is none of this address; ask for http://localhost"
        if reads:
            return ""
        site = headers.get("sec-fetch-site", "same-origin")
        if site not in ("same-origin", "none"):
            return "an action must come from the dashboard's own page"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return f"an action must come from the dashboard's own page, not from {origin}"
        return ""

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name == "localhost" or name.endswith(".localhost") or name == self._host:
            return True
        try:
            # An address literal cannot be made to point elsewhere, as a name can.
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return not self._host  # a unix socket: whoever gets there may say what they like

    # -- the token

    def _unknown(self, request: Request) -> Response | None:
        """The refusal of a request that shows neither token nor session."""
        client = request.client.host if request.client is not None else ""
        given = request.headers.get("authorization")
        if given is None:
            if self._is_session(request.cookies.get(self._cookie, "")):
                return None
            wants_page = "text/html" in request.headers.get("accept", "")
            if wants_page and request.method == "GET" and request.url.path == "/":
                return RedirectResponse("/login", 303)
            return _unauthorized("a token is needed: Authorization: Bearer TOKEN")
        scheme, _, token = given.partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        return self._compare(client, token, _unauthorized("wrong token"))

    def _compare(self, client: str, given: str, wrong: Response) -> Response | None:
        """None where it is the token. Else `wrong`, or that this address has had too many: the right one
        is taken from it all the same, unless they come faster than anybody mistaken sends them."""
        assert self._token is not None
        wait = self._attempts.closed(client)
        if wait:
            return _too_many(wait)
        if hmac.compare_digest(given.encode("utf-8", "replace"), self._token):
            return None
        wait = self._attempts.barred(client)
        self._attempts.failed(client)
        return _too_many(wait) if wait else wrong

    async def _login(self, request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return HTMLResponse(LOGIN_PAGE.format(why=""))
        if request.method != "POST":
            return _refused(405, "expected GET or POST")
        client = request.client.host if request.client is not None else ""
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LOGIN_BYTES:
                return _refused(413, f"a body of over {LOGIN_BYTES} bytes")
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
        wrong = HTMLResponse(LOGIN_PAGE.format(why="That is not the token."), 401)
        refusal = self._compare(client, given, wrong)
        if refusal is not None:
            return refusal
        response = RedirectResponse("/", 303)
        response.set_cookie(
            self._cookie,
            self._new_session(),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
        )
        return response

    def _new_session(self) -> str:
        """Until when, something that is never twice, and a seal that only the token's owner can make:
        so that sessions outlive the supervisor, and end with the token."""
        said = f"{int(self._clock()) + SESSION_SECONDS}.{secrets.token_hex(8)}"
        return f"{said}.{self._seal(said)}"

    def _is_session(self, cookie: str) -> bool:
        said, _, seal = cookie.rpartition(".")
        until = said.partition(".")[0]
        if not (until.isascii() and until.isdecimal() and len(until) < 12):
            return False
        right = hmac.compare_digest(seal.encode("utf-8", "replace"), self._seal(said).encode())
        return right and int(until) > self._clock()

    def _seal(self, said: str) -> str:
        assert self._token is not None
        text = b"fastlb session " + said.encode("utf-8", "replace")
        return hmac.new(self._token, text, hashlib.sha256).hexdigest()


def _netloc(origin: str) -> str:
    """Host and port of an Origin in small letters; "" of what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _refused(status: int, why: str) -> Response:
    return Response(encoded({"error": why}), status, media_type="application/json")


def _unauthorized(why: str) -> Response:
    response = _refused(401, why)
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _too_many(wait: float) -> Response:
    response = _refused(429, f"too many wrong tokens; try again in {max(wait, 1):.0f} s")
    response.headers["Retry-After"] = f"{max(wait, 1):.0f}"
    return response
