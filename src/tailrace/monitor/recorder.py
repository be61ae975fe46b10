"""Counting while serving: once a batch, plain additions to shared cells whose places were found at start-up."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from operator import add, attrgetter, sub
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch, Degraded
from tailrace.deadline import LAYERS
from tailrace.errors import ServingError, ShedError
from tailrace.monitor.histogram import Histogram
from tailrace.monitor.metrics import (
    CONSUMER_FATES,
    DEGRADED_REASONS,
    FATES,
    PROVENANCES,
    SHED_REASONS,
    error_kinds,
    slug,
)
from tailrace.monitor.shared import MetricBlock

_arrival_of = attrgetter("arrival_ns")
_differences = np.subtract.outer
_count_at = np.add.at
_MARKS: Final = len(LAYERS) + 1
_FEW_CALLS: Final = 12
"""Up to here plain Python is faster than NumPy."""


class FailureRecorder:
    """Counts the calls that are answered with an error. `pipeline` is "" for those that reach none."""

    def __init__(self, block: MetricBlock, pipeline: str = "") -> None:
        find, release = block.find, block.layout.release
        self._cells = block.cells
        self._places: dict[type, tuple[int, int]] = {
            kind: (
                find("tailrace_requests_total", pipeline, str(kind.status), release).offset,
                find("tailrace_errors_total", pipeline, slug(kind)).offset,
            )
            for kind in error_kinds()
        }
        self._sheds = {reason: find("tailrace_shed_total", pipeline, reason).offset for reason in SHED_REASONS}
        self._shed_code = find("tailrace_requests_total", pipeline, str(ShedError.status), release).offset

    def record_failure(self, kind: type[ServingError], calls: int = 1) -> None:
        """Count calls answered with an error of this kind: their status code and their reason."""
        code, reason = self._places.get(kind) or self._nearest(kind)
        self._cells[code] += calls
        self._cells[reason] += calls

    def record_shed(self, reason: str, calls: int = 1) -> None:
        """Count calls refused early, with a reason of `SHED_REASONS`."""
        self._cells[self._shed_code] += calls
        self._cells[self._sheds[reason]] += calls

    def _nearest(self, kind: type) -> tuple[int, int]:
        """Find and keep the place of a user's own kind of error: that of the nearest one known."""
        places = next(self._places[base] for base in kind.__mro__ if base in self._places)
        if len(self._places) < 1_000:
            self._places[kind] = places
        return places


class BatchRecorder(FailureRecorder):
    """Counts one pipeline's batches; the recorder of its engine.

    Every call is counted once: by `record` as answered, by `record_failure` or by `record_shed`.
    """

    def __init__(self, block: MetricBlock, pipeline: str) -> None:
        super().__init__(block, pipeline)
        find, cells = block.find, block.cells
        layers = [find("tailrace_layer_seconds", pipeline, layer) for layer in LAYERS]
        self._layer_edges = [series.edges for series in layers]
        self._layer_offsets = [series.offset for series in layers]
        self._layer_sums = [series.offset + series.length - 1 for series in layers]
        self._times = _CallTimes(block, pipeline)
        self._batch_rows = block.histogram("tailrace_batch_rows", pipeline)
        self._store = block.histogram("tailrace_store_seconds", pipeline)
        self._store_late = find("tailrace_store_late_total", pipeline).offset
        self._answered = find("tailrace_requests_total", pipeline, "200", block.layout.release).offset
        self._rows = find("tailrace_rows_total", pipeline).offset
        self._degraded = [
            (np.uint8(flag), find("tailrace_degraded_total", pipeline, reason).offset)
            for flag, reason in DEGRADED_REASONS.items()
        ]
        self._views = [
            series.offset
            for series in block.layout.series
            if series.name == "tailrace_feature_values_total"
            and series.labels[0] == pipeline
            and series.labels[2] == PROVENANCES[0]
        ]
        self._cells = cells
        self._block, self._pipeline = block, pipeline
        self._calls_most = 0

    def record(self, batch: Batch, finished_ns: int) -> None:
        """Count one delivered batch, and where the values of its views come from."""
        arrivals_ns = list(map(_arrival_of, batch.calls))
        self._calls_most = max(self._calls_most, len(arrivals_ns))
        if len(batch.marks_ns) == _MARKS:
            degraded = batch.degraded
            if degraded is not None and batch.failed is not None:
                degraded = degraded[~batch.failed]  # which are not answered at all
            self.count_batch(batch.marks_ns, finished_ns, arrivals_ns, batch.rows, degraded, len(batch.errors))
        if batch.errors:
            for error in batch.errors.values():
                self.record_failure(type(error))
        cells = self._cells
        for place, rows in zip(self._views, batch.view_rows, strict=False):
            if rows.noted is None:  # all are fresh, in nearly every batch
                cells[place] += len(rows.data)
            else:
                self.count_provenances(place, rows.noted)

    def take_calls_most(self) -> int:
        """Return how many calls the largest batch had since the last time this was asked; 0 where there was none.

        Between two ticks, when anyone can look, an inline pipeline has no call in flight, however busy it is.
        """
        most, self._calls_most = self._calls_most, 0
        return most

    def count_batch(
        self,
        marks_ns: Sequence[int],
        finished_ns: int,
        arrivals_ns: list[int],
        rows: int,
        degraded: NDArray[np.uint8] | None = None,
        failed: int = 0,
    ) -> None:
        """Count one batch, after its answers are written.

        marks_ns: six monotonic times, the batch's start and the end of each layer; finished_ns: when its answers had
        been written. arrivals_ns: of its calls. rows: scored. degraded: a set of `Degraded` for each row, or None.
        failed: calls answered with an error, which `record_failure` counts; the others are counted as 200.
        """
        cells, calls = self._cells, len(arrivals_ns)
        spent_ns = list(map(sub, marks_ns[1:], marks_ns))
        for place in map(add, self._layer_offsets, map(bisect_left, self._layer_edges, spent_ns)):
            cells[place] += calls
        for place, layer_ns in zip(self._layer_sums, spent_ns, strict=True):
            cells[place] += layer_ns * calls
        self._times.observe(marks_ns[0], finished_ns, arrivals_ns)
        self._batch_rows.observe(rows)
        cells[self._answered] += calls - failed
        cells[self._rows] += rows
        if degraded is not None:
            for flag, cell in self._degraded:
                cells[cell] += int(np.count_nonzero(degraded & flag))

    def count_shared(
        self, started_ns: int, finished_ns: int, arrivals_ns: list[int], degraded: NDArray[np.uint8] | None, failed: int
    ) -> None:
        """Count calls that another's computation has answered: all but rows, layers and batches. See `count_batch`."""
        self._times.observe(started_ns, finished_ns, arrivals_ns)
        self._cells[self._answered] += len(arrivals_ns) - failed
        if degraded is not None:
            for flag, cell in self._degraded:
                self._cells[cell] += int(np.count_nonzero(degraded & flag))

    def count_fetch(self, took_ns: int, is_late: bool) -> None:
        """Count one fetch from the store, which one batch makes; late: it was not done by its deadline."""
        self._store.observe(took_ns)
        self._cells[self._store_late] += is_late

    def hop_of(self, view: str) -> HopRecorder:
        """Return what counts the fetches of one hop of several, of which this is a view."""
        return HopRecorder(self, self._block.histogram("tailrace_view_seconds", self._pipeline, view))

    def degraded_rows(self) -> dict[str, int]:
        """Return how many rows were answered degraded so far, by reason."""
        return {DEGRADED_REASONS[Degraded(int(flag))]: self._cells[cell] for flag, cell in self._degraded}

    def count_provenances(self, first: int, provenances: NDArray[np.uint8]) -> None:
        """Count the rows of one batch view, whose first cell is given, by their provenance: shape (rows,)."""
        cells = self._cells
        for provenance, rows in enumerate(np.bincount(provenances, minlength=len(PROVENANCES)).tolist()):
            cells[first + provenance] += rows


class HopRecorder:
    """Counts the fetches of one hop of a pipeline that has several."""

    def __init__(self, whole: BatchRecorder, times: Histogram) -> None:
        self._whole = whole
        self._times = times

    def count_fetch(self, took_ns: int, is_late: bool) -> None:
        """Count one fetch: see `BatchRecorder.count_fetch`."""
        self._times.observe(took_ns)
        self._whole.count_fetch(took_ns, is_late)


class WorkerRecorder(FailureRecorder):
    """Holds a worker's gauges, and counts failures that belong to no pipeline."""

    def __init__(self, block: MetricBlock, slot: int = 0) -> None:
        super().__init__(block)
        find = block.find
        self._in_flight = find("tailrace_in_flight", str(slot)).offset
        self._connections = find("tailrace_connections", str(slot)).offset
        self._ready = find("tailrace_ready", str(slot)).offset

    def set_in_flight(self, calls: int) -> None:
        """Tell the most calls that were in flight in the last second; once a second."""
        self._cells[self._in_flight] = calls

    def set_connections(self, connections: int) -> None:
        """Tell how many connections are open."""
        self._cells[self._connections] = connections

    def set_ready(self, ready: bool) -> None:
        """Tell whether calls are accepted."""
        self._cells[self._ready] = int(ready)


class _CallTimes:
    """The two times of each call, its wait for the batch and the whole until its answer, counted together.

    Both histograms have the same edges and are side by side, so that one search and one count serve them both.
    """

    def __init__(self, block: MetricBlock, pipeline: str) -> None:
        whole = block.find("tailrace_request_seconds", pipeline)
        wait = block.find("tailrace_queue_wait_seconds", pipeline)
        if wait.edges != whole.edges or wait.offset != whole.offset + whole.length:
            raise ValueError("the two histograms of a call's times must be side by side")
        self._edges = whole.edges
        self._edges_array = np.array(whole.edges, dtype=np.int64)
        self._cells = block.cells[whole.offset : wait.offset + wait.length]
        self._array = np.frombuffer(self._cells, dtype=np.int64)
        self._stride = whole.length

    def observe(self, start_ns: int, end_ns: int, arrivals_ns: list[int]) -> None:
        """Count a batch's calls by their times until its start and until its end."""
        cells, stride, calls = self._cells, self._stride, len(arrivals_ns)
        arrivals_sum_ns = sum(arrivals_ns)
        cells[stride - 1] += max(end_ns * calls - arrivals_sum_ns, 0)
        cells[2 * stride - 1] += max(start_ns * calls - arrivals_sum_ns, 0)
        if calls <= _FEW_CALLS:
            edges = self._edges
            for arrival_ns in arrivals_ns:
                cells[bisect_left(edges, end_ns - arrival_ns)] += 1
                cells[stride + bisect_left(edges, start_ns - arrival_ns)] += 1
            return
        arrivals = np.array(arrivals_ns, dtype=np.int64)
        buckets = self._edges_array.searchsorted(_differences((end_ns, start_ns), arrivals))
        buckets[1] += stride
        _count_at(self._array, buckets.ravel(), 1)


class EventRecorder:
    """Counts what becomes of events, in the ingester's block. It alone writes there, on one thread."""

    def __init__(self, block: MetricBlock) -> None:
        self._cells = block.cells
        self._places = {
            series.labels: series.offset for series in block.layout.series if series.name == "tailrace_events_total"
        }

    def count(self, stream: str, fates: NDArray[np.uint8]) -> None:
        """Count the fates of some events."""
        for fate, count in enumerate(np.bincount(fates, minlength=len(FATES)).tolist()):
            self._cells[self._places[stream, FATES[fate]]] += count


class ConsumerRecorder:
    """Counts what a consumer brings, in its block. It alone writes there, on one thread."""

    def __init__(self, block: MetricBlock, stream: str) -> None:
        find, self._cells = block.find, block.cells
        self._places = {fate: find("tailrace_events_total", stream, fate).offset for fate in CONSUMER_FATES}
        self._before = {fate: self._cells[place] for fate, place in self._places.items()}
        self._lag = find("tailrace_event_lag", stream).offset
        self._reading = find("tailrace_consumers", stream).offset

    def set_reading(self) -> None:
        """Tell that the consumer reads."""
        self._cells[self._reading] = 1

    def record(self, counts: Mapping[str, int], lag: int | None) -> None:
        """Tell what became of all events of this process so far, by fate. lag: how many are to come, where known."""
        for fate, place in self._places.items():
            self._cells[place] = self._before[fate] + counts[fate]
        if lag is not None:
            self._cells[self._lag] = lag


class RefreshRecorder:
    """Counts what becomes of refreshes, in the refresher's block. It alone writes there."""

    def __init__(self, block: MetricBlock) -> None:
        self._cells = block.cells
        self._places = {(series.name, series.labels): series.offset for series in block.layout.series}

    def count(self, pipeline: str, view: str, outcome: str | None, whole_s: int | None = None) -> None:
        """Count a refresh, where there was one. whole_s: since when the view is whole, since the epoch."""
        if outcome is not None:
            self._cells[self._places["tailrace_refreshes_total", (pipeline, view, outcome)]] += 1
        if whole_s is not None:
            self._cells[self._places["tailrace_view_refreshed_timestamp_seconds", (pipeline, view)]] = whole_s
