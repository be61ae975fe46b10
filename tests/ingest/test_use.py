"""Whoever counts events into a view notes that it is used: at its start, and again and again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tailrace as tr
from features.redis_server import RedisServer
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import NS_PER_S, MonotonicClock
from tailrace.features.catalogue import schema_name, use_key
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import StreamViewSpec
from tailrace.ingest import run as run_module
from tailrace.ingest.consumer import Arrived
from tailrace.ingest.intake import EventIntake
from tailrace.ingest.registration import USE_NOTE_S, lapse, last_use_ns, note, note_use, register
from tailrace.ingest.routes import Routes
from tailrace.ingest.run import StreamWriters, ingest_stream
from tailrace.ingest.watermark import Watermark, watermark_key
from tailrace.pipeline import Pipeline, stream_views
from tailrace.server import ingester as ingester_module
from tailrace.server.ingester import Ingester


class Payment(tr.Request):
    """An event of the definitions below."""

    payment_id: int
    customer_id: int
    time: float


@pytest.fixture
def pipeline(pipelines_dir: Path) -> Pipeline:
    """Return a pipeline with three stream views."""
    (pipeline,) = load_pipelines(pipelines_dir / "activity.py")
    return pipeline


@pytest.fixture
def writer(redis_server: RedisServer) -> Iterator[StoreWriter]:
    """Yield a writer of the store that all use."""
    with closing(open_writer(redis_server.url)) as writer:
        yield writer


def uses(pipeline: Pipeline, writer: StoreWriter) -> dict[str, int]:
    """Return when each view was last used, 0 for never; and forget it."""
    names = [(view.spec.name, schema_name(view.spec.schema_id)) for view in stream_views(pipeline)]
    found = {view: last_use_ns(writer.get, view, schema) for view, schema in names}
    writer.exchange((), [use_key(view, schema) for view, schema in names])
    return found


class Silent:
    """A consumer that brings nothing."""

    where = "nowhere"
    partitions: Mapping[str, bool] = {}

    def poll(self, wait_s: float) -> Sequence[Arrived]:
        """Return nothing."""
        return ()

    def commit(self, arrived: Sequence[Arrived]) -> None:
        """Do nothing."""

    def lag(self) -> int | None:
        """Return that nothing is to come."""
        return 0

    def close(self) -> None:
        """Do nothing."""


def test_consumer_notes_that_its_views_are_used(
    pipeline: Pipeline, writer: StoreWriter, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it opens the stores, and while it runs, events or none."""
    stream = stream_views(pipeline)[0].spec.stream
    writers = StreamWriters(stream, [pipeline], lambda _: redis_server.url, MonotonicClock())
    with closing(writers):
        assert all(uses(pipeline, writer).values())
        ingest_stream(stream, Silent(), writers, lambda: False, lambda *_: None, until_idle=True)
        assert not any(uses(pipeline, writer).values())
        monkeypatch.setattr(run_module, "USE_NOTE_S", 0.0)
        ingest_stream(stream, Silent(), writers, lambda: False, lambda *_: None, until_idle=True)
        assert all(uses(pipeline, writer).values())


def test_ingester_notes_that_its_views_are_used(
    pipeline: Pipeline, writer: StoreWriter, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the thread that writes, so that the loop never waits for a store's lock; a store that fails is asked later."""
    monkeypatch.setattr(ingester_module, "USE_NOTE_S", 0.001)
    process: Any = None
    ingester, threads = Ingester(process), list[str]()

    async def scenario() -> None:
        noting = asyncio.create_task(ingester._note_use())
        while not all(uses(pipeline, writer).values()):
            await asyncio.sleep(0.001)
        await ingester._intake.between(lambda: threads.append(threading.current_thread().name))
        noting.cancel()
        await ingester._intake.drain()

    with closing(Routes([pipeline], lambda _: redis_server.url, MonotonicClock())) as routes:
        assert all(uses(pipeline, writer).values())
        ingester._routes, ingester._intake = routes, EventIntake(routes.routes)
        asyncio.run(asyncio.wait_for(scenario(), 20))
        ingester._intake.close()
    assert threads[0].startswith("events")


PAYMENTS = tr.Stream("payments", schema=Payment, time="time", id="payment_id")


def definition(window: str) -> StreamViewSpec:
    """Return the view with a window of this length."""
    body = {"entity": tr.Entity("customer", key="customer_id"), "stream": PAYMENTS, "n": tr.count(window=window)}
    spec: StreamViewSpec = type("Activity", (tr.StreamFeatureView,), body | {"__annotations__": {"n": int}}).spec  # type: ignore[attr-defined]
    return spec


OLD, NEW = definition("1h"), definition("2h")
LONG_S = 2 * int(USE_NOTE_S) + 1


def whole(spec: StreamViewSpec, writer: StoreWriter, newest_s: int) -> None:
    """Register a definition as whole, by its history where it is not the first, when events have come until a time."""
    newest = Watermark().advanced([newest_s * NS_PER_S])
    writer.exchange([(watermark_key("payments"), msgspec.json.encode(newest))], ())
    own = register(spec, ["pay"], writer, 0)
    note(spec, msgspec.structs.replace(own, is_whole=True), writer)


def test_definition_set_aside_while_another_counts_lacks_what_came() -> None:
    """From its last use on; not where both were used, nor for the time between two notes, nor the first of all."""
    writer = MemoryWriter({})
    whole(OLD, writer, 1_000)
    assert lapse(OLD, writer) is None
    note_use(OLD, writer, 5_000 * NS_PER_S)
    whole(NEW, writer, 1_000)
    note_use(NEW, writer, (5_000 + LONG_S - 1) * NS_PER_S)
    assert lapse(OLD, writer) is None
    note_use(NEW, writer, (5_000 + LONG_S) * NS_PER_S)
    found = lapse(OLD, writer)
    assert found == ("Activity", 5_000 * NS_PER_S, (5_000 + LONG_S) * NS_PER_S)
    assert found is not None
    assert found.span == "1970-01-01T01:23:20+00:00 to 1970-01-01T01:43:21+00:00"
    assert lapse(NEW, writer) is None


def test_definition_lacks_what_came_between_its_history_and_its_first_use() -> None:
    """By the newest event; none came where the changed server follows at once. Without its history it is not served."""
    writer = MemoryWriter({})
    whole(OLD, writer, 1_000)
    note_use(OLD, writer, 5_000 * NS_PER_S)
    register(NEW, ["pay"], writer, 0)
    assert lapse(NEW, writer) is None
    whole(NEW, writer, 1_000)
    assert lapse(NEW, writer) is None
    whole(NEW, writer, 1_500)
    assert lapse(NEW, writer) == ("Activity", 1_001 * NS_PER_S, 1_500 * NS_PER_S)
    note_use(NEW, writer, 5_000 * NS_PER_S)
    assert lapse(NEW, writer) is None
