"""What a request costs, counted rather than timed: the instructions that Python interprets for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from tailrace.codecs.json import JsonCodec
from tailrace.deadline import MonotonicClock
from tailrace.engine import Engine
from tailrace.loop_load import LoopLoad
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline
from tailrace.server.endpoint import Endpoint, Page
from tailrace.server.http.limits import HttpLimits
from tailrace.server.http.server import HttpServer
from tailrace.server.options import ServeOptions
from tailrace.server.worker import shape_of
from tailrace.testing import TestClient, Turns

REQUEST_INSTRUCTIONS_MAX = 440
"""Of one request beside others, from its bytes to those of its answer: 426 when this was written, the text of a view a
fifth of them."""
BATCH_INSTRUCTIONS_MAX = 3_400
"""Of a batch, beside its requests': 3,388 then. A ratchet: lower both when the code does with fewer."""


class Socket:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.write = self.written.append

    def is_closing(self) -> bool:
        """It never is."""
        return False


def count_instructions(run: Callable[[], None]) -> int:
    """Return how many instructions of Tailrace's own code, and of the pipeline's, Python interprets in a call."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions compile to other instructions")
def test_request_interprets_few_instructions(pipeline_of: Callable[[str], Pipeline]) -> None:
    """From the bytes received to the bytes written, what a request costs, and what a batch does, stays bounded."""
    pipeline = pipeline_of("payment")
    customer, terminal = pipeline.views
    with TestClient(pipeline) as client:
        for index in range(64):
            client.put(customer, index, avg_amount=10.0 + index, chargebacks=0, watched=False)
            client.put(terminal, f"T{index}", fraud_rate=0.25, country="DE")
        turns = Turns()
        routes: dict[bytes, dict[bytes, Endpoint | Page]] = {}
        load = LoopLoad(turns)
        server = HttpServer(routes, HttpLimits.of(ServeOptions(files=())), load, lambda kind: None)
        recorder = BatchRecorder(MetricBlock.create(worker_layout([shape_of(pipeline)], 0)), "payment")
        client.plan.features.retrieval.observe_fetch = recorder.count_fetch
        engine = Engine(client.plan, load, [recorder], MonotonicClock(), turns)
        routes[b"/predict"] = {b"POST": Endpoint(engine, JsonCodec(pipeline.request, array_max=1_000))}
        connections = []
        for _ in range(64):
            connections.append(server())
            connections[-1].connection_made(Socket())  # type: ignore[arg-type]
        messages = []
        for index in range(64):
            body = json.dumps(
                {"transaction_id": f"t{index:02}", "customer_id": index, "terminal_id": f"T{index}",
                 "amount": 50.0 + index, "time": "2026-01-02T03:04:05Z"}
            ).encode()  # fmt: skip
            messages.append(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        def serve(calls: int) -> None:
            for connection, message in zip(connections[:calls], messages, strict=False):
                connection.data_received(message)
            turns.turn()
            turns.turn()

        serve(64)  # heads are learnt, and whatever is made when first asked for
        serve(64)
        few, many = (count_instructions(lambda calls=calls: serve(calls)) for calls in (16, 64))
        for index, connection in enumerate(connections):
            written: list[bytes] = connection._transport.written  # type: ignore[attr-defined]
            assert [f'"transaction_id":"t{index:02}"'.encode() in answer for answer in written] == [True] * len(written)
            assert len(written) == (4 if index < 16 else 3)
    request = (many - few) / 48
    assert request < REQUEST_INSTRUCTIONS_MAX
    assert few - 16 * request < BATCH_INSTRUCTIONS_MAX
