"""Stream views that are made up, and states of events that are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tailrace.features.aggregates import Aggregate
from tailrace.features.events import Events, event_ids
from tailrace.features.keys import entity_checks
from tailrace.features.stream_codec import StreamCodec
from tailrace.features.streams import Stream, StreamViewSpec
from tailrace.features.updates import update_states
from tailrace.features.view_spec import Column, Entity
from tailrace.features.window_kernel import LIBRARY

BEGIN_NS = 1_750_000_000 * 10**9
TYPES = {"count": "<i8"}


class Payment(msgspec.Struct):
    """An event whose id is a number."""

    customer_id: int
    payment_id: int
    amount: float
    is_web: bool
    time: float


class TextPayment(msgspec.Struct):
    """An event whose id is a text."""

    customer_id: int
    payment_id: str
    amount: float
    is_web: bool
    time: float


class Happened(NamedTuple):
    """An event. entity: its place among the entities. at_ns: after BEGIN_NS."""

    entity: int
    at_ns: int
    id: int
    amount: float
    is_web: bool = True


def spec_of(aggregates: Sequence[Aggregate], *, has_text_ids: bool = False) -> StreamViewSpec:
    """Return a view with these aggregates; its columns are called c0, c1 and so on."""
    schema = TextPayment if has_text_ids else Payment
    columns = {f"c{place}": aggregate for place, aggregate in enumerate(aggregates)}
    return StreamViewSpec(
        name="Activity",
        entity=Entity("customer", key="customer_id"),
        columns=tuple(
            Column(name, np.dtype(TYPES.get(each.kind, "<f8")), each.default) for name, each in columns.items()
        ),
        max_staleness_ns=None,
        stream=Stream("payments", schema=schema, time="time", id="payment_id", lateness="1d"),
        key="customer_id",
        aggregates=columns,
    )


def codec_of(spec: StreamViewSpec, library: Path = LIBRARY) -> StreamCodec:
    """Return the codec of a view; with a library that is not there, NumPy's."""
    return StreamCodec(spec, spec.windows, spec.schema_id, has_text_ids=spec.stream.has_text_ids, library=library)


def events_of(happened: Sequence[Happened], *, has_text_ids: bool = False) -> Events:
    """Return events as columns."""
    ids: Any = np.array([each.id for each in happened], np.int64)
    if has_text_ids:
        ids = np.array([f"p{each.id:x}" * (1 + each.id % 3) for each in happened], object)
    columns = {
        "amount": np.array([each.amount for each in happened]),
        "is_web": np.array([each.is_web for each in happened], np.bool_),
    }
    times = np.array([BEGIN_NS + each.at_ns for each in happened], np.int64)
    return Events(times, event_ids(ids), columns.__getitem__)


def states_of(codec: StreamCodec, entities: int, batches: Sequence[tuple[int, Sequence[Happened]]]) -> list[bytes]:
    """Return the states of entities 0, 1, … after batches of events, each with a horizon in ns after BEGIN_NS."""
    checks = entity_checks(list(range(entities)))
    stored: list[Any] = [None] * entities
    for horizon_ns, happened in batches:
        rows = np.array([each.entity for each in happened], np.intp)
        events = events_of(happened, has_text_ids=codec.states.has_text_ids)
        stored = update_states(
            codec.states, checks, stored, rows, events, horizon_ns=BEGIN_NS + horizon_ns, written_ns=0
        ).values
    return stored
