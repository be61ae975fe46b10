"""What a server says of a model before traffic: its inputs, its outputs, and whether it takes tensors as bytes.

Read with blocking calls, when a pipeline is compiled. TorchServe's API says nothing of them.
"""

from __future__ import annotations

import http.client
from typing import Any, Final

import msgspec

from tailrace.inference.remote.address import RemoteAddress
from tailrace.inference.remote.declaration import RemoteModel
from tailrace.inference.remote.described import Described, Tensor
from tailrace.inference.remote.failure import RemoteError, RemoteFault
from tailrace.inference.remote.oip import DATATYPES
from tailrace.inference.remote.protocol import SHOWN_MAX, unreadable

TIMEOUT_S: Final = 2.0
"""For each step of a call."""
BYTES_MAX: Final = 1 << 20
BINARY: Final = "binary_tensor_data"

_OIP_DTYPES: Final = {theirs: ours for ours, theirs in DATATYPES.items()}
_TENSORFLOW_DTYPES: Final = {
    "DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_INT32": "int32", "DT_INT64": "int64", "DT_BOOL": "bool",
    "DT_STRING": "string",
}  # fmt: skip


class _OipTensor(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]


class _OipModel(msgspec.Struct):
    name: str
    versions: Any = None  # whatever it holds: a model is not refused for that
    inputs: list[_OipTensor] = []
    outputs: list[_OipTensor] = []


class _OipServer(msgspec.Struct):
    extensions: list[str] = []


def describe(model: RemoteModel, authorization: str | None) -> Described:
    """Return what the server says of a model; why it says nothing, where all is declared.

    Raises RemoteError where it does not answer, or has no such model, and must be asked.
    """
    try:
        return _ask(model, authorization)
    except RemoteError as error:
        if model.is_declared:
            return Described(silence=str(error))
        raise


def _ask(model: RemoteModel, authorization: str | None) -> Described:
    """Return what the server says of a model. Raises RemoteError."""
    address = model.address
    if model.api == "torchserve":
        return Described()
    if model.api == "tensorflow":
        return _from_tensorflow(_get(address, address.path + "/metadata", authorization))
    found = _decode(_get(address, address.path, authorization), _OipModel)
    root = address.path[: address.path.rindex("/models/")]
    server = _decode(_get(address, root, authorization), _OipServer)
    return Described(
        tuple(map(_from_oip, found.inputs)), tuple(map(_from_oip, found.outputs)), BINARY in server.extensions,
        _only_version(found.versions),
    )  # fmt: skip


def _get(address: RemoteAddress, path: str, authorization: str | None) -> bytes:
    """Return the body of an answer of status 200."""
    tls = address.tls()
    connection = (
        http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
        if tls is None
        else http.client.HTTPSConnection(address.host, address.port, timeout=TIMEOUT_S, context=tls)
    )
    try:
        connection.request("GET", path, headers={"Authorization": authorization} if authorization else {})
        reply = connection.getresponse()
        body = reply.read(BYTES_MAX + 1)
    except (OSError, http.client.HTTPException) as error:
        raise RemoteError(RemoteFault.UNREACHABLE, f"{address.authority}: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if reply.status != 200:
        said = body[:SHOWN_MAX].decode("utf-8", "replace")
        raise RemoteError(RemoteFault.STATUS, f"{address.authority} answered {reply.status} for {path}: {said!r}")
    if len(body) > BYTES_MAX:
        raise RemoteError(RemoteFault.TOO_LARGE, f"{address.authority} says more than {BYTES_MAX} bytes of its model")
    return body


def _decode(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from None


def _only_version(told: Any) -> str:
    """Return the version that a server has of a model; nothing where it has several, or does not say."""
    if not isinstance(told, list) or len(told) != 1 or not isinstance(told[0], str | int):
        return ""
    return str(told[0])[:SHOWN_MAX]


def _from_oip(tensor: _OipTensor) -> Tensor:
    return Tensor(tensor.name, _OIP_DTYPES.get(tensor.datatype, tensor.datatype), tensor.shape)


def _from_tensorflow(body: bytes) -> Described:
    """Return what the metadata of a model say of its default signature."""
    try:
        told = _decode(body, dict[str, Any])
        found = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
        inputs, outputs = _tensorflow_tensors(found["inputs"]), _tensorflow_tensors(found["outputs"])
        spec = told.get("model_spec")
        version = _only_version([spec["version"]]) if isinstance(spec, dict) and "version" in spec else ""
        return Described(inputs, outputs, version=version)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unreadable(f"no signature serving_default in its metadata: {error}") from None


def _tensorflow_tensors(found: dict[str, Any]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name, _TENSORFLOW_DTYPES.get(told["dtype"], told["dtype"]),
            tuple(int(dim["size"]) for dim in told["tensor_shape"].get("dim", ())),
        )
        for name, told in found.items()
    )  # fmt: skip
