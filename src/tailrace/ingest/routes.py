"""Which events go where: the routes of some pipelines, each through the appliers of its streams and stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from tailrace.compile.materialised import history_fault
from tailrace.deadline import Clock
from tailrace.errors import SetupError, StoreError
from tailrace.features.catalogue import SchemaRecord, read_record
from tailrace.features.stores.opening import open_writer, store_identity
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import Stream, StreamFeatureView, StreamViewSpec
from tailrace.ingest.applier import Applier
from tailrace.ingest.counting import StreamCounter
from tailrace.ingest.frames import pipeline_route, stream_route
from tailrace.ingest.intake import Route
from tailrace.ingest.registration import begin_use, register
from tailrace.ingest.use import Lapse, end_use, lapse, note_use, user_name
from tailrace.pipeline import Pipeline, is_event_of, stream_views


def streams_of(pipelines: Sequence[Pipeline]) -> list[Stream]:
    """Return the streams of all views, each once. Raises SetupError for two of one name."""
    found: dict[str, Stream] = {}
    for pipeline in pipelines:
        for view in stream_views(pipeline):
            stream = view.spec.stream
            if found.setdefault(stream.name, stream) != stream:
                next_step = "give each its own name, or import the one from where it is declared"
                raise SetupError(f"two streams are called {stream.name!r}", where=pipeline.name, next=next_step)
    return list(found.values())


class Routes:
    """Opens the stores of some pipelines' stream views, and gives the route of each kind of event.

    url_of: the store of a pipeline. chosen: the streams whose views it opens, in place of all. refuse: whether views
    that lack their history are refused, as a server refuses them; then nothing is registered, nor noted, since events
    that come from the registration on are no part of the history. lapses: of views that lack events which came before.
    Raises StoreError for a store that cannot be written or a view that is refused or being removed, SetupError.
    """

    def __init__(
        self,
        pipelines: Sequence[Pipeline],
        url_of: Callable[[Pipeline], str],
        clock: Clock,
        *,
        chosen: Sequence[Stream] | None = None,
        refuse: bool = False,
    ) -> None:
        declared = streams_of(pipelines)
        self.streams = declared if chosen is None else [stream for stream in declared if stream in chosen]
        self._writers: dict[str, StoreWriter] = {}
        self._wall_ns = clock.wall_ns
        self._user = user_name()
        self._used: list[tuple[StreamViewSpec, StoreWriter]] = []
        self._refuse = refuse
        self.lapses: list[Lapse] = []
        views: dict[tuple[Stream, str], dict[str, RegisteredView]] = {}
        try:
            found = [
                (pipeline.name, view.spec, self._open(url_of(pipeline)))
                for pipeline in pipelines
                for view in self._views(pipeline)
            ]
            for _, spec, store in found if refuse else ():
                if (fault := history_fault(spec, read_record(self._writers[store].get, spec.name))) is not None:
                    raise fault
            for pipeline_name, spec, store in found:
                own = views.setdefault((spec.stream, store), {})
                own[spec.name] = self._register(spec, pipeline_name, self._writers[store])
            appliers = {key: applier_of(key[0], own, self._writers[key[1]], clock) for key, own in views.items()}
        except BaseException:
            self.close()
            raise
        counters = {
            stream: StreamCounter(stream, [applier for (own, _), applier in appliers.items() if own == stream])
            for stream in self.streams
        }
        self.counters = {stream.name: counter for stream, counter in counters.items()}
        self.routes = {
            stream_route(stream.name): Route(_decoder(stream.schema), (counter,))
            for stream, counter in counters.items()
        }
        for pipeline in pipelines:
            if pipeline.record_requests:
                events_of = tuple(each for stream, each in counters.items() if is_event_of(pipeline, stream))
                self.routes[pipeline_route(pipeline.name)] = Route(_decoder(pipeline.request), events_of)

    def note_use(self) -> None:
        """Note that the views are used, which keeps their states. Raises StoreError."""
        for spec, writer in self._used:
            note_use(spec, writer, self._user, self._wall_ns())

    def end_use(self) -> None:
        """Note that no more events are counted in; once, however often it is called. Raises StoreError."""
        while self._used:
            spec, writer = self._used[-1]
            end_use(spec, writer, self._user, self._wall_ns())
            self._used.pop()

    def close(self) -> None:
        """Note the end of the use, and let go of the stores."""
        with suppress(StoreError):  # then a lapse is told from the last note on, a minute sooner at most
            self.end_use()
        for writer in self._writers.values():
            writer.close()

    def _views(self, pipeline: Pipeline) -> list[type[StreamFeatureView]]:
        """Return a pipeline's views of the streams."""
        return [view for view in stream_views(pipeline) if view.spec.stream in self.streams]

    def _register(self, spec: StreamViewSpec, pipeline: str, writer: StoreWriter) -> RegisteredView:
        """Register a view of a pipeline for this process; of one that is new here, see what it lacks."""
        if (spec, writer) in self._used:
            return RegisteredView(spec, register(spec, [pipeline], writer, self._wall_ns()))
        if (found := lapse(spec, writer, self._wall_ns())) is not None:
            self.lapses.append(found)
        self._used.append((spec, writer))
        own = begin_use(spec, [pipeline], writer, self._user, self._wall_ns, refuse=self._refuse)
        return RegisteredView(spec, own)

    def _open(self, url: str) -> str:
        """Open a store, once; return by what it is known."""
        identity = store_identity(url)
        if identity not in self._writers:
            self._writers[identity] = open_writer(url)
        return identity


class RegisteredView(NamedTuple):
    """A view, and what the store notes of it as it is declared."""

    spec: StreamViewSpec
    record: SchemaRecord


def applier_of(stream: Stream, views: Mapping[str, RegisteredView], writer: StoreWriter, clock: Clock) -> Applier:
    """Return what counts the events of a stream in, in some registered views."""
    begins_ns = {name: view.record.begins_ns for name, view in views.items()}
    return Applier(stream, [view.spec for view in views.values()], writer, clock, begins_ns)


def _decoder(schema: type[Any]) -> Callable[[Any], list[Any]]:
    return msgspec.msgpack.Decoder(list[schema]).decode  # type: ignore[valid-type]
