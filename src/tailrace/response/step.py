"""Layer 5 of a batch: columns to the bytes of each call's body."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any, Protocol, cast

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from tailrace.batch import Batch, Encoder
from tailrace.readers import Reader
from tailrace.response.failure import failure_of_call
from tailrace.response.schema import Response

_codec_of = attrgetter("codec")


class FieldValues(Protocol):
    """Gives the values of one field of the response."""

    def of(self, batch: Batch) -> Sequence[Any]:
        """Return a Python value for each request."""
        ...


class RequestValues:
    """The values of a field that the request has too, as they were sent."""

    def __init__(self, name: str) -> None:
        self._read = attrgetter(name)

    def of(self, batch: Batch) -> Sequence[Any]:
        """Return a value for each request."""
        return list(map(self._read, batch.requests))


class RowValues:
    """The values of a column, where a request is a row."""

    def __init__(self, reader: Reader) -> None:
        self._read = reader.read

    def of(self, batch: Batch) -> Sequence[Any]:
        """Return a value for each request."""
        column = self._read(batch)
        return column.tolist() if type(column) is ndarray else column  # type: ignore[no-any-return]


class RowLists:
    """The values of a column, where a request makes many rows: a list for each request."""

    def __init__(self, reader: Reader) -> None:
        self._rows = RowValues(reader)

    def of(self, batch: Batch) -> Sequence[Any]:
        """Return a list for each request."""
        values, bounds = self._rows.of(batch), cast(NDArray[np.intp], batch.row_bounds).tolist()
        return [values[begin:end] for begin, end in pairwise(bounds)]


class ResponseStep:
    """Builds the responses of a batch, and encodes each call's as its caller reads it.

    fields: what gives each field of the type, in its order. usual: encodes for callers without a codec of their own.
    """

    def __init__(self, response_type: type[Response], fields: Sequence[FieldValues], usual: Encoder) -> None:
        self._type = response_type
        self._values_of = [field.of for field in fields]
        self._usual = usual
        self._encode_each = usual.encode_each

    def run(self, batch: Batch) -> None:
        """Fill `responses`, `bodies`, and `errors` of calls with a failed row: an error's bytes are its transport's."""
        batch.responses = responses = list(map(self._type, *[values_of(batch) for values_of in self._values_of]))
        if any(map(_codec_of, batch.calls)):
            self._encode_by_codec(batch)
        else:
            batch.bodies = self._encode_each(responses if batch.offsets is None else values_of_calls(batch))
        if batch.failed is not None:
            self._refuse_failed(batch)

    def _encode_by_codec(self, batch: Batch) -> None:
        """Fill `bodies`, each as its caller reads it, and say of what type they are."""
        values, codecs = values_of_calls(batch), set(map(_codec_of, batch.calls))
        if len(codecs) == 1:
            (codec,) = codecs
            batch.bodies, batch.content_type = codec.encode_each(values), codec.content_type
            return
        encoders = ((call.codec or self._usual).encode for call in batch.calls)
        batch.bodies = [encode(value) for encode, value in zip(encoders, values, strict=True)]
        batch.content_type = b""

    @staticmethod
    def _refuse_failed(batch: Batch) -> None:
        """Leave an error in place of the body of each call that has a row without a usable score."""
        failed = batch.failed
        assert failed is not None
        for index in range(len(batch.calls)):
            rows = batch.rows_of_call(index)
            if failed[rows].any():
                batch.errors[index] = failure_of_call(batch, index)
                batch.bodies[index] = b""


def values_of_calls(batch: Batch) -> list[Any]:
    """Return what each call is answered: a response, or a list of them where it sent an array."""
    if batch.offsets is None:
        return batch.responses
    return [
        batch.responses[begin:end] if type(call.requests) is list else batch.responses[begin]
        for call, (begin, end) in zip(batch.calls, pairwise(batch.offsets), strict=True)
    ]
