"""One call of the protocol: what its caller asks for beside the tensors, and the codec that writes its answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from tailrace.codecs.tensor_fields import TensorField
from tailrace.codecs.tensor_form import TensorForm
from tailrace.deadline import NS_PER_S
from tailrace.errors import InvalidTensorError

NS_PER_US: Final = 1_000
TIMEOUT_US_MAX: Final = 3_600 * NS_PER_S // NS_PER_US
ID_MAX: Final = 128
TENSORS_MAX: Final = 1_024
"""Inputs, and outputs, of one call. 1 MiB can hold twenty thousand, which would take 40 ms to be refused."""
PRIORITY_MAX: Final = 2**31 - 1

UNTAKEN: Final = {
    "sequence_id": "a pipeline keeps no sequence: each call stands alone",
    "sequence_start": "a pipeline keeps no sequence: each call stands alone",
    "sequence_end": "a pipeline keeps no sequence: each call stands alone",
    "classification": "an output is given as it is, not as its classes",
    "shared_memory_region": "tensors are sent and received in the body, not in shared memory",
}
"""Parameters of extensions that are not spoken here: to pass over one would give an answer to another question."""


class Output(NamedTuple):
    """A tensor that an answer has. is_binary: its bytes stand behind the JSON."""

    field: TensorField
    is_binary: bool


class OipModel(NamedTuple):
    """A pipeline as a model of the protocol. version: the only one that is served, which is the release's id."""

    name: str
    version: str
    form: TensorForm

    def outputs(self, names: Sequence[tuple[str, bool]]) -> Sequence[Output]:
        """Return the outputs that a caller names, each with whether it is to be binary. Raises InvalidTensorError."""
        fields, found = self.form.outputs, {}
        for name, is_binary in names:
            if (field := fields.get(name)) is None:
                raise InvalidTensorError(
                    f"there is no output {name[:40]!r}", where="outputs", next=f"the outputs are {', '.join(fields)}"
                )
            if name in found:
                raise InvalidTensorError(f"the output {name!r} is asked for twice", where="outputs")
            found[name] = Output(field, is_binary)
        return list(found.values())


class Asked(ABC):
    """What one call asks for, and the codec of its answer.

    id: is sent back. outputs: in their order. requests: what the tensors hold, or a list of them. timeout_ns: the
    caller's own budget, 0 for none. priority: as it was sent, 1 the highest; 0 for none.
    """

    __slots__ = ("id", "model", "outputs", "priority", "requests", "timeout_ns")

    content_type: bytes

    def __init__(self, model: OipModel) -> None:
        self.model = model
        self.id: str | None = None
        self.outputs: Sequence[Output] = ()
        self.requests: Any = None
        self.timeout_ns = self.priority = 0

    def set_schedule(self, timeout_us: int, priority: int) -> None:
        """Take what the caller says of how it is to be scheduled."""
        self.timeout_ns, self.priority = timeout_us * NS_PER_US, priority

    @abstractmethod
    def encode(self, value: Any) -> bytes:
        """Return the answer to the requests of the call. value: a response, or a list of them."""

    def encode_each(self, values: Sequence[Any]) -> list[bytes]:
        """Return the answers to several calls that ask for the same: to one alone, as nearly always."""
        return list(map(self.encode, values))


class Unread(Asked):
    """What a call asks for whose transport had to look for its model: it is read when the call is admitted."""

    __slots__ = ()

    @abstractmethod
    def read(self) -> None:
        """Read it. Raises InvalidTensorError, and what a request type's own code raises."""


def columns_of(value: Any, outputs: Sequence[Output]) -> list[list[Any]]:
    """Return, for each output, its value of every row. value: a response, or a list of them."""
    responses = value if type(value) is list else [value]
    return [list(map(attrgetter(output.field.attribute), responses)) for output in outputs]


def plain_elements(field: TensorField, elements: list[Any]) -> list[Any]:
    """Return elements as bytes can have them: texts, bytes and numbers; a time, say, as its text."""
    return elements if field.is_plain else msgspec.to_builtins(elements, builtin_types=(bytes,))
