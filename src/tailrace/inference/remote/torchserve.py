"""TorchServe's predict API: `/predictions/NAME[/VERSION]`, with rows as JSON.

The API leaves body and answer to the model's handler. Here they are what TorchServe's own JSON envelope has:
`{"instances": [row, …]}` and `{"predictions": [score, …]}`; a bare list of scores is taken too.
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


class TorchserveProtocol:
    """One model asked by this API."""

    content_type = "application/json"
    takes_nan = False

    def __init__(self, target: RemoteTarget, described: RemoteSignature) -> None:
        self.path = target.path
        self._described = described
        self._signature = described.signature
        self._inputs = tuple(spec.name for spec in self._signature.inputs)
        self._encode = msgspec.json.Encoder().encode

    def encode(self, feeds: Feeds, rows: int, left_ns: int) -> Asked:
        """Return the request for some rows; the API knows no deadline."""
        tables = {name: feeds[name].tolist() for name in self._inputs}
        return Asked(b"", self._encode({"instances": as_instances(tables)}))

    def decode(self, reply: Reply, rows: int, asked_id: str) -> NDArray[Any]:
        """Return the scores in an answer."""
        answer = read_json(reply.body)
        found = answer.get("predictions") if isinstance(answer, dict) else answer
        if not isinstance(found, list):
            raise unreadable("it is no list, and has no 'predictions'")
        return fit_scores(to_numbers(pick_output(found, self._signature.output)), self._described, rows)

    def refuses_rows(self, reply: Reply) -> bool:
        """Return whether an answer of another status may be for what one of the rows holds.

        What a handler raises is a 503 of TorchServe's, as is a queue that is full; its words tell them apart.
        """
        return reply.status in ROWS_AT_FAULT or (reply.status == 503 and b"Prediction failed" in reply.body)
