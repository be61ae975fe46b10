"""A proxy before a DynamoDB that misbehaves as it is told to: it leaves keys out, is busy, slow, or gone."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Server(ThreadingHTTPServer):
    """Says nothing of a call that came to nothing: who asked has given up, or the DynamoDB has ended."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing."""


class DynamoProxy:
    """Serves on a free port. leave_out, busy: how many of the next BatchGetItem calls; wait_s: before each answer."""

    def __init__(self, endpoint: str) -> None:
        self.leave_out = 0
        self.busy = 0
        self.wait_s = 0.0
        self.asked: list[int] = []
        """The number of keys of each BatchGetItem."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                proxy.answer(self, endpoint)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler, endpoint: str) -> None:
        """Answer one call."""
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        time.sleep(self.wait_s)
        left: dict[str, Any] = {}
        if handler.headers["X-Amz-Target"].endswith("BatchGetItem"):
            ((table, request),) = body["RequestItems"].items()
            self.asked.append(len(request["Keys"]))
            if self.busy:
                self.busy -= 1
                self._send(handler, 400, {"__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException"})
                return
            if self.leave_out:
                self.leave_out -= 1
                keys = request["Keys"]
                half = len(keys) // 2
                left = {table: {**request, "Keys": keys[half:]}}
                request["Keys"] = keys[:half]
                if not half:
                    self._send(handler, 200, {"Responses": {table: []}, "UnprocessedKeys": left})
                    return
        headers = {
            name: handler.headers[name] for name in ("X-Amz-Target", "Content-Type", "Authorization", "X-Amz-Date")
        }
        asked = urllib.request.Request(endpoint, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(asked, timeout=30) as found:
            told = json.load(found)
        if left:
            told["UnprocessedKeys"] = left
        self._send(handler, 200, told)

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/x-amz-json-1.0")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
