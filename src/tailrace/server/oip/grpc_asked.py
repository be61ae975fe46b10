"""One call of the protocol over gRPC: from its message to requests, and from their answers to a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from tailrace.codecs.proto_values import varint_of
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
    Output,
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

RAW_TAG: Final = bytes([7 << 3 | 2])
"""Before each of a message's raw contents."""
LAYOUTS_MAX: Final = 256
LAYOUT_BYTES_MAX: Final = 8_192

Answer: Final = message_class("ModelInferResponse")


class _Layout(NamedTuple):
    """What a message says beside the elements of its tensors.

    inputs: field, datatype and shape; None is passed over. is_typed: whether one of them has typed contents.
    """

    timeout_us: int
    priority: int
    outputs: Sequence[Output]
    inputs: Sequence[tuple[TensorField | None, str, list[int]]]
    names: Sequence[str]
    rows: int
    is_typed: bool


class GrpcReader:
    """Reads the calls of one model.

    A client that sends raw bytes sends the same before them with each call of as many rows, but for an id: what was
    made of that, its layout, is kept.
    """

    def __init__(self, model: OipModel) -> None:
        self.model = model
        self._layouts: dict[bytes, _Layout] = {}

    def layout(self, message: Any, body: bytes) -> _Layout:
        """Return the layout of a message. body: it was read from. Raises InvalidTensorError."""
        begin = b"" if message.id else _begin_of(body, message.raw_input_contents)
        layout = self._layouts.get(begin)
        if layout is None:
            layout = self._layout_of(message)
            if 0 < len(begin) <= LAYOUT_BYTES_MAX:
                if len(self._layouts) == LAYOUTS_MAX:
                    self._layouts.clear()
                self._layouts[begin] = layout
        return layout

    def _layout_of(self, message: Any) -> _Layout:
        parameters = parameters_in(message.parameters)
        if max(len(message.inputs), len(message.outputs)) > TENSORS_MAX:
            raise InvalidTensorError(f"there are over {TENSORS_MAX} inputs or outputs")
        for each in message.outputs:
            parameters_in(each.parameters)
        inputs = [self._input_of(each) for each in message.inputs]
        names = [field.name for field, _, _ in inputs if field is not None]
        rows = [shape[0] for field, _, shape in inputs if field is not None]
        outputs = [each.name for each in message.outputs] or list(self.model.form.outputs)
        return _Layout(
            number_in(parameters, "timeout", TIMEOUT_US_MAX), number_in(parameters, "priority", PRIORITY_MAX),
            self.model.outputs([(name, True) for name in outputs]), inputs, names,
            self.model.form.count_rows(names, rows), any(each.HasField("contents") for each in message.inputs),
        )  # fmt: skip

    def _input_of(self, told: Any) -> tuple[TensorField | None, str, list[int]]:
        """Return what an input is a field of, its datatype and its shape."""
        datatype, shape = str(told.datatype), list(told.shape)
        try:
            parameters_in(told.parameters)
            if not 0 < len(shape) <= RANK_MAX or min(shape) < 0 or max(shape) > DIMENSION_MAX:
                raise InvalidTensorError(f"it has the shape {shape[: RANK_MAX + 1]}")
            if datatype not in FORMATS and datatype != TEXT:
                raise InvalidTensorError(f"the datatype {datatype[:20]!r} is not known here")
            return self.model.form.field(told.name, datatype, shape), datatype, shape
        except InvalidTensorError as error:
            raise at_input(error, told.name) from None


class GrpcAsked(Unread):
    """A call over gRPC. It is answered as it was sent: in raw bytes, or in typed contents.

    message: as it was read from `body`.
    """

    __slots__ = ("_body", "_is_raw", "_message", "_reader")

    content_type = b"application/grpc"

    def __init__(self, reader: GrpcReader, message: Any, body: bytes) -> None:
        super().__init__(reader.model)
        self._reader = reader
        self._message = message
        self._body = body
        self._is_raw = False

    def read(self) -> None:
        """Read the tensors, and what else is asked for; see `Unread`."""
        message, body = self._message, self._body
        self._message, self._body = None, b""
        if len(message.id) > ID_MAX:
            raise InvalidTensorError(f"the id has over {ID_MAX} characters", where="id")
        self.id = message.id or None
        layout = self._reader.layout(message, body)
        self.outputs = layout.outputs
        self.set_schedule(layout.timeout_us, layout.priority)
        self.requests = self.model.form.requests(layout.names, self._columns(layout, message), layout.rows)

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

    def _columns(self, layout: _Layout, message: Any) -> list[list[Any]]:
        """Return the values of each input, one a row."""
        raws, inputs = list(message.raw_input_contents), message.inputs
        self._is_raw = len(raws) > 0
        if self._is_raw and layout.is_typed:
            raise InvalidTensorError("an input has typed contents beside raw ones", where="raw_input_contents")
        if self._is_raw and len(raws) != len(inputs):
            what = f"{len(inputs)} inputs have {len(raws)} raw contents"
            raise InvalidTensorError(what, where="raw_input_contents", next="send one for each input")
        columns = []
        for place, (field, datatype, shape) in enumerate(layout.inputs):
            if field is None:
                continue
            try:
                if self._is_raw:
                    elements = from_bytes(raws[place], datatype, shape, nullable=field.nullable)
                else:
                    elements = _contents_of(inputs[place], datatype, shape, nullable=field.nullable)
                columns.append(field.values(elements, datatype, shape))
            except InvalidTensorError as error:
                raise at_input(error, field.name) from None
        return columns


def _begin_of(body: bytes, raws: Sequence[bytes]) -> bytes:
    """Return what a message says before its raw contents, where these are its end; else nothing."""
    end = b"".join([RAW_TAG + varint_of(len(raw)) + raw for raw in raws])
    return body[: len(body) - len(end)] if end and body.endswith(end) else b""


def _contents_of(told: Any, datatype: str, shape: Sequence[int], *, nullable: bool) -> list[Any]:
    """Return the elements of an input in its typed contents."""
    name = CONTENTS.get(datatype)
    if name is None or any(each.name != name for each, _ in told.contents.ListFields()):
        raise InvalidTensorError(f"its contents are not of {datatype}", next="send raw contents")
    return from_elements(list(getattr(told.contents, name)), datatype, shape, nullable=nullable)


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
