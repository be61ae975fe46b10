"""Forgetting: an entity is removed from a store, every view and schema of it, and no source brings it back.

The tombstone and the removal are one transaction, and whoever writes a row looks for the tombstone in the transaction
of that row: so a materialisation that runs at the same time brings nothing back either.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from tailrace.errors import SetupError
from tailrace.features.catalogue import OLD_LAYOUT, catalogue_key, key_end, read_record, schema_name
from tailrace.features.keys import TOMBSTONE, EntityId, KeyFormat, composite_id
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.view_spec import ViewSpec
from tailrace.offline.source_keys import KeyType

_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What was done in one store. views: of the entity, in which it was looked for; removed: rows."""

    entity: str
    views: tuple[str, ...]
    removed: int


def ids_of(text: str, types: Collection[KeyType | None]) -> list[EntityId]:
    """Return the ids that a text stands for, the declared one first.

    types: of the ids as the requests declare them; None for one that declares none. A number is a text too, and a text
    that reads as one a number: another pipeline of the store may hold the entity so. Of an entity of several fields the
    text is a line of CSV, as in 4021,77. Raises SetupError for a text that is no number where only numbers are ids, and
    for another count of parts.
    """
    found: list[EntityId] = []
    refused: list[SetupError] = []
    for count in sorted({0 if not isinstance(each, tuple) else len(each) for each in types}):
        composite = [each for each in types if isinstance(each, tuple) and len(each) == count]
        plain = [each for each in types if not isinstance(each, tuple)]
        try:
            found += _composite_ids(text, composite) if composite else _plain_ids(text, plain)
        except SetupError as error:  # another pipeline of the file may mean it
            refused.append(error)
    if not found:
        raise refused[0]
    return list(dict.fromkeys(found))


def _plain_ids(text: str, types: Collection[type | None]) -> list[EntityId]:
    """Return the ids of one field that a text stands for."""
    number = int(text) if _NUMBER.fullmatch(text) else None
    if number is not None and not -(1 << 63) <= number < 1 << 63:
        number = None
    if set(types) == {int}:
        if number is None:
            raise SetupError(f"{text!r} is no id: the request declares an integer of 64 bits", where="ID",
                             next="give the id as requests hold it, as in 4021")  # fmt: skip
        return [number, str(number)]
    return [text] if number is None or (int not in types and str(number) != text) else [text, number]


def _composite_ids(text: str, types: Sequence[tuple[type, ...]]) -> list[EntityId]:
    """Return the ids of several fields that a line of CSV stands for. types: as many each."""
    try:
        lines = list(csv.reader([text], strict=True))
    except csv.Error:
        lines = []
    if len(lines) != 1 or len(lines[0]) != len(types[0]):
        raise SetupError(
            f"{text!r} is no id: the entity's key has {len(types[0])} fields", where="ID",
            next="give their values in order, with commas between, as in 4021,77; in quotes where a value has a comma",
        )  # fmt: skip
    parts = [_plain_ids(part, set(kinds)) for part, kinds in zip(lines[0], zip(*types, strict=True), strict=True)]
    return [composite_id(each) for each in product(*parts)]


def forget(
    writer: StoreWriter, entity: str, ids: Iterable[EntityId], specs: Iterable[ViewSpec], now_ns: int
) -> ForgetReport:
    """Remove an entity, and note that it stays away. Raises StoreError for a store that cannot be written.

    ids: all that mean the entity. specs: views to look in beside those that the store's catalogue knows.
    """
    ids = list(ids)
    tombstones = [(KeyFormat(entity, TOMBSTONE).key(each), b"%d" % now_ns) for each in ids]
    writer.exchange(tombstones, ())  # before the catalogue is read: a schema that comes later has no row of it
    rows = {
        (spec.name, name)
        for spec in specs
        if spec.entity.name == entity
        for name in (schema_name(spec.codec().schema_id), OLD_LAYOUT)
    }
    begin = catalogue_key("")
    for view in (key.removeprefix(begin).decode() for key in writer.scan(begin, b"")):
        record = read_record(writer.get, view)
        schemas = record.schemas.items() if record is not None else ()
        rows |= {(view, name) for name, schema in schemas if schema.entity == entity}
    formats = [KeyFormat(entity, key_end(view, name)) for view, name in rows]
    removed = writer.exchange(tombstones, [each.key(entity_id) for each in formats for entity_id in ids])
    return ForgetReport(entity, tuple(sorted({view for view, _ in rows})), removed)


def unforget(writer: StoreWriter, entity: str, ids: Iterable[EntityId]) -> bool:
    """Let sources bring an entity back; return whether it was forgotten."""
    keys = [KeyFormat(entity, TOMBSTONE).key(each) for each in ids]
    return bool(writer.exchange((), keys))
