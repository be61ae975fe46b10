"""Triton's public client at a server, run by the Python of its own venv; prints what it was told as JSON.

Arguments: the address over HTTP, and the one over gRPC.
"""

import asyncio
import json
import queue
import sys

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from tritonclient.utils import InferenceServerException

AMOUNTS = np.array([1.0, 4.0], np.float64)
LABELS = np.array(["a", "ü"], object)


def inputs_of(client, **options):
    """Return two rows for the pipeline `log`."""
    amount = client.InferInput("amount", [2], "FP64")
    amount.set_data_from_numpy(AMOUNTS, **options)
    label = client.InferInput("label", [2, 1], "BYTES")
    label.set_data_from_numpy(LABELS.reshape(2, 1), **options)
    return [amount, label]


def told_by(result):
    """Return an answer as plain values."""
    columns = {}
    for name in ("score", "decision", "label"):
        values = result.as_numpy(name)
        if values is not None:
            columns[name] = [each.decode() if isinstance(each, bytes) else each for each in values.tolist()]
    return columns


def fault_of(ask):
    """Return what a call is refused with."""
    try:
        ask()
    except InferenceServerException as error:
        return [str(error.status()), error.message()]
    return None


def ask_http(url):
    """Ask over HTTP, in bytes and in JSON, all at once and one by one."""
    found = {}
    with over_http.InferenceServerClient(url) as client:
        metadata = client.get_model_metadata("log")
        found["live"] = [client.is_server_live(), client.is_server_ready(), client.is_model_ready("log")]
        found["absent"] = client.is_model_ready("absent")
        found["server"] = client.get_server_metadata()["name"]
        found["names"] = [each["name"] for each in metadata["inputs"]]
        (version,) = metadata["versions"]
        found["bytes"] = told_by(client.infer("log", inputs_of(over_http), model_version=version, request_id="7"))
        found["json"] = told_by(client.infer("log", inputs_of(over_http, binary_data=False)))
        wanted = [
            over_http.InferRequestedOutput("label", binary_data=False),
            over_http.InferRequestedOutput("score", binary_data=True),
        ]
        mixed = client.infer("log", inputs_of(over_http), outputs=wanted, priority=1, timeout=10_000_000)
        found["mixed"] = told_by(mixed)
        compressed = client.infer(
            "log", inputs_of(over_http), request_compression_algorithm="gzip", response_compression_algorithm="gzip"
        )
        found["gzip"] = told_by(compressed)
        found["id"] = client.infer("log", inputs_of(over_http), request_id="8").get_response()["id"]
        waiting = [client.async_infer("log", inputs_of(over_http)) for _ in range(8)]
        found["async"] = [told_by(each.get_result()) for each in waiting]
        found["unknown"] = fault_of(lambda: client.infer("absent", inputs_of(over_http)))
        found["missing"] = fault_of(lambda: client.infer("log", inputs_of(over_http)[1:]))
        found["sequence"] = fault_of(lambda: client.infer("log", inputs_of(over_http), sequence_id=5))
        classes = [over_http.InferRequestedOutput("score", class_count=2)]
        found["classes"] = fault_of(lambda: client.infer("log", inputs_of(over_http), outputs=classes))
        found["config"] = fault_of(lambda: client.get_model_config("log"))
        found["shed"] = fault_of(lambda: client.infer("log", inputs_of(over_http), timeout=1))
    return found


async def ask_http_aio(url):
    """Ask over HTTP from an event loop, many at once."""
    async with over_http_aio.InferenceServerClient(url) as client:
        live = await client.is_server_live()
        results = await asyncio.gather(*[client.infer("log", inputs_of(over_http_aio)) for _ in range(8)])
        return {"live": live, "rows": [told_by(each) for each in results]}


def ask_grpc(url):
    """Ask over gRPC, one by one and many at once."""
    found = {}
    with over_grpc.InferenceServerClient(url) as client:
        found["live"] = [client.is_server_live(), client.is_server_ready(), client.is_model_ready("log")]
        found["absent"] = client.is_model_ready("absent")
        found["server"] = client.get_server_metadata().name
        metadata = client.get_model_metadata("log")
        found["names"] = [each.name for each in metadata.inputs]
        (version,) = metadata.versions
        asked = {"model_version": version, "request_id": "8", "priority": 1, "timeout": 10_000_000}
        result = client.infer("log", inputs_of(over_grpc), **asked)
        found["bytes"] = told_by(result)
        found["id"] = result.get_response().id
        wanted = [over_grpc.InferRequestedOutput("label"), over_grpc.InferRequestedOutput("score")]
        found["mixed"] = told_by(client.infer("log", inputs_of(over_grpc), outputs=wanted))
        done = queue.Queue()
        for _ in range(8):
            client.async_infer("log", inputs_of(over_grpc), lambda result, error: done.put(result or error))
        found["async"] = [told_by(done.get(timeout=20)) for _ in range(8)]
        found["unknown"] = fault_of(lambda: client.infer("absent", inputs_of(over_grpc)))
        found["missing"] = fault_of(lambda: client.infer("log", inputs_of(over_grpc)[1:]))
        found["sequence"] = fault_of(lambda: client.infer("log", inputs_of(over_grpc), sequence_id=5))
        classes = [over_grpc.InferRequestedOutput("score", class_count=2)]
        found["classes"] = fault_of(lambda: client.infer("log", inputs_of(over_grpc), outputs=classes))
        found["config"] = fault_of(lambda: client.get_model_config("log"))
        found["shed"] = fault_of(lambda: client.infer("log", inputs_of(over_grpc), timeout=1))
    return found


async def ask_grpc_aio(url):
    """Ask over gRPC from an event loop, many at once."""
    async with over_grpc_aio.InferenceServerClient(url) as client:
        live = await client.is_server_live()
        results = await asyncio.gather(*[client.infer("log", inputs_of(over_grpc_aio)) for _ in range(8)])
        return {"live": live, "rows": [told_by(each) for each in results]}


def main(http_address, grpc_address):
    """Ask in every way, and tell."""
    found = {"http": ask_http(http_address), "http_aio": asyncio.run(ask_http_aio(http_address))}
    found |= {"grpc": ask_grpc(grpc_address), "grpc_aio": asyncio.run(ask_grpc_aio(grpc_address))}
    sys.stdout.write(json.dumps(found) + "\n")


main(*sys.argv[1:])
