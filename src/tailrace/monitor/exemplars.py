"""Of each bucket of a pipeline's times the last trace that fell into it: from a slow bucket one step to its spans."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import msgspec
import numpy as np

from tailrace.deadline import NS_PER_S
from tailrace.monitor.histogram import edges_ns, export_edges
from tailrace.monitor.predictions import Predictions

PIPELINES_MAX: Final = 64
"""Of more pipelines the first have exemplars; each has one a bucket, about 35."""
AGE_S_MAX: Final = 600.0
"""An older one is not told: where traces are kept, it may be gone."""


class Exemplar(msgspec.Struct, frozen=True):
    """One call that was traced. whole_ns: from its arrival to its answer; at_s: of its answer, since the epoch."""

    trace: str
    whole_ns: int
    at_s: float


class Exemplars:
    """Keeps the last of each bucket that is exported. budgets_ns: of each pipeline."""

    def __init__(self, budgets_ns: dict[str, int]) -> None:
        self._bounds: dict[str, list[int]] = {}
        for name, budget_ns in list(budgets_ns.items())[:PIPELINES_MAX]:
            edges = edges_ns(budget_ns)
            self._bounds[name] = [edges[place] for place in export_edges(edges, budget_ns)]
        self._kept: dict[str, dict[int, Exemplar]] = {name: {} for name in self._bounds}

    def take(self, found: Predictions) -> None:
        """Keep, of requests that came as part of a trace, the last of each bucket."""
        traced = [place for place, trace in enumerate(found.traces) if trace]
        if not traced or found.pipeline not in self._bounds:
            return
        buckets = np.searchsorted(self._bounds[found.pipeline], found.whole_ns[traced])
        for place in dict(zip(buckets.tolist(), traced, strict=True)).values():
            self.note(found.pipeline, found.traces[place], int(found.whole_ns[place]), int(found.answered_ns[place]))

    def note(self, pipeline: str, trace: str, whole_ns: int, answered_ns: int) -> None:
        """Keep one. trace: 32 digits of hexadecimal; answered_ns: since the epoch."""
        if (bounds := self._bounds.get(pipeline)) is not None:
            exemplar = Exemplar(trace, whole_ns, round(answered_ns / NS_PER_S, 3))
            self._kept[pipeline][bisect_left(bounds, whole_ns)] = exemplar

    def told(self, now_s: float) -> dict[str, tuple[Exemplar, ...]]:
        """Return what is kept of each pipeline, of the last minutes. now_s: since the epoch."""
        return {
            name: fresh
            for name, kept in self._kept.items()
            if (fresh := tuple(each for each in kept.values() if now_s - each.at_s <= AGE_S_MAX))
        }
