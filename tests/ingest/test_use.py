"""Whoever counts events into a view notes that it is used: at its start, again and again, and at its end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from payments import ingesting

import tailrace as tr
from features.redis_server import RedisServer
from tailrace.compile.loading import load_pipelines
from tailrace.deadline import NS_PER_S, MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.catalogue import (
    SchemaRecord,
    ViewRecord,
    catalogue_key,
    read_record,
    schema_name,
    use_key,
)
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.opening import open_writer
from tailrace.features.stores.protocol import StoreWriter
from tailrace.features.streams import StreamViewSpec
from tailrace.ingest import run as run_module
from tailrace.ingest.consumer import Arrived
from tailrace.ingest.decoded import DecodedEvents
from tailrace.ingest.intake import EventIntake
from tailrace.ingest.registration import note, register
from tailrace.ingest.routes import Routes
from tailrace.ingest.run import StreamWriters, ingest_pages, ingest_stream
from tailrace.ingest.use import (
    LAPSED,
    SILENT_NS,
    USERS_MAX,
    Lapse,
    Use,
    end_use,
    lapse,
    note_use,
    read_use,
    tell_lapses,
)
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
    found = {view: read_use(writer.get, view, schema).until_ns for view, schema in names}
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


def writers_of(pipeline: Pipeline, redis_server: RedisServer) -> StreamWriters:
    """Open the stores of a pipeline's payments."""
    stream = stream_views(pipeline)[0].spec.stream
    return StreamWriters(stream, [pipeline], lambda _: redis_server.url, MonotonicClock())


def test_views_of_other_streams_are_not_used_and_their_lapses_are_left_to_who_counts_them(
    pipeline: Pipeline, writer: StoreWriter, redis_server: RedisServer
) -> None:
    """A consumer of payments says nothing of labels; nothing is registered of these either."""
    with closing(writers_of(pipeline, redis_server)):
        used = uses(pipeline, writer)
    assert {view for view, until_ns in used.items() if until_ns} == {"CustomerActivity", "TerminalActivity"}
    assert read_record(writer.get, "TerminalFrauds") is None
    assert read_record(writer.get, "CustomerActivity") is not None


class Rows:
    """A page of a file in which no row is an event."""

    rows = 1

    def __init__(self, columns: Any) -> None:
        self._none = columns([])

    def read(self, keys: frozenset[str]) -> Any:
        """Return no event."""
        return self._none


def test_consumer_notes_that_its_views_are_used(
    pipeline: Pipeline, writer: StoreWriter, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it opens the stores, while it reads, events or none, a broker or a file, and once more at its end."""
    stream = stream_views(pipeline)[0].spec.stream
    pages: list[Any] = [Rows(DecodedEvents(stream).columns)]

    def used() -> bool:
        return uses(pipeline, writer)["CustomerActivity"] > 0

    with closing(writers_of(pipeline, redis_server)) as writers:
        assert used()
        ingest_stream(stream, Silent(), writers, lambda: False, lambda *_: None, until_idle=True)
        ingest_pages(stream, pages, writers, lambda _: None)
        assert not used()
        monkeypatch.setattr(run_module, "USE_NOTE_S", 0.0)
        ingest_stream(stream, Silent(), writers, lambda: False, lambda *_: None, until_idle=True)
        assert used()
        ingest_pages(stream, pages, writers, lambda _: None)
        noted = read_use(writer.get, "CustomerActivity", schema_name(pipeline.views[0].spec.schema_id))
        assert len(noted.users) == 1
    ended = read_use(writer.get, "CustomerActivity", schema_name(pipeline.views[0].spec.schema_id))
    assert ended.users == {}
    assert ended.until_ns > noted.until_ns


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


def test_ingester_that_drains_notes_the_end_of_its_use(
    pipeline: Pipeline, writer: StoreWriter, redis_server: RedisServer
) -> None:
    """Once, and behind the last event; its successor is another user."""
    process: Any = None
    ingester = Ingester(process)
    specs = [view.spec for view in stream_views(pipeline)]

    def users() -> list[int]:
        return [len(read_use(writer.get, spec.name, schema_name(spec.schema_id)).users) for spec in specs]

    with closing(Routes([pipeline], lambda _: redis_server.url, MonotonicClock())) as routes:
        assert users() == [1] * len(specs)
        ingester._routes, ingester._intake = routes, EventIntake(routes.routes)
        asyncio.run(asyncio.wait_for(ingester._count_to_end(), 20))
        ingester._intake.close()
        assert users() == [0] * len(specs)
        ended = uses(pipeline, writer)
        assert all(ended.values())
    assert not any(uses(pipeline, writer).values())


PAYMENTS = tr.Stream("payments", schema=Payment, time="time", id="payment_id")


def definition(window: str) -> StreamViewSpec:
    """Return the view with a window of this length."""
    body = {"entity": tr.Entity("customer", key="customer_id"), "stream": PAYMENTS, "n": tr.count(window=window)}
    spec: StreamViewSpec = type("Activity", (tr.StreamFeatureView,), body | {"__annotations__": {"n": int}}).spec  # type: ignore[attr-defined]
    return spec


OLD, NEW = definition("1h"), definition("2h")
S = NS_PER_S


def whole(spec: StreamViewSpec, writer: StoreWriter, newest_s: int) -> None:
    """Register a definition as whole, by its history where it is not the first, when events have come until a time."""
    newest = Watermark().advanced([newest_s * S])
    writer.exchange([(watermark_key("payments"), msgspec.json.encode(newest))], ())
    own = register(spec, ["pay"], writer, 0)
    note(spec, msgspec.structs.replace(own, is_whole=True), writer)


@pytest.fixture(params=["lmdb", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty store of each kind that processes share."""
    if request.param == "lmdb":
        return f"lmdb:{tmp_path / 'store'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    return str(server.url)


@pytest.fixture
def changed() -> StoreWriter:
    """Return a store whose view was changed at 5,000 s: the old server ended when the new one had begun."""
    writer = MemoryWriter({})
    whole(OLD, writer, 1_000)
    note_use(OLD, writer, "old", 1_000 * S)
    whole(NEW, writer, 1_000)
    note_use(NEW, writer, "new", 4_999 * S)
    end_use(OLD, writer, "old", 5_000 * S)
    return writer


def test_definition_that_is_set_back_after_minutes_lacks_what_came_meanwhile(changed: StoreWriter) -> None:
    """Exactly: from the end of its use to the end of the other's; the first of all lacked nothing, nor the new one."""
    end_use(NEW, changed, "new", 5_300 * S)
    found = lapse(OLD, changed, 5_400 * S)
    assert found == ("Activity", 5_000 * S, 5_300 * S)
    assert found is not None
    assert found.span == "1970-01-01T01:23:20+00:00 to 1970-01-01T01:28:20+00:00"
    assert lapse(NEW, changed, 5_400 * S) is None


@pytest.mark.parametrize("heard_s", [4_999, 5_290, 5_600], ids=["not yet again", "just now", "by a clock ahead"])
def test_definition_that_is_set_back_beside_the_other_lacks_what_came_until_it_begins(
    changed: StoreWriter, heard_s: int
) -> None:
    """The other goes on, or was killed: then it is not known until when it counted."""
    note_use(NEW, changed, "new", heard_s * S)
    found = lapse(OLD, changed, 5_060 * S)
    assert found is not None
    assert found.since_ns == 5_000 * S
    assert found.until_ns == 5_060 * S


def test_definition_lacks_nothing_while_one_of_its_users_counts(changed: StoreWriter) -> None:
    """Two servers were on the old file, one of which has ended; a user that was killed counts no more after a while."""
    note_use(OLD, changed, "other", 5_200 * S)
    note_use(NEW, changed, "new", 5_240 * S)
    assert lapse(OLD, changed, 5_250 * S) is None
    found = lapse(OLD, changed, 5_300 * S)
    assert found == ("Activity", 5_200 * S, 5_300 * S)
    end_use(OLD, changed, "other", 5_310 * S)
    assert lapse(OLD, changed, 5_400 * S) is None  # nothing is known of the new one since 5,240 s


def test_users_that_end_or_begin_leave_each_other_as_they_are(url: str) -> None:
    """In each kind of store; an end that comes twice, or of a use that is not noted, changes nothing."""
    with closing(open_writer(url)) as writer:
        schema = schema_name(OLD.schema_id)
        end_use(OLD, writer, "one", 1)
        assert writer.get(use_key("Activity", schema)) is None
        note_use(OLD, writer, "one", 3)
        note_use(OLD, writer, "two", 2)
        assert read_use(writer.get, "Activity", schema) == Use(3, {"one": 3, "two": 2})
        for _ in range(2):
            end_use(OLD, writer, "one", 4)
        assert read_use(writer.get, "Activity", schema) == Use(4, {"two": 2})
        end_use(OLD, writer, "two", 5)
        assert read_use(writer.get, "Activity", schema) == Use(5, {})


def test_user_that_was_killed_is_forgotten_once_another_has_used_the_definition_since() -> None:
    """So the end of the other is exact."""
    use = Use().noted("killed", 0).noted("next", SILENT_NS)
    assert use == Use(SILENT_NS, {"next": SILENT_NS})
    assert use.noted("last", 2).ended("next", SILENT_NS + 1) == Use(SILENT_NS + 1, {"last": 2})
    assert use.noted("last", 2).ended("next", 3 * SILENT_NS) == Use(3 * SILENT_NS, {})


def test_users_of_a_definition_are_bounded() -> None:
    """Processes that are killed again and again, each under a name of its own: the last are kept."""
    use = Use()
    for number in range(USERS_MAX + 5):
        use = use.noted(str(number), number)
    assert list(use.users) == [str(number) for number in range(5, USERS_MAX + 5)]
    assert use.until_ns == USERS_MAX + 4


def test_use_that_cannot_be_read_is_noted_anew() -> None:
    """As of a version of before: it is as if the definition was never used."""
    writer = MemoryWriter({use_key("Activity", schema_name(OLD.schema_id)): b"17"})
    assert read_use(writer.get, "Activity", schema_name(OLD.schema_id)) == Use()
    note_use(OLD, writer, "one", 3)
    assert read_use(writer.get, "Activity", schema_name(OLD.schema_id)) == Use(3, {"one": 3})


@pytest.mark.parametrize("refuse", [True, False])
def test_start_that_is_refused_registers_nothing(
    pipeline: Pipeline, writer: StoreWriter, redis_server: RedisServer, refuse: bool
) -> None:
    """Nor is a use noted of any view: who serves asks for its history first. Others register it, and cut there."""
    first, last = (view.spec for view in (stream_views(pipeline)[0], stream_views(pipeline)[-1]))
    other = ViewRecord(source=f"stream {last.stream.name!r} by {last.key!r}", place="", pipelines=("before",),
                       schemas={"0000000a": SchemaRecord(entity="terminal", text="before", is_whole=True)})  # fmt: skip
    stored = msgspec.json.encode(other)
    writer.exchange([(catalogue_key(last.name), stored)], ())
    if refuse:
        with pytest.raises(StoreError, match="lacks its history; whole is before"):
            Routes([pipeline], lambda _: redis_server.url, MonotonicClock(), refuse=True)
    else:
        Routes([pipeline], lambda _: redis_server.url, MonotonicClock()).close()
    assert (writer.get(catalogue_key(last.name)) == stored) is refuse
    assert (read_record(writer.get, first.name) is None) is refuse
    assert any(uses(pipeline, writer).values()) is not refuse


def test_definition_lacks_what_came_between_its_history_and_its_first_use() -> None:
    """By the newest event; none came where the changed server follows at once. Without its history it is not served."""
    writer = MemoryWriter({})
    whole(OLD, writer, 1_000)
    note_use(OLD, writer, "old", 5_000 * S)
    register(NEW, ["pay"], writer, 0)
    assert lapse(NEW, writer, 6_000 * S) is None
    whole(NEW, writer, 1_000)
    assert lapse(NEW, writer, 6_000 * S) is None
    whole(NEW, writer, 1_500)
    assert lapse(NEW, writer, 6_000 * S) == ("Activity", 1_001 * S, 1_500 * S)
    note_use(NEW, writer, "new", 5_000 * S)
    assert lapse(NEW, writer, 5_010 * S) is None


def test_lapses_are_told_in_one_form() -> None:
    """The view, from when to when, and what next."""
    told: list[tuple[str, dict[str, str]]] = []
    tell_lapses([Lapse("Activity", 0, 60 * S)], lambda what, **more: told.append((what, more)))
    ((what, more),) = told
    assert what == LAPSED
    assert (more["view"], more["span"]) == ("Activity", "1970-01-01T00:00:00+00:00 to 1970-01-01T00:01:00+00:00")
    assert "next" in more


def test_command_says_which_events_a_view_lacks(pipeline: Pipeline, pipelines_dir: Path, tmp_path: Path) -> None:
    """Where another definition was counted since the last run; the warning is no part of the report."""
    store = f"lmdb:{tmp_path / 'store'}"
    Routes([pipeline], lambda _: store, MonotonicClock()).close()
    with closing(open_writer(store)) as writer:
        record = read_record(writer.get, "CustomerActivity")
        assert record is not None
        schemas = record.schemas | {"0000000a": SchemaRecord(entity="customer")}
        changed = msgspec.structs.replace(record, schemas=schemas)
        other = Use(MonotonicClock().wall_ns())
        writer.exchange([(catalogue_key("CustomerActivity"), msgspec.json.encode(changed)),
                         (use_key("CustomerActivity", "0000000a"), msgspec.json.encode(other))], ())  # fmt: skip
    (tmp_path / "events.jsonl").touch()
    with ingesting(pipelines_dir, store, str(tmp_path / "events.jsonl")) as process:
        report, errors = process.communicate(timeout=60)
    assert json.loads(report)["counted"] == 0
    (warning,) = errors.decode().splitlines()
    assert warning.startswith(f"warning: {LAPSED}: CustomerActivity, ")
