"""One call of the protocol: what its caller asks for beside the tensors, and the codec that writes its answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from tailrace.codecs.tensor_fields import TensorField
from tailrace.codecs.tensor_form import TensorForm
from tailrace.deadline import NS_PER_S
from tailrace.errors import InvalidTensorError

NS_PER_US: Final = 1_000
TIMEOUT_US_MAX: Final = 3_600 * NS_PER_S // NS_PER_US
PRIORITY_MAX: Final = 2**31 - 1

UNTAKEN: Final = {
    "sequence_id": "a pipeline keeps no sequence: each call stands alone",
    "sequence_start": "a pipeline keeps no sequence: each call stands alone",
    "sequence_end": "a pipeline keeps no sequence: each call stands alone",
    "classification": "an output is given as it is, not as its classes",
    "shared_memory_region": "tensors are sent and received in the body, not in shared memory",
}
"""Parameters of extensions that are not spoken here: to pass over one would give an answer to another question."""

Parameters = Mapping[str, Any]


class OipModel(NamedTuple):
    """A pipeline as a model of the protocol. version: the only one that is served, which is the release's id."""

    name: str
    version: str
    form: TensorForm


class Output(NamedTuple):
    """A tensor that an answer has. is_binary: its bytes stand behind the JSON."""

    field: TensorField
    is_binary: bool


class Asked(ABC):
    """What one call asks for, and the codec of its answer.

    id: is sent back. outputs: in their order. timeout_ns: the caller's own budget, 0 for none. priority: as it was
    sent, 1 the highest; 0 for none. requests: what the tensors hold, or a list of them.
    """

    __slots__ = ("id", "model", "outputs", "priority", "requests", "timeout_ns")

    content_type: bytes

    def __init__(self, model: OipModel, asked_id: str | None, parameters: Parameters) -> None:
        refuse_untaken(parameters)
        self.model = model
        self.id = asked_id
        self.outputs: Sequence[Output] = ()
        self.timeout_ns = number_in(parameters, "timeout", TIMEOUT_US_MAX) * NS_PER_US
        self.priority = number_in(parameters, "priority", PRIORITY_MAX)
        self.requests: Any = None

    @abstractmethod
    def encode(self, value: Any) -> bytes:
        """Return the answer to the requests of the call. value: a response, or a list of them."""

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return the answers to several calls that ask for the same: to one alone, as nearly always."""
        return list(map(self.encode, values))

    def select(self, names: Sequence[tuple[str, bool]]) -> None:
        """Take the outputs that a caller names, each with whether it is to be binary. Raises InvalidTensorError."""
        fields = self.model.form.outputs
        found = {}
        for name, is_binary in names:
            if (field := fields.get(name)) is None:
                raise InvalidTensorError(
                    f"there is no output {name[:40]!r}", next=f"the outputs are {', '.join(fields)}"
                )
            if name in found:
                raise InvalidTensorError(f"the output {name!r} is asked for twice", where="outputs")
            found[name] = Output(field, is_binary)
        self.outputs = list(found.values())

    def select_all(self, *, binary: bool) -> None:
        """Take all outputs."""
        self.outputs = [Output(field, binary) for field in self.model.form.outputs.values()]


def refuse_untaken(parameters: Parameters) -> None:
    """Raise InvalidTensorError where a parameter asks for what is not done here."""
    for name in parameters:
        if name in UNTAKEN and parameters[name]:
            raise InvalidTensorError(UNTAKEN[name], where=f"parameters.{name}", next="leave the parameter out")


def number_in(parameters: Parameters, name: str, most: int) -> int:
    """Return a whole number among parameters, 0 where there is none. Raises InvalidTensorError."""
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value <= most:
        what = f"{name} is {str(value)[:20]!r}"
        raise InvalidTensorError(what, where=f"parameters.{name}", next=f"send a whole number from 0 to {most}")
    return value


def columns_of(value: Any, outputs: Sequence[Output]) -> list[list[Any]]:
    """Return, for each output, its value of every row. value: a response, or a list of them."""
    responses = value if type(value) is list else [value]
    return [list(map(attrgetter(output.field.attribute), responses)) for output in outputs]


def plain_elements(field: TensorField, elements: list[Any]) -> list[Any]:
    """Return elements as bytes can have them: texts, bytes and numbers; a time, say, as its text."""
    return elements if field.is_plain else msgspec.to_builtins(elements, builtin_types=(bytes,))
