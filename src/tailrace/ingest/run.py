"""A run of `tailrace ingest`: events from a file or a consumer, counted into all stores of their stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import Clock
from tailrace.features.keys import fields_of
from tailrace.features.streams import Stream
from tailrace.features.updates import Fate
from tailrace.ingest.consumer import Consumer
from tailrace.ingest.counting import count_apart
from tailrace.ingest.files import EventPage
from tailrace.ingest.routes import Routes
from tailrace.ingest.use import USE_NOTE_S
from tailrace.pipeline import Pipeline, stream_views
from tailrace.request.schema import bounded_type

EXAMPLES_MAX: Final = 5
EXAMPLE_CHARACTERS_MAX: Final = 200
WAIT_S: Final = 0.5
"""How long a consumer waits for events before it looks whether it is to stop."""
LAG_LOOK_S: Final = 1.0
"""How often a consumer that always finds events asks how many are yet to come."""


@dataclass(frozen=True, slots=True)
class PoisonEvent:
    """An event that could not be read. event: the beginning of it, which may be somebody's data: not for a log."""

    why: str
    event: str = ""

    def __str__(self) -> str:
        return f"{self.why}: {self.event}" if self.event else self.why


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

    def add_poison(self, count: int, why: str, event: str = "") -> None:
        """Add events that could not be read."""
        self.poison += count
        if count and len(self.examples) < EXAMPLES_MAX:
            self.examples.append(PoisonEvent(why, event[:EXAMPLE_CHARACTERS_MAX]))


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
        report.add_poison(page.rows - len(events), "a row without a time, an id or a view's key, or that is no event")
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
    decode = msgspec.json.Decoder(bounded_type(stream.schema), strict=False).decode
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
            decoded = _decoded(part.events, decode, report, f"{consumer.where} {part.source}")
            count = partial(writers.counter.count_decoded, partition=part.source, partitions=partitions)
            for events, fates in count_apart(decoded, count):
                if isinstance(fates, Exception):
                    report.add_poison(1, f"{type(fates).__name__}: {fates}", str(events[0]))
                else:
                    report.add(fates)
        consumer.commit(arrived)
        if time.monotonic() >= asked_s + LAG_LOOK_S:
            lag, asked_s = consumer.lag(), time.monotonic()
        report.seconds = time.monotonic() - began_s
        on_progress(report, lag)
    report.seconds = time.monotonic() - began_s
    return report


def _decoded(events: Sequence[bytes], decode: Callable[[bytes], Any], report: IngestReport, where: str) -> list[Any]:
    """Return the events that can be read; what cannot is counted, and never comes again."""
    found = []
    for event in events:
        try:
            found.append(decode(event))
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, TypeError) as error:
            report.add_poison(1, f"{where}: {error}", repr(event[:EXAMPLE_CHARACTERS_MAX]))
    return found
