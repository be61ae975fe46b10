"""Stream views in the store's catalogue: which definitions of a view there are, and which have all of their history.

The first definition of a view counts from its first event on. A changed one has states of its own, which begin empty
beside those of the one before: it is whole once its history is counted in (`tailrace backfill`), and served from then
on. Whoever counts events into a definition notes that now and then, so that nobody removes its states meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from tailrace.deadline import NS_PER_S
from tailrace.errors import StoreError
from tailrace.features.catalogue import (
    NEVER_NS,
    SchemaRecord,
    ViewRecord,
    catalogue_key,
    read_record,
    schema_name,
    use_key,
)
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import StreamViewSpec
from tailrace.ingest.watermark import read_watermark, watermark_key

SCHEMAS_MAX: Final = 8
"""Definitions of one view in a store."""
USE_NOTE_S: Final = 600.0
"""How often whoever counts events into a definition notes it, at least."""


def register(
    spec: StreamViewSpec, pipelines: Sequence[str], writer: StoreWriter, now_ns: int, *, is_empty_whole: bool = True
) -> SchemaRecord:
    """Return what the store notes of a view as it is declared; note it, where it is new.

    is_empty_whole: whether a view of which the store knows nothing is whole as it is, without history. A changed one
    begins behind the newest event that has come. Raises StoreError for a view of another source, or too many
    definitions.
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
    known = dict.fromkeys([*record.pipelines, *pipelines])
    changed = msgspec.structs.replace(record, pipelines=tuple(known), schemas={**record.schemas, name: own})
    if changed != record:
        writer.exchange([(catalogue_key(spec.name), msgspec.json.encode(changed))], ())
    return own


def note_use(spec: StreamViewSpec, writer: StoreWriter, now_ns: int) -> None:
    """Note that events are counted into a view as it is declared. now_ns: since the epoch."""
    writer.exchange([(use_key(spec.name, schema_name(spec.schema_id)), b"%d" % now_ns)], ())


def last_use_ns(get: Callable[[bytes], bytes | None], view: str, schema: str) -> int:
    """Return when that was last noted of a definition, since the epoch; 0 where it never was."""
    stored = get(use_key(view, schema))
    return int(stored) if stored is not None and stored.isdigit() else 0


class Lapse(NamedTuple):
    """A time in which events were counted into another definition of a view alone, in ns since the epoch."""

    view: str
    since_ns: int
    until_ns: int

    @property
    def span(self) -> str:
        """From when to when, as ISO 8601 in UTC."""
        since, until = (datetime.fromtimestamp(each // NS_PER_S, UTC) for each in (self.since_ns, self.until_ns))
        return f"{since.isoformat()} to {until.isoformat()}"


def lapse(spec: StreamViewSpec, writer: StoreWriter) -> Lapse | None:
    """Return the time whose events a registered view lacks, as far as the store tells; None where it tells of none.

    Of one that was never used: from where its history ends to the newest event that has come. Of another: since it was
    last used, where another definition was used for long after that. To be asked before its use is noted.
    """
    record, name = read_record(writer.get, spec.name), schema_name(spec.schema_id)
    own = None if record is None else record.schemas.get(name)
    if record is None or own is None or not own.is_whole:
        return None
    used_ns = last_use_ns(writer.get, spec.name, name)
    others_ns = [last_use_ns(writer.get, spec.name, each) for each in record.schemas if each != name]
    if not used_ns:
        newest_ns = read_watermark(writer.get(watermark_key(spec.stream.name))).newest_ns
        is_short = bool(newest_ns) and newest_ns[0] >= own.begins_ns > NEVER_NS
        return Lapse(spec.name, own.begins_ns, newest_ns[0]) if is_short else None
    is_long = bool(others_ns) and max(others_ns) > used_ns + 2 * int(USE_NOTE_S) * NS_PER_S
    return Lapse(spec.name, used_ns, max(others_ns)) if is_long else None


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
