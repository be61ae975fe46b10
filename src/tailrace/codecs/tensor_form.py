"""A pipeline's requests and responses as the tensors of one model: one row a request, validated as in any codec."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final

import msgspec

from tailrace.codecs.decoder import refusal_of
from tailrace.codecs.tensor_fields import TensorField, tensor_fields
from tailrace.errors import InvalidRequestError, InvalidTensorError, ServingError
from tailrace.request.schema import Request, bounded_type

_PATH: Final = re.compile(r"\$(?:\[(?:\.\.\.|(\d+))\])?(?:\.(\w+))?(.*)", re.DOTALL)
"""Where msgspec says a fault is: the request's place among many, its field, and where in that."""


class TensorForm:
    """What a pipeline takes and gives, as tensors by name. array_max: requests, which are rows, in one call.

    inputs: one a field of the request; outputs: one a field of the response. is_open: inputs that are no field are
    passed over, not refused. request_type: of the requests that come out, the declared one or below it.
    """

    def __init__(self, request_type: type[Request], response_type: type, *, array_max: int) -> None:
        self.inputs = tensor_fields(request_type)
        self.outputs = tensor_fields(response_type)
        self.is_open = not request_type.__struct_config__.forbid_unknown_fields
        self.request_type = bounded_type(request_type)
        self._array_max = array_max
        self._required = [name for name, field in self.inputs.items() if field.required]

    def field(self, name: str, datatype: str, shape: Sequence[int]) -> TensorField | None:
        """Return what an input is a field of; None for one to be passed over.

        Raises InvalidTensorError for one that there is not, or that its tensor cannot be.
        """
        found = self.inputs.get(name)
        if found is None and not self.is_open:
            known = ", ".join(self.inputs)
            raise InvalidTensorError(f"there is no input {name[:40]!r}", next=f"the inputs are {known}")
        if found is not None:
            found.check(datatype, shape)
            if shape[0] > self._array_max:
                raise InvalidTensorError(f"{shape[0]} rows are over {self._array_max}", next="send fewer a call")
        return found

    def count_rows(self, names: Sequence[str], rows: Sequence[int]) -> int:
        """Return how many rows inputs have. Raises InvalidTensorError where they differ, or one is there twice, or not.

        rows: of each.
        """
        given = set(names)
        if len(given) < len(names):
            raise InvalidTensorError("an input is there twice", where="inputs")
        if missing := [name for name in self._required if name not in given]:
            raise InvalidTensorError(f"the input {missing[0]!r} is missing", where="inputs")
        counts = sorted(set(rows))
        if len(counts) != 1:
            what = f"the inputs have {counts[:3]} rows" if counts else "no input tells how many rows there are"
            raise InvalidTensorError(what, where="inputs", next="send as many rows in each")
        return counts[0]

    def requests(self, names: Sequence[str], columns: Sequence[Sequence[Any]], rows: int) -> Any:
        """Return the request of one row, or a list of those of many. columns: a value a row, of each of the names.

        Raises InvalidTensorError, or what a request type's own code raises.
        """
        try:
            if rows == 1:
                values = {name: column[0] for name, column in zip(names, columns, strict=True)}
                return msgspec.convert(values, self.request_type)
            found = list(map(dict, map(zip, repeat(names), zip(*columns, strict=True))))
            return msgspec.convert(found, list[self.request_type])  # type: ignore[name-defined]
        except Exception as error:
            fault = _fault_of(refusal_of(error))
        raise fault


def at_input(error: ServingError, name: str) -> InvalidTensorError:
    """Return an error with the input that it is in."""
    return InvalidTensorError(error.what, where=f"{name[:40]} {error.where}".rstrip(" $"), next=error.next)


def _fault_of(error: ServingError) -> ServingError:
    """Return what a caller of this protocol gets to know: of a value that is no field's, the input and the row."""
    if not isinstance(error, InvalidRequestError):
        return error
    match = _PATH.fullmatch(error.where)
    if match is None or match[2] is None:
        return InvalidTensorError(error.what, where=error.where, next=error.next)
    row = "" if match[1] is None else f"[{match[1]}]"
    return InvalidTensorError(error.what, where=f"{match[2]}{row}{match[3]}", next=error.next)
