"""A small server written to the protocols' specifications, which answers as told: well, late, cut short or wrong.

Its model gives each row the first number of its first input. It listens on a port of its own, on a thread, over real
sockets; one fault at a time, for predictions alone.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import ssl
import struct
import threading
from contextlib import suppress
from typing import Any

import numpy as np

READY_S_MAX = 10.0
OIP_TYPES = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "INT32": "<i4", "BOOL": "?"}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Request:
    """A request that was read. body: whole."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body


class ProtocolServer:
    """Serves the model `fraud`, version 3. fault: of the next answers; requests: that were read, connections: made.

    width: of its one input; binary: whether it has the extension for bytes. port: 0 for one that is free. versions:
    that it says it has.
    """

    def __init__(
        self, *, width: int = 4, binary: bool = False, tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.width, self.binary = width, binary
        self.fault = ""
        self.versions: Any = ["3"]
        self.delay_s = 0.0
        self.poison: float | None = None  # of a row for which the model fails
        self.requests: list[Request] = []
        self.connections = 0
        self.at_once = self.at_once_most = 0
        self.port = port
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="protocol-server")
        self._thread.start()
        assert ready.wait(READY_S_MAX)

    def __enter__(self) -> ProtocolServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def root(self) -> str:
        """Its address, without a path."""
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    def url(self, protocol: str = "oip") -> str:
        """Return the address of the model by a protocol."""
        paths = {"oip": "/v2/models/fraud/versions/3", "tensorflow": "/v1/models/fraud/versions/3",
                 "torchserve": "/predictions/fraud/3"}  # fmt: skip
        return self.root + paths[protocol]

    def close(self) -> None:
        """End it, and all connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls, limit=1 << 24)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._closing.wait()
        server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer_all(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answered in range(1 << 30):
            request = await read_request(reader)
            self.requests.append(request)
            if request.method == "GET":
                if self.fault == "slow_description":
                    await self._send_slow_head(writer, b"")
                writer.write(framed(*self._describe(request)))
                continue
            if self.fault == "close_when_used" and answered:
                return
            self.at_once += 1
            self.at_once_most = max(self.at_once_most, self.at_once)
            try:
                await asyncio.sleep(self.delay_s)
                if not await self._predict(request, writer):
                    return
            finally:
                self.at_once -= 1

    # -- what it says of its model ----------------------------------------------------------------------------------

    def _describe(self, request: Request) -> tuple[int, bytes, str]:
        if request.path == "/v2":
            told: Any = {"name": "test", "extensions": ["binary_tensor_data"] if self.binary else []}
        elif request.path in {"/v2/models/fraud", "/v2/models/fraud/versions/3"}:
            told = {"name": "fraud", "versions": self.versions, "platform": "test",
                    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, self.width]}],
                    "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}]}  # fmt: skip
        elif request.path in {"/v1/models/fraud/metadata", "/v1/models/fraud/versions/3/metadata"}:
            told = tensorflow_metadata(self.width)
        else:
            return 404, json.dumps({"error": f"no {request.path}"}).encode(), ""
        return 200, json.dumps(told).encode(), ""

    # -- its predictions --------------------------------------------------------------------------------------------

    async def _predict(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection goes on."""
        status, body, more = self._answer(request)
        whole = framed(status, body, more)
        if self.fault in {"stall", "huge", "huge_chunked", "slow_head", "pieces"}:
            await getattr(self, f"_send_{self.fault}")(writer, whole)
            return True
        cut = whole[: len(whole) - len(body) // 2 - 1]
        sent = {
            "garbage": b"\x16\x03\x01 this is no HTTP\r\n\r\n",
            "redirect": framed(302, b"", f"Location: {self.root}/elsewhere\r\n"),
            "chunked": chunked(body, more),
            "continue_first": b"HTTP/1.1 100 Continue\r\n\r\n" + whole,
            "twice": whole + framed(200, b'{"predictions": [9, 9]}'),
            "reset_midway": cut,
            "close_midway": cut,
            "close_at_once": b"",
            "no_length": b"HTTP/1.0 200 OK\r\n\r\n" + body,
            "closes": framed(status, body, more + "Connection: close\r\n"),
        }.get(self.fault, whole)
        writer.write(sent)
        await writer.drain()
        if self.fault == "reset_midway":
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        elif self.fault in {"close_midway", "no_length", "closes"}:
            writer.close()
            await writer.wait_closed()
        return self.fault not in {"reset_midway", "close_midway", "close_at_once", "no_length", "closes"}

    async def _send_stall(self, writer: asyncio.StreamWriter, whole: bytes) -> None:
        await asyncio.Event().wait()

    async def _send_huge(self, writer: asyncio.StreamWriter, whole: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n")
        await flood(writer, b"[" + b"0.5," * (1 << 16), 400)

    async def _send_huge_chunked(self, writer: asyncio.StreamWriter, whole: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await flood(writer, b"10000\r\n" + b"5" * (1 << 16) + b"\r\n", 1_600)

    async def _send_slow_head(self, writer: asyncio.StreamWriter, whole: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for index in range(1 << 30):
            writer.write(b"X-%d: slow\r\n" % index)
            await writer.drain()
            await asyncio.sleep(0.005)

    async def _send_pieces(self, writer: asyncio.StreamWriter, whole: bytes) -> None:
        for at in range(0, len(whole), 7):
            writer.write(whole[at : at + 7])
            await asyncio.sleep(0)

    def _answer(self, request: Request) -> tuple[int, bytes, str]:
        """Return status, body and more headers."""
        if self.fault.startswith("status_"):
            return int(self.fault[7:]), b'{"error": "as told"}', ""
        if self.fault == "not_json":
            return 200, b"<html>It works!</html>", ""
        if self.fault == "deep":
            return 200, b'{"outputs":' + b"[" * 200_000, ""
        coding = "Content-Encoding: gzip\r\n" if self.fault == "gzip" else ""
        path = request.path
        if path.startswith("/v2"):
            return self._answer_oip(request, coding)
        asked = json.loads(request.body)
        rows = asked.get("instances")
        if rows is None:
            rows = next(iter(asked["inputs"].values()))
        scores = self._told(
            [float(np.ravel(next(iter(row.values())) if isinstance(row, dict) else row)[0]) for row in rows]
        )
        if scores is None:
            return 400, b'{"error": "a row cannot be scored"}', ""
        key = "outputs" if "inputs" in asked else "predictions"
        return 200, json.dumps({key: scores}).encode(), coding

    def _told(self, scores: list[float]) -> Any:
        """Return what is said of the scores; None where the model fails."""
        if self.poison is not None and self.poison in scores:
            return None
        told: dict[str, Any] = {
            "rows_many": [*scores, 0.5],
            "rows_few": scores[:-1],
            "rows_none": [],
            "texts": [str(score) for score in scores],
            "null_first": [None, *scores[1:]],
            "literal_nan": [math.nan, *scores[1:]],
            "three_columns": [[score] * 3 for score in scores],
        }
        return told.get(self.fault, scores)

    def _answer_oip(self, request: Request, coding: str) -> tuple[int, bytes, str]:
        header_bytes = int(request.headers.get("inference-header-content-length", len(request.body)))
        asked = json.loads(request.body[:header_bytes])
        first = asked["inputs"][0]
        if "binary_data_size" in first.get("parameters", {}):
            raw = request.body[header_bytes : header_bytes + first["parameters"]["binary_data_size"]]
            tensor = np.frombuffer(raw, OIP_TYPES[first["datatype"]])
        else:
            tensor = np.array(first["data"])
        scores = self._told([float(score) for score in tensor.reshape(first["shape"][0], -1)[:, 0]])
        if scores is None:
            return 500, b'{"error": "a row cannot be scored"}', ""
        shape = [len(scores), *np.shape(scores[:1])[1:]]
        fault = self.fault
        data_told = np.ravel(scores).tolist() if fault == "three_columns" else scores
        name = "other" if fault == "other_output" else asked["outputs"][0]["name"]
        output = {"name": name, "datatype": "FP32", "shape": shape, "data": data_told}
        answer = {"model_name": "other" if fault == "other_model" else "fraud",
                  "model_version": "4" if fault == "other_version" else "3",
                  "id": "other" if fault == "other_id" else asked.get("id"),
                  "outputs": [output, output] if fault == "two_outputs" else [output]}  # fmt: skip
        if fault == "no_id":
            del answer["id"]
        if not asked["outputs"][0].get("parameters", {}).get("binary_data"):
            return 200, json.dumps(answer).encode(), coding
        data = np.array(output.pop("data"), "<f4").tobytes()
        output["parameters"] = {"binary_data_size": len(data)}
        text = json.dumps(answer).encode()
        data = data[:-1] if fault == "short_binary" else data * len(answer["outputs"])
        return 200, text + data, coding + f"Inference-Header-Content-Length: {len(text)}\r\n"


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read a whole request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
    return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


def framed(status: int, body: bytes, more: str = "") -> bytes:
    """Return an answer with its length."""
    return f"HTTP/1.1 {status} Told\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def chunked(body: bytes, more: str) -> bytes:
    """Return an answer in chunks of ten bytes."""
    pieces = [body[at : at + 10] for at in range(0, len(body), 10)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{more}\r\n".encode() + chunks + b"0\r\n\r\n"


async def flood(writer: asyncio.StreamWriter, piece: bytes, times: int) -> None:
    """Send a piece many times, as fast as it is taken."""
    for _ in range(times):
        writer.write(piece)
        await writer.drain()


def tensorflow_metadata(width: int) -> Any:
    """Return what TensorFlow Serving says of a model with one input and one output."""

    def tensor(size: int) -> Any:
        dims = [{"size": "-1", "name": ""}, {"size": str(size), "name": ""}]
        return {"dtype": "DT_FLOAT", "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": "serving_default:0"}

    signatures = {"serving_default": {"inputs": {"x": tensor(width)}, "outputs": {"score": tensor(1)},
                                      "method_name": "tensorflow/serving/predict"}}  # fmt: skip
    return {"model_spec": {"name": "fraud", "signature_name": "", "version": "3"},
            "metadata": {"signature_def": {"signature_def": signatures}}}  # fmt: skip
