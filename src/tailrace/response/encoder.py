"""Columns to the bytes of each call's body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import DeadlineExceededError, InferenceError
from tailrace.response.problem import problem_body
from tailrace.response.schema import Response
from tailrace.types import Batch, Degraded

ValueReader = Callable[[Batch], Sequence[Any]]
"""From a batch to the Python values of one response field, one a request."""


class ResponseEncoder:
    """The compiled response layer: builds the response structs of a batch and encodes them.

    readers: one a field of the type, in its order.
    """

    def __init__(self, response_type: type[Response], readers: Sequence[ValueReader]) -> None:
        self._type = response_type
        self._readers = tuple(readers)
        encoder = msgspec.json.Encoder()
        self._encode = encoder.encode
        self._encode_lines = encoder.encode_lines

    def encode(self, batch: Batch) -> None:
        """Fill `batch.bodies`, one a call; a call with a failed row gets a problem, and stands in `batch.errors`."""
        responses = list(map(self._type, *[read(batch) for read in self._readers]))
        if batch.offsets is None:
            # JSON holds no bare newline, so one encoder call serves the whole batch (bench/layers.py).
            batch.bodies = self._encode_lines(responses).split(b"\n")
            batch.bodies.pop()
            if len(batch.bodies) != len(responses):  # but for a msgspec.Raw, which keeps what a caller sent
                batch.bodies = list(map(self._encode, responses))
        else:
            batch.bodies = [
                self._encode(responses[begin:end] if type(call.requests) is list else responses[begin])
                for call, begin, end in zip(batch.calls, batch.offsets, batch.offsets[1:], strict=False)
            ]
        if batch.failed is not None:
            self._tell_failures(batch)

    def _tell_failures(self, batch: Batch) -> None:
        """Replace the bodies of calls that have a row without a usable score."""
        failed = batch.failed
        assert failed is not None
        for index in range(len(batch.calls)):
            rows = batch.rows_of_call(index)
            if failed[rows].any():
                error = _failure_of(batch, rows)
                batch.errors[index] = error
                batch.bodies[index] = problem_body(error)


def _failure_of(batch: Batch, rows: slice) -> InferenceError | DeadlineExceededError:
    """Return what is told of a call that has rows without a score: the model was late, or could not."""
    failed = cast(NDArray[np.bool_], batch.failed)[rows]
    if batch.degraded is not None and np.count_nonzero(batch.degraded[rows] & np.uint8(Degraded.MODEL_TIMEOUT)):
        return DeadlineExceededError("the model did not answer within the call's budget")
    return InferenceError(
        f"the model gave no usable score for {int(failed.sum())} of {len(failed)} rows",
        next="declare a fallback: tr.Model(…, fallback=tr.Constant(…))",
    )
