"""An HTTP app that starts in a tenth of the demo app's time, for tests in which only its process matters:
that it is there, answers as itself, is slow or unwell when asked, ends in order by SIGTERM, or dies.

`light_app.py --uds PATH | --port N [--name NAME] [--version TEXT] [--start-delay SECONDS]
[--end-with stdin]`. Answers like the demo app at /, /health, /slow, /burn, /fail?mode=health|off and
/echo?raw=1. Knows nothing of fastlb; imports little, which is why it starts so soon.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

END_SECONDS = 5.0
"""After SIGTERM, for requests that are under way."""


class App:
    """What it was started with, and who is connected."""

    def __init__(self, options: dict[str, str]) -> None:
        name = options.get("--name") or f"light-{os.getpid()}"
        self.marks = f"x-demo-worker: {name}\r\n"
        if "--version" in options:
            self.marks += f"x-demo-version: {options['--version']}\r\n"
        self.well = True
        self.ending = False
        self.open: dict[socket.socket, threading.Thread] = {}

    def serve(self, listening: socket.socket) -> None:
        """Until SIGTERM; then requests that are under way are finished."""

        def end(number: int, frame: object) -> None:
            if not self.ending:  # whoever is told twice ends once
                self.ending = True
                listening.shutdown(socket.SHUT_RDWR)  # which ends accept(), and nothing else

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        while not self.ending:
            try:
                one, _ = listening.accept()
            except OSError:
                continue
            self.open[one] = threading.Thread(target=self._serve_one, args=(one,), daemon=True)
            self.open[one].start()
        listening.close()
        deadline = time.monotonic() + END_SECONDS
        for one, thread in list(self.open.items()):
            try:
                one.shutdown(socket.SHUT_RD)  # whoever waits for its next request sees the end
            except OSError:
                continue
            thread.join(max(0.0, deadline - time.monotonic()))

    def _serve_one(self, one: socket.socket) -> None:
        received = b""
        try:
            while True:
                while (end := received.find(b"\r\n\r\n")) < 0:
                    if not (data := one.recv(65536)):
                        return
                    received += data
                lines = received[:end].decode("latin-1").split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in map(_parted, lines[1:])}
                length = int(fields.get("content-length", 0))
                received = received[end + 4 :]
                while len(received) < length:
                    if not (data := one.recv(65536)):
                        return
                    received += data
                body, received = received[:length], received[length:]
                one.sendall(self._answer(lines[0], fields, body))
                if self.ending or fields.get("connection") == "close":
                    return
        except OSError:
            return
        finally:
            one.close()
            self.open.pop(one, None)

    def _answer(self, line: str, fields: dict[str, str], body: bytes) -> bytes:
        method, target, _ = line.split(" ")
        path, _, query = target.partition("?")
        asked = dict(pair.partition("=")[::2] for pair in query.split("&"))
        status, shown = "200 OK", f"pid {os.getpid()}\n".encode()
        if path == "/slow":
            time.sleep(int(asked.get("ms", 1000)) / 1000)
        elif path == "/burn":
            until = time.thread_time() + int(asked.get("ms", 1000)) / 1000
            while time.thread_time() < until:
                sum(range(500))
        elif path == "/fail":
            self.well = {"health": False, "off": True}[asked["mode"]]
        elif path == "/echo":
            shown = body
        elif path == "/health" and not self.well:
            status = "503 Service Unavailable"
        elif path not in ("/", "/health"):
            status = "404 Not Found"
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(shown)}\r\n{self.marks}"
        if "x-request-id" in fields:
            head += f"x-request-id: {fields['x-request-id']}\r\n"
        if self.ending or fields.get("connection") == "close":
            head += "connection: close\r\n"
        return f"{head}\r\n".encode("latin-1") + (b"" if method == "HEAD" else shown)


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _end_with_stdin() -> None:
    """It is a pipe whose other end the parent holds."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    time.sleep(float(options.get("--start-delay", "0")))
    if "--uds" in options:
        listening = socket.socket(socket.AF_UNIX)
        if os.path.exists(options["--uds"]):
            os.unlink(options["--uds"])  # of one that was killed
        listening.bind(options["--uds"])
    else:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", int(options["--port"])))
    listening.listen(1024)
    if options.get("--end-with") == "stdin":
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    App(options).serve(listening)


if __name__ == "__main__":
    main()
