"""The trace that a worker tells a remote model, where spans are made: which of them its call is part of.

A batch has many calls, and a call of a remote model one parent: the inference span of the batch's first sampled call.
The others' inference spans link to it. The observer makes all of them later, of the same facts.
"""

from __future__ import annotations

from tailrace.batch import Batch, Call
from tailrace.monitor.tracing.ids import is_sampled
from tailrace.monitor.tracing.spans import CARRIER_CALLS_MAX, carrier_of, ids_of


class OnwardTrace:
    """Makes the lines of a remote call. share: of the calls that nobody has decided on, how many are sampled."""

    def __init__(self, share: float) -> None:
        self._share = share

    def lines(self, batch: Batch) -> bytes:
        """Return the header lines that hand on a batch's trace; none where no call of it has one."""
        calls = batch.calls[:CARRIER_CALLS_MAX]
        told = [(_request_id(call), call.trace) for call in calls]
        parents = [(request_id, trace.parent if trace is not None else b"") for request_id, trace in told]
        place = carrier_of(parents, self._share)
        if place < 0:
            return b""
        request_id, parent = parents[place]
        ids = ids_of(request_id, parent, calls[place].arrival_ns)
        told_state = told[place][1]
        state = b"tracestate: %b\r\n" % told_state.state if told_state is not None and told_state.state else b""
        flags = is_sampled(request_id, parent, self._share)
        line = f"traceparent: 00-{ids.trace.hex()}-{ids.inference.hex()}-{flags:02x}\r\n"
        return line.encode("ascii") + state


def _request_id(call: Call) -> str:
    return call.origin().get("request_id", "")
