"""One entity as the store has it: every view's values at a time, where they come from, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tailrace.batch import Provenance
from tailrace.features.events import Events
from tailrace.features.explanation import Explanation, explain
from tailrace.features.keys import EntityId, composite_id, entity_checks
from tailrace.features.row_layout import EVENT_BYTE, WRITTEN_BYTE
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.stream_codec import StreamCodec
from tailrace.features.view_rows import ViewRows
from tailrace.features.view_spec import Column, Entity, KeyPart, ViewSpec

_TIME_BYTES: Final = 8
_NOT_GIVEN: Final[Any] = object()
"""In place of a part of a key that no view before gives: the request has it."""


@dataclass(frozen=True, slots=True)
class InspectedView:
    """One view of one entity. values: by column. provenance: as a request at the time would have it.

    entity, entity_id: whose it is; None where the view that would give its key has none. event_ns: of a batch view's
    row; of a stream view's state, its horizon: older events are in tiles. written_ns: when it was written. Both since
    the epoch, None where there is nothing. bytes: stored. explanations: of a stream view.
    """

    view: str
    entity: str
    entity_id: EntityId | None
    values: dict[str, Any]
    provenance: str
    event_ns: int | None
    written_ns: int | None
    bytes: int
    explanations: tuple[Explanation, ...] = ()


def inspect_entity(
    specs: Sequence[ViewSpec],
    entity_id: EntityId,
    writer: StoreWriter,
    now_ns: int,
    following: Sequence[ViewSpec] = (),
) -> list[InspectedView]:
    """Return every view of an entity, as an event at `now_ns` (since the epoch) would see it. Raises StoreError.

    following: further views of the pipeline, in the order in which it reads them. Those whose whole key the views
    before give are among what is returned.
    """
    found: list[InspectedView] = []
    given: dict[KeyPart, EntityId | None] = {}
    for spec in (*specs, *following):
        own_id: EntityId | None = entity_id
        if len(found) >= len(specs):
            parts = [given.get(part, _NOT_GIVEN) for part in spec.entity.parts]
            if _NOT_GIVEN in parts:
                continue
            own_id = _id_of(spec.entity, parts)
        view, rows = _inspect(spec, own_id, writer, now_ns)
        found.append(view)
        given |= {column: _key_of(column, place, rows) for place, column in enumerate(spec.columns)}
    return found


def _id_of(entity: Entity, parts: Sequence[Any]) -> EntityId | None:
    """Return the id that the parts of a key make, None where one is missing."""
    if None in parts:
        return None
    return composite_id(parts) if entity.is_composite else parts[0]


def _key_of(column: Column, place: int, rows: ViewRows) -> EntityId | None:
    """Return a column's value as a key, None where it is none."""
    is_null = rows.nulls is not None and bool(rows.nulls[0, place])
    if column.id_type is None or is_null or rows.provenance[0] >= Provenance.DEFAULT:
        return None
    value: EntityId = _plain(rows.column(column.name)[0])
    return value


def _inspect(
    spec: ViewSpec, entity_id: EntityId | None, writer: StoreWriter, now_ns: int
) -> tuple[InspectedView, ViewRows]:
    codec = spec.codec()
    stored = None if entity_id is None else writer.get(codec.keys([entity_id])[0])
    current = Events(np.array([now_ns], np.int64), None, _no_field)
    explanations: tuple[Explanation, ...] = ()
    if entity_id is None:
        rows = codec.defaults(1, Provenance.DEFAULT)
    else:
        rows = codec.unpack([entity_id], [stored], now_ns, None, current)
        if isinstance(codec, StreamCodec):
            states = codec.states.unpack(entity_checks([entity_id]), [stored])
            explanations = tuple(explain(codec, states, now_ns))
    is_there = stored is not None and not rows.errors
    view = InspectedView(
        view=spec.name,
        entity=spec.entity.name,
        entity_id=entity_id,
        values={column.name: _plain(rows.column(column.name)[0]) for column in spec.columns},
        provenance=Provenance(int(rows.provenance[0])).name.lower(),
        event_ns=_time(stored, EVENT_BYTE) if is_there else None,
        written_ns=_time(stored, WRITTEN_BYTE) if is_there else None,
        bytes=len(stored or b""),
        explanations=explanations,
    )
    return view, rows


def _no_field(name: str) -> Any:
    return np.zeros(1)  # what an event would add of its own is not part of what the store has


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _time(stored: bytes | None, at: int) -> int:
    return int.from_bytes((stored or b"")[at : at + _TIME_BYTES], "little", signed=True)
