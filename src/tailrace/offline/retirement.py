"""Definitions of a stream view that are out of use: their states are removed, and with them what the store notes.

A server on the file of before reads and writes the states of its own definition, so these stay until it has been gone
for a while: whoever counts events in notes that (`tailrace.ingest.use`). A definition goes in three steps, so
that a server that starts meanwhile either keeps it or does not begin with it, and a killed run may be made again:

    marked: it is not whole, and counts nothing --> was it used meanwhile? then all is as before --> states, then mark
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from tailrace.deadline import NS_PER_S
from tailrace.features.catalogue import (
    NEVER_NS,
    NOTHING_FROM_NS,
    SchemaRecord,
    catalogue_key,
    read_record,
    schema_name,
    use_key,
)
from tailrace.features.stores.lease import Lease
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import StreamViewSpec
from tailrace.ingest.use import Use, read_use
from tailrace.offline.sweeping import remove_schema

KEPT_NS_MIN: Final = 20 * 60 * NS_PER_S
"""A definition that is used is noted far more often than this, by clocks that may differ."""


def retire(spec: StreamViewSpec, writer: StoreWriter, lease: Lease, *, keep_ns: int, now_ns: int) -> int:
    """Remove the definitions of a view that are out of use beside the declared one; return how many states that were.

    keep_ns: for how long they have been so, and the declared one has been whole; `KEPT_NS_MIN` at least. now_ns: since
    the epoch. Raises LeaseError once the lease is lost, StoreError.
    """
    removed = 0
    for name, use in _unused(spec, writer, keep_ns, now_ns).items():
        lease.check()
        removed += _remove(spec.name, name, use, writer)
    return removed


def _unused(spec: StreamViewSpec, writer: StoreWriter, keep_ns: int, now_ns: int) -> dict[str, Use]:
    """Return the definitions that are out of use, each with what is noted of that.

    By this machine's clock and by that of whoever uses the declared one: where one is ahead, nothing is removed. So
    nothing is before events are counted into the declared one.
    """
    record, own = read_record(writer.get, spec.name), schema_name(spec.schema_id)
    schema = None if record is None else record.schemas.get(own)
    if record is None or schema is None or not schema.is_fit:
        return {}
    uses = {name: read_use(writer.get, spec.name, name) for name in record.schemas}
    until_ns = min(now_ns, uses[own].until_ns) - max(keep_ns, KEPT_NS_MIN)
    return {
        name: uses[name]
        for name, each in record.schemas.items()
        if name != own and max(schema.whole_ns, each.at_ns, uses[name].until_ns) <= until_ns
    }


def clear(spec: StreamViewSpec, own: SchemaRecord, writer: StoreWriter, begins_ns: int) -> SchemaRecord:
    """Return the declared definition as a new one, where a run that removed it was killed: what is left of it goes.

    begins_ns: where it is cut, since the epoch.
    """
    run = writer.begin_run(spec.name)
    remove_schema(writer, run, schema_name(spec.schema_id), own)
    own = msgspec.structs.replace(own, is_mixed=False, begins_ns=begins_ns)
    _note(spec.name, schema_name(spec.schema_id), own, writer)
    return own


def cut_anew(
    spec: StreamViewSpec,
    own: SchemaRecord,
    writer: StoreWriter,
    now_ns: int,
    begins_ns: int,
    reached_ns: Callable[[], int],
) -> SchemaRecord:
    """Return the declared definition, which lacks its history, cut at a later time, unless its states would be missed.

    They stay, with their cut, while somebody counts into them; where nobody does any more, but the history does not
    reach up to the end of that; and where no other definition is whole, so that this one is served.
    begins_ns: the new cut, behind the newest event that had come before the history was read. reached_ns: returns how
    far the history reaches; it is asked only where something was counted. now_ns and all of these: since the epoch.
    """
    record, name = read_record(writer.get, spec.name), schema_name(spec.schema_id)
    use = read_use(writer.get, spec.name, name)
    is_served = record is None or not any(each.is_whole for each in record.schemas.values())
    if is_served or use.is_going_on(now_ns) or begins_ns <= own.begins_ns:
        return own
    has_counted = use.until_ns > own.begins_ns > NEVER_NS
    if has_counted and reached_ns() < use.ended_ns:
        return own  # the history has not all that was counted since the cut
    return clear(spec, own, writer, begins_ns) if _mark(spec.name, name, own, use, writer) else own


def _remove(view: str, name: str, use: Use, writer: StoreWriter) -> int:
    """Remove a definition, unless somebody has begun to use it; return how many states it had."""
    record = read_record(writer.get, view)
    if record is None or name not in record.schemas or not _mark(view, name, record.schemas[name], use, writer):
        return 0
    removed = remove_schema(writer, writer.begin_run(view), name, record.schemas[name])
    _note(view, name, None, writer)
    return removed


def _mark(view: str, name: str, schema: SchemaRecord, use: Use, writer: StoreWriter) -> bool:
    """Mark that a definition is to go, unless somebody has used it since a use; return whether it is marked."""
    marked = msgspec.structs.replace(schema, is_whole=False, is_mixed=True, begins_ns=NOTHING_FROM_NS)
    _note(view, name, marked, writer)
    if read_use(writer.get, view, name) == use:
        return True  # whoever begins now sees the mark
    _note(view, name, schema, writer)
    return False


def _note(view: str, name: str, schema: SchemaRecord | None, writer: StoreWriter) -> None:
    """Note a definition anew; None: that it is gone."""
    record = read_record(writer.get, view)
    assert record is not None
    schemas = {each: known for each, known in record.schemas.items() if each != name}
    removes = [use_key(view, name)]
    if schema is not None:
        schemas, removes = {**record.schemas, name: schema}, []
    changed = msgspec.structs.replace(record, schemas=schemas)
    writer.exchange([(catalogue_key(view), msgspec.json.encode(changed))], removes)
