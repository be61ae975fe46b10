"""Materialisation: the latest row of every entity of a view, from its source into the online store.

    lease -> catalogue: is the view ours? -> run -> source -> pages, with progress -> sweep -> catalogue: it is whole

Rows are written by key, a batch at a time, and with each batch how far it has come; so a run that is killed goes on
where it stopped, as long as the source is the same and it was not long ago. A row never takes the place of a newer one.
Under a schema that has rows of the source before, after a take-over, a run begins anew and overwrites every row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tailrace.errors import CompileError, SourceError
from tailrace.features.batch_views import BatchViewSpec
from tailrace.features.catalogue import (
    OLD_LAYOUT,
    SchemaRecord,
    catalogue_key,
    old_progress_key,
    read_record,
    schema_name,
)
from tailrace.features.keys import TOMBSTONE, KeyFormat
from tailrace.features.row_layout import schema_text
from tailrace.features.stores.lease import Lease
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.stores.runs import PageCounts, PageRow
from tailrace.offline.leasing import leased
from tailrace.offline.options import MaterializeOptions
from tailrace.offline.outside_calls import never
from tailrace.offline.ownership import claim, with_old_layout, with_schema
from tailrace.offline.progress import (
    Progress,
    check_unchanged,
    fingerprint,
    progress_row,
    read_progress,
    source_files,
)
from tailrace.offline.source_keys import KeyType, key_type_name
from tailrace.offline.source_rows import BadRow, Page, SourceCounts, SourceRows
from tailrace.offline.sweeping import KnownKeys, check_room, corrected, is_settled, outdated, prune, remove_schema


@dataclass(frozen=True, slots=True)
class MaterializeReport:
    """What one run did. Counts are rows.

    run: its number in the store; holder, since: of its lease. read: in the source; bad: left out, with the first of
    them in `examples`; later: true only after now, and left out; resumed: dealt with by the interrupted run that this
    one continued. Of the entities' latest rows: written; unchanged, and so not written again; older than the stored
    ones, which stayed; forgotten, and left out. pruned: removed, since the source no longer has the entity; retired:
    removed, of another schema.
    """

    view: str
    schema: str
    run: int
    holder: str
    since: str
    read: int
    written: int
    unchanged: int
    older: int
    bad: int
    later: int
    forgotten: int
    resumed: int
    pruned: int
    retired: int
    seconds: float
    examples: tuple[BadRow, ...]


def materialize(
    spec: BatchViewSpec,
    base_dir: Path,
    writer: StoreWriter,
    *,
    pipeline: str = "",
    options: MaterializeOptions | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], int] = time.time_ns,
    key_type: KeyType | None = None,
    on_lease: Callable[[], None] | None = None,
    is_stopping: Callable[[], bool] = never,
) -> MaterializeReport:
    """Write a view's latest rows to the online store.

    base_dir: what the source's relative path is relative to. pipeline: whose view it is. on_progress: called with the
    rows dealt with and the rows there are. clock: since the epoch. key_type: of the entity's id, as the request has
    it; None takes it as the source has it. on_lease: called once the lease is held, before anything is written or read;
    what it raises ends the run. is_stopping: asked from this thread while a SQL file's query runs, to end it.
    Raises CompileError for a mistaken view, SourceError for a source that cannot be read or of which nothing can be
    written, LeaseError while another run writes the view, and StoreError for a store that cannot be written or has the
    view from elsewhere.
    """
    if spec.problems:
        raise CompileError(spec.name, spec.problems)
    options = options or MaterializeOptions()
    began_s = time.monotonic()
    with leased(writer, spec.name, options.wait_ns) as lease:
        if on_lease is not None:
            on_lease()
        run = _ViewRun(spec, base_dir, writer, pipeline, options, clock, lease, is_stopping)
        return run.report(on_progress, key_type, began_s)


class _ViewRun:
    """One run over one view, its lease held."""

    def __init__(
        self, spec: BatchViewSpec, base_dir: Path, writer: StoreWriter, pipeline: str, options: MaterializeOptions,
        clock: Callable[[], int], lease: Lease, is_stopping: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._spec = spec
        self._base_dir = base_dir
        self._writer = writer
        self._options = options
        self._clock = clock
        self._lease = lease
        self._is_stopping = is_stopping
        self._codec = spec.codec()
        self._schema = schema_name(self._codec.schema_id)
        self._tombstones = KeyFormat(spec.entity.name, TOMBSTONE)
        # Begun before the source is read: what a run that began later has read is never overwritten by this one.
        self._run = writer.begin_run(spec.name)
        found = read_record(writer.get, spec.name)
        self._record = claim(found, spec, self._schema, pipeline, base_dir, take_over=options.take_over)
        if found is None and writer.get(old_progress_key(spec.name)) is not None:
            self._record = with_old_layout(self._record, spec.entity.name, clock())
        check_room(self._record, self._schema, spec.name)
        own = self._record.schemas.get(self._schema)
        self._is_mixed = own.is_mixed if own is not None else options.take_over and found is not None
        self._outdated: list[str] = []

    def report(
        self, on_progress: Callable[[int, int], None] | None, key_type: KeyType | None, began_s: float
    ) -> MaterializeReport:
        """Read the source, write it, and tell of it."""
        spec, options = self._spec, self._options
        files = source_files(spec, self._base_dir)
        kind = key_type_name(key_type)
        source = fingerprint(spec, files, self._codec.schema_id, kind, self._record.pipelines)
        interrupted = self._interrupted(source)
        with self._source_rows(key_type) as rows:
            counts = rows.counts()
            examples = rows.bad_rows() if counts.bad else ()
            self._refuse_nothing(counts, examples)
            ids = rows.ids(options.batch_rows, due_only=self._is_mixed)
            known = KnownKeys(self._codec, ids) if self._prunes(counts) else None
            total = rows.prepare(interrupted.last_key if interrupted else None)
            check_unchanged(spec, self._base_dir, files)
            began = Progress(source=source, last_key=None, written=0, began_ns=rows.now_ns, done=False)
            self._note_schema(began=rows.now_ns)
            written, ended = self._write_pages(rows, interrupted or began, total, on_progress)
            now_ns = rows.now_ns
        resumed = interrupted.written if interrupted else 0
        if not ended.is_useful and written.older + resumed:
            raise SourceError(
                f"nothing is written: of all {written.older + resumed:,} entities the store has newer rows",
                where=self._where, next="see whether the source is of today; if it is right, --take-over",
            )  # fmt: skip
        pruned = self._prune(known)
        retired = self._finish(counts, total + resumed, now_ns)
        return MaterializeReport(
            view=spec.name, schema=self._schema, run=self._run.number, holder=self._lease.holder.who,
            since=self._lease.holder.since, read=counts.read, **written._asdict(), bad=counts.bad, later=counts.later,
            resumed=resumed, pruned=pruned, retired=retired,
            seconds=time.monotonic() - began_s, examples=examples,
        )  # fmt: skip

    def _source_rows(self, key_type: KeyType | None) -> SourceRows:
        """Open the source."""
        options = self._options
        return SourceRows(
            self._spec, self._base_dir, key_type, self._clock, skew_ns=options.skew_ns, limits=options.limits,
            is_stopping=self._is_stopping,
        )  # fmt: skip

    @property
    def _where(self) -> str:
        return f"features.{self._spec.name}.source"

    def _interrupted(self, source: str) -> Progress | None:
        """Return how far a run has come that this one continues, None where it begins anew.

        A take-over always does: an entity that came due since, behind the last row written, has a row of the source
        before, which would neither be overwritten nor pruned.
        """
        if self._is_mixed:
            return None
        return read_progress(self._writer.get, self._spec.name, source, self._clock(), self._resume_ns())

    def _resume_ns(self) -> int:
        """Return how old a run may be that this one resumes: without a time column its rows age with it."""
        limits = [self._options.resume_ns]
        if self._spec.source.time is None and self._spec.max_staleness_ns is not None:
            limits.append(self._spec.max_staleness_ns)
        return min(limits)

    def _refuse_nothing(self, counts: SourceCounts, examples: tuple[BadRow, ...]) -> None:
        """Raise SourceError for a source of which nothing can be written, or for which pruning cannot be decided."""
        if not counts.read:
            if self._is_mixed:
                raise SourceError("the source has no rows to take over with", where=self._where, next="see why")
            if not self._options.allow_empty:
                raise SourceError("the source has no rows", where=self._where,
                                  next="see why; if it is right, --allow-empty leaves the store as it is")  # fmt: skip
        elif counts.bad == counts.read:
            raise SourceError(f"all {counts.read} rows are bad; the first: {examples[0].why}",
                              where=examples[0].where, next="compare the view's columns with the source's")  # fmt: skip
        elif counts.bad + counts.later == counts.read:
            bad = f" and {counts.bad} are bad" if counts.bad else ""
            raise SourceError(
                f"nothing can be written: {counts.later} of {counts.read} rows are true only later than now{bad}",
                where=self._where,
                next="compare the clocks of the source and of this machine; --clock-skew says how far they may differ",
            )
        if counts.nameless and self._prunes(counts) and not self._is_mixed:
            raise SourceError(
                f"{counts.nameless} rows have no id that can be read, so it cannot be told which entities are gone",
                where=self._where, next="mend these rows, or run without --prune",
            )  # fmt: skip

    def _prunes(self, counts: SourceCounts) -> bool:
        """Return whether entities that the source does not have are removed; an empty one removes none."""
        return bool(counts.read) and (self._options.prune or self._is_mixed)

    def _note_schema(self, began: int) -> None:
        """Note that a run has begun: before its rows, so that they are always found by the catalogue."""
        record = corrected(self._record, self._schema, began)
        self._outdated = outdated(record, self._schema, began, self._options.keep_old_ns)
        schema = record.schemas.get(self._schema)
        text = schema_text(self._spec)
        schema = schema or SchemaRecord(entity=self._spec.entity.name, text=text, is_mixed=self._is_mixed)
        whole_ns = schema.whole_ns if is_settled(record, self._schema, began) else 0
        schema = msgspec.structs.replace(schema, at_ns=began, whole_ns=whole_ns)
        self._record = with_schema(record, self._schema, schema)
        self._write((), self._record_row())

    def _write_pages(
        self, rows: SourceRows, progress: Progress, total: int, on_progress: Callable[[int, int], None] | None
    ) -> tuple[PageCounts, Progress]:
        """Write every page, and with each how far that brings the run; at last that it is done."""
        counts, end = PageCounts(), progress.written + total
        if on_progress:
            on_progress(progress.written, end)
        for page in rows.pages(self._options.batch_rows):
            done = progress.written + len(page.ids)
            progress = msgspec.structs.replace(progress, last_key=page.ids[-1], written=done, done=done == end)
            wrote = self._write(self._packed(page, rows.now_ns), self._progress_row(progress))
            counts = counts.plus(wrote)
            if not progress.is_useful and wrote.written + wrote.unchanged:
                progress = msgspec.structs.replace(progress, is_useful=True)
                if not progress.done:  # one write more a run: what became of a page is known behind its own
                    self._write((), self._progress_row(progress))
            if on_progress:
                on_progress(done, end)
        if not progress.done:  # no page was left to write
            self._write((), self._progress_row(msgspec.structs.replace(progress, done=True)))
        return counts, progress

    def _packed(self, page: Page, written_ns: int) -> list[PageRow]:
        packed = self._codec.pack(page.ids, page.columns, page.event_ns, written_ns)
        keys, tombstones = self._codec.keys(page.ids), self._tombstones.keys(page.ids)
        return list(map(PageRow, keys, tombstones, packed))

    def _write(self, rows: list[PageRow] | tuple[()], note: tuple[bytes, bytes]) -> PageCounts:
        """Write rows and a note under the lease and the run.

        By event time where the view has one; else the run's own number keeps the order, since the store takes no row
        of a run that is not the last. What a source before has left is overwritten whatever its time.
        """
        self._lease.check()
        newer_only = self._spec.source.time is not None and not self._is_mixed
        return self._writer.write(self._run, rows, [note], newer_only=newer_only)

    def _prune(self, known: KnownKeys | None) -> int:
        """Remove what the source does not have."""
        if known is None:
            return 0
        share_max = 1.0 if self._is_mixed else self._options.prune_max
        return prune(self._writer, self._run, self._codec, known, share_max)

    def _finish(self, counts: SourceCounts, entities: int, now_ns: int) -> int:
        """Note that the view is whole, then remove schemas of before; return how many rows these had.

        An empty source does neither beside another schema that is whole: its entities would be left without rows.
        """
        before = self._record.schemas[self._schema]
        others = [schema for name, schema in self._record.schemas.items() if name != self._schema]
        is_whole = before.is_whole or bool(counts.read) or not any(each.is_whole for each in others)
        whole = msgspec.structs.replace(
            before, is_whole=is_whole, is_mixed=False, at_ns=now_ns, ended_ns=now_ns,
            whole_ns=before.whole_ns or (now_ns if is_whole else 0), run=self._run.number,
            read=counts.read, entities=entities, bad=counts.bad, later=counts.later,
        )  # fmt: skip
        self._record = with_schema(self._record, self._schema, whole)
        self._write((), self._record_row())
        if not counts.read:
            return 0
        retired = 0
        for name in self._outdated:
            self._lease.check()
            retired += remove_schema(self._writer, self._run, name, self._record.schemas[name])
            if name == OLD_LAYOUT:
                self._writer.remove(self._run, [old_progress_key(self._spec.name)])
            schemas = {each: schema for each, schema in self._record.schemas.items() if each != name}
            self._record = msgspec.structs.replace(self._record, schemas=schemas)
            self._write((), self._record_row())
        return retired

    def _record_row(self) -> tuple[bytes, bytes]:
        return catalogue_key(self._spec.name), msgspec.json.encode(self._record)

    def _progress_row(self, progress: Progress) -> tuple[bytes, bytes]:
        return progress_row(self._spec.name, progress)
