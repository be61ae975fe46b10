"""One entity as the store has it: every view's values at a time, where they come from, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tailrace.batch import Provenance
from tailrace.features.events import Events
from tailrace.features.explanation import Explanation, explain
from tailrace.features.keys import EntityId, entity_checks
from tailrace.features.row_layout import EVENT_BYTE, WRITTEN_BYTE
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.stream_codec import StreamCodec
from tailrace.features.view_spec import ViewSpec

_TIME_BYTES = 8


@dataclass(frozen=True, slots=True)
class InspectedView:
    """One view of one entity. values: by column. provenance: as a request at the time would have it.

    event_ns: of a batch view's row; of a stream view's state, its horizon: older events are in tiles. written_ns: when
    it was written. Both since the epoch, None where there is nothing. bytes: stored. explanations: of a stream view.
    """

    view: str
    values: dict[str, Any]
    provenance: str
    event_ns: int | None
    written_ns: int | None
    bytes: int
    explanations: tuple[Explanation, ...] = ()


def inspect_entity(
    specs: Sequence[ViewSpec], entity_id: EntityId, writer: StoreWriter, now_ns: int
) -> list[InspectedView]:
    """Return every view of an entity, as an event at `now_ns` (since the epoch) would see it. Raises StoreError."""
    return [_inspect(spec, entity_id, writer, now_ns) for spec in specs]


def _inspect(spec: ViewSpec, entity_id: EntityId, writer: StoreWriter, now_ns: int) -> InspectedView:
    codec = spec.codec()
    stored = writer.get(codec.keys([entity_id])[0])
    current = Events(np.array([now_ns], np.int64), None, _no_field)
    rows = codec.unpack([entity_id], [stored], now_ns, None, current)
    explanations: tuple[Explanation, ...] = ()
    if isinstance(codec, StreamCodec):
        states = codec.states.unpack(entity_checks([entity_id]), [stored])
        explanations = tuple(explain(codec, states, now_ns))
    values = {column.name: _plain(rows.column(column.name)[0]) for column in spec.columns}
    is_there = stored is not None and not rows.errors
    return InspectedView(
        view=spec.name,
        values=values,
        provenance=Provenance(int(rows.provenance[0])).name.lower(),
        event_ns=_time(stored, EVENT_BYTE) if is_there else None,
        written_ns=_time(stored, WRITTEN_BYTE) if is_there else None,
        bytes=len(stored or b""),
        explanations=explanations,
    )


def _no_field(name: str) -> Any:
    return np.zeros(1)  # what an event would add of its own is not part of what the store has


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _time(stored: bytes | None, at: int) -> int:
    return int.from_bytes((stored or b"")[at : at + _TIME_BYTES], "little", signed=True)
