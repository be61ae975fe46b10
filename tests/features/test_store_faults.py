"""Faults of the network and of Redis itself, made for real: every batch is answered in time, and says from where.

The breaker is open within two seconds of a fault under which nothing is answered, and closed within ten of its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
import uvloop
from fault_proxy import FaultProxy
from redis_server import RedisServer
from view_samples import WALL_NS, Profile, profile_rows

from tailrace.batch import Degraded, Provenance
from tailrace.breaker import Breaker
from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.cache import CacheLimits
from tailrace.features.cached_retrieval import CachedRetrieval
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.stores.redis import RedisStore
from tailrace.features.stores.redis_writer import RedisWriter
from tailrace.features.view_rows import ViewRows

IDS = list(range(40, 60))
UNKNOWN = 99
BUDGET_MS = 15
OPEN_S_MAX = 2.0
CLOSED_S_MAX = 10.0
NOISE_MS = 250
"""How late a batch may be on a machine that does something else, too: far less than a fault lasts."""

KINDS = ["plain", "cached"]
SILENT = [Provenance.TIMEOUT, Provenance.STALE]


class FrozenWallClock(MonotonicClock):
    """The machine's clock, at the wall time of the sample rows."""

    @staticmethod
    def wall_ns() -> int:  # type: ignore[override]
        """Return the sample rows' time."""
        return WALL_NS


class Reader:
    """Reads as the features layer does, and holds each batch to its budget and its entities' own values."""

    def __init__(self, retrieval: Retrieval) -> None:
        assert retrieval.breaker is not None
        self.retrieval = retrieval
        self.budget_ms = BUDGET_MS
        self.breaker: Breaker = retrieval.breaker
        self.took_ms: list[float] = []

    async def read(self) -> ViewRows:
        """Return a batch's rows: each fresh or stale with its own values, or a default that says why."""
        began_s = time.monotonic()
        (rows,) = await self.retrieval.read([[*IDS, UNKNOWN]], time.monotonic_ns() + self.budget_ms * NS_PER_MS)
        self.took_ms.append((time.monotonic() - began_s) * 1e3)
        assert self.took_ms[-1] < self.budget_ms + NOISE_MS
        degraded = [0] * len(rows) if rows.degraded is None else rows.degraded.tolist()
        counts = rows.column("count").tolist()
        for place, (count, provenance, why) in enumerate(zip(counts, rows.provenance.tolist(), degraded, strict=True)):
            failed = bool(why & (Degraded.STORE_TIMEOUT | Degraded.STORE_ERROR))
            match provenance:
                case Provenance.FRESH:
                    assert (count, failed) == (place, False)
                case Provenance.STALE:
                    assert (count, failed, bool(why & Degraded.STALE_FEATURES)) == (place, True, True)
                case Provenance.DEFAULT:
                    assert (count, failed) == (-1, False)
                case _:
                    assert (count, failed) == (-1, True)
        return rows

    async def until(self, condition: Callable[[ViewRows], bool], limit_s: float) -> float:
        """Read, some hundred times a second, until a batch meets a condition; return how long that took."""
        began_s = time.monotonic()
        while not condition(await self.read()):
            assert time.monotonic() - began_s < limit_s, f"not within {limit_s} s"
            await asyncio.sleep(0.002)
        return time.monotonic() - began_s


def is_fresh(rows: ViewRows) -> bool:
    """Say whether all known rows are fresh."""
    return rows.provenance.tolist() == [Provenance.FRESH] * len(IDS) + [Provenance.DEFAULT]


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield a runner on the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultProxy]:
    """Yield a proxy before a Redis that holds the sample rows."""
    fill(redis_server)
    proxy = FaultProxy(redis_server.port)
    try:
        yield proxy
    finally:
        proxy.close()


def fill(server: RedisServer) -> None:
    """Write the sample rows."""
    writer = RedisWriter(server.url)
    writer.exchange(profile_rows(IDS).items(), ())
    writer.close()


@asynccontextmanager
async def reading(url: str, kind: str) -> AsyncIterator[Reader]:
    """Yield a reader whose first batch was fresh. cached: by a cache whose rows are soon too old to be served so."""
    clock = FrozenWallClock()
    store = RedisStore(url, clock)
    await store.open()
    retrieval = Retrieval([RowCodec(Profile.spec)], store, clock, fair_ns=BUDGET_MS * NS_PER_MS // 2)
    if kind == "cached":
        retrieval = CachedRetrieval(
            retrieval, CacheLimits(bytes_max=1 << 20, ttl_ns=50 * NS_PER_MS, stale_ns=60_000 * NS_PER_MS)
        )
    reader = Reader(retrieval)
    try:
        await reader.until(is_fresh, 5)
        yield reader
    finally:
        store.close()
        await asyncio.sleep(0)


Fault = tuple[Callable[[FaultProxy, RedisServer], Any], Callable[[FaultProxy, RedisServer], Any]]
FAULTS: dict[str, Fault] = {
    "slower than the budget": (lambda proxy, _: proxy.delay(0.06), lambda proxy, _: proxy.heal()),
    "held back": (lambda proxy, _: proxy.stop(), lambda proxy, _: proxy.heal()),
    "reset": (lambda proxy, _: proxy.reset(), lambda proxy, _: proxy.heal()),
    "black hole": (lambda proxy, _: proxy.black_hole(), lambda proxy, _: proxy.heal()),
    "stopped": (lambda _, server: server.pause(), lambda _, server: server.resume()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_opens_the_breaker_and_its_end_closes_it(
    proxy: FaultProxy, redis_server: RedisServer, runner: asyncio.Runner, fault: str, kind: str
) -> None:
    """While it lasts every batch is answered in time, from the cache or by defaults; then fresh values are back."""
    begin, end = FAULTS[fault]

    async def scenario() -> None:
        async with reading(proxy.url, kind) as reader:
            begin(proxy, redis_server)
            try:
                await reader.until(lambda rows: reader.breaker.is_open, OPEN_S_MAX)
                fallback = Provenance.STALE if kind == "cached" else Provenance.TIMEOUT
                await reader.until(lambda rows: rows.provenance[0] == fallback, 1)
                reader.took_ms.clear()
                for _ in range(100):
                    await reader.read()
                assert sorted(reader.took_ms)[50] < BUDGET_MS / 2  # left alone, it costs no wait
            finally:
                end(proxy, redis_server)
            await reader.until(lambda rows: is_fresh(rows) and not reader.breaker.is_open, CLOSED_S_MAX)

    runner.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_store_that_flaps_is_used_while_it_answers(proxy: FaultProxy, runner: asyncio.Runner, kind: str) -> None:
    """Stopped and back at 1 Hz: every batch is answered in time, fresh ones come again and again, and then for good."""

    async def scenario() -> None:
        async with reading(proxy.url, kind) as reader:
            proxy.flap()
            for _ in range(2):
                await reader.until(lambda rows: rows.provenance[0] in SILENT, OPEN_S_MAX)
                await reader.until(is_fresh, OPEN_S_MAX)
            proxy.heal()
            await reader.until(lambda rows: is_fresh(rows) and not reader.breaker.is_open, CLOSED_S_MAX)
            for _ in range(20):
                assert is_fresh(await reader.read())

    runner.run(scenario())


def test_store_answering_in_single_bytes_is_served(proxy: FaultProxy, runner: asyncio.Runner) -> None:
    """However a reply is cut, its values are the right ones."""

    async def scenario() -> None:
        async with reading(proxy.url, "plain") as reader:
            proxy.pieces(1)
            reader.budget_ms = 5_000  # each byte is a turn of the proxy's loop
            for _ in range(3):
                assert is_fresh(await reader.read())

    runner.run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_store_that_loses_its_data_gives_defaults_that_are_no_failure(
    redis_server: RedisServer, runner: asyncio.Runner, kind: str
) -> None:
    """After FLUSHALL entities are unknown, in a cache once its rows are too old; filled again, they are fresh."""
    fill(redis_server)

    async def scenario() -> None:
        async with reading(redis_server.url, kind) as reader:
            with redis.Redis.from_url(redis_server.url) as client:
                await asyncio.to_thread(client.flushall)
            await reader.until(lambda rows: set(rows.provenance.tolist()) == {Provenance.DEFAULT}, 1)
            assert not reader.breaker.is_open
            await asyncio.to_thread(fill, redis_server)
            await reader.until(is_fresh, 1)

    runner.run(scenario())


def test_store_that_refuses_writes_is_read_on(redis_server: RedisServer, runner: asyncio.Runner) -> None:
    """A Redis that is full tells who writes, and serves what it has: no batch notices."""
    fill(redis_server)

    async def scenario() -> None:
        async with reading(redis_server.url, "plain") as reader:
            with redis.Redis.from_url(redis_server.url) as client:
                await asyncio.to_thread(client.config_set, "maxmemory", 1)
            with pytest.raises(StoreError, match=r"OOM|maxmemory"):
                await asyncio.to_thread(fill, redis_server)
            for _ in range(20):
                assert is_fresh(await reader.read())

    runner.run(scenario())
