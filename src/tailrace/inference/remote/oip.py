"""The Open Inference Protocol, version 2, over HTTP: Triton, KServe, MLServer, and others.

Tensors travel as JSON, or as bytes behind the JSON where the server has the extension `binary_tensor_data`. An answer
names its model, its version where it has one, and repeats the id of its request; all three are checked.
"""

from __future__ import annotations

import os
from itertools import count
from math import prod
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.inference.predictor import Feeds
from tailrace.inference.remote.connection import Reply
from tailrace.inference.remote.protocol import (
    ROWS_AT_FAULT,
    Asked,
    RemoteSignature,
    RemoteTarget,
    fit_scores,
    foreign,
    misshapen,
    to_numbers,
    unreadable,
)

DATATYPES: Final = {
    "float32": "FP32", "float64": "FP64", "int32": "INT32", "int64": "INT64", "bool": "BOOL", "string": "BYTES",
}  # fmt: skip
"""The protocol's names of the types that a model's input may have."""
NUMBERS: Final = {
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
}  # fmt: skip
"""The types that a score may have, and their bytes."""
HEADER_LENGTH: Final = b"inference-header-content-length"


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.Raw(b"[]")
    parameters: dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    model_name: str
    outputs: list[_Output]
    model_version: str | None = None
    id: str | None = None


class OipProtocol:
    """One model asked by this protocol."""

    def __init__(self, target: RemoteTarget, described: RemoteSignature) -> None:
        self.path = target.path + "/infer"
        self.is_binary = self.takes_nan = described.is_binary
        self.content_type = "application/octet-stream" if self.is_binary else "application/json"
        self._target = target
        self._described = described
        self._signature = described.signature
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(_Answer).decode
        # No other process, and no other stage, gives an id of its own: an answer that has it is to this request.
        self._id_prefix = os.urandom(6).hex()
        self._ids = count()
        asked_output: dict[str, Any] = {"name": self._signature.output}
        if self.is_binary:
            asked_output["parameters"] = {"binary_data": True}
        self._end = b'],"outputs":' + self._encode([asked_output]) + b"}"
        self._begins = [
            self._encode({"name": spec.name, "datatype": DATATYPES[spec.dtype]})[:-1] + b',"shape":'
            for spec in self._signature.inputs
        ]

    def encode(self, feeds: Feeds, rows: int, left_ns: int) -> Asked:
        """Return the request for some rows; it says how many microseconds there are, which Triton goes by."""
        asked_id = f"{self._id_prefix}-{next(self._ids)}"
        parts, tensors, encode = [], [], self._encode
        for begin, spec in zip(self._begins, self._signature.inputs, strict=True):
            shape = encode([rows] if spec.name in self._described.flat else feeds[spec.name].shape)
            if self.is_binary:
                tensors.append(tensor := to_bytes(feeds[spec.name]))
                parts.append(b'%b%b,"parameters":{"binary_data_size":%d}}' % (begin, shape, len(tensor)))
            else:
                parts.append(b'%b%b,"data":%b}' % (begin, shape, encode(feeds[spec.name].ravel().tolist())))
        start = b'{"id":"%b","parameters":{"timeout":%d},"inputs":[' % (asked_id.encode(), max(left_ns // 1_000, 1))
        header = start + b",".join(parts) + self._end
        if not self.is_binary:
            return Asked(b"", header, asked_id)
        return Asked(b"Inference-Header-Content-Length: %d\r\n" % len(header), b"".join([header, *tensors]), asked_id)

    def decode(self, reply: Reply, rows: int, asked_id: str) -> NDArray[Any]:
        """Return the scores in an answer."""
        text, tensors = _split(reply)
        try:
            answer = self._decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise unreadable(error) from None
        self._check_sender(answer, asked_id)
        place, found = 0, None
        for output in answer.outputs:
            size = (output.parameters or {}).get("binary_data_size")
            piece = None
            if isinstance(size, int):
                piece, place = tensors[place : place + size], place + size
                if len(piece) != size:
                    raise unreadable(f"output {output.name!r} has {len(piece)} of its {size} bytes")
            if output.name == self._signature.output:
                if found is not None:
                    raise misshapen(f"there are two outputs {output.name!r}")
                found = _values(output, piece)
        if found is None:
            raise misshapen(f"there is no output {self._signature.output!r}")
        return fit_scores(found, self._described, rows)

    def refuses_rows(self, reply: Reply) -> bool:
        """Return whether an answer of another status may be for what one of the rows holds."""
        return reply.status in ROWS_AT_FAULT

    def _check_sender(self, answer: _Answer, asked_id: str) -> None:
        """Raise RemoteError unless the answer is this model's, and to this request."""
        target = self._target
        if answer.model_name != target.model:
            raise foreign(f"the answer is of the model {answer.model_name!r}, not of {target.model!r}")
        if target.version and answer.model_version is not None and answer.model_version != target.version:
            raise foreign(f"the answer is of version {answer.model_version!r}, not of {target.version!r}")
        if answer.id != asked_id:
            raise foreign(f"the answer is to the request {answer.id!r}, not to {asked_id!r}")


def to_bytes(tensor: NDArray[Any]) -> bytes:
    """Return a tensor as the extension has it: little-endian, in C order; a text has its length in front."""
    if tensor.dtype.kind == "O":
        texts = [str(text).encode() for text in tensor.ravel()]
        return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()


def _split(reply: Reply) -> tuple[bytes, bytes]:
    """Return the JSON of an answer, and the bytes behind it."""
    length = reply.headers.get(HEADER_LENGTH)
    if length is None:
        return reply.body, b""
    if not length.isdigit() or int(length) > len(reply.body):
        raise unreadable(f"its JSON is said to have {length[:20].decode('latin-1')!r} of {len(reply.body)} bytes")
    return reply.body[: int(length)], reply.body[int(length) :]


def _values(output: _Output, piece: bytes | None) -> NDArray[Any]:
    """Return the numbers of an output, in its shape."""
    dtype = NUMBERS.get(output.datatype)
    if dtype is None:
        raise misshapen(f"output {output.name!r} is of the type {output.datatype[:20]!r}, which is no number's")
    if piece is not None:
        if len(piece) != max(prod(output.shape), 0) * np.dtype(dtype).itemsize:
            raise misshapen(f"output {output.name!r} has {len(piece)} bytes for the shape {output.shape}")
        flat = np.frombuffer(piece, dtype).astype(np.float64)
    else:
        try:
            flat = to_numbers(msgspec.json.decode(output.data)).reshape(-1)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise unreadable(error) from None
    if len(flat) != prod(output.shape) or min(output.shape, default=0) < 0:
        raise misshapen(f"output {output.name!r} has {len(flat)} numbers for the shape {output.shape}")
    return flat.reshape(output.shape)
