"""The recorder that samples what is served: a few requests of a batch, a few batches a second, however many come."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Provenance
from tailrace.compile.binding import reader_of
from tailrace.compile.resolve import wire
from tailrace.deadline import LAYERS, NS_PER_S, Clock
from tailrace.inference.composition.declarations import compositions_of
from tailrace.monitor.samples import Sample, SampleWriter
from tailrace.pipeline import Pipeline

BATCHES_PER_S: Final = 10
ROWS_MAX: Final = 10
"""Of one batch; one request is taken whole, however many rows it makes."""
_MARKS: Final = len(LAYERS) + 1
_INTERVAL_NS: Final = NS_PER_S // BATCHES_PER_S
_PROVENANCES: Final = {int(each): each.name.lower() for each in Provenance}


class Sampler:
    """Samples one pipeline; a recorder of its engine. On the loop it takes slices; the writer's thread makes lines."""

    def __init__(self, pipeline: Pipeline, release: str, writer: SampleWriter, clock: Clock) -> None:
        wiring = wire(pipeline)
        self._pipeline = pipeline.name
        self._release = release
        self._writer = writer
        self._wall_ns = clock.wall_ns
        self._reads = [(name, reader_of(each).read) for name, each in wiring.features.items()]
        self._views = [
            (view.__name__, wiring.expanded is not None and not wiring.expands(place))
            for place, view in enumerate(wiring.views)
        ]
        self._branches = {
            each.name: np.array([*each.branches, None], object) for each in compositions_of(pipeline.model)
        }
        self._next_ns = 0

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Take the first requests of a batch, unless one was taken a moment ago."""
        if finished_ns < self._next_ns or len(batch.marks_ns) != _MARKS or not batch.rows:
            return
        self._next_ns = finished_ns + _INTERVAL_NS
        self._writer.put(self._taken(batch).lines)

    def _taken(self, batch: Batch) -> _Taken:
        """Return what is sampled of a batch, apart from its calls: these must not outlive their connections."""
        bounds = batch.row_bounds
        if bounds is None:
            requests = rows = min(len(batch.requests), ROWS_MAX)
        else:
            requests = max(int(np.searchsorted(bounds, ROWS_MAX, "right")) - 1, 1)
            rows = int(bounds[requests])
        provenances = {}
        for (name, repeats), found in zip(self._views, batch.view_rows, strict=True):
            places = batch.row_request[:rows] if repeats and batch.row_request is not None else slice(rows)
            provenances[name] = found.provenance[places]
        return _Taken(
            self._pipeline,
            self._release,
            self._wall_ns(),
            batch.requests[:requests],
            None if bounds is None else bounds[: requests + 1].tolist(),
            {name: read(batch)[:rows] for name, read in self._reads},
            provenances,
            batch.scores[:rows].copy(),
            {name: self._branches[name][found[:rows]] for name, found in (batch.branches or {}).items()},
            None if batch.failed is None else batch.failed[:rows].copy(),
            _origins(batch, requests),
        )


def _origins(batch: Batch, requests: int) -> list[dict[str, str]]:
    """Return where the first requests of a batch come from, each from its call."""
    if batch.offsets is None:
        return [call.origin() for call in batch.calls[:requests]]
    calls = np.searchsorted(batch.offsets, np.arange(requests), "right") - 1
    told = {place: batch.calls[place].origin() for place in set(calls.tolist())}
    return [told[place] for place in calls.tolist()]


class _Taken(msgspec.Struct, frozen=True, eq=False):
    """Some requests of a batch, with columns over their rows. bounds: where each request's rows begin, if many."""

    pipeline: str
    release: str
    wall_ns: int
    requests: Any
    bounds: list[int] | None
    features: dict[str, NDArray[Any]]
    provenances: dict[str, NDArray[np.uint8]]
    scores: NDArray[Any]
    branches: dict[str, NDArray[Any]]
    failed: NDArray[np.bool_] | None
    origins: list[dict[str, str]]

    def lines(self) -> Iterator[bytes]:
        """Give the JSON of each request that was answered with a score."""
        at = datetime.fromtimestamp(self.wall_ns / NS_PER_S, UTC)
        features = {name: column.tolist() for name, column in self.features.items()}
        provenances = {
            name: [_PROVENANCES[each] for each in column.tolist()] for name, column in self.provenances.items()
        }
        branches = {name: column.tolist() for name, column in self.branches.items()}
        scores, encode = self.scores.tolist(), msgspec.json.Encoder().encode
        for place, request in enumerate(self.requests):
            own: Any = place if self.bounds is None else slice(self.bounds[place], self.bounds[place + 1])
            if self.failed is not None and np.any(self.failed[own]):
                continue
            yield encode(
                Sample(
                    time=at,
                    pipeline=self.pipeline,
                    release=self.release,
                    request=request,
                    features={name: column[own] for name, column in features.items()},
                    provenance={name: column[own] for name, column in provenances.items()},
                    score=scores[own],
                    branches={name: column[own] for name, column in branches.items()},
                    **self.origins[place],
                )
            )
