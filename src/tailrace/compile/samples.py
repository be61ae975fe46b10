"""Sample calls of a pipeline, to try it with before the first caller comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tailrace.batch import Batch, Call, Transport
from tailrace.codecs.json import JsonCodec
from tailrace.errors import ServingError
from tailrace.plan import Plan
from tailrace.request.rows import ARRAY_MAX
from tailrace.request.sample import sample_body

LIST_LENGTH_MAX: Final = 64


class Samples:
    """Makes valid requests up, and batches of them."""

    def __init__(self, plan: Plan) -> None:
        self._pipeline = plan.pipeline
        self._count = plan.request.rows.count
        self._decode = JsonCodec(plan.pipeline.request, array_max=ARRAY_MAX).decode

    def body(self, seed: int) -> bytes:
        """Return the JSON of a request. Raises SetupError for a type of which none can be made up."""
        length = min(LIST_LENGTH_MAX, self._pipeline.rows_max)
        return sample_body(self._pipeline.request, seed=seed, list_length=length)

    def request(self, seed: int) -> Any:
        """Return a request, decoded."""
        request = self._decode(self.body(seed))
        if isinstance(request, ServingError):
            raise request
        return request

    def batch(self, requests: Sequence[Any], now_ns: int, deadline_ns: int) -> Batch:
        """Return a batch of a call for each request."""
        calls = [Call(_NOWHERE, None, each, now_ns, deadline_ns, self.rows(each)) for each in requests]
        return Batch(calls, now_ns, deadline_ns)

    def rows(self, requests: Any) -> int:
        """Return how many rows a call of these requests makes. Raises InvalidRequestError for more than it may."""
        rows = self._count(requests)
        if isinstance(rows, ServingError):
            raise rows
        return rows


class _Nowhere:
    """The transport of calls whose answers nobody waits for."""

    def deliver(self, batch: Batch, places: Sequence[int]) -> None:
        """Drop them."""

    def refuse(self, call: Call, error: ServingError) -> None:
        """Drop it."""


_NOWHERE: Final[Transport] = _Nowhere()
