"""The batch views of a pipeline, each materialised on its own: one that fails keeps no other from being written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

from tailrace.errors import CompileError, TailraceError
from tailrace.features.batch_views import BatchFeatureView
from tailrace.features.stores.opening import open_writer, resolve_url
from tailrace.offline.materialize import MaterializeReport, materialize
from tailrace.offline.options import MaterializeOptions
from tailrace.offline.source_keys import key_type_of
from tailrace.pipeline import Pipeline
from tailrace.request.schema import field_specs


def materialize_pipeline(
    pipeline: Pipeline,
    *,
    store: str | None = None,
    views: Collection[str] = (),
    options: MaterializeOptions | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[tuple[str, MaterializeReport | TailraceError]]:
    """Write the latest rows of a pipeline's views to its online store; yield each view's name and report, or error.

    store: a URL or path in place of the pipeline's own. views: the names of those to write; none means all.
    on_progress: called with the view's name, the rows dealt with and the rows there are.
    Raises CompileError for the mistakes of all views at once, and StoreError for a store that cannot be opened.
    """
    specs = [view.spec for view in batch_views(pipeline) if not views or view.__name__ in views]
    problems = [problem for spec in specs for problem in spec.problems]
    if problems:
        raise CompileError(pipeline.name, problems)
    types = key_types(pipeline)
    writer = open_writer(store if store is not None else resolve_url(pipeline.store, pipeline.base_dir))
    try:
        for spec in specs:
            try:
                found: MaterializeReport | TailraceError = materialize(
                    spec,
                    pipeline.base_dir,
                    writer,
                    pipeline=pipeline.name,
                    options=options,
                    on_progress=partial(on_progress, spec.name) if on_progress else None,
                    key_type=key_type_of(types, spec.entity),
                )
            except TailraceError as error:
                found = error
            yield spec.name, found
    finally:
        writer.close()


def batch_views(pipeline: Pipeline) -> list[type[BatchFeatureView]]:
    """Return the views of a pipeline that are materialised."""
    return [view for view in pipeline.views if issubclass(view, BatchFeatureView)]


def key_types(pipeline: Pipeline) -> dict[str, type]:
    """Return the type of the ids in each field of the request: the store's keys must be of the same."""
    kinds = {name: spec.dtype.kind for name, spec in field_specs(pipeline.request).items()}
    return {name: int if kind == "i" else str for name, kind in kinds.items() if kind in "iO"}
