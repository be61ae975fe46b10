"""Two stores as one: what is missing in the hot one comes from the slower, and no old copy stays behind."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
import uvloop
from page_samples import key_of, page, row
from redis_server import RedisServer

from tailrace.deadline import NS_PER_MS, NS_PER_S, MonotonicClock
from tailrace.errors import StoreError
from tailrace.features.late import LateError
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.stores.opening import open_store, open_writer
from tailrace.features.stores.protocol import OnlineStore
from tailrace.features.stores.tier import AGE_NS_MAX, TierStore
from tailrace.features.stores.tier_writer import TierWriter

KEYS = [b"{c:%d}V:1" % number for number in range(40)]
ROWS = {key: b"row of " + key for key in KEYS}


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Yield a runner on the loop that workers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture
def slower_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Yield the Redis of the slower store."""
    (tmp_path / "slower").mkdir()
    server = RedisServer(tmp_path / "slower")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def tier(redis_server: RedisServer, slower_server: RedisServer) -> str:
    """Return the URL of a tier of two Redis, the slower one with `ROWS`."""
    with closing(open_writer(slower_server.url)) as writer:
        writer.exchange(ROWS.items(), ())
    return f"tier:{redis_server.url}|{slower_server.url}"


class Asked:
    """A store that notes what it is asked for."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self.network = store.network
        self.open = store.open
        self.close = store.close
        self.keys: list[list[bytes]] = []

    async def fetch(self, keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
        """Note the keys, and fetch them."""
        self.keys.append(list(keys))
        return await self._store.fetch(keys, deadline_ns)


def after_ms(milliseconds: float) -> int:
    """Return a deadline."""
    return time.monotonic_ns() + int(milliseconds * NS_PER_MS)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[TierStore, Asked]]:
    """Yield an open tier, and its slower store."""
    hot, slower = url.removeprefix("tier:").split("|")
    asked = Asked(open_store(slower, MonotonicClock()))
    store = TierStore(open_store(hot, MonotonicClock()), asked, partial(open_writer, hot), MonotonicClock())
    await store.open()
    try:
        yield store, asked
    finally:
        store.close()
        await asyncio.sleep(0)


async def wait_until_filled(store: TierStore) -> None:
    """Wait until nothing is left to be put into the hot store."""
    while store._filling is not None:
        await asyncio.sleep(0.005)


def test_tier_asks_the_slower_store_for_what_is_missing_alone(tier: str, runner: asyncio.Runner) -> None:
    """Once for each key that is there; a key that is nowhere each time. A copy is put only behind the answer."""

    async def scenario() -> None:
        async with opened(tier) as (store, slower):
            assert await store.fetch(KEYS[:2], after_ms(10_000)) == [ROWS[key] for key in KEYS[:2]]
            await wait_until_filled(store)
            slower.keys.clear()
            found = await store.fetch([*KEYS[:4], b"{c:x}V:1"], after_ms(10_000))
            assert found == [*(ROWS[key] for key in KEYS[:4]), None]
            assert slower.keys == [[KEYS[2], KEYS[3], b"{c:x}V:1"]]
            await wait_until_filled(store)
            slower.keys.clear()
            assert await store.fetch(KEYS[:4], after_ms(10_000)) == [ROWS[key] for key in KEYS[:4]]
            assert slower.keys == []

    runner.run(scenario())


def test_tier_whose_both_stores_are_down_tells_of_the_slower_one() -> None:
    """It is not written: nothing may say that it is."""

    class Down(MemoryWriter):
        def __init__(self, name: str) -> None:
            super().__init__({})
            self.name = name

        def exchange(self, puts: Collection[tuple[bytes, bytes]], removes: Collection[bytes]) -> int:
            raise StoreError(f"the {self.name} one is away", where="memory:")

    with pytest.raises(StoreError, match="the slower one is away"):
        TierWriter(Down("hot"), Down("slower")).exchange([(KEYS[0], b"new")], ())
    with pytest.raises(StoreError, match="slower store is written, but the hot one may hold old copies: the hot one"):
        TierWriter(Down("hot"), MemoryWriter({})).exchange([(KEYS[0], b"new")], ())


def test_tier_sees_every_kind_of_write(tier: str, runner: asyncio.Runner) -> None:
    """Once a writer's call has returned, no reader gets what was there before: no copy of it is left."""

    async def scenario() -> None:
        async with opened(tier) as (store, _):
            with closing(open_writer(tier)) as writer:
                run = writer.begin_run("V")
                keys = [key_of("0"), b"note"]
                writer.exchange([(b"note", b"0")], ())
                for step in range(1, 5):
                    await store.fetch(keys, after_ms(10_000))
                    await wait_until_filled(store)
                    if step == 1:
                        writer.write(run, page(**{"0": row(1)}), [(b"note", b"1")])
                    elif step == 2:
                        writer.exchange([(keys[0], b"exchanged"), (b"note", b"2")], ())
                    elif step == 3:
                        assert writer.remove(run, [keys[0]]) == 1
                    else:
                        writer.exchange([(keys[0], b"back")], [b"note"])
                    expected = [(row(1), b"1"), (b"exchanged", b"2"), (None, b"2"), (b"back", None)][step - 1]
                    assert tuple(await store.fetch(keys, after_ms(10_000))) == expected
                    await wait_until_filled(store)
                    assert tuple(await store.fetch(keys, after_ms(10_000))) == expected

    runner.run(scenario())


def test_tier_keeps_no_old_copy_whatever_comes_in_between(tier: str, runner: asyncio.Runner) -> None:
    """While readers fill and a writer writes and removes the same keys, both stores agree once all is quiet."""
    keys = KEYS[:5]
    ended = threading.Event()

    def write() -> None:
        choose = random.Random(7)
        with closing(open_writer(tier)) as writer:
            for number in range(300):
                key = choose.choice(keys)
                if choose.random() < 0.3:
                    writer.exchange((), [key])
                else:
                    writer.exchange([(key, b"%d" % number)], ())
        ended.set()

    async def scenario() -> None:
        async with opened(tier) as (one, _), opened(tier) as (other, _):
            writing = threading.Thread(target=write)
            writing.start()
            while not ended.is_set():
                await asyncio.gather(*(store.fetch(keys, after_ms(10_000)) for store in (one, other)))
            writing.join()
            await wait_until_filled(one)
            await wait_until_filled(other)
            hot, slower = tier.removeprefix("tier:").split("|")
            with closing(open_writer(hot)) as hot_writer, closing(open_writer(slower)) as slower_writer:
                for key in keys:
                    assert hot_writer.get(key) in {None, slower_writer.get(key)}

    runner.run(scenario())


def test_tier_without_its_hot_store_reads_the_slower(
    tier: str, redis_server: RedisServer, runner: asyncio.Runner
) -> None:
    """Gone, or stopped without a word: every value comes in time, and a writer says that copies may be old."""

    async def scenario() -> None:
        async with opened(tier) as (store, _):
            await store.fetch(KEYS, after_ms(10_000))
            await wait_until_filled(store)
            redis_server.pause()
            try:
                for _ in range(3):
                    assert await store.fetch(KEYS, after_ms(500)) == list(ROWS.values())
            finally:
                redis_server.resume()
            with closing(open_writer(tier)) as writer:
                redis_server.kill()
                assert await store.fetch(KEYS, after_ms(500)) == list(ROWS.values())
                with pytest.raises(StoreError, match="old copies"):
                    await asyncio.to_thread(writer.exchange, [(KEYS[0], b"new")], ())

    runner.run(scenario())


def test_tier_without_its_slower_store_answers_what_is_hot(
    tier: str, slower_server: RedisServer, runner: asyncio.Runner
) -> None:
    """Keys that the hot store has are answered; a batch with another one fails."""

    async def scenario() -> None:
        async with opened(tier) as (store, _):
            await store.fetch(KEYS[:3], after_ms(10_000))
            await wait_until_filled(store)
            slower_server.kill()
            assert await store.fetch(KEYS[:3], after_ms(500)) == [ROWS[key] for key in KEYS[:3]]
            with pytest.raises((ConnectionError, TimeoutError)):
                await store.fetch(KEYS[:4], after_ms(500))

    runner.run(scenario())


def test_tier_closed_while_it_fills_leaves_no_copy_unlooked_at(tier: str, runner: asyncio.Runner) -> None:
    """What was put and not yet looked at again is removed, by the thread that put it."""
    hot = tier.removeprefix("tier:").split("|")[0]

    async def scenario() -> None:
        async with opened(tier) as (store, asked):
            await store.fetch(KEYS, after_ms(10_000))

            async def never(keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
                await asyncio.sleep(60)
                return []

            asked.fetch = never  # type: ignore[method-assign]
            with closing(open_writer(hot)) as writer:
                end_s = time.monotonic() + 10
                while writer.get(KEYS[-1]) is None:
                    assert time.monotonic() < end_s
                    await asyncio.sleep(0.005)
                thread = store._thread
                store.close()
                assert thread is not None
                await asyncio.to_thread(thread.shutdown)
                assert [writer.get(key) for key in KEYS] == [None] * len(KEYS)

    runner.run(scenario())


def test_tier_puts_no_value_that_was_read_long_ago(tier: str, runner: asyncio.Runner) -> None:
    """What a loop that was kept by something else held on to is not put: it may have changed since."""
    hot = tier.removeprefix("tier:").split("|")[0]

    async def scenario() -> None:
        async with opened(tier) as (store, _):
            await store.fetch(KEYS, after_ms(10_000))
            time.sleep(2 * AGE_NS_MAX / NS_PER_S)
            await wait_until_filled(store)
            with closing(open_writer(hot)) as writer:
                assert [writer.get(key) for key in KEYS] == [None] * len(KEYS)
            await store.fetch(KEYS, after_ms(10_000))
            await wait_until_filled(store)
            with closing(open_writer(hot)) as writer:
                assert [writer.get(key) for key in KEYS] == list(ROWS.values())

    runner.run(scenario())


def test_tier_over_a_store_that_was_late_gives_the_first_keys(tier: str, runner: asyncio.Runner) -> None:
    """What the slower store had read by the deadline stands in its places, among what is hot; nothing is shifted."""

    async def scenario() -> None:
        async with opened(tier) as (store, asked):
            await store.fetch([KEYS[1], KEYS[4]], after_ms(10_000))
            await wait_until_filled(store)
            whole = asked.fetch

            async def late(keys: Sequence[bytes], deadline_ns: int) -> list[bytes | None]:
                raise LateError("late", (await whole(keys, deadline_ns))[:2], is_cold=False)

            asked.fetch = late  # type: ignore[method-assign]
            with pytest.raises(LateError) as caught:
                await store.fetch(KEYS[:6], after_ms(10_000))
            assert caught.value.rows == [ROWS[key] for key in KEYS[:3]], "0 and 2 are the slower one's, 1 is hot"
            asked.fetch = whole  # type: ignore[method-assign]

    runner.run(scenario())
