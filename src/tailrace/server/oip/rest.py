"""The protocol over HTTP: JSON, and the bytes of tensors behind it (the extension `binary_tensor_data`).

{"id":"7","inputs":[{"name":"amount","datatype":"FP64","shape":[1],"parameters":{"binary_data_size":8}}]}⏎⏎⏎⏎⏎⏎⏎⏎
|--------------------- Inference-Header-Content-Length says how long this is --------------------------||-- 8 --|
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from tailrace.batch import JSON
from tailrace.codecs.decoder import refusal_of
from tailrace.codecs.duplicates import duplicate_key
from tailrace.codecs.tensor_form import Given, at_input
from tailrace.codecs.tensors import FORMATS, RANK_MAX, TEXT, from_bytes, from_json, to_bytes
from tailrace.errors import InvalidRequestError, InvalidTensorError, MalformedBodyError, ServingError
from tailrace.server.oip.asked import Asked, OipModel, Parameters, columns_of, plain_elements, refuse_untaken

OCTETS: Final = b"application/octet-stream"
LENGTH: Final = b"Inference-Header-Content-Length: %d"
ID_MAX: Final = 128
_NOTHING: Final = Raw(b"")
_ANYWHERE: Final = -1
"""The place of an input's bytes that has none."""

Dimension = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Shape = Annotated[list[Dimension], Meta(min_length=1, max_length=RANK_MAX)]


class _Input(msgspec.Struct):
    name: str
    shape: Shape
    datatype: str
    parameters: Raw = _NOTHING
    data: Raw = _NOTHING


class _Output(msgspec.Struct):
    name: str
    parameters: Raw = _NOTHING


class _Message(msgspec.Struct):
    inputs: list[_Input]
    id: Annotated[str, Meta(max_length=ID_MAX)] | UnsetType = UNSET
    parameters: Raw = _NOTHING
    outputs: list[_Output] | UnsetType = UNSET


_decode_message: Final = msgspec.json.Decoder(_Message).decode
_decode_parameters: Final = msgspec.json.Decoder(dict[str, str | int | float | bool | None]).decode
_encode: Final = msgspec.json.Encoder().encode


class RestAsked(Asked):
    """A call over HTTP. headers: of its answer, beside the usual ones; known once it is encoded."""

    __slots__ = ("content_type", "headers")

    def __init__(self, model: OipModel, asked_id: str | None, parameters: Parameters) -> None:
        super().__init__(model, asked_id, parameters)
        self.content_type = JSON
        self.headers: tuple[bytes, ...] = ()

    def encode(self, value: Any) -> bytes:
        """Return its JSON, and behind it the bytes of the outputs that are binary; see `Asked`."""
        parts, tensors = [], []
        for (field, is_binary), values in zip(self.outputs, columns_of(value, self.outputs), strict=True):
            datatype, shape, elements = field.tensor(values)
            begin = _encode({"name": field.name, "datatype": datatype, "shape": shape})[:-1]
            if is_binary:
                tensors.append(tensor := to_bytes(plain_elements(field, elements), datatype))
                parts.append(b'%b,"parameters":{"binary_data_size":%d}}' % (begin, len(tensor)))
            else:
                parts.append(b'%b,"data":%b}' % (begin, _encode(elements)))
        head = {"model_name": self.model.name, "model_version": self.model.version}
        if self.id is not None:
            head["id"] = self.id
        text = b'%b,"outputs":[%b]}' % (_encode(head)[:-1], b",".join(parts))
        if not tensors:
            return text
        self.content_type, self.headers = OCTETS, (LENGTH % len(text),)
        return b"".join([text, *tensors])


def read_rest(model: OipModel, body: bytes, json_bytes: int) -> RestAsked:
    """Return what a body asks for. json_bytes: of its JSON, -1 where all of it is.

    Raises MalformedBodyError for what is no JSON or says a key twice, InvalidTensorError for tensors that are not those
    of the model, and what a request type's own code raises.
    """
    if json_bytes > len(body):
        what = f"the JSON is said to have {json_bytes} of the body's {len(body)} bytes"
        raise InvalidTensorError(what, where="Inference-Header-Content-Length")
    text, tensors = (body, b"") if json_bytes < 0 else (body[:json_bytes], body[json_bytes:])
    message = _read_message(text)
    parameters = _parameters_in(message.parameters)
    asked = RestAsked(model, None if message.id is UNSET else str(message.id), parameters)
    _select_outputs(asked, message, binary=parameters.get("binary_data_output") is True)
    asked.requests = model.form.requests(_given(model, message.inputs, tensors))
    return asked


def _read_message(text: bytes) -> _Message:
    try:
        message = _decode_message(text)
    except Exception as error:
        fault = refusal_of(error)
    else:
        if text.count(b'"') == _quotes_of(message) or (twice := duplicate_key(text)) is None:
            return message
        raise twice
    raise InvalidTensorError(fault.what, where=fault.where) if isinstance(fault, InvalidRequestError) else fault


def _quotes_of(message: _Message) -> int:
    """Return how many quotes a message's JSON has, unless a key is there twice, or unknown, or a text is escaped."""
    quotes = 2 + (0 if message.id is UNSET else 4) + _quotes_in(message.parameters)
    for each in message.inputs:
        quotes += 10 + _quotes_in(each.parameters) + _quotes_in(each.data)
    if message.outputs is not UNSET:
        quotes += 2 + sum(4 + _quotes_in(each.parameters) for each in message.outputs)
    return quotes


def _quotes_in(member: Raw) -> int:
    """Return the quotes of a member that is kept as it came, with its key's; none where it is not there."""
    content = bytes(member)
    return 2 + content.count(b'"') if content else 0


def _parameters_in(raw: Raw) -> Parameters:
    """Return parameters by name. Raises InvalidTensorError or MalformedBodyError."""
    content = bytes(raw)
    if content in (b"", b"null"):
        return {}
    try:
        found: dict[str, Any] = _decode_parameters(content)
    except msgspec.ValidationError as error:
        raise InvalidTensorError(str(error), where="parameters", next="send texts, numbers and booleans") from None
    texts = sum(type(value) is str for value in found.values())
    if content.count(b'"') != 2 * (len(found) + texts) and (twice := duplicate_key(content)) is not None:
        raise MalformedBodyError(twice.what, where="parameters")
    return found


def _select_outputs(asked: RestAsked, message: _Message, *, binary: bool) -> None:
    """Take the outputs that a message names; all, where it names none."""
    if message.outputs is UNSET or not message.outputs:
        asked.select_all(binary=binary)
        return
    assert isinstance(message.outputs, list)
    named = []
    for each in message.outputs:
        parameters = _parameters_in(each.parameters)
        refuse_untaken(parameters)
        named.append((each.name, parameters.get("binary_data", binary) is True))
    asked.select(named)


def _given(model: OipModel, inputs: Sequence[_Input], tensors: bytes) -> list[Given]:
    """Return the tensors of a call. tensors: the bytes of those that are binary, in their order."""
    given, at = [], 0
    for each in inputs:
        try:
            tensor, at = _tensor_of(model, each, tensors, at)
        except ServingError as error:
            raise at_input(error, each.name) from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise at_input(InvalidTensorError(str(error).replace(" - at `$", ", at `data")), each.name) from None
        if tensor is not None:
            given.append(tensor)
    if at != len(tensors):
        what = f"the inputs have {at} of the {len(tensors)} bytes behind the JSON"
        raise InvalidTensorError(what, where="Inference-Header-Content-Length")
    return given


def _tensor_of(model: OipModel, told: _Input, tensors: bytes, at: int) -> tuple[Given | None, int]:
    """Return the tensor of an input, None for one to be passed over, and where the bytes of the next one begin."""
    parameters = _parameters_in(told.parameters)
    refuse_untaken(parameters)
    size, data = parameters.get("binary_data_size"), bytes(told.data)
    if (size is None) == (not data):
        raise InvalidTensorError("it has no data" if size is None else "it has data and binary_data_size")
    end = at
    if size is not None:
        if type(size) is not int or not 0 <= size <= len(tensors) - at:
            left = len(tensors) - at
            raise InvalidTensorError(f"it is said to have {str(size)[:20]!r} bytes, and {left} are left")
        end += size
    if told.datatype not in FORMATS and told.datatype != TEXT:
        raise InvalidTensorError(f"the datatype {told.datatype[:20]!r} is not known here")
    field = model.form.field(told.name, told.datatype, told.shape)
    if field is None:
        return None, end
    if size is None:
        elements = from_json(told.data, told.datatype, told.shape, nullable=field.nullable)
    else:
        elements = from_bytes(tensors[at:end], told.datatype, told.shape)
    return Given(field, told.datatype, told.shape, elements), end
