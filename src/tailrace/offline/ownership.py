"""Whose a view in a store is: the same name from another source would serve another's values unseen, so it is refused.

A pipeline owns a view with the source it declares. Another pipeline may share it where the source is the same file and
the schema the same. A pipeline that moved to another folder stays the owner; while the folder before is still there,
it is taken for a second copy, which would serve the other's values.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from tailrace.errors import StoreError
from tailrace.features.batch_views import BatchViewSpec
from tailrace.features.catalogue import OLD_LAYOUT, SchemaRecord, ViewRecord
from tailrace.features.sources import SQL


def claim(
    record: ViewRecord | None, spec: BatchViewSpec, schema: str, pipeline: str, base_dir: Path, *, take_over: bool
) -> ViewRecord:
    """Return the record of a view that this pipeline may write. Raises StoreError where it is another's.

    schema: the name of the one it is declared with. take_over: then the record says of every schema that it has rows
    of the source before, also where that was this one: so a source that was set back on purpose can be told to be
    right.
    """
    source = f"{spec.source!r} by {spec.source.key or spec.entity.key_fields!r}"
    place = os.path.realpath(base_dir / spec.source.path)
    folder = os.path.realpath(base_dir)
    if record is None:
        return ViewRecord(source=source, place=place, folder=folder, pipelines=(pipeline,))
    # A query names its files relative to the folder, so that the same SQL file reads others from another one.
    is_elsewhere = record.folder != folder and (record.place != place or isinstance(spec.source, SQL))
    is_copy = is_elsewhere and os.path.isdir(record.folder)
    is_own = pipeline in record.pipelines and record.source == source and (take_over or not is_copy)
    is_shared = record.source == source and record.place == place and schema in record.schemas and not is_copy
    if take_over:
        schemas = {name: msgspec.structs.replace(each, is_mixed=True) for name, each in record.schemas.items()}
        pipelines = record.pipelines if is_own else (pipeline,)
        return ViewRecord(source=source, place=place, folder=folder, pipelines=pipelines, schemas=schemas)
    if is_own:
        return msgspec.structs.replace(record, place=place, folder=folder)
    if is_shared:
        return msgspec.structs.replace(record, pipelines=(*record.pipelines, pipeline))
    owners = " and ".join(map(repr, record.pipelines))
    raise StoreError(
        f"the store's {spec.name} is of pipeline {owners}, from {record.source} ({record.place}); this one is of "
        f"pipeline {pipeline!r}, from {source} ({place})",
        where=f"features.{spec.name}",
        next="give the pipeline a store of its own, or rename the view; where this source takes the other's place, "
        "--take-over",
    )


def with_schema(record: ViewRecord, name: str, schema: SchemaRecord) -> ViewRecord:
    """Return the record with one schema noted anew."""
    return msgspec.structs.replace(record, schemas={**record.schemas, name: schema})


def with_old_layout(record: ViewRecord, entity: str, now_ns: int) -> ViewRecord:
    """Return the record with the rows of the layout before, to be removed as those of any other schema."""
    return with_schema(record, OLD_LAYOUT, SchemaRecord(entity=entity, is_whole=True, at_ns=now_ns))
