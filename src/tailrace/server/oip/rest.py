"""The protocol over HTTP: JSON, and the bytes of tensors behind it (the extension `binary_tensor_data`).

    {"inputs":[{"name":"amount","datatype":"FP64","shape":[1],"parameters":{"binary_data_size":8}}, …]}⏎⏎⏎⏎⏎⏎⏎⏎…
    |------------------ Inference-Header-Content-Length says how long this is -----------------------||-- 8 --|

A client that sends bytes sends the same JSON before them with each call of as many rows: what was made of it, its
layout, is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from tailrace.batch import JSON
from tailrace.codecs.tensor_fields import TensorField
from tailrace.codecs.tensor_form import at_input
from tailrace.codecs.tensors import FORMATS, TEXT, from_bytes, from_json, to_bytes
from tailrace.errors import InvalidTensorError
from tailrace.server.oip.asked import Asked, OipModel, Output, columns_of, plain_elements
from tailrace.server.oip.message import (
    NO_INPUT_PARAMETERS,
    NO_OUTPUT_PARAMETERS,
    NO_PARAMETERS,
    Input,
    Message,
    read_message,
    refuse_untaken,
)

OCTETS: Final = b"application/octet-stream"
LENGTH: Final = b"Inference-Header-Content-Length: %d"
LAYOUTS_MAX: Final = 256
"""Kept of one model; then they are made anew."""
LAYOUT_BYTES_MAX: Final = 8_192
"""Of the JSON of one that is kept."""


class RestAsked(Asked):
    """A call over HTTP. headers: of its answer, beside the usual ones; known once it is encoded."""

    __slots__ = ("content_type", "headers")

    def __init__(self, model: OipModel) -> None:
        super().__init__(model)
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


_encode: Final = msgspec.json.Encoder().encode


class _Place(NamedTuple):
    """Where an input is: in the JSON, or from `begin` to `end` of the bytes behind it."""

    field: TensorField
    datatype: str
    shape: Sequence[int]
    data: list[Any] | None
    begin: int
    end: int


class _Layout(NamedTuple):
    """What the JSON of a call says. size: of the bytes behind it."""

    id: str | None
    timeout_us: int
    priority: int
    outputs: Sequence[Output]
    places: Sequence[_Place]
    names: Sequence[str]
    rows: int
    size: int


class RestReader:
    """Reads the calls of one model."""

    def __init__(self, model: OipModel) -> None:
        self.model = model
        self._layouts: dict[bytes, _Layout] = {}

    def read(self, body: bytes, json_bytes: int) -> RestAsked:
        """Return what a body asks for. json_bytes: of its JSON, -1 where all of it is.

        Raises MalformedBodyError for what is no JSON or says a key twice, InvalidTensorError for tensors that are not
        those of the model, and what a request type's own code raises.
        """
        if json_bytes > len(body):
            what = f"the JSON is said to have {json_bytes} of the body's {len(body)} bytes"
            raise InvalidTensorError(what, where="Inference-Header-Content-Length")
        if json_bytes < 0:
            layout, tensors = self._layout_of(body), b""
        else:
            text, tensors = body[:json_bytes], body[json_bytes:]
            layout = self._layouts.get(text) or self._kept(text)
        if layout.size != len(tensors):
            what = f"the inputs have {layout.size} of the {len(tensors)} bytes behind the JSON"
            raise InvalidTensorError(what, where="Inference-Header-Content-Length")
        columns = [_values_at(place, tensors) for place in layout.places]
        asked = RestAsked(self.model)
        asked.id, asked.outputs = layout.id, layout.outputs
        asked.set_schedule(layout.timeout_us, layout.priority)
        asked.requests = self.model.form.requests(layout.names, columns, layout.rows)
        return asked

    def _kept(self, text: bytes) -> _Layout:
        """Return the layout of some JSON before bytes, and keep it where it may come again."""
        layout = self._layout_of(text)
        if layout.id is None and len(text) <= LAYOUT_BYTES_MAX and all(place.data is None for place in layout.places):
            if len(self._layouts) == LAYOUTS_MAX:
                self._layouts.clear()
            self._layouts[text] = layout
        return layout

    def _layout_of(self, text: bytes) -> _Layout:
        message = read_message(text)
        form, parameters = self.model.form, message.parameters or NO_PARAMETERS
        refuse_untaken(parameters)
        places, at = [], 0
        for each in message.inputs:
            try:
                place, at = self._place_of(each, at)
            except InvalidTensorError as error:
                raise at_input(error, each.name) from None
            if place is not None:
                places.append(place)
        rows = form.count_rows([place.field.name for place in places], [place.shape[0] for place in places])
        return _Layout(
            str(message.id) if message.id else None, int(parameters.timeout or 0), int(parameters.priority or 0),
            self._outputs_of(message, is_binary=parameters.binary_data_output is True), places,
            [place.field.name for place in places], rows, at,
        )  # fmt: skip

    def _place_of(self, told: Input, at: int) -> tuple[_Place | None, int]:
        """Return the place of an input, None for one to be passed over, and where the bytes of the next one begin."""
        parameters = told.parameters or NO_INPUT_PARAMETERS
        refuse_untaken(parameters)
        size = parameters.binary_data_size
        if told.datatype not in FORMATS and told.datatype != TEXT:
            raise InvalidTensorError(f"the datatype {told.datatype[:20]!r} is not known here")
        field = self.model.form.field(told.name, told.datatype, told.shape)
        data = None if told.data is UNSET else told.data
        if (size is UNSET) == (data is None):
            raise InvalidTensorError("it has no data" if size is UNSET else "it has data and binary_data_size")
        end = at if size is UNSET else at + int(size)
        if field is None:
            return None, end
        return _Place(field, told.datatype, told.shape, data, at, end), end

    def _outputs_of(self, message: Message, *, is_binary: bool) -> Sequence[Output]:
        """Return the outputs that a message names; all, where it names none. is_binary: those that do not say it."""
        if message.outputs is UNSET or not message.outputs:
            return self.model.outputs([(name, is_binary) for name in self.model.form.outputs])
        named = []
        for each in message.outputs:
            parameters = each.parameters or NO_OUTPUT_PARAMETERS
            refuse_untaken(parameters)
            told = parameters.binary_data
            named.append((each.name, is_binary if told is UNSET else told is True))
        return self.model.outputs(named)


def _values_at(place: _Place, tensors: bytes) -> list[Any]:
    """Return the value of each row of an input."""
    field, datatype, shape, data, begin, end = place
    try:
        if data is None:
            elements = from_bytes(tensors[begin:end], datatype, shape, nullable=field.nullable)
        else:
            elements = from_json(data, datatype, shape, nullable=field.nullable)
        return field.values(elements, datatype, shape)
    except InvalidTensorError as error:
        raise at_input(error, field.name) from None
