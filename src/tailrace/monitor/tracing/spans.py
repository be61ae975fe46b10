"""The spans of a call: its own, and below it the wait for its batch and the five layers that it went through with it.

Names and attributes are OpenTelemetry's semantic conventions where these have one, and `tailrace.*` where they do not.
What is not measured has no span: nothing here is estimated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np

from tailrace.batch import Degraded, Provenance, RemoteAsked
from tailrace.deadline import FEATURES, INFERENCE, LAYERS
from tailrace.monitor.metrics import DEGRADED_REASONS, error_kinds, slug
from tailrace.monitor.predictions import CallFacts, Predictions
from tailrace.monitor.tracing.ids import child_id_of, is_sampled, parent_span_of, span_id_of, trace_id_of
from tailrace.monitor.tracing.sampling import Kept

INTERNAL: Final = 1
SERVER: Final = 2
CLIENT: Final = 3
"""Kinds of spans, as OTLP numbers them."""
TOLD_MAX: Final = 10
"""Decisions that are told of one call: an array may have a thousand."""
CARRIER_CALLS_MAX: Final = 16
"""Calls of a batch among which the one is looked for that its remote call is part of."""
_STATUSES: Final = {slug(kind): kind.status for kind in error_kinds()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One span. parent_id: empty for none. is_remote: whether its parent is another's. links: traces and spans."""

    name: str
    kind: int
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    start_ns: int
    end_ns: int
    state: str = ""
    flags: int = 0
    is_remote: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    links: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Ids:
    """What tells a call's spans from others'."""

    trace: bytes
    span: bytes

    @property
    def inference(self) -> bytes:
        """The span of the inference layer."""
        return child_id_of(self.span, LAYERS[INFERENCE])

    def remote(self, model: str) -> bytes:
        """The span of what is asked of a remote model, which its server is told."""
        return child_id_of(self.inference, model)


def ids_of(request_id: str, parent: bytes, arrival_ns: int) -> Ids:
    """Return the ids of a call's spans."""
    trace = trace_id_of(request_id, parent)
    return Ids(trace, span_id_of(trace, parent, request_id, arrival_ns))


def carrier_of(told: Iterable[tuple[str, bytes]], share: float) -> int:
    """Return the place of the call, among those of a batch, that what is asked for all is part of: the first sampled.

    told: of each call its request id and its parent. Of none that is sampled the first that has either; -1 for none.
    """
    first = -1
    for place, (request_id, parent) in enumerate(islice(told, CARRIER_CALLS_MAX)):
        if is_sampled(request_id, parent, share):
            return place
        if first < 0 and (request_id or parent):
            first = place
    return first


def spans_of(found: Predictions, calls: CallFacts, kept: Kept, ids: Ids, carrier: Ids | None) -> list[Span]:
    """Return the spans of one call, its own first. carrier: of the call that its batch's remote calls are part of."""
    call, request = kept.call, kept.request
    parent = calls.parents[call]
    end_ns = int(found.answered_ns[request])
    start_ns = end_ns - int(found.whole_ns[request])
    name, told = _route(calls.routes[call], found.pipeline, found.errors[request])
    status = _status(found.errors[request])
    own = Span(
        name=name, kind=SERVER if calls.routes[call] else INTERNAL, trace_id=ids.trace, span_id=ids.span,
        parent_id=parent_span_of(parent), is_remote=bool(parent), start_ns=start_ns, end_ns=end_ns,
        state=calls.states[call].decode("latin-1") if parent else "", flags=int(parent[53:55], 16) if parent else 1,
        attributes=told | _facts(found, calls, kept), error=found.errors[request] if status >= 500 else "",
    )  # fmt: skip
    spans = [own]
    at_ns = start_ns + int(found.waits_ns[request])
    if at_ns > start_ns:
        spans.append(_part(own, "queue", start_ns, at_ns))
    layers_ns = found.layers_ns[request]
    for place, took_ns in enumerate(layers_ns.tolist() if layers_ns.any() else ()):
        attributes: dict[str, Any] = {"tailrace.layer": LAYERS[place]}
        links: tuple[tuple[bytes, bytes], ...] = ()
        if place == FEATURES:
            attributes |= _provenances(found, calls, call)
        elif place == INFERENCE and carrier is not None and carrier.span != ids.span:
            links = ((carrier.trace, carrier.inference),)
        spans.append(_part(own, LAYERS[place], at_ns, at_ns + took_ns, attributes, links))
        if place == INFERENCE:
            spans += [_remote(own, ids, asked) for asked in calls.remote.get(int(calls.batch[call]), ())]
        at_ns += took_ns
    return spans


def _remote(own: Span, ids: Ids, asked: RemoteAsked) -> Span:
    """Return the span of what a call's batch has asked of a remote model, below that of the inference layer."""
    return Span(
        name=f"infer {asked.model}", kind=CLIENT, trace_id=own.trace_id, span_id=ids.remote(asked.model),
        parent_id=ids.inference, start_ns=asked.began_ns, end_ns=asked.ended_ns, state=own.state, flags=own.flags,
        attributes={"tailrace.model": asked.model}, error="" if asked.is_whole else "rows without a score",
    )  # fmt: skip


def _part(
    own: Span,
    name: str,
    start_ns: int,
    end_ns: int,
    attributes: dict[str, Any] | None = None,
    links: tuple[tuple[bytes, bytes], ...] = (),
) -> Span:
    """Return the span of a part of a call."""
    return Span(
        name=name, kind=INTERNAL, trace_id=own.trace_id, span_id=child_id_of(own.span_id, name), parent_id=own.span_id,
        start_ns=start_ns, end_ns=end_ns, state=own.state, flags=own.flags, attributes=attributes or {}, links=links,
    )  # fmt: skip


def _route(route: str, pipeline: str, error: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a call's span, and what its protocol says of it."""
    if route.startswith("/"):
        service, _, method = route[1:].rpartition("/")
        return route[1:], {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    method, _, path = route.partition(" ")
    if not path:
        return f"predict {pipeline}", {}
    return route, {
        "http.request.method": method, "url.path": path, "http.route": path,
        "http.response.status_code": _status(error),
    }  # fmt: skip


def _status(error: str) -> int:
    """Return the status that an error is answered with; 200 for none."""
    return _STATUSES.get(error, 500) if error else 200


def _facts(found: Predictions, calls: CallFacts, kept: Kept) -> dict[str, Any]:
    """Return what there is to tell of a call beside its protocol."""
    call, request = kept.call, kept.request
    own = calls.request_call[found.places] == call
    told: dict[str, Any] = {
        "tailrace.pipeline": found.pipeline,
        "tailrace.release": found.release,
        "tailrace.kept": list(kept.reasons),
        "tailrace.rows": int(np.count_nonzero(own)),
        "tailrace.batch.calls": int(np.count_nonzero(calls.batch == calls.batch[call])),
    }
    if found.request_ids[request]:
        told["tailrace.request_id"] = found.request_ids[request]
    if found.coalesced is not None and found.coalesced[request]:
        told["tailrace.coalesced"] = found.coalesced[request]
    if found.clients[request]:
        told["client.address"] = found.clients[request]
    if found.errors[request]:
        told["error.type"] = found.errors[request]
    if found.decisions is not None and not found.errors[request]:
        told["tailrace.decision"] = [found.labels[place] for place in found.decisions[own][:TOLD_MAX].tolist()]
    if reasons := int(np.bitwise_or.reduce(found.degraded[own], initial=0)):
        told["tailrace.degraded"] = [DEGRADED_REASONS[flag] for flag in Degraded if reasons & flag]
    return told


def _provenances(found: Predictions, calls: CallFacts, call: int) -> dict[str, str]:
    """Return where the rows of each view came from: the worst of a call's."""
    own = calls.request_call[found.places] == call
    return {
        f"tailrace.view.{view}": Provenance(int(each[own].max())).name.lower()
        for view, each in found.provenance.items()
        if own.any()
    }
