"""The entrance of a pipeline: the endpoints to which its calls come, whatever protocol brings them.

HTTP ──▶ routes ──┐                   ┌─▶ requests: of its own types, in any codec
├─▶ Entrance, with ─┤
gRPC ──▶ services ┘   its limits      └─▶ tensors: of the Open Inference Protocol
"""

from __future__ import annotations

from typing import NamedTuple

from tailrace.pipeline import Pipeline
from tailrace.server.endpoint import CallEndpoint, Endpoint
from tailrace.server.limiting.limiter import Limiter
from tailrace.server.oip.asked import OipModel
from tailrace.server.oip.endpoint import infer_endpoint
from tailrace.server.options import ServeOptions


class Entrance(NamedTuple):
    """What takes the calls of one pipeline. model: as which tensors know it."""

    pipeline: Pipeline
    requests: CallEndpoint
    tensors: CallEndpoint
    model: OipModel

    def within(self, limiter: Limiter) -> Entrance:
        """Return the same entrance within what its pipeline lets all callers have together."""
        return self._replace(requests=limiter.within(self.requests), tensors=limiter.within(self.tensors))


def entrance_of(endpoint: Endpoint, options: ServeOptions, release: str) -> Entrance:
    """Return the entrance of a pipeline. endpoint: takes its requests. release: the model's only version."""
    tensors = infer_endpoint(endpoint, release, options.array_max, options.body_bytes_max)
    return Entrance(endpoint.engine.plan.pipeline, endpoint, tensors, tensors.model)
