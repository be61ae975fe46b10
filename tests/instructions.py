"""How many instructions Python interprets for a request: counted by tests/test_hot_path.py and by `make bench`.

python tests/instructions.py    prints them as JSON
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from pipelines.model_graphs import write_models
from tailrace.codecs.offer import Offer
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import MonotonicClock
from tailrace.engine import Engine
from tailrace.loop_load import LoopLoad
from tailrace.monitor.layout import worker_layout
from tailrace.monitor.recorder import BatchRecorder
from tailrace.monitor.shared import MetricBlock
from tailrace.pipeline import Pipeline, stream_views
from tailrace.server.declared import shape_of
from tailrace.server.endpoint import Endpoint, Page
from tailrace.server.http.limits import HttpLimits
from tailrace.server.http.server import HttpServer
from tailrace.server.options import ServeOptions
from tailrace.testing import TestClient, Turns

CALLS_MAX = 64
TIME_S = 1_735_786_800  # 2025-01-02T03:00:00Z


class Counts(NamedTuple):
    """Of one request beside others, from its bytes to those of its answer; of a batch, beside its requests'."""

    request: float
    batch: float


class Traffic(NamedTuple):
    """What is sent to a pipeline. prepare: fills the store. body: of a request. part: of the answer to it."""

    prepare: Callable[[TestClient], None]
    body: Callable[[int], dict[str, Any]]
    part: Callable[[int], str]


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
    gc.collect()
    gc.disable()  # serving does too; and what others have asked to run at a collection would be counted
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


def count_of(pipeline: Pipeline, traffic: Traffic | None = None) -> Counts:
    """Return the counts of a pipeline; every answer is looked at.

    traffic: that of tests/pipelines/payment.py, unless another is given.
    """
    if traffic is None:
        traffic = payment_traffic(pipeline)
    with ExitStack() as stack:
        client = stack.enter_context(TestClient(pipeline))
        traffic.prepare(client)
        turns = Turns()
        routes: dict[bytes, dict[bytes, Endpoint | Page]] = {}
        load = LoopLoad(turns)
        server = HttpServer(routes, HttpLimits.of(ServeOptions(files=())), load, lambda kind: None)
        recorder = BatchRecorder(MetricBlock.create(worker_layout([shape_of(pipeline)], 0)), pipeline.name)
        client.plan.features.retrieval.observe_fetch = recorder.count_fetch
        engine = Engine(client.plan, load, [recorder], MonotonicClock(), turns)
        routes[b"/predict"] = {b"POST": Endpoint(engine, Offer(pipeline.request, array_max=1_000))}
        sockets = [Socket() for _ in range(CALLS_MAX)]
        connections = [server() for _ in sockets]
        for connection, socket in zip(connections, sockets, strict=True):
            connection.connection_made(socket)  # type: ignore[arg-type]
        messages = [message_of(traffic.body(index)) for index in range(CALLS_MAX)]

        def serve(calls: int) -> None:
            for connection, message in zip(connections[:calls], messages, strict=False):
                connection.data_received(message)
            turns.turn()
            turns.turn()

        serve(CALLS_MAX)  # heads are learnt, and whatever is made when first asked for
        serve(CALLS_MAX)
        few, many = (count_instructions(lambda calls=calls: serve(calls)) for calls in (16, CALLS_MAX))
    for index, socket in enumerate(sockets):
        assert len(socket.written) == (4 if index < 16 else 3)
        assert all(traffic.part(index).encode() in answer for answer in socket.written)
    request = (many - few) / (CALLS_MAX - 16)
    return Counts(request, few - 16 * request)


def payment_traffic(pipeline: Pipeline) -> Traffic:
    """Return requests of tests/pipelines/payment.py, with a body of its own each."""
    customer, terminal = pipeline.views

    def prepare(client: TestClient) -> None:
        for index in range(CALLS_MAX):
            client.put(customer, index, avg_amount=10.0 + index, chargebacks=0, watched=False)
            client.put(terminal, f"T{index}", fraud_rate=0.25, country="DE")

    def body(index: int) -> dict[str, Any]:
        return {"transaction_id": f"t{index:02}", "customer_id": index, "terminal_id": f"T{index}",
                "amount": 50.0 + index, "time": "2026-01-02T03:04:05Z"}  # fmt: skip

    return Traffic(prepare, body, lambda index: f'"transaction_id":"t{index:02}"')


def activity_traffic(pipeline: Pipeline) -> Traffic:
    """Return requests of tests/pipelines/activity.py, of which none is counted as an event."""
    payments, _, labels = (view.spec.stream for view in stream_views(pipeline))

    def prepare(client: TestClient) -> None:
        for index in range(CALLS_MAX):
            seen = [body(index) | {"transaction_id": CALLS_MAX * place + index, "time": TIME_S + place}
                    for place in range(1 + index % 3)]  # fmt: skip
            client.push(payments, *seen)
            client.push(labels, {"transaction_id": index, "terminal_id": index, "is_fraud": 1, "time": TIME_S})

    def body(index: int) -> dict[str, Any]:
        return {"transaction_id": 1_000 + index, "customer_id": index, "terminal_id": index, "amount": 50.0 + index,
                "time": "2025-01-02T03:04:05Z"}  # fmt: skip

    return Traffic(prepare, body, lambda index: f'"count_5m":{1 + index % 3},')


def message_of(body: dict[str, Any]) -> bytes:
    """Return a request with this body."""
    encoded = json.dumps(body).encode()
    return b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(encoded), encoded)


def main() -> None:
    """Print the counts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        write_models(folder / "models")
        file = folder / "payment.py"
        file.write_bytes((Path(__file__).parent / "pipelines" / "payment.py").read_bytes())
        counts = count_of(load_pipelines(file)[0])
    print(json.dumps(counts._asdict()))  # noqa: T201 - how bench/counts.py learns them


if __name__ == "__main__":
    main()
