"""What takes traces as a collector does, by the protocol's own messages, and answers as a test says."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class OtlpReceiver:
    """A server on a free port. answers: what the next requests are answered with, a status and headers; then 200.

    rejected: spans that each answer of 200 says were not taken, and cause why. delay_s: before each answer. paths,
    headers: of the requests so far; spans: as rows.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.rejected = 0
        self.cause = "no room"
        self.delay_s = 0.0
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.spans: list[dict[str, Any]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the spans of a name."""
        return [span for span in self.spans if span["name"] == name]

    def _take(self, body: bytes) -> bytes:
        """Take one request in; return the answer's body."""
        request = ExportTraceServiceRequest.FromString(gzip.decompress(body))
        for group in request.resource_spans:
            resource = attributes(group.resource.attributes)
            for scope in group.scope_spans:
                assert scope.scope.name == "tailrace"
                self.spans += [row_of(span, resource) for span in scope.spans]
        partial = ExportTracePartialSuccess(
            rejected_spans=self.rejected, error_message=self.cause * bool(self.rejected)
        )
        return bytes(ExportTraceServiceResponse(partial_success=partial).SerializeToString())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.paths.append(self.path)
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                time.sleep(receiver.delay_s)
                status, more = receiver.answers.pop(0) if receiver.answers else (200, {})
                answer = receiver._take(body) if status == 200 else b""
                self.send_response(status)
                for name, value in (more | {"Content-Length": str(len(answer))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def row_of(span: Any, resource: dict[str, Any]) -> dict[str, Any]:
    """Return a span as it was sent."""
    return {
        "name": span.name,
        "kind": span.kind,
        "trace": span.trace_id.hex(),
        "span": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "state": span.trace_state,
        "flags": span.flags,
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "status": span.status.code,
        "message": span.status.message,
        "links": [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        "resource": resource,
        **attributes(span.attributes),
    }


def attributes(found: Any) -> dict[str, Any]:
    """Return attributes by name."""
    return {each.key: value_of(each.value) for each in found}


def value_of(value: Any) -> Any:
    """Return one value."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def receiving() -> Iterator[OtlpReceiver]:
    """Give a receiver that answers."""
    receiver = OtlpReceiver()
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()
