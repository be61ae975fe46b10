"""Which events go where: the routes of some pipelines, each through the appliers of its streams and stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from tailrace.deadline import Clock
from tailrace.errors import SetupError
from tailrace.features.catalogue import SchemaRecord
from tailrace.features.stores.opening import open_writer, store_identity
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import Stream, StreamViewSpec
from tailrace.ingest.applier import Applier
from tailrace.ingest.frames import pipeline_route, stream_route
from tailrace.ingest.intake import Route
from tailrace.ingest.registration import Lapse, lapse, note_use, register
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

    url_of: the store of a pipeline. lapses: of views that lack events which came before.
    Raises StoreError for a store that cannot be written, SetupError.
    """

    def __init__(self, pipelines: Sequence[Pipeline], url_of: Callable[[Pipeline], str], clock: Clock) -> None:
        self.streams = streams_of(pipelines)
        self._writers: dict[str, StoreWriter] = {}
        self._wall_ns = clock.wall_ns
        self.lapses: list[Lapse] = []
        views: dict[tuple[Stream, str], dict[str, RegisteredView]] = {}
        try:
            for pipeline in pipelines:
                for view in stream_views(pipeline):
                    store = self._open(url_of(pipeline))
                    own = views.setdefault((view.spec.stream, store), {})
                    if view.spec.name not in own and (found := lapse(view.spec, self._writers[store])) is not None:
                        self.lapses.append(found)
                    own[view.spec.name] = _register(view.spec, pipeline.name, self._writers[store], clock)
            appliers = {key: applier_of(key[0], own, self._writers[key[1]], clock) for key, own in views.items()}
        except BaseException:
            self.close()
            raise
        self._used = [(view.spec, self._writers[store]) for (_, store), own in views.items() for view in own.values()]
        self.routes = {
            stream_route(stream.name): Route(_decoder(stream.schema), _of(appliers, [stream]))
            for stream in self.streams
        }
        for pipeline in pipelines:
            if pipeline.record_requests:
                events_of = [stream for stream in self.streams if is_event_of(pipeline, stream)]
                route = Route(_decoder(pipeline.request), _of(appliers, events_of))
                self.routes[pipeline_route(pipeline.name)] = route

    def note_use(self) -> None:
        """Note that the views are used, which keeps their states. Raises StoreError."""
        for spec, writer in self._used:
            note_use(spec, writer, self._wall_ns())

    def close(self) -> None:
        """Let go of the stores."""
        for writer in self._writers.values():
            writer.close()

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


def _register(spec: StreamViewSpec, pipeline: str, writer: StoreWriter, clock: Clock) -> RegisteredView:
    note_use(spec, writer, clock.wall_ns())  # first: from here on nobody removes what is registered
    return RegisteredView(spec, register(spec, [pipeline], writer, clock.wall_ns()))


def _of(appliers: dict[tuple[Stream, str], Applier], streams: Sequence[Stream]) -> tuple[Applier, ...]:
    return tuple(applier for (stream, _), applier in appliers.items() if stream in streams)


def _decoder(schema: type[Any]) -> Callable[[Any], list[Any]]:
    return msgspec.msgpack.Decoder(list[schema]).decode  # type: ignore[valid-type]
