"""Definitions of a stream view that are out of use: their states are removed, and with them what the store notes.

A server on the file of before reads and writes the states of its own definition, so these stay until it has been gone
for a while: whoever counts events in notes that (`tailrace.ingest.registration`). A definition goes in three steps, so
that a server that starts meanwhile either keeps it or does not begin with it, and a killed run may be made again:

    marked: it is not whole, and counts nothing --> was it used meanwhile? then all is as before --> states, then mark
"""

from __future__ import annotations

from typing import Final

import msgspec

from tailrace.deadline import NS_PER_S
from tailrace.features.catalogue import SchemaRecord, catalogue_key, read_record, schema_name, use_key
from tailrace.features.stores.lease import Lease
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import StreamViewSpec
from tailrace.ingest.registration import USE_NOTE_S, first_begin_ns, last_use_ns
from tailrace.offline.sweeping import remove_schema

KEPT_NS_MIN: Final = 2 * int(USE_NOTE_S) * NS_PER_S
"""A definition that is used is noted more often than this."""
NOTHING_FROM_NS: Final = 1 << 62
"""From when events are counted into a definition that is to go."""


def retire(spec: StreamViewSpec, writer: StoreWriter, lease: Lease, *, keep_ns: int, now_ns: int) -> int:
    """Remove the definitions of a view that are out of use beside the declared one; return how many states that were.

    keep_ns: for how long they have been so, and the declared one has been whole; `KEPT_NS_MIN` at least. now_ns: since
    the epoch. Raises LeaseError once the lease is lost, StoreError.
    """
    removed = 0
    for name, used_ns in _unused(spec, writer, keep_ns, now_ns).items():
        lease.check()
        removed += _remove(spec.name, name, used_ns, writer)
    return removed


def _unused(spec: StreamViewSpec, writer: StoreWriter, keep_ns: int, now_ns: int) -> dict[str, int]:
    """Return the definitions that are out of use, each with when it was last used.

    By this machine's clock and by that of whoever uses the declared one: where one is ahead, nothing is removed. So
    nothing is before events are counted into the declared one.
    """
    record, own = read_record(writer.get, spec.name), schema_name(spec.schema_id)
    schema = None if record is None else record.schemas.get(own)
    if record is None or schema is None or not schema.is_fit:
        return {}
    used_ns = {name: last_use_ns(writer.get, spec.name, name) for name in record.schemas}
    until_ns = min(now_ns, used_ns[own]) - max(keep_ns, KEPT_NS_MIN)
    return {
        name: used_ns[name]
        for name, each in record.schemas.items()
        if name != own and max(schema.whole_ns, each.at_ns, used_ns[name]) <= until_ns
    }


def clear(spec: StreamViewSpec, own: SchemaRecord, writer: StoreWriter) -> SchemaRecord:
    """Return the declared definition as a new one, where a run that removed it was killed: what is left of it goes."""
    run = writer.begin_run(spec.name)
    remove_schema(writer, run, schema_name(spec.schema_id), own)
    own = msgspec.structs.replace(own, is_mixed=False, begins_ns=first_begin_ns(spec, writer))
    _note(spec.name, schema_name(spec.schema_id), own, writer)
    return own


def _remove(view: str, name: str, used_ns: int, writer: StoreWriter) -> int:
    """Remove a definition, unless somebody has begun to use it; return how many states it had."""
    record = read_record(writer.get, view)
    if record is None or name not in record.schemas:
        return 0
    schema = record.schemas[name]
    marked = msgspec.structs.replace(schema, is_whole=False, is_mixed=True, begins_ns=NOTHING_FROM_NS)
    _note(view, name, marked, writer)
    if last_use_ns(writer.get, view, name) != used_ns:  # whoever comes later sees the mark
        _note(view, name, schema, writer)
        return 0
    removed = remove_schema(writer, writer.begin_run(view), name, schema)
    _note(view, name, None, writer)
    return removed


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
