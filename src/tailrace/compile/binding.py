"""From resolved names to the five steps, bound to what they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tailrace.batch import Encoder
from tailrace.compile.wiring import Origin, Wire, Wiring
from tailrace.deadline import FEATURES, Clock, LayerLimit
from tailrace.features.current import CurrentEvents
from tailrace.features.derived_ids import ColumnPart, DerivedIds, FieldPart, KeyReader
from tailrace.features.entity_ids import CompositeIds, FieldIds, IdReader
from tailrace.features.hops import FeaturesInHops, Hop, HopRetrieval
from tailrace.features.keys import CompositeFormat, KeyFields
from tailrace.features.retrieval import Retrieval
from tailrace.features.step import FeaturesStep, OnDemandFeature, ViewRead, view_columns_type
from tailrace.features.stores.protocol import OnlineStore
from tailrace.features.streams import StreamViewSpec
from tailrace.features.view_spec import Column, ViewCodec, ViewSpec
from tailrace.inference.assembly import Assembler
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.pipeline import Pipeline, is_event_of
from tailrace.postprocess.step import PostprocessStep
from tailrace.readers import (
    ReadDecision,
    ReadEmbedding,
    Reader,
    ReadExplanations,
    ReadField,
    ReadOnDemand,
    ReadProbabilities,
    ReadReasons,
    ReadRequest,
    ReadScore,
    ReadUnexplained,
    ReadVariant,
    ReadView,
    ReadViewBlock,
    ReadViewColumn,
)
from tailrace.request.columns import columns_type
from tailrace.request.request_key import RequestKey
from tailrace.request.rows import RowCount
from tailrace.request.shared_answers import CoalescePlan
from tailrace.request.step import RequestStep
from tailrace.response.best_rows import BestRowLists, BestRows
from tailrace.response.step import FieldValues, RequestValues, ResponseStep, RowLists, RowValues


def request_step(pipeline: Pipeline, wiring: Wiring, array_max: int) -> RequestStep:
    """Return layer 1."""
    rows = RowCount(pipeline.request, wiring.expanded, rows_max=pipeline.rows_max, array_max=array_max)
    columns = columns_type(pipeline.request, wiring.expanded, wiring.compared)
    return RequestStep(columns, wiring.expanded, rows)


def coalesce_plan(pipeline: Pipeline, wiring: Wiring, encoder: Encoder) -> CoalescePlan | None:
    """Return how requests share answers; None where each has its own."""
    coalesce = pipeline.coalesce
    if coalesce is None or wiring.compared is None:
        return None
    own = tuple(
        (name, wire.name)
        for name, wire in wiring.response
        if wire.origin is Origin.REQUEST and wire.name not in wiring.compared
    )
    return CoalescePlan(
        key=RequestKey(pipeline.request, wiring.compared), own=own, ttl_ns=coalesce.ttl_ns,
        answers_max=coalesce.answers_max, bytes_max=coalesce.bytes_max, across_callers=coalesce.across_callers,
        usual=encoder,
    )  # fmt: skip


def features_step(
    pipeline: Pipeline, wiring: Wiring, codecs: Sequence[ViewCodec], store: OnlineStore, clock: Clock
) -> FeaturesStep:
    """Return layer 2."""
    budget = pipeline.budget
    first, *later = wiring.hops or [[]]
    fair_ns = (budget.features_ns or budget.total_ns // 2) // 2
    retrieval = Retrieval([codecs[place] for place in first], store, clock, fair_ns)
    readers = _EventReaders(pipeline, wiring, clock)
    ids = {wiring.entities[place].key_fields: _id_reader(wiring, wiring.entities[place].key_fields) for place in first}
    views = [
        ViewRead(
            ids[wiring.entities[place].key_fields] if place in first else None, view_columns_type(view.spec),
            expands=wiring.expands(place), current=readers.reader(view.spec, expands=wiring.expands(place)),
        )
        for place, view in enumerate(wiring.views)
    ]  # fmt: skip
    on_demand = [
        OnDemandFeature(name, feature.function, list(map(reader_of, wires)))
        for name, (feature, wires) in wiring.on_demand.items()
    ]
    limit = LayerLimit(budget, FEATURES, clock)
    if not later:
        return FeaturesStep(retrieval, views, on_demand, limit)
    keys = {wiring.entities[place].key: _derived_ids(wiring, place) for hop in later for place in hop}
    hops = [
        Hop(
            HopRetrieval([codecs[place] for place in hop], retrieval),
            slice(hop[0], hop[-1] + 1),
            [keys[wiring.entities[place].key] for place in hop],
        )
        for hop in later
    ]
    return FeaturesInHops(retrieval, views, on_demand, limit, hops)


def _derived_ids(wiring: Wiring, view: int) -> DerivedIds:
    """Return what reads the ids of a view whose key, or a part of it, is a column of another view."""
    entity, expands = wiring.entities[view], wiring.expands(view)
    parts: list[KeyReader] = []
    types: list[type] = []
    for part in entity.parts:
        if isinstance(part, Column):
            giver = wiring.view_of(part)
            place = wiring.views[giver].spec.columns.index(part)
            gives_rows = wiring.expands(giver)
            parts.append(ColumnPart(giver, place, part, expands=gives_rows, repeats=expands and not gives_rows))
            types.append(part.id_type or int)
        else:
            makes_rows = part == wiring.expanded
            parts.append(FieldPart(FieldIds(part, expands=makes_rows), repeats=expands and not makes_rows))
            types.append(_field_type(wiring, part))
    return DerivedIds(parts, CompositeFormat(types) if entity.is_composite else None)


def _field_type(wiring: Wiring, name: str) -> type:
    """Return the type of the ids in a field of the request."""
    return str if wiring.fields[name].dtype.kind == "O" else int


def _id_reader(wiring: Wiring, key: KeyFields) -> IdReader:
    """Return what reads the ids of a key."""
    if isinstance(key, str):
        return FieldIds(key, expands=key == wiring.expanded)
    types = {name: _field_type(wiring, name) for name in key}
    return CompositeIds(types, wiring.expanded if wiring.expanded in key else None)


class _EventReaders:
    """What reads the events that views look back from: one for all views that look back from the same."""

    def __init__(self, pipeline: Pipeline, wiring: Wiring, clock: Clock) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._columns = None if wiring.expanded is None else columns_type(pipeline.request, None)
        self._found: dict[tuple[str | None, bool], CurrentEvents] = {}

    def reader(self, spec: ViewSpec, *, expands: bool) -> CurrentEvents | None:
        """Return what reads them for a view; None for one that looks back from none."""
        if not isinstance(spec, StreamViewSpec):
            return None
        event_id = spec.stream.id if is_event_of(self._pipeline, spec.stream) else None
        if (event_id, expands) not in self._found:
            self._found[event_id, expands] = CurrentEvents(
                self._pipeline.time, event_id, self._clock, self._columns, expands=expands
            )
        return self._found[event_id, expands]


def assemblers(wiring: Wiring, signature: Signature, codecs: Sequence[ViewCodec]) -> list[Assembler]:
    """Return what fills each input of a model."""
    return [
        Assembler(tensor.name, tensor.numpy_dtype, input_parts(wiring, tensor, codecs)) for tensor in signature.inputs
    ]


def postprocess_step(pipeline: Pipeline, wiring: Wiring) -> PostprocessStep:
    """Return layer 4."""
    arguments = [[reader_of(wire, wiring.labels) for wire in wires] for wires in wiring.rules]
    return PostprocessStep(pipeline.decision, wiring.labels, list(zip(pipeline.rules, arguments, strict=True)))


def response_step(pipeline: Pipeline, wiring: Wiring, encoder: Encoder) -> ResponseStep:
    """Return layer 5."""
    best = None if wiring.top is None else BestRows(wiring.top)
    return ResponseStep(pipeline.response, [field_values(wire, wiring, best) for _, wire in wiring.response], encoder)


_PLAIN: Final[Mapping[Origin, Callable[[], Reader]]] = {
    Origin.SCORE: ReadScore, Origin.REASONS: ReadReasons, Origin.PROBABILITIES: ReadProbabilities,
    Origin.EXPLANATION: ReadExplanations, Origin.UNEXPLAINED: ReadUnexplained,
}  # fmt: skip
"""What there is one of in a batch."""


def reader_of(wire: Wire, labels: Sequence[str] = ()) -> Reader:
    """Return what reads a column from a batch, or an object that has columns where the wire names none.

    labels: that a decision may have.
    """
    match wire.origin:
        case Origin.REQUEST:
            return ReadField(wire.name) if wire.name else ReadRequest()
        case Origin.VIEW:
            return ReadViewColumn(wire.view, wire.name) if wire.name else ReadView(wire.view)
        case Origin.ON_DEMAND:
            return ReadOnDemand(wire.name)
        case Origin.DECISION:
            return ReadDecision(labels)
        case Origin.EMBEDDING:
            assert wire.embedding is not None, "wire_outputs gives it"
            return ReadEmbedding(wire.embedding.code, is_packed=wire.is_packed)
    return _PLAIN[wire.origin]()


def field_values(wire: Wire, wiring: Wiring, best: BestRows | None = None) -> FieldValues:
    """Return what gives the values of a response field: one a request, a list each where a request makes many rows.

    best: the rows that such a list is cut to.
    """
    of_row = wire.origin is not Origin.REQUEST or wire.name == wiring.expanded
    if wire.origin is Origin.REQUEST and (best is None or not of_row):
        return RequestValues(wire.name)
    reader = ReadVariant(wiring.splits) if wire.origin is Origin.VARIANT else reader_of(wire, wiring.labels)
    if best is not None and of_row:
        return BestRowLists(reader, best)
    return RowValues(reader) if wiring.expanded is None else RowLists(reader)


def input_parts(wiring: Wiring, tensor: TensorSpec, codecs: Sequence[ViewCodec]) -> list[tuple[int, Reader]]:
    """Group a tensor's inputs into runs that one copy can fill: how many columns each has, and what reads it."""
    parts: list[tuple[int, Reader]] = []
    wires = [wiring.features[name] for name in tensor.features]
    start = 0
    while start < len(wires):
        wire, end = wires[start], start + 1
        if wire.origin is Origin.VIEW and not wire.is_text:
            codec = codecs[wire.view]
            while end < len(wires) and _is_next(wires[end - 1], wires[end], codec):
                end += 1
        if end - start > 1:
            repeats = wiring.expanded is not None and not wiring.expands(wire.view)
            block = [item.name for item in wires[start:end]]
            parts.append((end - start, _block_reader(wire.view, block, codec, repeats=repeats)))
        else:
            parts.append((tensor.feature_widths[start], reader_of(wire)))
        start = end
    return parts


def _block_reader(view: int, names: Sequence[str], codec: ViewCodec, *, repeats: bool) -> ReadViewBlock:
    """Return what reads columns that are side by side in a view's rows, as one matrix."""
    block = next(block for block in codec.blocks if names[0] in block.columns)
    first = block.columns.index(names[0])
    part = None if len(names) == len(block.columns) else slice(first, first + len(names))
    return ReadViewBlock(view, block.field, part, repeats=repeats)


def _is_next(wire: Wire, other: Wire, codec: ViewCodec) -> bool:
    """Say whether a column comes right after another in the packed row, with the same type."""
    if other.origin is not Origin.VIEW or other.view != wire.view or other.is_text:
        return False
    columns = next(block.columns for block in codec.blocks if wire.name in block.columns)
    return other.name in columns and columns.index(other.name) == columns.index(wire.name) + 1
