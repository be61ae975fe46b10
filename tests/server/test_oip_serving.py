"""`tailrace serve` by the Open Inference Protocol: over HTTP and gRPC, without anything that a pipeline must have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from serving import fetch, serving

grpc = pytest.importorskip("grpc")
pytest.importorskip("grpc_health")

from tailrace.server.oip.grpc_messages import SERVICE, message_class  # noqa: E402

pytestmark = pytest.mark.slow


def test_server_has_models_over_http_and_grpc(pipelines_dir: Path, tmp_path: Path) -> None:
    """Each pipeline of the file is a model of the release's version, and is answered alike by both."""
    with serving(tmp_path / "log", pipelines_dir / "log.py", "--grpc-port", "0") as server:
        model = json.loads(fetch(f"{server.url}/v2/models/log")[2])
        (version,) = model["versions"]
        body = {"inputs": [{"name": "amount", "datatype": "FP64", "shape": [1], "data": [4.0]}]}
        path = f"{server.url}/v2/models/log/versions/{version}/infer"
        status, _, told = fetch(path, json.dumps(body).encode())
        assert status == 200
        outputs = {each["name"]: each["data"] for each in json.loads(told)["outputs"]}
        assert outputs["decision"] == ["high"]
        with grpc.insecure_channel(server.events("ready")[0]["grpc"]) as channel:
            ask = channel.unary_unary(
                f"/{SERVICE}/ModelInfer",
                message_class("ModelInferRequest").SerializeToString,
                message_class("ModelInferResponse").FromString,
            )
            message = message_class("ModelInferRequest")(model_name="log", model_version=version)
            message.inputs.add(name="amount", datatype="FP64", shape=[1]).contents.fp64_contents.append(4.0)
            answer = ask(message, timeout=10)
        assert (answer.model_version, answer.outputs[0].contents.fp64_contents[0]) == (version, outputs["score"][0])
