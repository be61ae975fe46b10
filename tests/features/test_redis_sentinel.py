"""A real Redis behind sentinels: who is master is asked of them, and a failover is followed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import counting
import pytest
import uvloop
from redis_sentinels import SERVICE, RedisSentinels, Sentinel
from redis_server import RedisServer, wait_until

from tailrace.deadline import NS_PER_MS, MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.stores.redis import RedisStore
from tailrace.features.stores.redis_sentinel import LOOK_S
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
def service(redis_sentinels: RedisSentinels) -> RedisSentinels:
    """Return a service with `ROWS`."""
    redis_sentinels.empty()
    return filled(redis_sentinels)


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[RedisSentinels]:
    """Yield a service of the test's own with `ROWS`: sentinels take ten seconds to see that a server is back."""
    service = RedisSentinels(tmp_path / "service")
    try:
        service.start()
        yield filled(service)
    finally:
        service.kill()


def filled(service: RedisSentinels) -> RedisSentinels:
    """Return a service whose servers both have `ROWS`."""
    with closing(RedisWriter(service.url)) as writer:
        writer.exchange(ROWS.items(), ())
    service.master().ask("WAIT", 1, 5_000)
    return service


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


@pytest.mark.parametrize("fault", ["killed", pytest.param("stopped", marks=pytest.mark.slow), "asked to"])
def test_sentinel_failover_is_followed(own_service: RedisSentinels, runner: asyncio.Runner, fault: str) -> None:
    """Killed, stopped without a word, or asked to step back: the other server is read and written, with all rows."""
    master = own_service.master()

    async def scenario() -> None:
        async with opened(own_service.url) as store:
            await wait_for(store, ROWS)
            with closing(RedisWriter(own_service.url)) as writer:
                counting.count(writer, 1, "a")
                master.ask("WAIT", 1, 5_000)
                if fault == "killed":
                    master.kill()
                elif fault == "stopped":
                    master.pause()
                else:
                    ask = partial(own_service.sentinels[0].ask, "SENTINEL", "FAILOVER", SERVICE)
                    await asyncio.to_thread(wait_until, ask, "the sentinel does not take it")
                await wait_for_another_master()
                await asyncio.to_thread(counting.count, writer, 1, "a")
                assert [writer.get(key) for key in counting.COUNTERS] == [b"2"] * len(counting.COUNTERS)
                writer.exchange([(b"{c:0}V:1", b"after")], ())
            await wait_for(store, ROWS | {b"{c:0}V:1": b"after"})

    async def wait_for_another_master() -> None:
        end_s = time.monotonic() + FAILOVER_S_MAX
        while await asyncio.to_thread(own_service.master) is master:
            assert time.monotonic() < end_s, "the sentinels name no other"
            await asyncio.sleep(0.05)

    try:
        runner.run(scenario())
    finally:
        if fault == "stopped":
            master.resume()


def test_sentinel_that_is_gone_is_passed_over(own_service: RedisSentinels, runner: asyncio.Runner) -> None:
    """Two of three are enough, in whatever order the URL names them."""
    own_service.sentinels[0].kill()

    async def scenario() -> None:
        async with opened(own_service.url) as store:
            await wait_for(store, ROWS)

    runner.run(scenario())
    with closing(RedisWriter(own_service.url)) as writer:
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


def test_sentinel_that_names_another_master_is_believed(tmp_path: Path, runner: asyncio.Runner) -> None:
    """A master that is cut off from its sentinels, and not from us, is left though it answers."""
    folders = [tmp_path / name for name in ("old", "new", "sentinel")]
    for folder in folders:
        folder.mkdir()
    old, new = RedisServer(folders[0]), RedisServer(folders[1])
    sentinel = Sentinel(folders[2], old)
    key = KEYS[0]

    async def scenario() -> None:
        async with opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}") as store:
            await wait_for(store, {key: b"old"})
            sentinel.ask("SENTINEL", "REMOVE", SERVICE)
            await asyncio.sleep(1.5 * LOOK_S)
            await wait_for(store, {key: b"old"})  # that nobody names one is no reason to leave it
            sentinel.ask("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", new.port, 1)
            await wait_for(store, {key: b"new"}, 5 * LOOK_S)

    try:
        for each in (old, new, sentinel):
            each.start()
        old.ask("SET", key, "old")
        new.ask("SET", key, "new")
        runner.run(scenario())
    finally:
        for each in (sentinel, old, new):
            each.kill()


def test_sentinel_that_names_a_replica_is_not_believed(service: RedisSentinels, runner: asyncio.Runner) -> None:
    """In the middle of a failover a sentinel may be behind: a server that says it is a replica is not read."""
    master = service.master()
    replica = next(server for server in service.servers if server is not master)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"PING\r\n")
            writer.write(b"+PONG\r\n")
            await reader.read(1_000)
            writer.write(b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(replica.port)), replica.port))
            await reader.read(1)
        writer.close()

    async def scenario() -> None:
        behind = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = behind.sockets[0].getsockname()[1]
        async with opened(f"redis+sentinel://127.0.0.1:{port}/{SERVICE}") as store:
            with pytest.raises(ConnectionError, match="no master"):
                await store.fetch(KEYS, after_ms(1_000))
        behind.close()
        await asyncio.sleep(0.05)  # its connections end

    runner.run(scenario())
