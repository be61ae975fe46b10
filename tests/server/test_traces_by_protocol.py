"""Traces of callers of each protocol: their spans are named by it, and part of the trace that they tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from serving import Server, fetch, serving, wait_for

grpc = pytest.importorskip("grpc")
pytest.importorskip("grpc_health")
pytest.importorskip("opentelemetry.proto")

from otlp_receiver import OtlpReceiver, receiving  # noqa: E402
from tailrace.server.oip.grpc_messages import SERVICE, message_class  # noqa: E402

pytestmark = pytest.mark.slow

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
LIMIT_S = 20.0
ERROR = 2


def parent(number: int) -> dict[str, str]:
    """Return the header of a caller's span."""
    return {"traceparent": f"00-{TRACE}-{number:016x}-01"}


def below(receiver: OtlpReceiver, number: int) -> dict[str, Any]:
    """Return the span of the call that a caller's span has made; waits for it."""
    return wait_for(lambda: [span for span in receiver.spans if span["parent"] == f"{number:016x}"], LIMIT_S)[0]


def infer_by_grpc(server: Server, number: int) -> None:
    """Ask by the Open Inference Protocol over gRPC."""
    with grpc.insecure_channel(server.events("ready")[0]["grpc"]) as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            message_class("ModelInferRequest").SerializeToString,
            message_class("ModelInferResponse").FromString,
        )
        message = message_class("ModelInferRequest")(model_name="log", id="by-grpc")
        message.inputs.add(name="amount", datatype="FP64", shape=[1]).contents.fp64_contents.append(4.0)
        ask(message, timeout=10, metadata=list(parent(number).items()))


def test_callers_of_each_protocol_have_their_spans(pipelines_dir: Path, tmp_path: Path) -> None:
    """HTTP, the Open Inference Protocol over HTTP and gRPC, and a call that fails: each below its caller's span."""
    options = ("--grpc-port", "0", "--trace-sample", "0")
    with receiving() as receiver, serving(
        tmp_path / "out", pipelines_dir / "log.py", *options, "--traces", receiver.url
    ) as server:  # fmt: skip
        assert server.ask("log", {"amount": 4.0}, parent(1)).status == 200
        plain = below(receiver, 1)
        assert plain["name"] == "POST /v1/pipelines/log/predict"
        assert (plain["tailrace.decision"], plain["status"]) == (["high"], 0)

        body = {"id": "by-http", "inputs": [{"name": "amount", "datatype": "FP64", "shape": [1], "data": [4.0]}]}
        assert fetch(f"{server.url}/v2/models/log/infer", json.dumps(body).encode(), parent(2))[0] == 200
        found = below(receiver, 2)
        assert (found["url.path"], found["tailrace.request_id"]) == ("/v2/models/log/infer", "by-http")

        infer_by_grpc(server, 3)
        found = below(receiver, 3)
        assert (found["name"], found["rpc.service"]) == (f"{SERVICE}/ModelInfer", SERVICE)
        assert found["tailrace.request_id"] == "by-grpc"

        assert server.ask("log", {"amount": -1.0}, parent(4)).status == 500
        failed = below(receiver, 4)
        assert (failed["status"], failed["http.response.status_code"]) == (ERROR, 500)
        assert failed["error.type"] == failed["message"]
        assert failed["tailrace.kept"][:2] == ["caller", "failed"]

        unasked = {"traceparent": f"00-{TRACE}-{5:016x}-00"}
        assert server.ask("log", {"amount": 4.0}, unasked).status == 200
        assert server.ask("log", {"amount": -1.0}, unasked).status == 500
        assert below(receiver, 5)["tailrace.kept"][0] == "failed"
        assert sum(span["parent"] == f"{5:016x}" for span in receiver.spans) == 1
