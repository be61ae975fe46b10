"""Hops on real stores: one round trip each, each key once; a store that stops between them; caches and breakers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

import pytest
import uvloop
from redis_server import RedisServer

import tailrace as tr
from tailrace.batch import Batch, Degraded, Provenance
from tailrace.compile.compiler import compile_plan
from tailrace.compile.samples import Samples
from tailrace.deadline import NS_PER_MS, NS_PER_S, MonotonicClock
from tailrace.engine import answer
from tailrace.features.cache import CacheLimits
from tailrace.features.hops import DistinctFetch
from tailrace.features.late import LateError
from tailrace.features.stores.opening import open_store, open_writer
from tailrace.pipeline import Pipeline
from tailrace.plan import Plan

ITEMS = 40
BUDGET_MS = 60
NOISE_MS = 250
"""How late a batch may be on a machine that does something else, too."""
LIMITS = CacheLimits(bytes_max=1 << 20, ttl_ns=3_600 * NS_PER_S, stale_ns=60 * NS_PER_S)
FRESH, DEFAULT, TIMEOUT = Provenance.FRESH, Provenance.DEFAULT, Provenance.TIMEOUT


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield a runner on the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture
def ranked(pipeline_of: Callable[[str], Pipeline]) -> Pipeline:
    """Return the ranking, with a budget that a store can miss."""
    return replace(pipeline_of("derived_ranked"), budget=tr.Budget("500ms", features=f"{BUDGET_MS}ms"))


def fill(pipeline: Pipeline, url: str) -> None:
    """Write items of four categories, of which one is unknown, and what depends on them."""
    rows: dict[str, dict[Any, dict[str, Any]]] = {
        "User": {"ann": {"region": "n"}},
        "RankedItem": {item: {"category_id": item % 4} for item in range(ITEMS)},
        "RankedCategory": {n: {"margin": 10.0 + n} for n in range(3)},
        "UserCategory": {f'"ann",{n}': {"liking": 20.0 + n} for n in range(4)},
        "Region": {"n": {"tax": 30.0}},
        "RegionCategory": {f'"n",{n}': {"local": 40.0 + n} for n in range(4)},
    }
    now_ns = time.time_ns()
    with closing(open_writer(url)) as writer:
        for view in pipeline.views:
            codec: Any = view.spec.codec()
            own = rows[view.__name__]
            columns = {name: [each[name] for each in own.values()] for name in next(iter(own.values()))}
            packed = codec.pack(list(own), columns, now_ns, now_ns)
            writer.exchange(list(zip(codec.keys(list(own)), packed, strict=True)), ())


@asynccontextmanager
async def served(pipeline: Pipeline, url: str) -> AsyncIterator[Plan]:
    """Yield a plan of the pipeline on a store that is filled."""
    fill(pipeline, url)
    clock = MonotonicClock()
    plan = compile_plan(pipeline, open_store(url, clock), clock=clock)
    await plan.open()
    try:
        end_s = time.monotonic() + 5
        while (await ask(plan, items=[0])).degraded is not None:  # the connection is made
            assert time.monotonic() < end_s
            await asyncio.sleep(0.01)
        yield plan
    finally:
        plan.close()
        await asyncio.sleep(0)


async def ask(plan: Plan, items: list[int] | None = None, user: str = "ann") -> Batch:
    """Return the batch of one request after its five layers."""
    request = plan.pipeline.request(user_id=user, item_ids=list(range(ITEMS)) if items is None else items)
    now_ns = time.monotonic_ns()
    batch = Samples(plan).batch([request], now_ns, now_ns + plan.budget.total_ns)
    batch.suspends = plan.suspends(batch.calls[0].rows)
    await answer(plan, batch, time.monotonic_ns)
    return batch


def column(plan: Plan, batch: Batch, view: str, name: str) -> list[Any]:
    """Return a column of a view over the rows of a batch."""
    place = [each.__name__ for each in plan.pipeline.views].index(view)
    found: list[Any] = getattr(batch.views[place], name).tolist()
    return found


def provenances(plan: Plan, batch: Batch) -> dict[str, set[int]]:
    """Return which provenances the rows of each view have."""
    pairs = zip(plan.pipeline.views, batch.view_rows, strict=True)
    return {view.__name__: set(rows.provenance.tolist()) for view, rows in pairs}


def check_values(plan: Plan, batch: Batch) -> None:
    """See that each item has the values of its own category, and an unknown one the default."""
    kinds = [item % 4 for item in range(ITEMS)]
    margins = [10.0 + kind if kind < 3 else -1.0 for kind in kinds]
    assert column(plan, batch, "RankedCategory", "margin") == margins
    assert column(plan, batch, "UserCategory", "liking") == [20.0 + kind for kind in kinds]
    assert column(plan, batch, "RegionCategory", "local") == [40.0 + kind for kind in kinds]
    assert column(plan, batch, "Region", "tax") == [30.0] * ITEMS


def test_hops_on_lmdb_never_suspend(ranked: Pipeline, tmp_path: Any, runner: asyncio.Runner) -> None:
    """All hops of a batch are read where it runs; the values are each row's own."""

    async def scenario() -> None:
        async with served(ranked, f"lmdb:{tmp_path / 'store'}") as plan:
            assert not plan.features.suspends
            run = ask(plan)
            with pytest.raises(StopIteration) as done:
                run.send(None)
            check_values(plan, done.value.value)

    runner.run(scenario())


def test_hops_on_redis_are_a_round_trip_each_and_read_each_key_once(
    ranked: Pipeline, redis_server: RedisServer, runner: asyncio.Runner
) -> None:
    """By Redis's own count: two for two hops; of 40 items of four categories 41 keys, then four of each view."""

    async def scenario() -> None:
        async with served(ranked, redis_server.url) as plan:
            redis_server.ask("CONFIG", "RESETSTAT")
            check_values(plan, await ask(plan))
            calls = redis_server.ask("INFO", "commandstats")["cmdstat_mget"]["calls"]
            stats = redis_server.ask("INFO", "stats")
            assert calls == len(plan.features.retrievals) == 2
            first, second = 1 + ITEMS, 1 + 3 * 4
            assert (stats["keyspace_hits"], stats["keyspace_misses"]) == (first + second - 1, 1)

    runner.run(scenario())


def test_request_without_keys_costs_redis_one_round_trip(
    ranked: Pipeline, redis_server: RedisServer, runner: asyncio.Runner
) -> None:
    """Nothing is asked for an unknown user and unknown items: no entity that a default would name."""

    async def scenario() -> None:
        async with served(ranked, redis_server.url) as plan:
            redis_server.ask("CONFIG", "RESETSTAT")
            batch = await ask(plan, [1_000, 1_001], user="nobody")
            assert set.union(*provenances(plan, batch).values()) == {DEFAULT}
            assert batch.degraded is None
            assert redis_server.ask("INFO", "commandstats")["cmdstat_mget"]["calls"] == 1

    runner.run(scenario())


def test_store_that_stops_between_hops_costs_the_later_ones_alone(
    ranked: Pipeline, redis_server: RedisServer, runner: asyncio.Runner
) -> None:
    """Within the one budget of all hops: the first one's values stand, the others are defaults that say why."""

    async def scenario() -> None:
        async with served(ranked, redis_server.url) as plan:
            plan.features.retrieval.observe_fetch = lambda took_ns, is_late: redis_server.pause()
            began_s = time.monotonic()
            try:
                batch = await ask(plan)
            finally:
                redis_server.resume()
            assert (time.monotonic() - began_s) * 1e3 < BUDGET_MS + NOISE_MS
            told = provenances(plan, batch)
            assert (told.pop("User"), told.pop("RankedItem")) == ({FRESH}, {FRESH})
            assert set.union(*told.values()) == {TIMEOUT}
            assert batch.degraded is not None
            assert set(batch.degraded.tolist()) == {int(Degraded.STORE_TIMEOUT)}
            assert column(plan, batch, "UserCategory", "liking") == [0.5] * ITEMS
            plan.features.retrieval.observe_fetch = lambda took_ns, is_late: None
            check_values(plan, await until_fresh(plan))

    runner.run(scenario())


def test_hop_behind_a_late_one_asks_redis_for_nothing(
    ranked: Pipeline, redis_server: RedisServer, runner: asyncio.Runner
) -> None:
    """By Redis's own count: what the first hop has read stands; the second answers the timeout, and takes no probe."""

    async def scenario() -> None:
        async with served(ranked, redis_server.url) as plan:
            first, breaker = plan.features.retrieval, plan.features.retrieval.breaker
            assert breaker is not None
            asked: list[bool] = []
            breaker.allows = lambda: asked.append(True) or True  # type: ignore[method-assign, func-returns-value]
            first.observe_fetch = lambda took_ns, is_late: time.sleep(2 * BUDGET_MS / 1e3)  # between the hops
            redis_server.ask("CONFIG", "RESETSTAT")
            batch = await ask(plan)
            assert redis_server.ask("INFO", "commandstats")["cmdstat_mget"]["calls"] == len(asked) == 1
            told = provenances(plan, batch)
            assert (told.pop("User"), told.pop("RankedItem")) == ({FRESH}, {FRESH})
            assert set.union(*told.values()) == {TIMEOUT}
            assert batch.degraded is not None
            assert set(batch.degraded.tolist()) == {int(Degraded.STORE_TIMEOUT)}

    runner.run(scenario())


async def until_fresh(plan: Plan) -> Batch:
    """Return the first batch that is not degraded."""
    end_s = time.monotonic() + 10
    while (batch := await ask(plan)).degraded is not None:
        assert time.monotonic() < end_s
        await asyncio.sleep(0.01)
    return batch


def test_store_that_is_stopped_times_out_every_hop_once(
    ranked: Pipeline, redis_server: RedisServer, runner: asyncio.Runner
) -> None:
    """A key that could not be read in time is a timeout of what depends on it, for which no further time is spent.

    The breaker is one for all hops: it opens as for one, and leaves the store alone in each.
    """

    async def scenario() -> None:
        async with served(ranked, redis_server.url) as plan:
            redis_server.pause()
            try:
                for _ in range(4):
                    began_s = time.monotonic()
                    batch = await ask(plan)
                    assert (time.monotonic() - began_s) * 1e3 < BUDGET_MS + NOISE_MS
                    assert set.union(*provenances(plan, batch).values()) == {TIMEOUT}
                breakers = {id(each.breaker) for each in plan.features.retrievals}
                assert len(breakers) == 1
                breaker = plan.features.retrieval.breaker
                assert breaker is not None
                assert breaker.is_open
                assert {str(each.failure) for each in plan.features.retrievals} == {"Redis did not answer in time"}
            finally:
                redis_server.resume()
            check_values(plan, await until_fresh(plan))

    runner.run(scenario())


def test_hops_share_one_cache(ranked: Pipeline, redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """What was read is in memory, of every hop: the next batch asks Redis for nothing, and suspends nowhere."""

    async def scenario() -> None:
        async with served(ranked, redis_server.url) as plan:
            plan.features.keep_rows(LIMITS)
            redis_server.ask("CONFIG", "RESETSTAT")
            check_values(plan, await ask(plan))
            assert redis_server.ask("INFO", "commandstats")["cmdstat_mget"]["calls"] == 2
            run = ask(plan)
            with pytest.raises(StopIteration) as done:
                run.send(None)
            check_values(plan, done.value.value)
            assert redis_server.ask("INFO", "commandstats")["cmdstat_mget"]["calls"] == 2
            caches = {id(each.cache) for each in plan.features.retrievals}  # type: ignore[attr-defined]
            assert len(caches) == 1
            redis_server.pause()
            try:
                check_values(plan, await ask(plan))
                await ask(plan, [5])
            finally:
                redis_server.resume()

    runner.run(scenario())


@pytest.mark.parametrize("read", [0, 1, 2, 3])
def test_keys_that_a_late_store_had_read_are_given_once_each(read: int) -> None:
    """Of keys that stand twice, those up to the first that was not read; the others are late."""
    keys, distinct = [b"a", b"b", b"a", b"c", b"b"], [b"a", b"b", b"c"]

    async def late(asked: Any, deadline_ns: int) -> list[bytes | None]:
        assert asked == distinct
        raise LateError("late", [key.upper() for key in distinct[:read]], is_cold=True)

    with pytest.raises(LateError) as caught:
        asyncio.run(DistinctFetch(late).fetch(keys, NS_PER_MS))
    expected = [[], [b"A"], [b"A", b"B", b"A"], [b"A", b"B", b"A", b"C", b"B"]]
    assert (caught.value.rows, caught.value.is_cold) == (expected[read], True)
