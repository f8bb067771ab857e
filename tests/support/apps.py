"""Tiny apps for tests of auto scaling, as files in a folder of the test. They know nothing of fastlb."""

from __future__ import annotations

import sys
from pathlib import Path

HTTP_SERVER = '''
"""Answers its pid on the port of 127.0.0.1 that is its argument; says each request on stderr."""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("listening on port", sys.argv[1], flush=True)
server.serve_forever()
'''

ASGI_APP = '''
"""Answers its version to everything."""


async def app(scope, receive, send):
    assert scope["type"] == "http"
    headers = [(b"content-type", b"text/plain"), (b"x-app-version", b"{version}")]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": b"{version}"}})
'''

VERSIONS = ("old", "new")


def http_server(folder: Path) -> list[str]:
    """The command of an app on `{port}` that answers its pid, written to `folder`."""
    path = folder / "http_server.py"
    path.write_text(HTTP_SERVER)
    return [sys.executable, str(path), "{port}"]


def asgi_app(folder: Path, version: str) -> list[str]:
    """The command of an app on `{socket}` that answers `version` ("old" or "new"); app_old.py and
    app_new.py are written to `folder`."""
    for one in VERSIONS:
        (folder / f"app_{one}.py").write_text(ASGI_APP.format(version=one))
    command = [sys.executable, "-m", "uvicorn", f"app_{version}:app", "--app-dir", str(folder)]
    return [*command, "--uds", "{socket}", "--lifespan", "off", "--no-access-log"]
