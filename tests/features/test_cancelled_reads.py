"""Reads that are cancelled, or run out of time, whenever that may be: nobody gets another's values.

100 examples of 40 reads in the suite, for each kind; 2,500 among the slow tests, which are 100,000 reads of each kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest
import redis
import uvloop
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis_server import RedisServer
from view_samples import WALL_NS, Profile, profile_rows

from tailrace.batch import Provenance
from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.features.cache import CacheLimits
from tailrace.features.cached_retrieval import CachedRetrieval
from tailrace.features.retrieval import Retrieval
from tailrace.features.rows import RowCodec
from tailrace.features.stores.redis import RedisStore
from tailrace.features.stores.redis_link import OUTSTANDING_MAX
from tailrace.features.stores.redis_writer import RedisWriter

ENTITIES = 50
READS = 40
LONG_MS = 5_000.0


class FrozenWallClock(MonotonicClock):
    """The machine's clock, at the wall time of the sample rows."""

    @staticmethod
    def wall_ns() -> int:  # type: ignore[override]
        """Return the sample rows' time."""
        return WALL_NS


class Reads:
    """A store of one connection to Redis, read by many at once that lose patience."""

    def __init__(self, url: str, *, cached: bool) -> None:
        self._clock = FrozenWallClock()
        self.store = RedisStore(url, self._clock)
        self.retrieval = Retrieval([RowCodec(Profile.spec)], self.store, self._clock, fair_ns=20_000 * NS_PER_MS)
        if cached:
            limits = CacheLimits(bytes_max=10_000, ttl_ns=1 * NS_PER_MS, stale_ns=0)
            self.retrieval = CachedRetrieval(self.retrieval, limits)

    async def run(self, random: Random) -> None:
        """Begin reads, cancel some of them after some turns of the loop, and hold the others to their entities."""
        tasks: list[asyncio.Task[bool]] = []
        turns: dict[int, list[asyncio.Task[bool]]] = {}
        for turn in range(READS):
            ids = [random.randrange(ENTITIES) for _ in range(random.choice((1, 1, 2, 30)))]
            task = asyncio.ensure_future(self._read(ids, random.choice((LONG_MS, LONG_MS, 0.05, 0.5, 3.0))))
            tasks.append(task)
            if random.random() < 0.5:
                turns.setdefault(turn + random.randrange(12), []).append(task)
            for due in turns.pop(turn, ()):
                due.cancel()
            if random.random() < 0.7:
                await asyncio.sleep(0)
        for due in [task for rest in turns.values() for task in rest]:
            due.cancel()
            await asyncio.sleep(0)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [each for each in found if isinstance(each, Exception)]  # a cancellation is none

    async def _read(self, ids: list[int], patience_ms: float) -> bool:
        """Read some entities; return whether they were read in time, each with its own values if so."""
        deadline_ns = self._clock.now_ns() + int(patience_ms * NS_PER_MS)
        (rows,) = await self.retrieval.read([ids], deadline_ns)
        if rows.noted is None:
            assert rows.column("count").tolist() == ids
            assert rows.errors == 0
            return True
        for count, entity, provenance in zip(rows.column("count"), ids, rows.provenance, strict=True):
            assert (count, provenance) in {(entity, Provenance.FRESH), (-1, Provenance.TIMEOUT)}
        assert patience_ms < LONG_MS
        return False


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield a runner on the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


MANY = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.hypothesis  # make fuzz asks for these
@pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])
@pytest.mark.parametrize("more", [{}, pytest.param({"max_examples": 2_500}, marks=MANY)], ids=["some", "many"])
def test_cancelled_reads_never_give_another_entitys_values(
    redis_server: RedisServer, runner: asyncio.Runner, cached: bool, more: dict[str, int]
) -> None:
    """Whatever is cancelled or late, each read has its own entities' values, and one connection serves them all."""
    writer = RedisWriter(redis_server.url)
    writer.exchange(profile_rows(list(range(ENTITIES))).items(), ())
    writer.close()
    assert READS < OUTSTANDING_MAX
    reads = Reads(redis_server.url, cached=cached)
    runner.run(reads.store.open())
    try:
        with redis.Redis.from_url(redis_server.url) as client:
            before = connections(client)

            @settings(deadline=None, phases=[Phase.generate], **more)  # a seed cannot be made simpler
            @given(st.integers(0, 1 << 62))
            def cancel_at_random(seed: int) -> None:
                runner.run(reads.run(Random(seed)))

            cancel_at_random()
            assert connections(client) == before
    finally:
        runner.run(close(reads.store))  # a loop of uvloop waits for what is open


def connections(client: redis.Redis) -> tuple[int, int]:
    """Return how many connections Redis has, and has had, this one included."""
    return client.info("clients")["connected_clients"], client.info("stats")["total_connections_received"]


async def close(store: RedisStore) -> None:
    """Close a store within its loop."""
    store.close()
    await asyncio.sleep(0)
