"""The trace that a worker tells a remote model, where spans are made: which of them its call is part of.

A batch has many calls, and a call of a remote model one parent: below the inference span of the batch's first sampled
call, whose inference span the others' link to. The observer makes all of them later, of the same facts.
"""

from __future__ import annotations

from tailrace.batch import Batch, Call, RemoteAsked
from tailrace.deadline import Clock
from tailrace.monitor.tracing.ids import is_sampled
from tailrace.monitor.tracing.spans import carrier_of, ids_of


class OnwardTrace:
    """Makes the lines of calls of one remote model. share: of the calls that nobody has decided on, those sampled."""

    def __init__(self, share: float, model: str, clock: Clock) -> None:
        self._share = share
        self._model = model
        self._now_ns = clock.now_ns

    def lines(self, batch: Batch) -> bytes:
        """Return the header lines that hand on a batch's trace; none where no call of it has one."""
        place = carrier_of(map(_told, batch.calls), self._share)
        if place < 0:
            return b""
        call = batch.calls[place]
        request_id, parent = _told(call)
        ids = ids_of(request_id, parent, call.arrival_ns)
        flags = is_sampled(request_id, parent, self._share)
        line = f"traceparent: 00-{ids.trace.hex()}-{ids.remote(self._model).hex()}-{flags:02x}\r\n"
        trace = call.trace
        state = b"tracestate: %b\r\n" % trace.state if trace is not None and trace.state else b""
        return line.encode("ascii") + state

    def note(self, batch: Batch, began_ns: int, is_whole: bool) -> None:
        """Note in a batch that it has asked. began_ns: monotonic. is_whole: whether all rows were scored."""
        batch.remote = [*(batch.remote or ()), RemoteAsked(self._model, began_ns, self._now_ns(), is_whole)]


def _told(call: Call) -> tuple[str, bytes]:
    """Return a call's id, and its caller's span, as the observer is told them."""
    return call.identify(), call.source()[1]
