"""Why a call has no score: the model was late, could not, or was given a number that it cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Degraded
from tailrace.errors import DeadlineExceededError, InferenceError, InvalidRequestError, ServingError

LARGEST: Final = float(np.finfo(np.float32).max)
"""Of the numbers that models compute with."""


def failure_of_call(batch: Batch, place: int) -> ServingError:
    """Return the error of the call at a place of a batch, some of whose rows have no score."""
    rows = batch.rows_of_call(place)
    failed = cast(NDArray[np.bool_], batch.failed)[rows]
    if batch.degraded is not None and np.count_nonzero(batch.degraded[rows] & np.uint8(Degraded.MODEL_TIMEOUT)):
        return DeadlineExceededError("the model did not answer within the call's budget")
    asked = batch.calls[place].requests
    where = _path_of_large(asked) if type(asked) is list else _field_of_large(asked, "$")
    if where is not None:
        return InvalidRequestError(f"Expected a number of at most {LARGEST:.7g} either way, or the model has no score",
                                   where=where, next="declare its bounds: tr.Field(ge=…, le=…)")  # fmt: skip
    return InferenceError(
        f"the model gave no usable score for {int(failed.sum())} of {len(failed)} rows",
        next="declare a fallback: tr.Model(…, fallback=tr.Constant(…))",
    )


def _path_of_large(requests: Sequence[Any]) -> str | None:
    """Return the path of the first number that is none to a model, in an array of requests."""
    found = (_field_of_large(request, f"$[{place}]") for place, request in enumerate(requests))
    return next((where for where in found if where is not None), None)


def _field_of_large(request: Any, path: str) -> str | None:
    """Return the path of the first number that is none to a model; one within a list has the list's."""
    for field in msgspec.structs.fields(request) if isinstance(request, msgspec.Struct) else ():
        value = getattr(request, field.name)
        numbers = value if type(value) is list else (value,)
        if any(type(number) is float and abs(number) > LARGEST for number in numbers):
            return f"{path}.{field.encode_name}"
    return None
