"""Whoever counts events into a view notes that it is used: at its start, and again and again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from features.redis_server import RedisServer
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import MonotonicClock
from tailrace.features.catalogue import schema_name, use_key
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import StoreWriter
from tailrace.ingest import run as run_module
from tailrace.ingest.consumer import Arrived
from tailrace.ingest.intake import EventIntake
from tailrace.ingest.registration import last_use_ns
from tailrace.ingest.routes import Routes
from tailrace.ingest.run import StreamWriters, ingest_stream
from tailrace.pipeline import Pipeline, stream_views
from tailrace.server import ingester as ingester_module
from tailrace.server.ingester import Ingester


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
    start: Any = None
    ingester, threads = Ingester(start, start, 0.0), list[str]()

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
