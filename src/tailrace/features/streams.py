"""Streams and stream feature views: windows over events, as they are declared. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, get_args, get_origin, get_type_hints
from zlib import crc32

import numpy as np

from tailrace.deadline import NS_PER_S, parse_duration
from tailrace.features.aggregates import DECIMALS_MAX, KINDS, LIFETIME, Aggregate
from tailrace.features.distinct import hashed
from tailrace.features.expressions import Expression, parse_expression
from tailrace.features.keys import CompositeFormat, KeyFields, fields_of
from tailrace.features.sources import Source
from tailrace.features.stream_codec import StreamCodec
from tailrace.features.view_spec import Column, ViewSpec
from tailrace.features.views import NO_DEFAULT, FeatureView, Reading
from tailrace.features.windows import LaneUse, Window, WindowFeature, WindowSet

WINDOW_DAYS_MAX: Final = 365
_DAY_NS: Final = 86_400 * NS_PER_S
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SETTINGS: Final = frozenset({"entity", "stream", "max_staleness", "spec"})
_WHOLE_BYTES_MIN: Final = 4
"""Of a column of whole numbers: as many as events are counted in."""
_COUNT: Final = 'declare an aggregate: `tx_count_5m: int = tr.count(window="5m")`'


@dataclass(frozen=True, slots=True)
class Stream:
    """Events of one kind, as they happen: payments, clicks.

    name: stands in the path of its endpoint. schema: the type of an event, as a request type is declared. time: the
    field that says when it happened: a datetime, or seconds since the epoch. id: the field that tells it from all
    others, an int or a str; an event that comes again is counted once. lateness: how much older than the newest an
    event may be; a window's delay may not be longer. source: the history of its events, for training sets and for views
    that are declared later; its `columns` name the fields that are called otherwise there.
    """

    name: str
    schema: type[Any] = field(kw_only=True)
    time: str = field(kw_only=True)
    id: str = field(kw_only=True)
    lateness: str = field(default="10m", kw_only=True)
    source: Source | None = field(default=None, kw_only=True)

    @property
    def lateness_ns(self) -> int:
        """How late an event may be. Raises ValueError where that is no duration."""
        return parse_duration(self.lateness)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of an event's fields."""
        return tuple(getattr(self.schema, "__struct_fields__", ()))

    @property
    def has_text_ids(self) -> bool:
        """Whether ids are texts."""
        return _base_type(self.schema, self.id) is str


@dataclass(frozen=True, kw_only=True)
class StreamViewSpec(ViewSpec):
    """A stream view. aggregates: by the name of their column. key: the fields of an event that make the entity's id."""

    stream: Stream
    key: KeyFields
    aggregates: Mapping[str, Aggregate] = field(hash=False)

    @property
    def kept_ns_max(self) -> int:
        """How old a state may be that a worker keeps, though it lacks the events since; 0 without `max_staleness`."""
        return self.max_staleness_ns or 0

    def id_format(self) -> CompositeFormat | None:
        """Return how the ids of the entities are spelled; None where one field has them."""
        if isinstance(self.key, str):
            return None
        return CompositeFormat([_base_type(self.stream.schema, name) for name in self.key])

    def codec(self) -> StreamCodec:
        """Return the codec of its states."""
        return StreamCodec(self, self.windows, self.schema_id, has_text_ids=self.stream.has_text_ids)

    @property
    def schema_text(self) -> str:
        """What the identity of the states is made of: whatever changes what is kept of an event, and in which order."""
        stream, ids = self.stream, "text" if self.stream.has_text_ids else "int"
        events = f"{stream.name} by {', '.join(fields_of(self.key))} at {stream.time}, {stream.id}: {ids}"
        return f"{self.entity.name}.{self.name}[{events}]({'; '.join(self._identities())})"

    def _identities(self) -> dict[str, Aggregate]:
        """Return the aggregates that differ in what is kept, by their spelling, in its order."""
        found = {_identity(aggregate): aggregate for aggregate in self.aggregates.values()}
        return {identity: found[identity] for identity in sorted(found)}

    @property
    def schema_id(self) -> int:
        """By which a changed view is told from the one before."""
        return crc32(self.schema_text.encode())

    @cached_property
    def windows(self) -> WindowSet:
        """What is kept of events, and what the columns are computed from."""
        windows: dict[Window, int] = {}
        lanes: dict[LaneUse, int] = {}
        for aggregate in self._identities().values():  # not as declared: states have the lanes in their order
            for use in _lane_uses(aggregate):
                lanes.setdefault(use, len(lanes))
        features = []
        for name, aggregate in self.aggregates.items():
            features.append(
                WindowFeature(
                    name=name,
                    kind=aggregate.kind,
                    window=windows.setdefault(window_of(aggregate), len(windows)),
                    lanes=tuple(lanes[use] for use in _lane_uses(aggregate)),
                    include_current=aggregate.include_current,
                    default=aggregate.default,
                    decimals=aggregate.decimals,
                )
            )
        return WindowSet(tuple(windows), tuple(lanes), tuple(features))


class StreamFeatureView(FeatureView, is_kind=True):
    """Base of views over the windows of a stream's events.

    A subclass sets `entity` and `stream`, and annotates its columns, each with an aggregate:

        class CustomerActivity(tr.StreamFeatureView):
            entity = customer
            stream = payments
            tx_count_5m: int = tr.count(window="5m")
            amount_1d: float = tr.sum("amount", window="1d", decimals=2)

    The events carry the entity's id in the field that the entity names as its key; where that is a column of a view, in
    the field of the column's name. A window looks back from the time of the request where the pipeline names a field
    for it, else from when the request came.
    """

    stream: ClassVar[Stream]
    spec: ClassVar[StreamViewSpec]

    @classmethod
    def _read(cls) -> StreamViewSpec:
        """Return what the class declares, with its mistakes."""
        return _StreamReading(cls, _SETTINGS).spec()


class _StreamReading(Reading):
    """A stream view's declaration while it is read."""

    _view: type[StreamFeatureView]
    advice = _COUNT

    def spec(self) -> StreamViewSpec:
        """Return the view's spec, with its problems."""
        entity, stream = self.entity(), self.stream()
        max_staleness_ns, columns = self.max_staleness_ns(), self.columns()
        aggregates = {column.name: self._aggregate(column.name) for column in columns}
        if stream is not None:
            for name in entity.fields:
                if not name or name in stream.fields:
                    continue  # without a name the entity itself is missing, which is told
                self.report(f"the events of {stream.name!r} have no field {name!r}, the key of entity "
                            f"{entity.name!r}", ".entity", f"declare it in {stream.schema.__name__}")  # fmt: skip
            for column in columns:
                self._check(column, aggregates[column.name], stream)
        return StreamViewSpec(
            name=self._view.__name__,
            entity=entity,
            columns=columns,
            max_staleness_ns=max_staleness_ns,
            problems=tuple(self.problems),
            stream=stream or Stream("", schema=type, time="", id=""),
            key=entity.key_fields,
            aggregates=aggregates,
        )

    def stream(self) -> Stream | None:
        """Return the stream, None where it cannot be used."""
        stream = getattr(self._view, "stream", None)
        if not isinstance(stream, Stream):
            what = "the view names no stream" if stream is None else f"{stream!r} is not a Stream"
            self.report(what, ".stream", 'write `stream = payments`, with payments = tr.Stream("payments", …)')
            return None
        count = len(self.problems)
        try:
            get_type_hints(stream.schema)
        except Exception as error:  # an annotation may be any expression
            self.report(f"an annotation of {stream.schema!r} cannot be read: {error}", ".stream.schema",
                        "import the name it uses at the file's top")  # fmt: skip
            return None
        for name, kinds in (("time", "a datetime or a number"), ("id", "an int or a str")):
            place = getattr(stream, name)
            if place not in stream.fields:
                self.report(f"{stream.schema!r} has no field {place!r}", f".stream.{name}", f"name the field: {kinds}")
        if len(self.problems) == count and _base_type(stream.schema, stream.id) not in (int, str):
            self.report(
                f"an event's id is an int or a str, but {stream.id!r} is not", ".stream.id", "name another field"
            )
        self._check_stream(stream)
        return stream if len(self.problems) == count else None

    def _check_stream(self, stream: Stream) -> None:
        if not _NAME.fullmatch(stream.name):
            self.report(f"the stream's name {stream.name!r} cannot stand in a URL", ".stream.name",
                        "use letters, digits, '_', '-' and '.', beginning with a letter or digit")  # fmt: skip
        try:
            is_long = stream.lateness_ns > WINDOW_DAYS_MAX * _DAY_NS
        except ValueError as error:
            self.report(str(error), ".stream.lateness", 'write `lateness="10m"`')
            return
        if is_long:
            self.report(f"a lateness of {stream.lateness!r}", ".stream.lateness", f"give up to {WINDOW_DAYS_MAX}d")

    def default_of(self, name: str) -> Any:
        """Return the default of a column's aggregate."""
        aggregate = self._aggregate(name)
        return NO_DEFAULT if aggregate is None else aggregate.default

    def _aggregate(self, name: str) -> Any:
        """Return the aggregate of a column, None where there is none."""
        found = getattr(self._view, name, None)
        if isinstance(found, Column):  # declared by a view that this one extends
            specs = [vars(base)["spec"] for base in self._view.__mro__ if "spec" in vars(base)]
            found = next((spec.aggregates.get(name) for spec in specs if name in spec.aggregates), None)
        return found if isinstance(found, Aggregate) else None

    def _check(self, column: Column, aggregate: Aggregate, stream: Stream) -> None:
        """Report what is wrong with an aggregate."""
        where, wanted = f".{column.name}", np.dtype(KINDS[aggregate.kind].dtype)
        if column.is_text or column.dtype.kind == "b" or (column.dtype.kind in "iu" and wanted.kind != "i"):
            self.report(f"{aggregate.kind} gives no {column.dtype.name}", where, "annotate it as float")
        elif column.dtype.kind in "iu" and column.dtype.itemsize < _WHOLE_BYTES_MIN:
            self.report(f"{aggregate.kind} may be more than fits {column.dtype.name}", where, "annotate it as int")
        for part, text in (("value", aggregate.value), ("where", aggregate.where)):
            if not text and (part == "where" or not KINDS[aggregate.kind].takes_value):
                continue
            try:
                expression = parse_expression(text or "")
            except ValueError as error:
                self.report(f"{part}: {error}", where, "write an expression over the event's fields, as in 'amount'")
                continue
            unknown = [name for name in expression.fields if name not in stream.fields]
            if unknown:
                self.report(f"{part}: the events have no field {unknown[0]!r}", where,
                            f"use one of {', '.join(stream.fields)}")  # fmt: skip
        if aggregate.decimals is not None and aggregate.decimals not in range(DECIMALS_MAX + 1):
            self.report(f"decimals={aggregate.decimals!r}", where, f"give a whole number up to {DECIMALS_MAX}")
        self._check_window(aggregate, stream, where)

    def _check_window(self, aggregate: Aggregate, stream: Stream, where: str) -> None:
        try:
            window = window_of(aggregate)
        except ValueError as error:
            self.report(str(error), where, 'write window="5m", a whole number of seconds, or "lifetime"')
            return
        length_ns = window.length_ns
        if length_ns is not None and (length_ns % NS_PER_S or not NS_PER_S <= length_ns <= WINDOW_DAYS_MAX * _DAY_NS):
            self.report(
                f"a window of {aggregate.window!r}", where, f"give from 1s to {WINDOW_DAYS_MAX}d, in whole seconds"
            )
        if window.delay_ns % NS_PER_S or window.delay_ns > stream.lateness_ns:
            self.report(f"a delay of {aggregate.delay!r} is no whole number of seconds up to the stream's lateness, "
                        f"{stream.lateness!r}", where,
                        "give the stream more lateness: events of a delayed window come late")  # fmt: skip
        if aggregate.include_current and window.delay_ns > 0:
            self.report(f"include_current with a delay of {aggregate.delay!r}: the window ends before the event that "
                        "is scored", where, "leave out one of the two")  # fmt: skip


def window_of(aggregate: Aggregate) -> Window:
    """Return the window of an aggregate. Raises ValueError for what is no duration."""
    delay_ns = 0 if aggregate.delay is None else parse_duration(aggregate.delay)
    return Window(None if aggregate.window == LIFETIME else parse_duration(aggregate.window), delay_ns)


def _identity(aggregate: Aggregate) -> str:
    """Return an aggregate in one spelling, without what changes nothing of what is kept: its default, say."""
    window, value, where = window_of(aggregate), _expression(aggregate.value), _expression(aggregate.where)
    length_s = LIFETIME if window.length_ns is None else window.length_ns // NS_PER_S
    parts = [f"window={length_s}", f"delay={window.delay_ns // NS_PER_S}", f"decimals={aggregate.decimals}"]
    return f"{aggregate.kind}({value.text if value else ''}, where={where.text if where else ''}, {', '.join(parts)})"


def _lane_uses(aggregate: Aggregate) -> list[LaneUse]:
    """Return the lanes that an aggregate is computed from."""
    kind, value = KINDS[aggregate.kind], _expression(aggregate.value)
    if kind.takes_any and value is not None:
        value = hashed(value)
    where = _expression(aggregate.where)
    return [LaneUse(lane, value, where) for lane in kind.lanes(aggregate.decimals)]


def _expression(text: str | None) -> Expression | None:
    return parse_expression(text) if text else None


def _base_type(schema: type[Any], name: str) -> Any:
    """Return the type of a field, without Annotated."""
    annotation = get_type_hints(schema).get(name)
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
