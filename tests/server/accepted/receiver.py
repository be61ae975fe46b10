"""A receiver of webhooks: a real HTTP server on a thread, that answers as a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tailrace.client import verify_webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + "QUJD" * 10


class Receiver:
    """What came, in order, each verified. port: 0 takes a free one.

    status: that is answered; hangs: nothing is; closes: each connection after its answer, without a word.
    """

    def __init__(self, port: int = 0, status: int = 204) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.status: int | Callable[[str], int] = status
        self.headers: dict[str, str] = {}
        self.hangs = self.closes = False
        self.connections = 0
        self.ended = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.receiver = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/results"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def take(self, headers: dict[str, str], body: bytes) -> int:
        """Take one POST; return what it is answered with."""
        message_id = verify_webhook(SECRET, headers, body)
        members = json.loads(body)
        assert members["id"] == message_id
        status = self.status if isinstance(self.status, int) else self.status(members["request_id"])
        if self.hangs:
            self.ended.wait(30)
        if 200 <= status < 300:
            self.bodies.append(members)
        else:
            self.refused.append(message_id)
        return status

    @property
    def ids(self) -> list[str]:
        """The ids that came, in order."""
        return [members["id"] for members in self.bodies]

    def wait(self, count: int, limit_s: float = 30.0) -> list[dict[str, Any]]:
        """Return what came once there are so many different ids."""
        end_s = time.monotonic() + limit_s
        while len(set(self.ids)) < count:
            assert time.monotonic() < end_s, f"{len(set(self.ids))} of {count} came; {len(self.refused)} were refused"
            time.sleep(0.01)
        return self.bodies

    def close(self) -> None:
        """Be gone."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    receiver: Receiver


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        """Count the connection."""
        self.server.receiver.connections += 1
        super().setup()

    def do_POST(self) -> None:
        receiver = self.server.receiver
        body = self.rfile.read(int(self.headers["content-length"]))
        status = receiver.take(dict(self.headers.items()), body)
        self.send_response(status)
        for name, value in receiver.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()
        self.close_connection = self.close_connection or receiver.closes

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def receiving(**options: Any) -> Iterator[Receiver]:
    """Give a receiver, closed afterwards."""
    receiver = Receiver(**options)
    try:
        yield receiver
    finally:
        receiver.close()


def declare(folder: Path, pipelines_dir: Path, results: str, *, name: str = "log") -> Path:
    """Write the small pipeline with these results into a folder, beside its model; return its file."""
    import shutil

    if not (folder / "models").exists():
        shutil.copytree(pipelines_dir / "models", folder / "models")
    text = (pipelines_dir / "log.py").read_text().partition("log_with_fallback =")[0]
    text = text.replace('name="log"', f'name="{name}"').replace(
        'budget=tr.Budget("50ms"),', f'budget=tr.Budget("2s"),\n    results={results},'
    )
    file = folder / f"accepted_{name}.py"
    file.write_text(text)
    return file
