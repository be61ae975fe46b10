"""Retrieval through the hot cache: what costs a wait, what costs a read, and what answers for a store that fails."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from datetime import datetime

import pytest
import redis
from redis_server import RedisServer
from view_samples import DAY_NS, WALL_NS, Address, Profile, address_rows, profile_rows, run_now

import tailrace as tr
from tailrace.batch import Degraded, Provenance
from tailrace.compile.compiler import compile_plan
from tailrace.deadline import FEATURES, NS_PER_MS, NS_PER_S, Budget, LayerLimit, MonotonicClock
from tailrace.features.cache import CacheLimits
from tailrace.features.cached_retrieval import CachedRetrieval, ttl_ns_of
from tailrace.features.flights import FLIGHT_SLACK_NS, FLIGHTS_MAX, REFRESHES_MAX
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.step import FeaturesStep
from tailrace.features.stores.memory import MemoryStore
from tailrace.features.stores.redis import RedisStore
from tailrace.features.stores.redis_writer import RedisWriter
from tailrace.features.view_spec import ViewCodec
from tailrace.pipeline import Pipeline
from tailrace.testing import ManualClock

LIMITS = CacheLimits(bytes_max=1 << 22, ttl_ns=10 * NS_PER_S, stale_ns=60 * NS_PER_S)
STALE = Degraded.STALE_FEATURES
TIMEOUT = Degraded.STORE_TIMEOUT
LONG_MS = 60_000


class Payment(tr.Request):
    """An event."""

    transaction_id: int
    customer_id: int
    time: datetime


class Activity(tr.StreamFeatureView):
    """What a customer did: nothing older than the last event may be served."""

    entity = tr.Entity("customer", key="customer_id")
    stream = tr.Stream("payments", schema=Payment, time="time", id="transaction_id")
    count_1h: int = tr.count(window="1h")


class PatientActivity(Activity):
    """The same, served up to two seconds late."""

    max_staleness = "2s"


class GatedStore(MemoryStore):
    """A network store in this process: it reads at once, notes that, and answers, or fails, when its gate is open."""

    network = True  # type: ignore[misc]

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        super().__init__(rows)
        self.fetched: list[list[bytes]] = []
        self.deadlines_ns: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Return what is there, once the gate is open that was there then."""
        self.fetched.append(list(keys))
        self.deadlines_ns.append(deadline_ns)
        found, gate = await super().fetch(keys, deadline_ns), self.gate
        await gate.wait()
        if self.failure is not None:
            raise copy(self.failure)
        return found


class Bench:
    """A cached retrieval of some views on a gated store, and a clock moved by hand."""

    def __init__(self, *views: type[tr.BatchFeatureView | tr.StreamFeatureView], limits: CacheLimits = LIMITS) -> None:
        self.clock = ManualClock(wall_ns=WALL_NS)
        self.store = GatedStore(profile_rows([1, 2, 3]) | address_rows(["x", "y"]))
        codecs: list[ViewCodec] = [view.spec.codec() for view in views or (Profile,)]
        self.retrieval = CachedRetrieval(Retrieval(codecs, self.store, self.clock), limits)

    def read(self, *ids: list[int] | list[str], wait_ms: float = LONG_MS):  # type: ignore[no-untyped-def]
        """Return a read to be awaited."""
        return self.retrieval.read(ids, self.clock.now_ns() + int(wait_ms * NS_PER_MS))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield a runner."""
    with asyncio.Runner() as runner:
        yield runner


async def settle() -> None:
    """Let what is under way in this loop come to its end."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_cache_hit_costs_no_await_and_no_read(runner: asyncio.Runner) -> None:
    """A batch whose rows are all kept does not suspend, whatever its order and its repetitions."""

    async def scenario() -> None:
        bench = Bench(Profile, Address)
        await bench.read([1, 2, 3], ["x", "y"])
        profile, address = run_now(bench.read([3, 1, 1], ["y"]))
        assert profile.column("count").tolist() == [2, 0, 0]
        assert address.column("country").tolist() == ["country of y"]
        assert profile.noted is None
        assert len(bench.store.fetched) == 1
        cache = bench.retrieval.cache
        assert (cache.hits, cache.misses) == (4, 5)

    runner.run(scenario())


def test_cache_miss_reads_only_what_is_missing(runner: asyncio.Runner) -> None:
    """Of a batch only the rows that are not there are read, once each and all together."""

    async def scenario() -> None:
        bench = Bench(Profile, Address)
        await bench.read([1], ["x"])
        profile, address = await bench.read([1, 2, 2], ["y", "x"])
        assert profile.column("count").tolist() == [0, 1, 1]
        assert address.column("country").tolist() == ["country of y", "country of x"]
        (profile_codec, address_codec) = bench.retrieval.codecs
        assert bench.store.fetched[1:] == [[*profile_codec.keys([2]), *address_codec.keys(["y"])]]

    runner.run(scenario())


def test_cache_expired_key_under_a_thousand_readers_is_read_once(runner: asyncio.Runner) -> None:
    """A key that has expired costs one read, however many wait for it at once; all get its new row."""

    async def scenario() -> None:
        bench = Bench()
        await bench.read([1])
        bench.clock.advance(10_001)
        bench.store.rows |= profile_rows([0, 1])
        found = await asyncio.gather(*(bench.read([1]) for _ in range(1_000)))
        assert {rows.column("count").tolist()[0] for (rows,) in found} == {1}
        assert len(bench.store.fetched) == 2

    runner.run(scenario())


def test_cache_serves_while_it_reads_anew(runner: asyncio.Runner) -> None:
    """Before a row expires it is served without a wait, and read behind that, once; then the new one is served."""

    async def scenario() -> None:
        bench = Bench()
        await bench.read([1])
        bench.clock.advance(8_000)
        bench.store.rows |= profile_rows([0, 1])
        for _ in range(3):
            (rows,) = run_now(bench.read([1]))
            assert rows.column("count").tolist() == [0]
            assert rows.noted is None
        await settle()
        (rows,) = run_now(bench.read([1]))
        assert rows.column("count").tolist() == [1]
        assert len(bench.store.fetched) == 2

    runner.run(scenario())


def test_cache_keeps_that_an_entity_is_unknown(runner: asyncio.Runner) -> None:
    """An unknown entity is a default without another read, until its time is over; then a row that came is found."""

    async def scenario() -> None:
        bench = Bench()
        await bench.read([9])
        (rows,) = run_now(bench.read([9]))
        assert rows.provenance.tolist() == [Provenance.DEFAULT]
        assert rows.degraded is None
        bench.store.rows |= profile_rows([9])
        bench.clock.advance(10_001)
        (rows,) = await bench.read([9])
        assert rows.provenance.tolist() == [Provenance.FRESH]

    runner.run(scenario())


def test_cache_leaves_the_age_of_a_row_to_its_view(runner: asyncio.Runner) -> None:
    """A row is kept as it is stored, so that it grows stale in the cache at the same moment as in the store."""

    async def scenario() -> None:
        bench = Bench()
        bench.store.rows |= profile_rows([1], WALL_NS - DAY_NS + 2 * NS_PER_S)
        await bench.read([1])
        bench.clock.advance(1_999)
        assert run_now(bench.read([1]))[0].noted is None
        bench.clock.advance(2)
        (rows,) = run_now(bench.read([1]))
        assert rows.provenance.tolist() == [Provenance.STALE]
        assert rows.degraded is not None
        assert rows.degraded.tolist() == [STALE]
        assert len(bench.store.fetched) == 1

    runner.run(scenario())


def test_cache_keeps_no_stream_view_that_does_not_say_how_stale(runner: asyncio.Runner) -> None:
    """A state is read for each batch, by a read that has begun after it, beside rows that are kept."""

    async def scenario() -> None:
        bench = Bench(Profile, Activity)
        bench.store.gate.clear()
        first = asyncio.ensure_future(bench.read([1], [1]))
        await settle()
        second = asyncio.ensure_future(bench.read([1], [1]))
        await settle()
        bench.store.gate.set()
        await asyncio.gather(first, second)
        await bench.read([1], [1])
        states = bench.retrieval.codecs[1].keys([1])
        assert bench.store.fetched == [[*bench.retrieval.codecs[0].keys([1]), *states], states, states]
        cache = bench.retrieval.cache
        assert (cache.hits, cache.misses, len(cache)) == (1, 2, 1)

    runner.run(scenario())


def test_cache_keeps_a_stream_view_for_its_own_staleness_at_most(runner: asyncio.Runner) -> None:
    """With `max_staleness` a state is kept, and never served when it is older than that."""
    assert ttl_ns_of(Activity.spec, LIMITS) == 0
    assert ttl_ns_of(PatientActivity.spec, LIMITS) == 2 * NS_PER_S
    assert ttl_ns_of(Address.spec, LIMITS) == LIMITS.ttl_ns

    async def scenario() -> None:
        bench = Bench(PatientActivity)
        await bench.read([1])
        run_now(bench.read([1]))
        bench.clock.advance(2_000)
        await bench.read([1])
        assert len(bench.store.fetched) == 2

    runner.run(scenario())


@pytest.mark.parametrize(
    ("failure", "why"),
    [(TimeoutError("late"), Degraded.STORE_TIMEOUT), (ConnectionError("gone"), Degraded.STORE_ERROR)],
)
def test_store_that_fails_gives_stale_rows_then_defaults(
    runner: asyncio.Runner, failure: Exception, why: Degraded
) -> None:
    """Past its time a kept row answers for the store, told as stale and why; one never read, or too old, does not."""

    async def scenario() -> None:
        bench = Bench(Profile, Address)
        await bench.read([1, 2, 9], ["x"])
        bench.clock.advance(10_001)
        bench.store.failure = failure
        profile, address = await bench.read([2, 3, 9, 1], ["x", "y"])
        assert profile.column("count").tolist() == [1, -1, -1, 0]
        assert address.column("country").tolist() == ["country of x", "??"]
        late, stale = Provenance.TIMEOUT, Provenance.STALE
        assert [*profile.provenance.tolist(), *address.provenance.tolist()] == [stale, late, late, stale, stale, late]
        assert profile.degraded is not None
        assert address.degraded is not None
        assert profile.degraded.tolist() == [STALE | why, why, why, STALE | why]
        assert address.degraded.tolist() == [STALE | why, why]
        assert repr(bench.retrieval.failure) == repr(failure)
        bench.clock.advance(60_000)
        profile, _ = await bench.read([1], [])
        assert profile.provenance.tolist() == [late]
        bench.store.failure = None
        bench.clock.advance(1_000)
        profile, _ = await bench.read([1], [])
        assert profile.provenance.tolist() == [Provenance.FRESH]

    runner.run(scenario())


def test_stale_row_that_cannot_be_served_is_a_default(runner: asyncio.Runner) -> None:
    """A kept row of another entity is refused, and is not called stale when the store fails."""

    async def scenario() -> None:
        bench = Bench()
        (codec,) = bench.retrieval.codecs
        (row,) = profile_rows([2]).values()
        bench.store.rows[codec.keys([1])[0]] = row
        await bench.read([1])
        bench.clock.advance(10_001)
        bench.store.failure = ConnectionError("gone")
        (rows,) = await bench.read([1])
        assert rows.column("count").tolist() == [-1]
        assert rows.provenance.tolist() == [Provenance.DEFAULT]
        assert rows.errors == 1

    runner.run(scenario())


def test_answer_too_late_for_one_batch_is_in_time_for_the_next(runner: asyncio.Runner) -> None:
    """A batch waits no longer than its deadline; the read goes on, and its row is there for the batch behind it."""

    async def scenario() -> None:
        bench = Bench()
        bench.store.gate.clear()
        (rows,) = await bench.read([1], wait_ms=5)
        assert bench.store.deadlines_ns == [5 * NS_PER_MS + FLIGHT_SLACK_NS]
        assert rows.provenance.tolist() == [Provenance.TIMEOUT]
        assert rows.degraded is not None
        assert rows.degraded.tolist() == [Degraded.STORE_TIMEOUT]
        bench.store.gate.set()
        await settle()
        (rows,) = run_now(bench.read([1]))
        assert rows.column("count").tolist() == [0]
        assert len(bench.store.fetched) == 1

    runner.run(scenario())


def test_batch_with_time_joins_no_read_of_one_in_a_hurry(runner: asyncio.Runner) -> None:
    """A read that will be given up before a batch must be answered is not joined: the batch has one of its own."""

    async def scenario() -> None:
        bench = Bench()
        bench.store.gate.clear()
        hurried = asyncio.ensure_future(bench.read([1], wait_ms=20))
        await settle()
        joining = asyncio.ensure_future(bench.read([1], wait_ms=20))
        patient = asyncio.ensure_future(bench.read([1], wait_ms=1_000))
        await settle()
        assert len(bench.store.fetched) == 2
        bench.store.gate.set()
        for read in (hurried, joining, patient):
            (rows,) = await read
            assert rows.column("count").tolist() == [0]
        await settle()
        run_now(bench.read([1]))

    runner.run(scenario())


def test_read_that_ends_after_a_later_one_is_not_kept(runner: asyncio.Runner) -> None:
    """Of two reads of a key that overtake each other, the row of the one that began last is kept."""

    async def scenario() -> None:
        bench = Bench()
        bench.store.gate.clear()
        first, first_gate = asyncio.ensure_future(bench.read([1], wait_ms=20)), bench.store.gate
        await settle()
        bench.store.gate = asyncio.Event()
        bench.store.gate.set()
        bench.store.rows |= profile_rows([0, 1])
        (rows,) = await bench.read([1])
        assert rows.column("count").tolist() == [1]
        first_gate.set()
        await first
        (rows,) = run_now(bench.read([1]))
        assert rows.column("count").tolist() == [1]

    runner.run(scenario())


def test_batch_that_is_cancelled_costs_the_others_nothing(runner: asyncio.Runner) -> None:
    """The batch that began a read goes away: those that joined it get the row."""

    async def scenario() -> None:
        bench = Bench()
        bench.store.gate.clear()
        first, second = (asyncio.ensure_future(bench.read([1])) for _ in range(2))
        await settle()
        first.cancel()
        await settle()
        bench.store.gate.set()
        (rows,) = await second
        assert rows.column("count").tolist() == [0]
        assert first.cancelled()
        assert len(bench.store.fetched) == 1

    runner.run(scenario())


def test_store_left_alone_costs_no_wait(runner: asyncio.Runner) -> None:
    """While the breaker is open, expired rows are served as stale at once, and nothing is asked."""

    async def scenario() -> None:
        bench = Bench()
        await bench.read([1])
        bench.clock.advance(10_001)
        bench.store.failure = ConnectionError("gone")
        for _ in range(10):
            await bench.read([1])
        breaker = bench.retrieval.breaker
        assert breaker is not None
        assert breaker.is_open
        asked = len(bench.store.fetched)
        (rows,) = run_now(bench.read([1]))
        assert rows.provenance.tolist() == [Provenance.STALE]
        assert len(bench.store.fetched) == asked

    runner.run(scenario())


def test_slow_store_opens_the_breaker(runner: asyncio.Runner) -> None:
    """Answers that come, but later than a batch has time for, are failures: each read counts once."""

    async def scenario() -> None:
        clock = ManualClock(wall_ns=WALL_NS)
        store = GatedStore(profile_rows(list(range(10))))
        retrieval = CachedRetrieval(Retrieval([RowCodec(Profile.spec)], store, clock, fair_ns=5 * NS_PER_MS), LIMITS)
        assert retrieval.breaker is not None
        for number in range(3):
            assert not retrieval.breaker.is_open
            store.gate.clear()
            read = asyncio.ensure_future(retrieval.read([[number]], clock.now_ns() + NS_PER_S))
            await settle()
            clock.advance(11)
            store.gate.set()
            (rows,) = await read
            assert rows.noted is None
        assert retrieval.breaker.is_open
        assert retrieval.breaker.openings == 1

    runner.run(scenario())


def test_reads_under_way_are_bounded(runner: asyncio.Runner) -> None:
    """A store that answers nothing collects a bounded number of reads; more batches get what they would without it."""

    async def scenario() -> None:
        bench = Bench()
        bench.store.gate.clear()
        waiting = [asyncio.ensure_future(bench.read([number])) for number in range(FLIGHTS_MAX + 5)]
        await settle()
        assert len(bench.store.fetched) == FLIGHTS_MAX
        refused = [each.result()[0] for each in waiting if each.done()]
        assert [rows.degraded.tolist() for rows in refused if rows.degraded is not None] == 5 * [[TIMEOUT]]
        bench.store.gate.set()
        await asyncio.gather(*waiting)

    runner.run(scenario())


def test_rows_read_anew_leave_room_for_those_that_are_waited_for(runner: asyncio.Runner) -> None:
    """However many kept rows are due at once: an entity that is not there is read, and the due ones a moment later."""

    async def scenario() -> None:
        bench = Bench()
        for number in range(FLIGHTS_MAX + 5):
            await bench.read([number])
        await settle()
        begun = len(bench.store.fetched)
        bench.clock.advance(8_000)
        bench.store.gate.clear()
        for number in range(FLIGHTS_MAX + 5):
            (rows,) = run_now(bench.read([number]))
            assert rows.degraded is None
        await settle()
        assert len(bench.store.fetched) - begun == REFRESHES_MAX
        new = asyncio.ensure_future(bench.read([FLIGHTS_MAX + 4, 1_000]))  # one to be read anew, one to wait for
        await settle()
        assert len(bench.store.fetched[-1]) == 2
        bench.store.gate.set()
        (rows,) = await new
        assert rows.degraded is None

    runner.run(scenario())


def test_store_that_raises_something_else_keeps_nobody_waiting(runner: asyncio.Runner) -> None:
    """A fault of a store's own ends its read: the batch gets defaults, and the next one reads again."""

    async def scenario() -> None:
        bench = Bench()
        told: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        bench.store.failure = ZeroDivisionError("a fault")
        (rows,) = await bench.read([1])
        assert rows.provenance.tolist() == [Provenance.TIMEOUT]
        assert "ZeroDivisionError" in str(bench.retrieval.failure)
        bench.store.failure = None
        (rows,) = await bench.read([1])
        assert rows.provenance.tolist() == [Provenance.FRESH]

    runner.run(scenario())


@pytest.mark.parametrize("failure", [None, ConnectionError("gone")], ids=["answers", "fails"])
def test_reads_leave_nothing_to_the_collector(runner: asyncio.Runner, failure: Exception | None) -> None:
    """Hits, misses, reads that join and reads that fail make no cyclic garbage: serving does not collect it."""

    async def scenario() -> None:
        bench = Bench(Profile, Address)
        bench.retrieval.breaker = None
        bench.store.failure = failure

        async def read_some() -> None:
            for number in range(10):
                await asyncio.gather(*(bench.read([number % 3, 9], ["x"]) for _ in range(3)))
                bench.clock.advance(4_000)
            await settle()

        await read_some()
        gc.collect()
        gc.disable()
        try:
            await read_some()
            assert gc.collect() == 0
        finally:
            gc.enable()

    runner.run(scenario())


def test_store_that_needs_no_cache_has_none(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Nothing is kept of an embedded store, nor of a network store's views none of which may be kept."""
    clock = ManualClock(wall_ns=WALL_NS)
    embedded = compile_plan(pipeline_of("payment"), MemoryStore({}), clock=clock).features
    limit = LayerLimit(Budget("50ms"), FEATURES, clock)
    streams = FeaturesStep(Retrieval([Activity.spec.codec()], GatedStore({}), clock), [], [], limit)
    for step in (embedded, streams):
        before = step.retrieval
        step.keep_rows(LIMITS)
        assert step.retrieval is before


class FrozenWallClock(MonotonicClock):
    """The machine's clock, at the wall time of the sample rows."""

    @staticmethod
    def wall_ns() -> int:  # type: ignore[override]
        """Return the sample rows' time."""
        return WALL_NS


def test_redis_sees_one_read_of_twenty_where_nineteen_are_kept(
    redis_server: RedisServer, runner: asyncio.Runner
) -> None:
    """By Redis's own count: of 4,000 batches over 200 entities it is asked 200 times, for one key each."""
    ids = list(range(200))
    writer = RedisWriter(redis_server.url)
    writer.exchange(profile_rows(ids).items(), ())
    writer.close()
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_resetstat()

        async def scenario() -> None:
            clock = FrozenWallClock()
            store = RedisStore(redis_server.url, clock)
            await store.open()
            limits = CacheLimits(bytes_max=1 << 22, ttl_ns=3_600 * NS_PER_S, stale_ns=0)
            retrieval = CachedRetrieval(Retrieval([RowCodec(Profile.spec)], store, clock), limits)
            try:
                for number in range(4_000):
                    entity = number % 200
                    (rows,) = await retrieval.read([[entity]], clock.now_ns() + 10 * NS_PER_S)
                    assert rows.column("count").tolist() == [entity]
                assert retrieval.cache.hits == 19 * retrieval.cache.misses
            finally:
                store.close()

        runner.run(scenario())
        assert client.info("commandstats")["cmdstat_mget"]["calls"] == 200
        assert client.info("stats")["keyspace_hits"] == 200


def test_redis_sees_one_read_of_a_key_that_expires_under_a_thousand_readers(
    redis_server: RedisServer, runner: asyncio.Runner
) -> None:
    """By Redis's own count, of readers that come at once when the row that is kept has become too old."""
    writer = RedisWriter(redis_server.url)
    writer.exchange(profile_rows([7]).items(), ())
    writer.close()
    with redis.Redis.from_url(redis_server.url) as client:

        async def scenario() -> None:
            clock = FrozenWallClock()
            store = RedisStore(redis_server.url, clock)
            await store.open()
            limits = CacheLimits(bytes_max=1 << 20, ttl_ns=500 * NS_PER_MS, stale_ns=0)
            retrieval = CachedRetrieval(Retrieval([RowCodec(Profile.spec)], store, clock), limits)
            try:
                await retrieval.read([[7]], clock.now_ns() + 10 * NS_PER_S)
                await asyncio.sleep(0.55)
                client.config_resetstat()
                reads = [retrieval.read([[7]], clock.now_ns() + 10 * NS_PER_S) for _ in range(1_000)]
                found = await asyncio.gather(*reads)
                assert {rows.column("count").tolist()[0] for (rows,) in found} == {0}
            finally:
                store.close()

        runner.run(scenario())
        assert client.info("commandstats")["cmdstat_mget"]["calls"] == 1
