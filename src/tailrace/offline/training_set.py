"""The features of requests that are past: what a server would have fed the model with, had it known each event in time.

The names are resolved as for serving (compile/), on-demand features are the same functions, and what reads their
arguments is the same; only the columns that they read come from the sources' history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace, TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Batch
from tailrace.compile.binding import reader_of
from tailrace.compile.resolve import wire
from tailrace.compile.wiring import Origin, Wire, Wiring
from tailrace.errors import CompileError, SetupError
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.sources import Source
from tailrace.features.step import OnDemandFeature
from tailrace.features.streams import StreamFeatureView, StreamViewSpec
from tailrace.features.view_spec import Column
from tailrace.offline.database import MEMORY_MB_MIN, DatabaseLimits
from tailrace.offline.history import PART_ROWS, HistoryCounts
from tailrace.offline.pipeline_views import key_types
from tailrace.offline.request_pages import KeyColumn, RequestPage
from tailrace.offline.view_history import BatchHistory, HistorySettings, StreamHistory, Values, ViewHistory, known_of
from tailrace.pipeline import Pipeline, is_event_of
from tailrace.readers import Reader

NO_SOURCES: Final[Mapping[str, Source]] = {}


class TrainingSet:
    """Computes the features of one pipeline. A context manager, which holds a database for each view while it is open.

    names: of the features, in the pipeline's order. limits: of all databases together. sources: of streams, by name, in
    place of the declared ones. on_view: called with the name of each view before its history is read and sorted.
    Raises CompileError for mistakes in the pipeline, SetupError for one without `time` or a stream without a history,
    SourceError for a source that cannot be read.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        limits: DatabaseLimits | None = None,
        sources: Mapping[str, Source] = NO_SOURCES,
        part_rows: int = PART_ROWS,
        on_view: Callable[[str], None] = lambda view: None,
    ) -> None:
        self.pipeline = pipeline
        self.wiring = wire(pipeline)
        if self.wiring.problems:
            raise CompileError(pipeline.name, self.wiring.problems)
        self.names = tuple(self.wiring.features)
        self.time = _time_of(pipeline)
        self._readers: dict[str, Reader] = {name: reader_of(each) for name, each in self.wiring.features.items()}
        self._on_demand = [
            OnDemandFeature(name, feature.function, list(map(reader_of, wires)))
            for name, (feature, wires) in self.wiring.on_demand.items()
        ]
        self._used = views_used(self.wiring)
        self._key_columns = {column for place in self._used for column in self.wiring.entities[place].columns}
        limits = limits or DatabaseLimits()
        half_mb = limits.memory_mb // 2  # one half sorts, the other keeps what is sorted
        self._settings = HistorySettings(
            pipeline.base_dir,
            key_types(pipeline),
            DatabaseLimits(max(half_mb, MEMORY_MB_MIN), limits.threads),
            max(half_mb // max(len(self._used), 1), MEMORY_MB_MIN),
            part_rows,
        )
        self._sources = sources
        self._on_view = on_view
        self._views: dict[int, ViewHistory] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            for place in self._used:
                view = self.wiring.views[place]
                self._on_view(view.__name__)
                self._views[place] = self._history(view)
                opening.callback(self._views[place].history.close)
            self._threads = opening.enter_context(ThreadPoolExecutor(self._settings.limits.threads, "views"))
            self._open = opening.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    @property
    def timeless(self) -> tuple[str, ...]:
        """The views whose source has no time column: their rows are taken as they are now, for every request."""
        views = [self.wiring.views[place] for place in self._used]
        return tuple(v.__name__ for v in views if issubclass(v, BatchFeatureView) and v.spec.source.time is None)

    def counts(self) -> dict[str, HistoryCounts]:
        """Count the rows of each view's history."""
        return {self.wiring.views[place].__name__: view.history.counts() for place, view in self._views.items()}

    def columns(self, page: RequestPage) -> dict[str, NDArray[Any]]:
        """Return every feature by name, in the pipeline's order: (rows,)."""
        batch = Batch([], 0, 0, rows=page.rows, request=page.columns)
        found = self._values(page)
        for place in range(len(self.wiring.views)):
            for column in found.get(place, {}).values():
                column.flags.writeable = False  # as while serving
            batch.views.append(SimpleNamespace(**found.get(place, {})))
        for feature in self._on_demand:
            batch.on_demand[feature.name] = feature.column(batch)
        return {name: np.asarray(reader.read(batch)) for name, reader in self._readers.items()}

    def _values(self, page: RequestPage) -> dict[int, Values]:
        """Return the columns of each view that is used; a later hop's by the keys that the ones before have given."""
        found: dict[int, Values] = {}
        given: dict[Column, KeyColumn] = {}

        def columns(place: int) -> Values:
            return self._views[place].columns(page, page.entities(self.wiring.entities[place], given))

        for hop in self.wiring.hops:
            used = [place for place in hop if place in self._used]
            found |= zip(used, self._threads.map(columns, used), strict=True)
            for column in self._key_columns:
                if (giver := self.wiring.view_of(column)) in used:
                    given[column] = KeyColumn(found[giver][column.name], found[giver][known_of(column)])
        return found

    def _history(self, view: Any) -> ViewHistory:
        if not issubclass(view, StreamFeatureView):
            own = [column for column in self._key_columns if vars(view).get(column.name) is column]
            return BatchHistory(view.spec, self._settings, own)
        spec: StreamViewSpec = view.spec
        event_id = spec.stream.id if is_event_of(self.pipeline, spec.stream) else None
        return StreamHistory(spec, self._settings, event_id, self._sources.get(spec.stream.name))


def _time_of(pipeline: Pipeline) -> str:
    """Return the field that says when a request happened; an error where none does."""
    if pipeline.time is None:
        raise SetupError("the pipeline names no field that says when a request happened", where=f"{pipeline.name}.time",
                         next='add time="…" to tr.Pipeline: features are looked up as of then')  # fmt: skip
    return pipeline.time


def views_used(wiring: Wiring) -> list[int]:
    """Return the views that features read, with those that give their keys; rules may read more."""
    wires: list[Wire] = [*wiring.features.values()]
    for _, taken in wiring.on_demand.values():
        wires += taken
    read = {each.view for each in wires if each.origin is Origin.VIEW}
    return sorted(read.union(*map(wiring.key_views, read)))
