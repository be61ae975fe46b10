"""A real server that alerts are posted to: it answers as it is told, and keeps what came."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """Takes posts on a free port, by TLS with a secret context.

    statuses: what the next ones are answered with, then 200; a redirection leads here again. hold: none is answered.
    """

    def __init__(self, secret: ssl.SSLContext | None = None) -> None:
        self.statuses: list[int] = []
        self.hold = threading.Event()
        self.hold.set()
        self.taken: list[tuple[str, Any]] = []
        self.asked = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.asked += 1
                receiver.hold.wait(10)
                status = receiver.statuses.pop(0) if receiver.statuses else 200
                if status == 200:
                    receiver.taken.append((self.path, json.loads(body)))
                self.send_response(status)
                if status // 100 == 3:
                    self.send_header("Location", "/hook")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                receiver.asked += 1
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if secret is not None:
            self._server.socket = secret.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http{'s' if secret else ''}://127.0.0.1:{self._server.server_port}/hook"

    def close(self) -> None:
        """Answer who waits, and stop."""
        self.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def wait_for(condition: Callable[[], Any], limit_s: float = 10.0) -> Any:
    """Return the condition's first true value. Raises AssertionError where there is none in time."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError("not true in time")
