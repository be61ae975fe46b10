"""Materialisation: the latest row of every entity of a view, from its source into the online store.

Rows are written by key, a batch at a time, and with each batch how far it has come; so a run that is killed goes on
where it stopped, as long as the source is the same. Rows of entities that the source no longer has are left to age.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tailrace.errors import CompileError, SourceError
from tailrace.features.rows import RowCodec
from tailrace.features.stores.opening import open_writer, resolve_url
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.views import ViewSpec
from tailrace.offline.database import DatabaseLimits
from tailrace.offline.progress import Progress, fingerprint, progress_row, read_progress
from tailrace.offline.source_rows import BadRow, Page, SourceRows
from tailrace.pipeline import Pipeline
from tailrace.request.schema import field_specs

BATCH_ROWS: Final = 10_000


@dataclass(frozen=True, slots=True)
class MaterializeReport:
    """What one run did. Counts are rows.

    read: in the source; written: by this run; bad: left out, with the first of them in `examples`; later: true only
    after now, and left out; resumed: written by the interrupted run that this one continued.
    """

    view: str
    read: int
    written: int
    bad: int
    later: int
    resumed: int
    seconds: float
    examples: tuple[BadRow, ...]


def materialize(
    spec: ViewSpec,
    base_dir: Path,
    writer: StoreWriter,
    *,
    batch_rows: int = BATCH_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
    now_ns: int | None = None,
    key_type: type | None = None,
    limits: DatabaseLimits | None = None,
) -> MaterializeReport:
    """Write a view's latest rows to the online store.

    base_dir: what the source's relative path is relative to. on_progress: called with the rows in the store and the
    rows there will be. now_ns: since the epoch. key_type: int or str, as the request has the entity's id; None takes
    it as the source has it. limits: what reading the source may take.
    Raises CompileError for a mistaken view, SourceError for a source that cannot be read or has no good row, and
    StoreError from the writer.
    """
    if spec.problems:
        raise CompileError(spec.name, spec.problems)
    if batch_rows < 1:
        raise SourceError(f"batches of {batch_rows} rows cannot be written", where=spec.name, next="use 1 or more")
    began = time.monotonic()
    codec = RowCodec(spec)
    source = fingerprint(spec, base_dir, codec.schema_id, key_type.__name__ if key_type else "")
    written_ns = time.time_ns() if now_ns is None else now_ns
    interrupted = _to_go_on_with(read_progress(writer, spec.name, source), spec, written_ns)
    resumed = interrupted.written if interrupted else 0
    began_ns = interrupted.now_ns if interrupted else written_ns
    # A run has one now, by which its rows are due. Without a time column every row is of when it is written itself.
    due_ns = began_ns if spec.source.time is not None else written_ns
    with SourceRows(spec, base_dir, key_type, due_ns, limits=limits) as rows:
        counts = rows.counts()
        examples = rows.bad_rows() if counts.bad else ()
        if counts.bad and counts.bad == counts.read:
            raise SourceError(f"all {counts.read} rows are bad; the first: {examples[0].why}",
                              where=examples[0].where, next="compare the view's columns with the source's")  # fmt: skip
        total = resumed + rows.prepare(interrupted.last_key if interrupted else None)
        done = resumed
        progress = interrupted
        if on_progress:
            on_progress(done, total)
        for page in rows.pages(batch_rows):
            done += len(page.ids)
            progress = Progress(source=source, last_key=page.ids[-1], written=done, now_ns=began_ns, done=done == total)
            _write(codec, page, written_ns, writer, progress)
            if on_progress:
                on_progress(done, total)
    return MaterializeReport(
        view=spec.name,
        read=counts.read,
        written=done - resumed,
        bad=counts.bad,
        later=counts.later,
        resumed=resumed,
        seconds=time.monotonic() - began,
        examples=examples,
    )


def materialize_pipeline(
    pipeline: Pipeline,
    *,
    store: str | None = None,
    views: Collection[str] = (),
    batch_rows: int = BATCH_ROWS,
    on_progress: Callable[[str, int, int], None] | None = None,
    limits: DatabaseLimits | None = None,
) -> list[MaterializeReport]:
    """Write the latest rows of a pipeline's views to its online store, and return a report for each view.

    store: a URL or path in place of the pipeline's own. views: the names of those to write; none means all.
    on_progress: called with the view's name, the rows in the store and the rows there will be. limits: what reading a
    source may take.
    Raises as `materialize` does, and CompileError for the mistakes of all views at once.
    """
    specs = [view.spec for view in pipeline.views if not views or view.__name__ in views]
    problems = [problem for spec in specs for problem in spec.problems]
    if problems:
        raise CompileError(pipeline.name, problems)
    types = _key_types(pipeline)
    writer = open_writer(store if store is not None else resolve_url(pipeline.store, pipeline.base_dir))
    try:
        return [
            materialize(
                spec,
                pipeline.base_dir,
                writer,
                batch_rows=batch_rows,
                on_progress=partial(on_progress, spec.name) if on_progress else None,
                key_type=types.get(spec.entity.key),
                limits=limits,
            )
            for spec in specs
        ]
    finally:
        writer.close()


def _to_go_on_with(interrupted: Progress | None, spec: ViewSpec, now_ns: int) -> Progress | None:
    """Return the interrupted run, or None where the rows that it wrote, of when it wrote them, are stale by now."""
    if interrupted is None or spec.source.time is not None or spec.max_staleness_ns is None:
        return interrupted
    return interrupted if now_ns - interrupted.now_ns <= spec.max_staleness_ns else None


def _key_types(pipeline: Pipeline) -> dict[str, type]:
    """Return the type of the ids in each field of the request: the store's keys must be of the same."""
    kinds = {name: spec.dtype.kind for name, spec in field_specs(pipeline.request).items()}
    return {name: int if kind == "i" else str for name, kind in kinds.items() if kind in "iO"}


def _write(codec: RowCodec, page: Page, written_ns: int, writer: StoreWriter, progress: Progress) -> None:
    """Write one page, and how far that brings the run."""
    packed = codec.pack(page.ids, page.columns, page.event_ns, written_ns)
    pairs = list(zip(codec.keys(page.ids), packed, strict=True))
    writer.put([*pairs, progress_row(codec.spec.name, progress)])
