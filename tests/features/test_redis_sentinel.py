"""A real Redis behind sentinels: who is master is asked of them, and a failover is followed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial

import counting
import pytest
import uvloop
from redis_sentinels import SERVICE, RedisSentinels
from redis_server import wait_until

from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.stores.redis import RedisStore
from tailrace.features.stores.redis_writer import RedisWriter
from tailrace.loadtest.processes import free_port

KEYS = [b"{c:%d}V:1" % number for number in range(20)]
ROWS = {key: b"row of " + key for key in KEYS}
FAILOVER_S_MAX = 20.0


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield a runner on the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture
def service(redis_sentinels: RedisSentinels) -> Iterator[RedisSentinels]:
    """Yield a service with `ROWS`, and leave it whole behind."""
    redis_sentinels.empty()
    with closing(RedisWriter(redis_sentinels.url)) as writer:
        writer.exchange(ROWS.items(), ())
    redis_sentinels.master().ask("WAIT", 1, 5_000)
    yield redis_sentinels
    for each in [*redis_sentinels.servers, *redis_sentinels.sentinels]:
        if not each.is_running:
            each.start()
    redis_sentinels.wait_until_whole()


def after_ms(milliseconds: float) -> int:
    """Return a deadline."""
    return time.monotonic_ns() + int(milliseconds * NS_PER_MS)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    """Yield an open store."""
    store = RedisStore(url, MonotonicClock())
    await store.open()
    try:
        yield store
    finally:
        store.close()
        await asyncio.sleep(0)


async def wait_for(store: RedisStore, rows: dict[bytes, bytes], limit_s: float = FAILOVER_S_MAX) -> None:
    """Fetch until these rows come; every fetch ends by its deadline."""
    end_s = time.monotonic() + limit_s
    while True:
        began_s = time.monotonic()
        try:
            if await store.fetch(list(rows), after_ms(50)) == list(rows.values()):
                return
        except (TimeoutError, ConnectionError):
            pass
        assert time.monotonic() - began_s < 1, "a fetch was late"
        assert time.monotonic() < end_s, "not recovered"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["killed", "stopped", "asked to"])
def test_sentinel_failover_is_followed(service: RedisSentinels, runner: asyncio.Runner, fault: str) -> None:
    """Killed, stopped without a word, or asked to step back: the other server is read and written, with all rows."""
    master = service.master()

    async def scenario() -> None:
        async with opened(service.url) as store:
            await wait_for(store, ROWS)
            with closing(RedisWriter(service.url)) as writer:
                counting.count(writer, 1, "a")
                master.ask("WAIT", 1, 5_000)
                if fault == "killed":
                    master.kill()
                elif fault == "stopped":
                    master.pause()
                else:
                    ask = partial(service.sentinels[0].ask, "SENTINEL", "FAILOVER", SERVICE)
                    await asyncio.to_thread(wait_until, ask, "the sentinel does not take it")
                await wait_for_another_master()
                await asyncio.to_thread(counting.count, writer, 1, "a")
                assert [writer.get(key) for key in counting.COUNTERS] == [b"2"] * len(counting.COUNTERS)
                writer.exchange([(b"{c:0}V:1", b"after")], ())
            await wait_for(store, ROWS | {b"{c:0}V:1": b"after"})

    async def wait_for_another_master() -> None:
        end_s = time.monotonic() + FAILOVER_S_MAX
        while await asyncio.to_thread(service.master) is master:
            assert time.monotonic() < end_s, "the sentinels name no other"
            await asyncio.sleep(0.05)

    try:
        runner.run(scenario())
    finally:
        if fault == "stopped":
            master.resume()


def test_sentinel_that_is_gone_is_passed_over(service: RedisSentinels, runner: asyncio.Runner) -> None:
    """Two of three are enough, in whatever order the URL names them."""
    service.sentinels[0].kill()

    async def scenario() -> None:
        async with opened(service.url) as store:
            await wait_for(store, ROWS)

    runner.run(scenario())
    with closing(RedisWriter(service.url)) as writer:
        assert writer.get(KEYS[0]) == ROWS[KEYS[0]]


def test_sentinel_service_that_is_unknown_is_told(service: RedisSentinels, runner: asyncio.Runner) -> None:
    """The reader says why it has no connection, the writer does at once."""
    url = service.url.replace(f"/{SERVICE}/", "/other/")

    async def scenario() -> None:
        async with opened(url) as store:
            with pytest.raises(ConnectionError, match="it knows no such service"):
                await store.fetch(KEYS, after_ms(1_000))

    runner.run(scenario())
    began_s = time.monotonic()
    with pytest.raises(StoreError, match="other"):
        RedisWriter(url)
    assert time.monotonic() - began_s < 10


def test_sentinels_that_are_not_there_fail_at_once(runner: asyncio.Runner) -> None:
    """The store opens all the same, and says where it looked."""
    port = free_port()

    async def scenario() -> None:
        async with opened(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}") as store:
            with pytest.raises(ConnectionError, match=str(port)):
                await store.fetch(KEYS, after_ms(1_000))

    runner.run(scenario())


def test_sentinel_database_is_the_one_of_the_url(service: RedisSentinels, runner: asyncio.Runner) -> None:
    """Reader and writer are in the same one, and not in another."""
    url = service.url.replace(f"/{SERVICE}/0", f"/{SERVICE}/3")
    with closing(RedisWriter(url)) as writer:
        writer.exchange([(b"a", b"in three")], ())

    async def scenario() -> None:
        async with opened(url) as store:
            assert await store.fetch([b"a"], after_ms(10_000)) == [b"in three"]
        async with opened(service.url) as store:
            assert await store.fetch([b"a"], after_ms(10_000)) == [None]

    runner.run(scenario())
