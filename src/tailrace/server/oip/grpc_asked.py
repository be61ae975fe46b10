"""One call of the protocol over gRPC: from its message to requests, and from their answers to a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tailrace.codecs.tensor_fields import TensorField
from tailrace.codecs.tensor_form import at_input
from tailrace.codecs.tensors import FORMATS, RANK_MAX, TEXT, WHOLE, from_bytes, from_elements, to_bytes
from tailrace.errors import InvalidTensorError
from tailrace.server.oip.asked import (
    ID_MAX,
    PRIORITY_MAX,
    TENSORS_MAX,
    TIMEOUT_US_MAX,
    UNTAKEN,
    OipModel,
    Unread,
    columns_of,
    plain_elements,
)
from tailrace.server.oip.grpc_messages import message_class

DIMENSION_MAX: Final = 2**31 - 1
CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", TEXT: "bytes_contents",
}  # fmt: skip
"""Where a message has the elements of each datatype; FP16 comes as bytes alone."""

Answer: Final = message_class("ModelInferResponse")


class GrpcAsked(Unread):
    """A call over gRPC. It is answered as it was sent: in raw bytes, or in typed contents."""

    __slots__ = ("_is_raw", "_message")

    content_type = b"application/grpc"

    def __init__(self, model: OipModel, message: Any) -> None:
        super().__init__(model)
        self._message = message
        self._is_raw = False

    def read(self) -> None:
        """Read the tensors, and what else is asked for; see `Asked`."""
        message, self._message = self._message, None
        parameters = parameters_in(message.parameters)
        if len(message.id) > ID_MAX:
            raise InvalidTensorError(f"the id has over {ID_MAX} characters", where="id")
        self.id = message.id or None
        timeout_us = number_in(parameters, "timeout", TIMEOUT_US_MAX)
        self.set_schedule(timeout_us, number_in(parameters, "priority", PRIORITY_MAX))
        if max(len(message.inputs), len(message.outputs)) > TENSORS_MAX:
            raise InvalidTensorError(f"there are over {TENSORS_MAX} inputs or outputs")
        for each in message.outputs:
            parameters_in(each.parameters)
        names = [each.name for each in message.outputs] or list(self.model.form.outputs)
        self.outputs = self.model.outputs([(name, True) for name in names])
        self._read_inputs(message)

    def encode(self, value: Any) -> bytes:
        """Return the message of the answer; see `Asked`."""
        answer = Answer(model_name=self.model.name, model_version=self.model.version, id=self.id or "")
        for (field, _), values in zip(self.outputs, columns_of(value, self.outputs), strict=True):
            datatype, shape, elements = field.tensor(values)
            told = answer.outputs.add(name=field.name, datatype=datatype, shape=shape)
            elements = plain_elements(field, elements)
            if self._is_raw:
                answer.raw_output_contents.append(to_bytes(elements, datatype))
            else:
                getattr(told.contents, CONTENTS[datatype]).extend(typed_elements(elements, datatype))
        return bytes(answer.SerializeToString())

    def _read_inputs(self, message: Any) -> None:
        raws = message.raw_input_contents
        self._is_raw = len(raws) > 0
        if self._is_raw and len(raws) != len(message.inputs):
            what = f"{len(message.inputs)} inputs have {len(raws)} raw contents"
            raise InvalidTensorError(what, where="raw_input_contents", next="send one for each input")
        names, columns, rows = [], [], []
        for place, each in enumerate(message.inputs):
            try:
                field, shape = self._field_of(each)
                if field is None:
                    continue
                columns.append(_values_of(field, each, shape, raws[place] if self._is_raw else None))
            except InvalidTensorError as error:
                raise at_input(error, each.name) from None
            names.append(field.name)
            rows.append(shape[0])
        form = self.model.form
        self.requests = form.requests(names, columns, form.count_rows(names, rows))

    def _field_of(self, told: Any) -> tuple[TensorField | None, list[int]]:
        """Return what an input is a field of, and its shape."""
        parameters_in(told.parameters)
        shape = list(told.shape)
        if not 0 < len(shape) <= RANK_MAX or min(shape) < 0 or max(shape) > DIMENSION_MAX:
            raise InvalidTensorError(f"it has the shape {shape[: RANK_MAX + 1]}")
        if told.datatype not in FORMATS and told.datatype != TEXT:
            raise InvalidTensorError(f"the datatype {told.datatype[:20]!r} is not known here")
        return self.model.form.field(told.name, told.datatype, shape), shape


def _values_of(field: TensorField, told: Any, shape: Sequence[int], raw: bytes | None) -> list[Any]:
    """Return the value of each row of an input."""
    datatype = told.datatype
    if raw is not None:
        if told.HasField("contents"):
            raise InvalidTensorError("it has contents and raw contents")
        elements = from_bytes(raw, datatype, shape, nullable=field.nullable)
    else:
        name = CONTENTS.get(datatype)
        if name is None or any(each.name != name for each, _ in told.contents.ListFields()):
            raise InvalidTensorError(f"its contents are not of {datatype}", next="send raw contents")
        elements = from_elements(list(getattr(told.contents, name)), datatype, shape, nullable=field.nullable)
    return field.values(elements, datatype, shape)


def typed_elements(elements: Sequence[Any], datatype: str) -> list[Any]:
    """Return elements as typed contents have them. None is NaN among numbers, and empty among texts."""
    if datatype == TEXT:
        return [each.encode() if isinstance(each, str) else bytes(each or b"") for each in elements]
    if datatype in WHOLE or datatype == "BOOL":
        return list(elements)
    return [float("nan") if each is None else each for each in elements]


def parameters_in(found: Any) -> dict[str, Any]:
    """Return parameters by name. Raises InvalidTensorError where one asks for what is not done here."""
    parameters = {}
    for name, parameter in found.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = None if kind is None else getattr(parameter, kind)
        if value and (why := UNTAKEN.get(name)) is not None:
            raise InvalidTensorError(why, where=f"parameters.{name}", next="leave the parameter out")
        parameters[name] = value
    return parameters


def number_in(parameters: Mapping[str, Any], name: str, most: int) -> int:
    """Return a whole number among parameters, 0 where there is none. Raises InvalidTensorError."""
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value <= most:
        what = f"{name} is {str(value)[:20]!r}"
        raise InvalidTensorError(what, where=f"parameters.{name}", next=f"send a whole number from 0 to {most}")
    return value
