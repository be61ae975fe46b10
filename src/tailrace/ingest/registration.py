"""Stream views in the store's catalogue: which definitions of a view there are, and which have all of their history.

The first definition of a view counts from its first event on. A changed one has states of its own, which begin empty
beside those of the one before: it is whole once its history is counted in (`tailrace backfill`), and served from then
on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tailrace.compile.materialised import history_fault
from tailrace.deadline import NS_PER_S
from tailrace.errors import StoreError
from tailrace.features.catalogue import (
    NEVER_NS,
    SchemaRecord,
    ViewRecord,
    catalogue_key,
    read_record,
    schema_name,
)
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import StreamViewSpec
from tailrace.ingest.use import note_use, read_use
from tailrace.ingest.watermark import read_watermark, watermark_key

SCHEMAS_MAX: Final = 8
"""Definitions of one view in a store."""
RETIRING_S: Final = 5.0
RETIRING_LOOK_S: Final = 0.05
"""For how long, and how often, whoever begins to use a definition looks whether it is still being removed."""


def register(
    spec: StreamViewSpec, pipelines: Sequence[str], writer: StoreWriter, now_ns: int, *, is_empty_whole: bool = True
) -> SchemaRecord:
    """Return what the store notes of a view as it is declared; note it, where it is new.

    is_empty_whole: whether a view of which the store knows nothing is whole as it is, without history. A changed one
    begins behind the newest event that has come. Nothing is noted of one that is being removed. Raises StoreError for a
    view of another source, or too many definitions.
    """
    record = read_record(writer.get, spec.name)
    source = f"stream {spec.stream.name!r} by {spec.key!r}"
    name = schema_name(spec.schema_id)
    where = f"features.{spec.name}"
    if record is None:
        record = ViewRecord(source=source, place="", pipelines=())
    if record.source != source:
        raise StoreError(f"the store's {spec.name} is of {record.source}, not of {source}", where=where,
                         next="rename the view, or give the pipeline a store of its own")  # fmt: skip
    own = record.schemas.get(name)
    if own is None:
        if len(record.schemas) >= SCHEMAS_MAX:
            raise StoreError(f"the store has {SCHEMAS_MAX} definitions of the view already", where=where,
                             next="tailrace backfill --keep-old 0s, with the file that is served, removes those that "
                             "no server uses; or give the view another name")  # fmt: skip
        is_whole = is_empty_whole and not record.schemas
        begins_ns = NEVER_NS if is_whole else first_begin_ns(spec, writer)
        own = SchemaRecord(entity=spec.entity.name, text=spec.schema_text, is_whole=is_whole, at_ns=now_ns,
                           begins_ns=begins_ns)  # fmt: skip
    if own.is_retiring:
        return own
    known = dict.fromkeys([*record.pipelines, *pipelines])
    changed = msgspec.structs.replace(record, pipelines=tuple(known), schemas={**record.schemas, name: own})
    if changed != record:
        writer.exchange([(catalogue_key(spec.name), msgspec.json.encode(changed))], ())
    return own


def begin_use(
    spec: StreamViewSpec,
    pipelines: Sequence[str],
    writer: StoreWriter,
    user: str,
    wall_ns: Callable[[], int],
    *,
    refuse: bool,
) -> SchemaRecord:
    """Register a view for a user that is to count events into it, which notes its use first; return its definition.

    From that note on nobody removes the definition. A run that was about to has marked it: either it sees the note and
    takes the mark back, or the definition goes, and is registered anew. refuse: raise StoreError for a view that lacks
    its history, in place of registering it. Raises StoreError where the mark stays, and as `register` does.
    """
    name = schema_name(spec.schema_id)
    end_s = time.monotonic() + RETIRING_S
    while True:
        note_use(spec, writer, user, wall_ns())
        record = read_record(writer.get, spec.name)
        own = None if record is None else record.schemas.get(name)
        if own is None or not own.is_retiring:
            if refuse and (fault := history_fault(spec, record)) is not None:
                raise fault
            own = register(spec, pipelines, writer, wall_ns())
            if not own.is_retiring and user in read_use(writer.get, spec.name, name).users:  # none went with the old
                return own
        if time.monotonic() >= end_s:
            raise StoreError("the states of the view as it is declared are being removed",
                             where=f"features.{spec.name}",
                             next="start again once the run of tailrace backfill that removes them has ended; where it "
                             "was killed, run it with this file, which counts the history in anew")  # fmt: skip
        time.sleep(RETIRING_LOOK_S)


def note(spec: StreamViewSpec, own: SchemaRecord, writer: StoreWriter) -> None:
    """Note a registered definition anew."""
    record = read_record(writer.get, spec.name)
    assert record is not None
    changed = msgspec.structs.replace(record, schemas={**record.schemas, schema_name(spec.schema_id): own})
    writer.exchange([(catalogue_key(spec.name), msgspec.json.encode(changed))], ())


def first_begin_ns(spec: StreamViewSpec, writer: StoreWriter) -> int:
    """Return the first whole second behind the newest event of a stream; `NEVER_NS` where none has come."""
    newest_ns = read_watermark(writer.get(watermark_key(spec.stream.name))).newest_ns
    return (newest_ns[0] // NS_PER_S + 1) * NS_PER_S if newest_ns else NEVER_NS
