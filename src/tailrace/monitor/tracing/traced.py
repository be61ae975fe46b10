"""The spans of the calls of one frame that are traced: of each its own, and which other of its batch it links to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tailrace.monitor.predictions import CallFacts, Predictions
from tailrace.monitor.tracing.sampling import Kept
from tailrace.monitor.tracing.spans import CARRIER_CALLS_MAX, Ids, Span, carrier_of, ids_of, spans_of


def traced(found: Predictions, calls: CallFacts, kept: Sequence[Kept], share: float) -> Iterator[list[Span]]:
    """Yield the spans of each call. share: of the calls that nobody has decided on, how many are sampled."""
    frame = _Frame(found, calls, kept, share)
    for each in kept:
        yield spans_of(found, calls, each, frame.ids(each.call), frame.carrier(int(calls.batch[each.call])))


class _Frame:
    """The calls of one frame, by their places."""

    def __init__(self, found: Predictions, calls: CallFacts, kept: Sequence[Kept], share: float) -> None:
        self._found, self._calls, self._share = found, calls, share
        self._kept = {each.call for each in kept}
        places, first = np.unique(calls.request_call, return_index=True)
        self._first = dict(zip(places.tolist(), first.tolist(), strict=True))
        self._carriers: dict[int, Ids | None] = {}

    def ids(self, call: int) -> Ids:
        """Return the ids of a call's spans."""
        request_id, parent = self._told(call)
        return ids_of(request_id, parent, int(self._calls.arrivals_ns[call]))

    def carrier(self, batch: int) -> Ids | None:
        """Return the ids of the call that a batch's remote calls are part of; None where it is not traced."""
        if batch not in self._carriers:
            self._carriers[batch] = self._find_carrier(batch)
        return self._carriers[batch]

    def _find_carrier(self, batch: int) -> Ids | None:
        begin = int(np.searchsorted(self._calls.batch, batch))
        end = int(np.searchsorted(self._calls.batch, batch, "right"))
        chosen = carrier_of(map(self._told, range(begin, min(end, begin + CARRIER_CALLS_MAX))), self._share)
        call = begin + chosen
        return self.ids(call) if chosen >= 0 and call in self._kept else None

    def _told(self, call: int) -> tuple[str, bytes]:
        """Return a call's id and its caller's span; a call of no request has no id here."""
        request = self._first.get(call)
        return "" if request is None else self._found.request_ids[request], self._calls.parents[call]
