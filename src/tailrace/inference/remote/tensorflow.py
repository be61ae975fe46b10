"""TensorFlow Serving's REST API: `:predict`, by row or by column.

An answer names neither its model nor its request: what holds it to its request is that a connection takes one at a
time, and is never used again where an answer was not read to its end.
"""

from __future__ import annotations

from typing import Any

import msgspec
from numpy.typing import NDArray

from tailrace.inference.predictor import Feeds
from tailrace.inference.remote.connection import Reply
from tailrace.inference.remote.json_rows import as_instances, pick_output, read_json
from tailrace.inference.remote.protocol import (
    ROWS_AT_FAULT,
    Asked,
    RemoteSignature,
    RemoteTarget,
    fit_scores,
    to_numbers,
    unreadable,
)


class TensorflowProtocol:
    """One model asked by this API. by_column: its column format, in which each input is one table."""

    content_type = "application/json"
    takes_nan = False

    def __init__(self, target: RemoteTarget, described: RemoteSignature, *, by_column: bool) -> None:
        self.path = target.path + ":predict"
        self._by_column = by_column
        self._flat = described.flat
        self._described = described
        self._signature = described.signature
        self._inputs = tuple(spec.name for spec in self._signature.inputs)
        self._encode = msgspec.json.Encoder().encode

    def encode(self, feeds: Feeds, rows: int, left_ns: int) -> Asked:
        """Return the request for some rows; the API knows no deadline."""
        tables = {name: self._table(name, feeds[name]) for name in self._inputs}
        if self._by_column:
            return Asked(b"", self._encode({"inputs": tables}))
        return Asked(b"", self._encode({"instances": as_instances(tables)}))

    def decode(self, reply: Reply, rows: int, asked_id: str) -> NDArray[Any]:
        """Return the scores in an answer."""
        answer = read_json(reply.body)
        key = "outputs" if self._by_column else "predictions"
        if not isinstance(answer, dict) or key not in answer:
            raise unreadable(f"it has no {key!r}")
        return fit_scores(to_numbers(pick_output(answer[key], self._signature.output)), self._described, rows)

    def refuses_rows(self, reply: Reply) -> bool:
        """Return whether an answer of another status may be for what one of the rows holds."""
        return reply.status in ROWS_AT_FAULT

    def _table(self, name: str, tensor: NDArray[Any]) -> list[Any]:
        """Return an input as lists."""
        values: list[Any] = (tensor.reshape(-1) if name in self._flat else tensor).tolist()
        return values
