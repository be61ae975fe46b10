"""The id of an entity in a source: of which columns it is made, of which type each is, and how it is spelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tailrace.errors import SourceError
from tailrace.features.keys import fields_of
from tailrace.features.sources import Source
from tailrace.features.view_spec import Column, Entity, KeyPart
from tailrace.offline.casts import cast_text_key, cast_whole

KeyType = type | tuple[type, ...]
"""int or str, of the ids; of each part where several fields make an id."""


def key_type_of(types: Mapping[str, type], entity: Entity) -> KeyType | None:
    """Return the type of an entity's ids, None where that of a part is not known. types: of the request's fields."""
    found = tuple(each for each in (_type_of_part(types, part) for part in entity.parts) if each is not None)
    if len(found) < len(entity.parts):
        return None
    return found if entity.is_composite else found[0]


def _type_of_part(types: Mapping[str, type], part: KeyPart) -> type | None:
    return part.id_type if isinstance(part, Column) else types.get(part)


def key_type_name(key_type: KeyType | None) -> str:
    """Return the name of a type of ids, "" for none."""
    types = key_type if isinstance(key_type, tuple) else (key_type,)
    return ",".join(each.__name__ for each in types if each is not None)


class SourceKey:
    """The columns of a source that make an entity's id: as the source names them, else as the entity's fields.

    Raises SourceError where the source names another number of columns.
    """

    def __init__(self, source: Source, entity: Entity) -> None:
        self.columns = fields_of(source.key or entity.key_fields)
        if len(self.columns) != len(entity.fields):
            raise SourceError(
                f"the source's key {source.key!r} does not match the key of entity {entity.name!r}, "
                f"{entity.key_fields!r}",
                where=source.path, next="name a column for each of its fields, in their order",
            )  # fmt: skip
        self._is_composite = entity.is_composite

    def types(self, key_type: KeyType | None) -> tuple[type, ...]:
        """Return the type of each column by that of the ids, none where that is not known."""
        if key_type is None:
            return ()
        return key_type if isinstance(key_type, tuple) else (key_type,)

    def types_in(self, connection: Any, rows: Any, *, is_csv: bool) -> tuple[type, ...]:
        """Return the type of each column as the source has it; of a CSV, all text: int where most are whole."""
        return tuple(_type_of_column(connection, rows, name, is_csv=is_csv) for name in self.columns)

    def ids(self, ibis: Any, rows: Any, types: Sequence[type]) -> Any:
        """Return the id of each row, null where a part is none of its type. types: of the columns.

        Of several columns it is spelled as `CompositeFormat` does.
        """
        parts = [
            cast_text_key(rows[name]) if kind is str else cast_whole(rows[name], "int64")
            for name, kind in zip(self.columns, types, strict=True)
        ]
        if not self._is_composite:
            return parts[0]
        texts = [
            ibis.literal('"') + part.replace('"', '""') + '"' if kind is str else part.cast("string")
            for part, kind in zip(parts, types, strict=True)
        ]
        whole = ibis.and_(*(part.notnull() for part in parts))
        return whole.ifelse(ibis.literal(",").join(texts), None)

    def wrong_part(self, content: Mapping[str, Any], types: Sequence[type]) -> tuple[str, type]:
        """Return the column, and its type, for whose value a row has no id."""
        for name, kind in zip(self.columns, types, strict=True):
            if content[name] is None or (kind is int and not _is_whole(content[name])):
                return name, kind
        return self.columns[0], types[0]


def _type_of_column(connection: Any, rows: Any, name: str, *, is_csv: bool) -> type:
    key = rows[name]
    if not key.type().is_string():
        return int
    if not is_csv:
        return str
    counted = connection.create_table(
        f"keys of {name}", rows.aggregate(whole=cast_whole(key, "int64").count(), there=key.count()), temp=True
    )
    whole, there = counted.to_pyarrow().to_pylist()[0].values()
    return int if 2 * whole > there else str


def _is_whole(value: Any) -> bool:
    try:
        return float(value) % 1 == 0
    except (TypeError, ValueError):
        return False
