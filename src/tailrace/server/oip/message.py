"""The JSON of a call as it is written, before its names and tensors are held against a model."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tailrace.codecs.decoder import refusal_of
from tailrace.codecs.duplicates import duplicate_key
from tailrace.codecs.tensors import RANK_MAX, TEXT
from tailrace.errors import InvalidRequestError, InvalidTensorError
from tailrace.server.oip.asked import ID_MAX, PRIORITY_MAX, TENSORS_MAX, TIMEOUT_US_MAX, UNTAKEN

PAIR: Final = 2
"""Quotes of a key, or of a text."""

Dimension = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Shape = Annotated[list[Dimension], Meta(min_length=1, max_length=RANK_MAX)]
Whole = Annotated[int, Meta(ge=0)]


class Parameters(msgspec.Struct, frozen=True):
    """What may be said of a call."""

    timeout: Annotated[int, Meta(ge=0, le=TIMEOUT_US_MAX)] | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=0, le=PRIORITY_MAX)] | UnsetType = UNSET
    binary_data_output: bool | UnsetType = UNSET
    sequence_id: int | str | UnsetType = UNSET
    sequence_start: bool | UnsetType = UNSET
    sequence_end: bool | UnsetType = UNSET


class InputParameters(msgspec.Struct, frozen=True):
    """What may be said of an input."""

    binary_data_size: Whole | UnsetType = UNSET
    shared_memory_region: str | UnsetType = UNSET


class OutputParameters(msgspec.Struct, frozen=True):
    """What may be said of an output."""

    binary_data: bool | UnsetType = UNSET
    classification: Whole | UnsetType = UNSET
    shared_memory_region: str | UnsetType = UNSET


NO_PARAMETERS: Final = Parameters()
NO_INPUT_PARAMETERS: Final = InputParameters()
NO_OUTPUT_PARAMETERS: Final = OutputParameters()


class Input(msgspec.Struct):
    """A tensor that is sent. data: its elements, flat or nested, where they are in the JSON.

    Some clients write null for what is not there, here as elsewhere.
    """

    name: str
    shape: Shape
    datatype: str
    parameters: InputParameters | None = NO_INPUT_PARAMETERS
    data: list[Any] | UnsetType | None = UNSET


class NamedOutput(msgspec.Struct):
    """A tensor that is asked for."""

    name: str
    parameters: OutputParameters | None = NO_OUTPUT_PARAMETERS


class Message(msgspec.Struct):
    """A call."""

    inputs: Annotated[list[Input], Meta(max_length=TENSORS_MAX)]
    id: Annotated[str, Meta(max_length=ID_MAX)] | UnsetType | None = UNSET
    parameters: Parameters | None = NO_PARAMETERS
    outputs: Annotated[list[NamedOutput], Meta(max_length=TENSORS_MAX)] | UnsetType | None = UNSET


AnyParameters = Parameters | InputParameters | OutputParameters
_decode: Final = msgspec.json.Decoder(Message).decode


def read_message(text: bytes) -> Message:
    """Return what some JSON says; what it says beyond that is passed over.

    Raises MalformedBodyError for what is no JSON or says a key twice, InvalidTensorError for another than a call.
    """
    try:
        message = _decode(text)
    except Exception as error:
        fault = refusal_of(error)
    else:
        if text.count(b'"') == _quotes_of(message) or (twice := duplicate_key(text)) is None:
            return message
        raise twice
    raise InvalidTensorError(fault.what, where=fault.where) if isinstance(fault, InvalidRequestError) else fault


def refuse_untaken(parameters: AnyParameters) -> None:
    """Raise InvalidTensorError where a parameter asks for what is not done here."""
    if parameters in (NO_PARAMETERS, NO_INPUT_PARAMETERS, NO_OUTPUT_PARAMETERS):
        return
    for name in parameters.__struct_fields__:
        if name in UNTAKEN and getattr(parameters, name):
            raise InvalidTensorError(UNTAKEN[name], where=f"parameters.{name}", next="leave the parameter out")


def _quotes_of(message: Message) -> int:
    """Return how many quotes a message's JSON has, unless a key is there twice, or unknown, or a text is escaped."""
    quotes = PAIR + _quotes_in(message.parameters)
    if message.id is not UNSET:
        quotes += PAIR * (1 + (message.id is not None))
    for each in message.inputs:
        quotes += 5 * PAIR + _quotes_in(each.parameters)
        if each.data is not UNSET:
            quotes += PAIR + (PAIR * len(each.data or ()) if each.datatype == TEXT else 0)
    if message.outputs is not UNSET:
        quotes += PAIR + sum(2 * PAIR + _quotes_in(each.parameters) for each in message.outputs or ())
    return quotes


def _quotes_in(parameters: AnyParameters | None) -> int:
    """Return the quotes of some parameters, and of their own key; none where they are not there."""
    if parameters is None:
        return PAIR
    if parameters in (NO_PARAMETERS, NO_INPUT_PARAMETERS, NO_OUTPUT_PARAMETERS):
        return 0
    values = [getattr(parameters, name) for name in parameters.__struct_fields__]
    return PAIR + sum(PAIR * (1 + isinstance(value, str)) for value in values if value is not UNSET)
