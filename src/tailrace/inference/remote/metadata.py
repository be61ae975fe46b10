"""What a server says of a model before traffic: its inputs, its outputs, and whether it takes tensors as bytes.

Read with blocking calls, when a pipeline is compiled. TorchServe's API says nothing of them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tailrace.inference.remote.declaration import RemoteModel
from tailrace.inference.remote.described import Described, Tensor
from tailrace.inference.remote.exchange import Exchange
from tailrace.inference.remote.failure import RemoteError
from tailrace.inference.remote.oip import DATATYPES
from tailrace.inference.remote.protocol import SHOWN_MAX, unreadable

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
    parameters: Any = None  # whatever it holds, too


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
    if model.api == "torchserve":
        return Described()
    try:
        return Exchange(model.address, authorization).run(lambda exchange: _ask(model, exchange))
    except RemoteError as error:
        if model.is_declared:
            return Described(silence=str(error))
        raise


def _ask(model: RemoteModel, exchange: Exchange) -> Described:
    """Return what the server says of a model. Raises RemoteError."""
    path = model.address.path
    if model.api == "tensorflow":
        return _from_tensorflow(exchange.get(path + "/metadata"))
    found = _decode(exchange.get(path), _OipModel)
    server = _decode(exchange.get(path[: path.rindex("/models/")]), _OipServer)
    return Described(
        tuple(map(_from_oip, found.inputs)), tuple(map(_from_oip, found.outputs)), BINARY in server.extensions,
        _only_version(found.versions),
    )  # fmt: skip


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
    told = tensor.parameters
    is_optional = isinstance(told, dict) and told.get("optional") is True
    return Tensor(tensor.name, _OIP_DTYPES.get(tensor.datatype, tensor.datatype), tensor.shape, is_optional)


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
