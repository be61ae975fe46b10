"""A feature view as the rest of Tailrace sees it: what it says, read and checked, and how its values are stored.

Every kind of view has a spec of its own, which gives the codec of its values. Retrieval knows the codec alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from tailrace.batch import Provenance
from tailrace.errors import Problem
from tailrace.features.events import Events
from tailrace.features.keys import EntityId, KeyFields
from tailrace.features.view_rows import ViewRows

STRING_BYTES_MAX: Final = 4_096
"""The longest text a view's column holds, in UTF-8 bytes."""
INT64_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of a view.

    dtype: NumPy's, little-endian; object for text. default: answers where nothing is known. view: the view's name.
    declared_by: the view itself, so that who names a column, as a feature or in a key, holds its view. width: how many
    numbers each value has, in a column of vectors, (rows, width), whose default is a tuple; 0 for any other column.
    """

    name: str
    dtype: np.dtype[Any]
    default: Any
    view: str = ""
    declared_by: type | None = field(default=None, compare=False, repr=False)
    width: int = 0

    @property
    def is_text(self) -> bool:
        """Whether the column holds text."""
        return self.dtype.kind == "O"

    @property
    def id_type(self) -> type | None:
        """The type of ids that its values can be: int, str, or None for values that are no ids."""
        if self.is_text:
            return str
        is_whole = self.dtype.kind == "i" or (self.dtype.kind == "u" and self.dtype.itemsize < INT64_BYTES)
        return int if is_whole else None


KeyPart = str | Column
"""What gives an entity's id, or a part of it: a field of the request, or a column of another view."""


@dataclass(frozen=True, slots=True)
class Entity:
    """What features are about: a customer, a terminal.

    name: an identifier; part of every key in the online store. key: the field of the request that carries the id: an
    int or a str, or a list of them where a request is about many. A tuple of fields where several make the id, as a
    customer and a terminal do; one of them may be a list. In place of a field a column of a batch view may stand, as in
    `key=ItemProfile.category_id`: a derived key, which is known once that view has been read.
    """

    name: str
    key: Any  # of `KeyPart`, or a tuple of them: to a type checker, a view's column is one of the column's values

    @property
    def parts(self) -> tuple[KeyPart, ...]:
        """The parts of its key, as they are declared."""
        return self.key if isinstance(self.key, tuple) else (self.key,)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the parts: events and sources have them as fields and columns of these names."""
        return tuple(part.name if isinstance(part, Column) else part for part in self.parts)

    @property
    def key_fields(self) -> KeyFields:
        """The same, as a key: one name, or a tuple of several."""
        return self.fields if self.is_composite else self.fields[0]

    @property
    def is_composite(self) -> bool:
        """Whether several parts make the id."""
        return isinstance(self.key, tuple)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of other views among the parts."""
        return tuple(part for part in self.parts if isinstance(part, Column))


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """A view as the rest of Tailrace sees it. Only of use where `problems` is empty."""

    name: str
    entity: Entity
    columns: tuple[Column, ...]
    max_staleness_ns: int | None
    problems: tuple[Problem, ...] = ()

    @property
    def kept_ns_max(self) -> int | None:
        """How old a row may be that a worker keeps in memory; None for any age, 0 where none may be kept."""
        return self.max_staleness_ns

    def codec(self) -> ViewCodec:
        """Return what turns the view's values in the store into columns."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Block:
    """Columns of one type side by side: `data[field]` is their matrix, shape (rows, columns), without a copy.

    A column of vectors is a block by itself, (rows, width).
    """

    field: str
    dtype: np.dtype[Any]
    columns: tuple[str, ...]


class ViewCodec(Protocol):
    """The values of one view in the store: under which keys they are, and how they are read.

    blocks: its columns of one type, which are side by side in `ViewRows.data`. schema_id: part of the keys.
    """

    @property
    def spec(self) -> ViewSpec:
        """What the view says."""
        ...

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The columns that can be copied together."""
        ...

    @property
    def schema_id(self) -> int:
        """By which a changed view is told from the one before."""
        ...

    def keys(self, ids: Sequence[EntityId]) -> list[bytes]:
        """Return the keys of many entities, in order."""
        ...

    def unpack(
        self,
        ids: Sequence[EntityId],
        rows: Sequence[bytes | None],
        wall_ns: int,
        checks: list[int] | None = None,
        current: Events | None = None,
    ) -> ViewRows:
        """Return the values of each id from what was found under its key. Raises nothing for what that holds.

        wall_ns: now, since the epoch, for staleness. checks: what `entity_checks` gives for the ids, if it is at hand.
        current: the event that each row is asked for; None where the request has no time.
        """
        ...

    def defaults(self, rows_count: int, provenance: Provenance, degraded: int = 0) -> ViewRows:
        """Return the view's defaults, for entities that are unknown or a store that did not answer.

        degraded: `Degraded` bits of every row.
        """
        ...
