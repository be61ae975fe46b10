"""Traces in the observer: the calls that are to be traced are chosen, and their spans handed to what sends them."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import structlog

from tailrace.monitor.exemplars import Exemplars
from tailrace.monitor.observed import Observed
from tailrace.monitor.predictions import Predictions
from tailrace.monitor.seldom import Seldom
from tailrace.monitor.shared import MetricBlock
from tailrace.monitor.tracing.endpoint import TraceEndpoint
from tailrace.monitor.tracing.exporter import CallSpans, SpanExporter
from tailrace.monitor.tracing.outcomes import SpanCounts, TraceState
from tailrace.monitor.tracing.sampling import TailSampler
from tailrace.monitor.tracing.traced import traced
from tailrace.server.options import ServeOptions

CLOSE_S: Final = 2.0
"""How long a stopping server sends spans still."""
RESOURCES_MAX: Final = 256
"""Releases and workers that are told apart at once."""


class ObservedTraces:
    """Makes spans of what workers tell. budgets_ns: of each pipeline. exemplars: keeps some of those that are sent."""

    def __init__(
        self, options: ServeOptions, budgets_ns: Mapping[str, int], block: MetricBlock, exemplars: Exemplars
    ) -> None:
        assert options.traces is not None, "it is made for them"
        self._endpoint = TraceEndpoint.of(options.traces, options.traces_headers or "")
        self._sampler = TailSampler(options.trace_sample, budgets_ns)
        self._counts = SpanCounts(block)
        self._exemplars = exemplars
        self._resources = Resources()
        self._exporter = SpanExporter(self._endpoint)
        self._seldom = Seldom(structlog.get_logger())
        self._lost = 0

    def take(self, predictions: Predictions) -> None:
        """Make spans of the calls that are to be traced. A fault costs these spans alone."""
        calls = predictions.calls
        if calls is None:  # a frame of a worker from before traces were asked for
            return
        try:
            kept, beyond = self._sampler.choose(predictions, calls)
            self._exporter.count_limited(beyond)
            if kept:
                resource = self._resources.of(predictions.release, predictions.slot)
                for spans in traced(predictions, calls, kept, self._sampler.share):
                    own = spans[0]
                    whole_ns = own.end_ns - own.start_ns
                    self._exemplars.note(predictions.pipeline, own.trace_id.hex(), whole_ns, own.end_ns)
                    self._exporter.put(CallSpans(resource, spans))
        except Exception as error:  # of ours: the watches beside this one are to go on
            self._seldom.warn("spans are not made", cause=repr(error))

    def write(self) -> None:
        """Nothing: a thread of its own sends what there is."""

    def tell(self, observed: Observed) -> None:
        """Tell what has become of spans, and log what was lost."""
        spans = dict(self._exporter.outcomes)
        self._counts.set(spans)
        fault = self._exporter.fault
        to = f"{self._endpoint.host}:{self._endpoint.port}"
        observed.traces = TraceState(to=to, spans=spans, waiting=self._exporter.waiting, fault=fault)
        lost = spans["rejected"] + spans["failed"] + spans["dropped"]
        if lost > self._lost and self._seldom.warn("spans are lost", cause=fault, spans=lost - self._lost, to=to):
            self._lost = lost

    def close(self) -> None:
        """Send what is left."""
        self._exporter.close(CLOSE_S)


class Resources:
    """What tells the spans of one release and worker from others'. A roll-out shows as two versions side by side."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._common = read_attributes(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""))
        self._common |= {
            "service.name": environment.get("OTEL_SERVICE_NAME") or self._common.get("service.name", "tailrace")
        }
        here = f"{socket.gethostname()}/{os.getppid()}"
        self._instance = self._common.get("service.instance.id", here)
        self._known: dict[tuple[str, int], dict[str, Any]] = {}

    def of(self, release: str, slot: int) -> Mapping[str, Any]:
        """Return the attributes of a worker that serves a release; the same object each time."""
        found = self._known.get((release, slot))
        if found is None:
            if len(self._known) >= RESOURCES_MAX:
                self._known.clear()
            found = self._known[release, slot] = self._common | {
                "service.version": release,
                "service.instance.id": f"{self._instance}/{slot}",
                "tailrace.worker": slot,
            }
        return found


def read_attributes(text: str) -> dict[str, str]:
    """Return attributes as `OTEL_RESOURCE_ATTRIBUTES` has them, name=value,…; what is not well formed is left out."""
    pairs = (part.partition("=") for part in text.split(","))
    return {name.strip(): unquote(value.strip()) for name, sign, value in pairs if sign and name.strip()}
