"""A run of `tailrace ingest`: events from a file or a consumer, counted into all stores of their stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import Clock
from tailrace.features.keys import fields_of
from tailrace.features.streams import Stream
from tailrace.features.updates import Fate
from tailrace.ingest.consumer import Arrived, Consumer
from tailrace.ingest.counting import count_apart
from tailrace.ingest.files import EventPage
from tailrace.ingest.poison import EVENT_CHARACTERS_MAX, PoisonEvent
from tailrace.ingest.routes import Routes
from tailrace.ingest.use import USE_NOTE_S
from tailrace.pipeline import Pipeline, stream_views
from tailrace.request.schema import bounded_type

EXAMPLES_MAX: Final = 5
WAIT_S: Final = 0.5
"""How long a consumer waits for events before it looks whether it is to stop."""
LAG_LOOK_S: Final = 1.0
"""How often a consumer that always finds events asks how many are yet to come."""
_NO_ROW: Final = "a row without a time, an id or a view's key, or that is no event"
_NO_EVENT: Final = PoisonEvent(_NO_ROW, _NO_ROW)


@dataclass(slots=True)
class IngestReport:
    """What one run did, in events. poison: that could not be read; examples: the first of them.

    seconds: monotonic.
    """

    stream: str
    counted: int = 0
    duplicate: int = 0
    late: int = 0
    future: int = 0
    forgotten: int = 0
    poison: int = 0
    seconds: float = 0.0
    examples: list[PoisonEvent] = field(default_factory=list)

    @property
    def events(self) -> int:
        """How many there were."""
        return sum(self.fates.values())

    @property
    def fates(self) -> dict[str, int]:
        """How many there were of each fate, and that could not be read."""
        return {name: getattr(self, name) for name in (*(fate.name.lower() for fate in Fate), "poison")}

    def add(self, fates: NDArray[np.uint8]) -> None:
        """Add the fates of some events."""
        counts = np.bincount(fates, minlength=len(Fate)).tolist()
        for fate, count in zip(Fate, counts, strict=True):
            name = fate.name.lower()
            setattr(self, name, getattr(self, name) + count)

    def add_poison(self, count: int, example: PoisonEvent) -> None:
        """Add events that could not be read."""
        self.poison += count
        if count and len(self.examples) < EXAMPLES_MAX:
            self.examples.append(example)


class StreamWriters:
    """The stores of the pipelines that have views of one stream, open for its events.

    counter: counts them in. keys: the fields of an event that say of which entities it is. lapses: of views that lack
    events which came before. Raises StoreError for a store that cannot be opened.
    """

    def __init__(
        self, stream: Stream, pipelines: Sequence[Pipeline], url_of: Callable[[Pipeline], str], clock: Clock
    ) -> None:
        self._routes = Routes(pipelines, url_of, clock, chosen=[stream])
        self._noted_s = time.monotonic()
        self.lapses = self._routes.lapses
        self.counter = self._routes.counters[stream.name]
        specs = [view.spec for pipeline in pipelines for view in stream_views(pipeline)]
        self.keys = frozenset(name for spec in specs if spec.stream == stream for name in fields_of(spec.key))

    def note_use_when_due(self) -> None:
        """Note that the views are used, which keeps their states, unless that was just done. Raises StoreError."""
        if time.monotonic() >= self._noted_s + USE_NOTE_S:
            self._routes.note_use()
            self._noted_s = time.monotonic()

    def close(self) -> None:
        """Note the end of the use, and let go of the stores."""
        self._routes.close()


def ingest_pages(
    stream: Stream, pages: Iterable[EventPage], writers: StreamWriters, on_progress: Callable[[int], None]
) -> IngestReport:
    """Count the events of a file in. on_progress: is called with the rows of each page. Raises StoreError."""
    began_s, report = time.monotonic(), IngestReport(stream.name)
    for page in pages:
        writers.note_use_when_due()
        events = page.read(writers.keys)
        report.add(writers.counter.count(events))
        report.add_poison(page.rows - len(events), _NO_EVENT)
        on_progress(page.rows)
    report.seconds = time.monotonic() - began_s
    return report


def ingest_stream(
    stream: Stream,
    consumer: Consumer,
    writers: StreamWriters,
    is_stopping: Callable[[], bool],
    on_progress: Callable[[IngestReport, int | None], None],
    *,
    until_idle: bool = False,
) -> IngestReport:
    """Count what a consumer brings, until it is to stop. until_idle: or until nothing is left to come.

    on_progress: is called after each group, and while nothing comes, with the report so far, and how many events were
    yet to come when that was last asked; None where it is not known. Raises SourceError, StoreError.
    """
    began_s, report = time.monotonic(), IngestReport(stream.name)
    schema = _Schema.of(stream)
    asked_s = began_s
    lag = consumer.lag()
    while not is_stopping():
        writers.note_use_when_due()
        arrived = consumer.poll(WAIT_S)
        if not arrived:
            lag = consumer.lag()
            on_progress(report, lag)
            if until_idle and lag == 0:
                break
            continue
        for place, part in enumerate(arrived):
            partitions = {**consumer.partitions, **{later.source: True for later in arrived[place + 1 :]}}
            count = partial(writers.counter.count_decoded, partition=part.source, partitions=partitions)
            _count_part(part, schema, consumer.where, count, report)
        consumer.commit(arrived)
        if time.monotonic() >= asked_s + LAG_LOOK_S:
            lag, asked_s = consumer.lag(), time.monotonic()
        report.seconds = time.monotonic() - began_s
        on_progress(report, lag)
    report.seconds = time.monotonic() - began_s
    return report


class _Schema(NamedTuple):
    """What a broker's events are read by. fields: their names in JSON."""

    decode: Callable[[bytes], Any]
    fields: frozenset[str]

    @classmethod
    def of(cls, stream: Stream) -> _Schema:
        """Return what reads the events of a stream."""
        fields = frozenset(field.encode_name for field in msgspec.structs.fields(stream.schema))
        return cls(msgspec.json.Decoder(bounded_type(stream.schema), strict=False).decode, fields)


def _count_part(
    part: Arrived,
    schema: _Schema,
    where: str,
    count: Callable[[Sequence[Any]], NDArray[np.uint8]],
    report: IngestReport,
) -> None:
    """Count the events of one source in; one that cannot be read, or counted, is told of and never comes again."""

    def add_poison(error: Exception, at: int, event: str) -> None:
        report.add_poison(1, PoisonEvent.of(error, f"{where} {part.source} {part.offsets[at]}", event, schema.fields))

    decoded: list[tuple[int, Any]] = []
    for at, event in enumerate(part.events):
        try:
            decoded.append((at, schema.decode(event)))
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, TypeError) as error:
            add_poison(error, at, repr(event[:EVENT_CHARACTERS_MAX]))
    for units, fates in count_apart(decoded, lambda units: count([event for _, event in units])):
        if isinstance(fates, Exception):
            ((at, event),) = units
            add_poison(fates, at, str(event))
        else:
            report.add(fates)
